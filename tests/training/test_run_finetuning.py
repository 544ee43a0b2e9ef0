"""What comes before what in a run: the weights before any decoding, the results after everything else."""

import pytest
from transformers import ASTConfig, ASTModel

from emotion_ft import run_folder
from emotion_ft.config.parser import parse_config
from emotion_ft.errors import UsageError
from emotion_ft.training import inputs
from emotion_ft.training.finetuning import run_finetuning


@pytest.fixture
def config(songs_root, tmp_path):
    """`config(*flags)` -> a configuration for one step of a tiny model."""

    def parse(*flags):
        tiny = "--seconds 2 --num_windows 2 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 "
        tiny += "--intermediate_size 64 --max_steps 1 --eval_strategy no --no_load_best_model_at_end --unfreeze_at 0 "
        tiny += "--precision fp32 --report_to none --disable_tqdm true --interval_level 0.5 --save_strategy no "
        places = ["--data_root", songs_root, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "run"]
        return parse_config([*tiny.split(), "--checkpoint=", *map(str, (*places, *flags))])

    return parse


def test_weights_are_looked_up_before_anything_is_decoded(config, monkeypatch):
    monkeypatch.setattr(inputs, "load_collection", lambda *_: pytest.fail("songs were read first"))
    with pytest.raises(UsageError, match="cannot get 'MIT/nowhere'"):
        run_finetuning(config("--checkpoint", "MIT/nowhere"))


def test_missing_weights_do_not_cost_the_run_that_stands_there(config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("all_results.json", "model.safetensors"):
        (folder / name).write_text("an earlier run")
    with pytest.raises(UsageError, match="cannot get 'MIT/nowhere'"):
        run_finetuning(config("--checkpoint", "MIT/nowhere", "--overwrite_output_dir"))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "all_results.json": "an earlier run",
        "model.safetensors": "an earlier run",
    }


def test_results_are_written_last_and_hold_facts_as_fields(config, monkeypatch, tmp_path):
    there = []
    write = run_folder.write_results

    def written(folder, results):
        there.extend(path.name for path in folder.iterdir())
        return write(folder, results)

    monkeypatch.setattr(run_folder, "write_results", written)
    run = run_finetuning(config())
    assert {"README.md", "report.html", "plots", "model.safetensors", "pipeline_ast_emotion.py"} <= set(there)
    assert "all_results.json" not in there
    results = run_folder.read_results(tmp_path / "run")
    assert results == run.results and run.address is None
    assert results["collections"] == [{"source": "DEAM", "labels": "distributed", "rendered": False, "songs": 24}]
    assert results["split"] == {
        "kind": "random",
        "group_by_artist": True,
        "seed": 42,
        "validation_fraction": 0.15,
        "test_fraction": 0.15,
    }
    assert results["train_songs"] + results["validation_songs"] + results["test_songs"] == 24


def test_pretrained_weights_come_from_a_folder(config, tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ASTModel(ASTConfig(**small)).save_pretrained(tmp_path / "ast")
    run = run_finetuning(config("--checkpoint", tmp_path / "ast"))
    assert run.results["base_model"] is None and run.results["epochs"] > 0
