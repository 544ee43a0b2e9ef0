import json

import pandas as pd
import pytest

from emotion_ft import run_folder


def test_a_fresh_start_removes_everything_that_a_run_leaves_and_nothing_else(tmp_path):
    left = ["all_results.json", "bad_files.csv", "embeddings-train.safetensors", "model.safetensors.index.json"]
    left += ["model-00001-of-00002.safetensors", "onnx/model.onnx", "quality.csv", "fold-0/model.safetensors"]
    left += ["plots/residuals.png", "audit/audit.md", "checkpoint-12/trainer_state.json", "report.html", "songs.csv"]
    kept = ["notes.txt", "config.yaml", "splits/train.txt", "mine/model.safetensors"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    run_folder.clear(tmp_path)
    there = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert there == sorted(kept)


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.png").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plots").symlink_to(tmp_path / "elsewhere")
    run_folder.clear(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir()) and (tmp_path / "elsewhere" / "mine.png").is_file()


def test_names_stand_once_and_private_ones_do_not_travel():
    names = [entry.name for entry in run_folder.ENTRIES]
    assert len(names) == len(set(names)) and all(entry.what for entry in run_folder.ENTRIES)
    for private in (run_folder.SONGS, run_folder.PREDICTIONS, run_folder.BAD_FILES, run_folder.CHECKPOINTS):
        assert private in names and private not in run_folder.SHARED


def test_results_are_written_whole_or_not_at_all(tmp_path):
    run_folder.write_results(tmp_path, {"test_mean_ccc": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        run_folder.write_results(tmp_path, {"test_mean_ccc": float("nan")})
    assert run_folder.read_results(tmp_path) == {"test_mean_ccc": 0.5}
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"test_mean_ccc": 0.5}


def test_a_table_is_read_back_to_more_digits_than_are_printed(tmp_path):
    table = pd.DataFrame({"song_id": [2, 3], "valence": [1 / 3, 2 / 3]})
    read = pd.read_csv(run_folder.write_table(tmp_path, "table.csv", table))
    pd.testing.assert_frame_equal(read, table, rtol=1e-8)
