import pytest

from emotion_ft.config.settings import TrainingConfig
from emotion_ft.training.checkpoints import OutputDirError, last_checkpoint, prepare_output_dir


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of two checkpoints and half a third."""
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    for name in ("model.safetensors", "all_results.json", "predictions.csv", "README.md", "notes.txt"):
        (tmp_path / name).write_text("old")
    return tmp_path


def prepare(folder, **settings):
    return prepare_output_dir(TrainingConfig(output_dir=str(folder), **settings))


def test_last_checkpoint_is_the_last_whole_one(run_folder, tmp_path):
    assert last_checkpoint(run_folder).name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert prepare(run_folder, resume_from_checkpoint="last") == str(run_folder / "checkpoint-10")


def test_nothing_of_a_run_is_touched_without_being_asked(run_folder):
    before = sorted(run_folder.rglob("*"))
    with pytest.raises(OutputDirError, match="finished run"):
        prepare(run_folder)
    assert sorted(run_folder.rglob("*")) == before


def test_overwriting_leaves_no_model_beside_another_split(run_folder):
    assert prepare(run_folder, overwrite_output_dir=True) is None
    assert [path.name for path in run_folder.iterdir()] == ["notes.txt"]


def test_a_folder_that_holds_no_run_is_left_as_it_is(tmp_path):
    (tmp_path / "runs" / "precious").mkdir(parents=True)
    prepare(tmp_path)
    prepare(tmp_path, overwrite_output_dir=True)
    assert (tmp_path / "runs" / "precious").is_dir()


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(OutputDirError, match="no checkpoint to resume from"):
        prepare(tmp_path, resume_from_checkpoint="last")


def test_the_seeds_of_a_run_are_not_mixed_with_another_run(tmp_path):
    (tmp_path / "seed-7").mkdir()
    with pytest.raises(OutputDirError, match="already holds the runs of 1 seeds: --overwrite_output_dir"):
        prepare(tmp_path)
    assert prepare(tmp_path, overwrite_output_dir=True) is None and not list(tmp_path.glob("seed-*"))
