"""Searching for hyperparameters with the command."""

import pandas as pd
import pytest
import yaml
from commands import leave, succeed

from emotion_ft.config.parser import parse_config
from emotion_ft.studies import search

TINY = "--seconds 2 --num_windows 2 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --freeze first "
TINY += "--intermediate_size 64 --num_train_epochs 2 --time_stride 16 --frequency_stride 16 --precision fp32 "
TINY += "--per_device_train_batch_size 8 --gradient_accumulation_steps 1"


@pytest.fixture
def arguments(songs_root, tmp_path):
    path = tmp_path / "small.yaml"
    data = {"data_root": str(songs_root), "cache_dir": str(tmp_path / "log_mels")}
    path.write_text(yaml.safe_dump({"data": data, "model": {"checkpoint": None}}))
    return [str(path), *TINY.split()]


@pytest.mark.slow
def test_finds_the_best_and_continues(arguments, tmp_path):
    shown = succeed("search", *arguments, "--trials", 1, "--output", tmp_path / "parts").stdout
    assert "; 4 validation songs" in shown
    succeed("search", *arguments, "--trials", 3, "--output", tmp_path / "parts")
    succeed("search", *arguments, "--trials", 3, "--output", tmp_path / "whole", pictures=True)
    parts, whole = (pd.read_csv(tmp_path / name / "search.csv") for name in ("parts", "whole"))
    pd.testing.assert_frame_equal(parts, whole)
    assert sorted(whole["trial"]) == [0, 1, 2] and whole["score"].is_monotonic_decreasing
    for name, rate in (("backbone_learning_rate", 3e-5), ("head_learning_rate", 3e-4)):
        assert whole[name].between(rate / 10, rate * 10).all() and whole[name].nunique() == 3
    assert whole["unfreeze_at"].between(0, 0.5).all()
    best = parse_config([str(tmp_path / "whole" / "config.yaml")]).training
    assert best.backbone_learning_rate == pytest.approx(whole["backbone_learning_rate"][0])
    assert best.load_best_model_at_end and best.output_dir == "runs/finetune"
    assert (tmp_path / "whole" / "plots" / "search.png").stat().st_size > 5000
    assert not list((tmp_path / "whole").glob("trial-*/checkpoint-*"))
    done = leave(1, "search", *arguments, "--trials", 4, "--output", tmp_path / "whole", "--head_dropout", 0.1)
    assert "holds runs with other settings (model.head_dropout is 0.1 here" in done.stderr


def test_a_trial_that_was_cut_short_is_drawn_again(tmp_path, arguments, monkeypatch):
    config = parse_config(arguments)
    study = search._open(tmp_path, config)
    cut = study.ask()
    cut.suggest_float("backbone_learning_rate", 1e-6, 1e-3, log=True)
    again = search._open(tmp_path, config)
    assert not search._finished(again)
    trial = again.ask()
    assert trial.suggest_float("backbone_learning_rate", 1e-6, 1e-3, log=True) == cut.params["backbone_learning_rate"]


def test_what_a_search_needs(arguments, tmp_path, monkeypatch):
    for flags, said in (
        (["--eval_strategy", "no", "--no_load_best_model_at_end"], "but eval_strategy is no"),
        (["--metric_for_best_model", "accuracy"], "no metric_for_best_model 'accuracy'"),
    ):
        with pytest.raises(search.UsageError, match=said):
            search.run_search(parse_config([*arguments, *flags]), 1, tmp_path)
    monkeypatch.setattr(search, "is_optuna_available", lambda: False)
    with pytest.raises(search.SearchError, match=r"pip install 'emotion_ft\[search\]'"):
        search.run_search(parse_config(arguments), 1, tmp_path)
    assert leave(2, "search", *arguments, "--trials", 0).stderr
