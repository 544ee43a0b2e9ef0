import json

import numpy as np
import pandas as pd
import pytest

from emotion_ft import run_folder
from emotion_ft.data.songs import songs_dataset
from emotion_ft.errors import UsageError
from emotion_ft.reports.comparison import comparison_text, write_comparison
from emotion_ft.scoring.comparison import compare_runs
from emotion_ft.scoring.intervals import paired_intervals, score_intervals
from emotion_ft.scoring.metrics import KEYS, score
from emotion_ft.scoring.scores import predictions_table

SONGS = 30
LABELS = np.random.default_rng(0).uniform(1, 9, (SONGS, 2))
ARTISTS = [f"Artist {i % 9}" for i in range(SONGS)]


def predictions(seed, spread=1.0):
    return LABELS + spread * np.random.default_rng(seed).normal(size=LABELS.shape)


@pytest.fixture
def run(tmp_path):
    """`run(name, predictions, ...)` -> the folder of a finished run, whose songs are listed in some order."""

    def write(name, values, ids=range(SONGS), labels=LABELS, treatment="repaired"):
        order = np.random.default_rng(len(name)).permutation(SONGS)
        columns = {"song_id": ids, "source": ["DEAM"] * SONGS, "audio": [f"{i}.mp3" for i in ids], "artist": ARTISTS}
        columns |= {"valence": labels[:, 0], "arousal": labels[:, 1], "labels": [treatment] * SONGS}
        table = predictions_table(songs_dataset(columns, "DEAM"), {"model": values}).iloc[order]
        folder = tmp_path / name
        folder.mkdir(parents=True)
        run_folder.write_table(folder, run_folder.PREDICTIONS, table)
        run_folder.write_results(folder, {"test_songs": SONGS})
        return folder

    return write


def intervals_of(row):
    return {key: pytest.approx((row[f"{key}_low"], row[f"{key}_high"]), abs=1e-4) for key in KEYS}


def test_runs_are_compared_with_the_first(run):
    first, second, third = predictions(0), predictions(1, 0.5), predictions(2)
    folders = [run("one", first), run("second", second), run("number three", third)]
    found = compare_runs(folders)
    one, two, three = map(str, folders)
    assert (found.songs, found.artists, found.labels) == (SONGS, 9, "repaired")
    assert list(found.scores.index) == [one, two, three]
    assert list(found.differences.index) == [f"{two} - {one}", f"{three} - {one}"]
    for name, values in ((one, first), (two, second)):
        assert found.scores.loc[name, KEYS].to_dict() == pytest.approx(score(values, LABELS), abs=1e-4)
        assert score_intervals(values, LABELS, ARTISTS) == intervals_of(found.scores.loc[name])
    row = found.differences.loc[f"{two} - {one}"]
    assert row["mean_r2"] == pytest.approx(
        score(second, LABELS)["mean_r2"] - score(first, LABELS)["mean_r2"], abs=1e-4
    )
    assert paired_intervals(second, first, LABELS, ARTISTS) == intervals_of(row)


def test_seeds_are_one_run(run, tmp_path):
    seeds = [predictions(seed) for seed in range(3)]
    for seed, values in zip((9, 10, 42), seeds, strict=True):
        run(f"many/seed-{seed}", values)
    other = run("other", predictions(7))
    found = compare_runs([other, tmp_path / "many"])
    name = f"{tmp_path / 'many'} (3 seeds)"
    of_seeds = pd.DataFrame([score(values, LABELS) for values in seeds])
    assert found.scores.loc[name, KEYS].to_dict() == pytest.approx(of_seeds.mean().to_dict(), abs=1e-4)
    assert found.scores.loc[f"{name}, sd", KEYS].to_dict() == pytest.approx(of_seeds.std().to_dict(), abs=1e-4)
    assert score_intervals(np.stack(seeds), LABELS, ARTISTS) == intervals_of(found.scores.loc[name])
    expected = paired_intervals(np.stack(seeds), predictions(7), LABELS, ARTISTS)
    assert expected == intervals_of(found.differences.loc[f"{name} - {other}"])
    alone = compare_runs([tmp_path / "many"])
    assert alone.differences.empty and "over seeds" in comparison_text(alone)


