import pytest

from emotion_ft.config.parser import parse_config
from emotion_ft.errors import UsageError
from emotion_ft.studies.series import config_in, finished, settle


def config(*flags):
    return parse_config(["--precision", "fp32", *flags])


def test_other_settings_do_not_mix(tmp_path):
    settle(config(), tmp_path, "5 folds", "folds.json")
    settle(config(), tmp_path, "5 folds", "folds.json")
    settle(config("--num_proc", "8", "--data_root", "elsewhere"), tmp_path, "5 folds", "folds.json")  # another machine
    saved = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UsageError, match=r"other settings \(training.weight_decay is 0.5 here and was 0.0001\)"):
        settle(config("--weight_decay", "0.5"), tmp_path, "5 folds", "folds.json")
    with pytest.raises(UsageError, match=r"other settings \(there, 5 folds\)"):
        settle(config(), tmp_path, "6 folds", "folds.json")
    assert (tmp_path / "config.yaml").read_text() == saved


def test_starting_again_leaves_nothing_of_the_old_runs(tmp_path):
    settle(config(), tmp_path, "5 folds", "folds.json")
    for name in ("fold-3/all_results.json", "all_results.json", "fold_scores.csv", "report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert finished(tmp_path / "fold-3")
    settle(config("--weight_decay", "0.5", "--overwrite_output_dir"), tmp_path, "5 folds", "folds.json")
    assert not finished(tmp_path / "fold-3") and not (tmp_path / "fold-3").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "folds.json"}
    settle(config("--weight_decay", "0.5"), tmp_path, "5 folds", "folds.json")


def test_a_single_run_is_not_made_a_series(tmp_path):
    (tmp_path / "all_results.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds another run, without folds\.json: choose another folder"):
        settle(config(), tmp_path, "5 folds", "folds.json")


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    given = config()
    assert config_in(tmp_path / "fold-1", given).training.overwrite_output_dir
    (tmp_path / "fold-1" / "checkpoint-10").mkdir(parents=True)
    (tmp_path / "fold-1" / "checkpoint-10" / "trainer_state.json").write_text("{}")
    ours = config_in(tmp_path / "fold-1", given)
    assert ours.training.resume_from_checkpoint == "last" and not ours.training.overwrite_output_dir
    assert ours.training.output_dir == str(tmp_path / "fold-1") and ours.data.split.endswith("fold-1/splits")
    assert (given.training.output_dir, given.data.split) == ("runs/finetune", "random")
