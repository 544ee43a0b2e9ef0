"""What comes before what in a run: the weights before any decoding, the results after everything else."""

import numpy as np
import pytest
from datasets import DatasetDict
from transformers import ASTConfig, ASTModel

from emotion_ft import run_folder
from emotion_ft.data.features import store_log_mels
from emotion_ft.data.songs import labels_of
from emotion_ft.data.splits import read_split
from emotion_ft.errors import UsageError
from emotion_ft.hub.repository import shared_files
from emotion_ft.inference.loading import load_model
from emotion_ft.inference.predict import predict_songs
from emotion_ft.training import inputs
from emotion_ft.training.finetuning import run_finetuning
from emotion_ft.training.trainer import EmotionTrainer


@pytest.fixture
def config(run_config):
    return run_config


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


def test_songs_set_apart_calibrate_and_select_nothing(config, monkeypatch, tmp_path):
    asked = []
    predict = EmotionTrainer.predict

    def watched(self, dataset, *arguments, **settings):
        asked.append(len(dataset))
        return predict(self, dataset, *arguments, **settings)

    monkeypatch.setattr(EmotionTrainer, "predict", watched)
    flags = ("--validation_fraction", "0.42", "--calibration_fraction", "0.5")
    run = run_finetuning(config(*flags))
    held_out = read_split(tmp_path / "run" / "splits")["validation"]
    assert run.results["calibration_songs"] + run.results["validation_songs"] == len(held_out) == 10
    assert asked == [5, 5, 4]
    songs = inputs.load_collection(config(*flags).data, 42)["validation"]
    selecting, apart = inputs.calibration_songs(config(*flags), songs)
    assert sorted([*selecting["song_id"], *apart["song_id"]]) == held_out
    model, extractor = load_model(tmp_path / "run")
    stored, _ = store_log_mels(DatasetDict(c=apart), extractor, tmp_path / "cache")
    errors = np.abs(predict_songs(model, extractor, stored["c"]) - labels_of(apart))
    # ceil((5 + 1) * 0.5) = 3rd smallest
    np.testing.assert_allclose(model.config.interval_halfwidths, np.sort(errors, axis=0)[2], atol=1e-4)


def test_lora_leaves_a_model_that_needs_no_peft(config, tmp_path):
    run = run_finetuning(config("--lora_rank", "2", "--lora_targets", "fc1"))
    model, extractor = load_model(tmp_path / "run")
    songs = inputs.load_collection(config().data, 42)["test"]
    stored, _ = store_log_mels(DatasetDict(test=songs), extractor, tmp_path / "cache")
    expected = run.predictions[["predicted_valence", "predicted_arousal"]].to_numpy()
    np.testing.assert_allclose(predict_songs(model, extractor, stored["test"]), expected, atol=1e-4)
    shared = set(shared_files(tmp_path / "run"))
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= shared
    assert "lora_rank: 2" in (tmp_path / "run" / "README.md").read_text()


def test_pretrained_weights_come_from_a_folder(config, tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ASTModel(ASTConfig(**small)).save_pretrained(tmp_path / "ast")
    run = run_finetuning(config("--checkpoint", tmp_path / "ast"))
    assert run.results["base_model"] is None and run.results["epochs"] > 0