def test_a_cross_validation_is_a_run(run):
    first, pooled = run("first", predictions(0)), run("folds", predictions(1))
    table = pd.read_csv(pooled / run_folder.PREDICTIONS).assign(fold=np.arange(SONGS) % 5)
    table.to_csv(pooled / run_folder.PREDICTIONS, index=False)
    assert len(compare_runs([first, pooled]).differences) == 1


def test_songs_of_one_artist_are_compared_without_intervals(run):
    folders = [run(name, predictions(seed)) for seed, name in enumerate(("a", "b"))]
    for folder in folders:
        table = pd.read_csv(folder / run_folder.PREDICTIONS).assign(artist="One")
        table.to_csv(folder / run_folder.PREDICTIONS, index=False)
    assert "without an interval" in comparison_text(compare_runs(folders))


class TestRefused:
    def test_other_songs(self, run):
        folders = run("first", predictions(0)), run("second", predictions(1), ids=range(10, SONGS + 10))
        with pytest.raises(
            UsageError, match=r"second' was tested on 30 songs and .*first' on 30, and 20 songs are in both"
        ):
            compare_runs(folders)

    def test_other_labels(self, run):
        other = LABELS.copy()
        other[:4] = other[:4, ::-1]
        folders = [run("one", predictions(0)), run("two", predictions(1), labels=other, treatment="distributed")]
        with pytest.raises(
            UsageError, match=r"labels of 30 of 30 test songs differ between .* \(distributed\) and .* \("
        ):
            compare_runs(folders)
        with pytest.raises(UsageError, match="labels of 4 of 30 test songs differ"):
            compare_runs([folders[0], run("three", predictions(1), labels=other)])

    def test_seeds_of_other_songs_and_unfinished_ones(self, run, tmp_path):
        run("many/seed-1", predictions(0))
        run("many/seed-2", predictions(1), ids=range(1, SONGS + 1))
        with pytest.raises(UsageError, match="seed-2' was tested on 30 songs"):
            compare_runs([tmp_path / "many"])
        (tmp_path / "many" / "seed-2" / run_folder.RESULTS).unlink()
        with pytest.raises(UsageError, match=r"1 of 2 seeds in .* are not finished \(seed-2\)"):
            compare_runs([tmp_path / "many"])

    def test_no_run(self, run, tmp_path):
        finished = run("finished", predictions(0))
        with pytest.raises(UsageError, match=r"holds no finished run or seeds of one \(no all_results.json, no pred"):
            compare_runs([finished, tmp_path / "nowhere"])
        (finished / run_folder.PREDICTIONS).unlink()
        with pytest.raises(UsageError, match=r"\(no predictions.csv\)"):
            compare_runs([finished])


def test_what_is_written_is_what_is_printed(run, tmp_path):
    comparison = compare_runs([run("one", predictions(0)), run("better", predictions(1, 0.1))])
    write_comparison(tmp_path / "out" / "here", comparison)
    table = pd.read_csv(tmp_path / "out" / "here" / "compare.csv", index_col="run")
    assert list(table.index) == [*comparison.scores.index, *comparison.differences.index]
    difference = table.iloc[-1]
    sentence = f"{difference['mean_ccc']:+.3f} [{difference['mean_ccc_low']:+.3f}, {difference['mean_ccc_high']:+.3f}]"
    assert difference["mean_ccc_low"] > 0
    for text in (comparison_text(comparison), (tmp_path / "out" / "here" / "compare.md").read_text()):
        assert "30 test songs by 9 artists, labels repaired" in text
        assert f"Mean CCC, {difference.name}: {sentence}, better." in text
    json.dumps(comparison.differences.to_dict("records"))
