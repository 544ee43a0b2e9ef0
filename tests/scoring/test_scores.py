import json

import numpy as np
import pandas as pd
import pytest

from emotion_ft import run_folder
from emotion_ft.data.songs import songs_dataset
from emotion_ft.reports import tables
from emotion_ft.scoring.ceiling import noise_ceiling
from emotion_ft.scoring.intervals import paired_intervals, score_intervals
from emotion_ft.scoring.metrics import KEYS, score
from emotion_ft.scoring.scores import artist_of_song, flat, predictions_table, read_table, references, score_systems

SONGS = 40


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).uniform(1, 9, (SONGS, 2)).astype(np.float32)


def songs(given, **changes):
    columns = {
        "song_id": range(SONGS),
        "source": ["DEAM"] * SONGS,
        "audio": [f"/music/{i}.mp3" for i in range(SONGS)],
        "valence": given[:, 0],
        "arousal": given[:, 1],
        "valence_std": [1.5] * SONGS,
        "arousal_std": [2.0] * SONGS,
        "raters": [10] * SONGS,
        "labels": ["repaired"] * SONGS,
        "artist": [f"Artist {i % 15}" if i < 30 else None for i in range(SONGS)],
    }
    return songs_dataset({**columns, **changes}, "DEAM")


@pytest.fixture(scope="module")
def systems(labels):
    rng = np.random.default_rng(1)
    return {name: labels + rng.normal(size=labels.shape) * spread for name, spread in (("model", 0.5), ("ridge", 1.0))}


def test_rows_are_the_metrics_with_clustered_intervals(labels, systems):
    scores = score_systems(predictions_table(songs(labels), systems))
    assert list(scores.index) == [("repaired", name) for name in ("model", "ridge", "ceiling", "model - ridge")]
    artists = [f"Artist {i % 15}" if i < 30 else f"song {i}" for i in range(SONGS)]
    for name, predictions in systems.items():
        row = scores.loc["repaired", name]
        intervals = score_intervals(predictions, labels, artists)
        for key, value in score(predictions, labels).items():
            assert row[key] == pytest.approx(value)
            assert (row[f"{key}_low"], row[f"{key}_high"]) == pytest.approx(intervals[key])


def test_differences_are_paired(labels, systems):
    scores = score_systems(predictions_table(songs(labels), {**systems, "mean": np.full_like(labels, 5.0)}))
    block, results = scores.loc["repaired"], flat(scores)
    artists = [f"Artist {i % 15}" if i < 30 else f"song {i}" for i in range(SONGS)]
    intervals = paired_intervals(systems["model"], systems["ridge"], labels, artists)
    for key, ends in intervals.items():
        difference = block.loc["model", key] - block.loc["ridge", key]
        assert block.loc["model - ridge", key] == pytest.approx(difference)
        assert results[f"test_minus_ridge_{key}"] == pytest.approx(difference)
        assert results[f"test_minus_ridge_{key}_interval"] == pytest.approx(ends)
        assert tuple(block.loc["model - ridge", [f"{key}_low", f"{key}_high"]]) == pytest.approx(ends)
    assert results["test_minus_mean_valence_ccc"] == pytest.approx(block.loc["model", "valence_ccc"])
    # A constant prediction has no correlation, and so no interval of one.
    assert "test_minus_mean_valence_rmse_interval" in results
    assert "test_minus_mean_valence_r_interval" not in results and "test_minus_svr_valence_r2" not in results
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize(
    ("spreads", "says"), [((0.5, 1.5), "better"), ((1.5, 0.5), "worse"), ((1.0, 1.0), "no difference shown")]
)
def test_a_sentence_says_what_the_difference_shows(labels, spreads, says):
    rng = np.random.default_rng(3)
    noisy = {
        name: labels + spread * rng.normal(size=labels.shape)
        for name, spread in zip(("model", "svr"), spreads, strict=True)
    }
    scores = score_systems(predictions_table(songs(labels), noisy))
    row = scores.loc[("repaired", "model - svr")]
    line = tables.comparison_line(scores)
    low, high = row["mean_ccc_low"], row["mean_ccc_high"]
    assert line == f"The model's mean CCC, minus svr's {row['mean_ccc']:+.3f} [{low:+.3f}, {high:+.3f}], {says}."
    assert tables.verdict(row, "mean_rmse").endswith(says)  # of which less is better
    assert line in tables.scores_text(scores, {})
    assert tables.comparison_line(scores.drop(index=("repaired", "model - svr"))) is None


def test_the_ceiling_is_of_these_raters(labels, systems):
    raters = [5] * 20 + [10] * 20
    scores = score_systems(predictions_table(songs(labels, raters=raters), systems))
    deviations = np.tile([1.5, 2.0], (SONGS, 1))
    expected = noise_ceiling(labels, deviations, np.array(raters)[:, None], ddof=0)
    assert scores.loc["repaired", "ceiling"][list(expected)].to_dict() == pytest.approx(expected)
    without = songs(labels, valence_std=[None] * SONGS)
    assert "ceiling" not in score_systems(predictions_table(without, systems)).loc["repaired"].index


def test_the_least_number_of_raters_gives_the_least_ceiling(labels, systems):
    known = score_systems(predictions_table(songs(labels), systems))
    scores = score_systems(predictions_table(songs(labels, raters_at_least=[False] * 39 + [True]), systems))
    assert "ceiling" not in scores.loc["repaired"].index
    row = scores.loc[("repaired", "ceiling, at least")]
    assert row[KEYS].to_dict() == known.loc[("repaired", "ceiling"), KEYS].to_dict()
    more = score_systems(predictions_table(songs(labels, raters=[12] * SONGS), systems)).loc[("repaired", "ceiling")]
    assert more["mean_r2"] > row["mean_r2"] and more["mean_rmse"] < row["mean_rmse"]
    assert flat(scores)["ceiling_at_least_mean_r2"] == row["mean_r2"] and "ceiling_mean_r2" not in flat(scores)


def test_collections_are_scored_apart_too(labels, systems):
    table = predictions_table(songs(labels, source=["DEAM"] * 25 + ["PMEmo"] * 15), systems)
    scores = score_systems(table)
    expected = score(systems["model"][25:], labels[25:])
    assert scores.loc[("repaired", "model, PMEmo"), "mean_ccc"] == pytest.approx(expected["mean_ccc"])
    assert flat(scores)["test_mean_ccc"] == scores.loc[("repaired", "model"), "mean_ccc"]
    assert not [name for name in flat(scores) if "PMEmo" in name]


def test_songs_of_one_artist_have_no_intervals(labels, systems):
    scores = score_systems(predictions_table(songs(labels, artist=["One"] * SONGS), systems))
    assert "mean_ccc_low" not in scores and len(tables.text_table(scores.loc["repaired"]).splitlines()) == 5


def under_another(labels, used="repaired"):
    """The same songs, the first 25 of them with valence and arousal exchanged under the other treatment."""
    other = labels.copy()
    other[:25] = other[:25, ::-1]
    return songs(labels, labels=[used] * SONGS, other_valence=other[:, 0], other_arousal=other[:, 1]), other


class TestBothTreatments:
    @pytest.mark.parametrize(
        ("used", "other"), [("repaired", "distributed"), ("distributed", "repaired"), ("dynamic", "repaired")]
    )
    def test_every_system_is_scored_against_both(self, labels, systems, used, other):
        both, swapped = under_another(labels, used)
        scores = score_systems(predictions_table(both, systems))
        for name, predictions in systems.items():
            assert scores.loc[(used, name), "mean_r2"] == pytest.approx(score(predictions, labels)["mean_r2"])
            assert scores.loc[(other, name), "mean_r2"] == pytest.approx(score(predictions, swapped)["mean_r2"])
        results = flat(scores)
        assert results["test_valence_r2"] == pytest.approx(score(systems["model"], labels)["valence_r2"])
        assert results[f"{other}_baseline_ridge_valence_r2"] == scores.loc[(other, "ridge"), "valence_r2"]
        assert results["test_valence_r2_interval"] == list(
            scores.loc[(used, "model"), ["valence_r2_low", "valence_r2_high"]]
        )

    def test_a_joined_collection_keeps_its_own_labels(self, labels, systems):
        table = predictions_table(under_another(labels)[0], systems)
        table.loc[25:, ["labels", "other_valence", "other_arousal"]] = ["distributed", np.nan, np.nan]
        scores = score_systems(table)
        assert list(dict.fromkeys(scores.index.get_level_values(0))) == ["repaired + distributed", "distributed"]

    def test_one_where_nothing_is_exchanged(self, labels, systems):
        scores = score_systems(predictions_table(songs(labels), systems))
        assert set(scores.index.get_level_values(0)) == {"repaired"}

    def test_of_each_collection_too(self, labels, systems):
        both, swapped = under_another(labels)
        table = predictions_table(both, systems)
        table["source"] = ["DEAM"] * 20 + ["PMEmo"] * 20
        expected = score(systems["model"][20:], swapped[20:])["mean_r2"]
        assert score_systems(table).loc[("distributed", "model, PMEmo"), "mean_r2"] == pytest.approx(expected)

    def test_references_survive_the_csv(self, labels, systems, tmp_path):
        table = predictions_table(under_another(labels)[0], systems)
        again = read_table(run_folder.write_table(tmp_path, "predictions.csv", table))
        assert references(again, True) == pytest.approx(references(table, True), abs=1e-3)
        pd.testing.assert_frame_equal(score_systems(again), score_systems(table), atol=2e-3)


def test_names_survive_the_csv(labels, systems, tmp_path):
    artists = ["311", "NA", "nan", "None", None, "1.50"] + ["x"] * (SONGS - 6)
    table = predictions_table(songs(labels, artist=artists), systems)
    again = read_table(run_folder.write_table(tmp_path, "predictions.csv", table))
    assert again["artist"].tolist() == artists
    assert artist_of_song(again) == artist_of_song(table)


def test_no_ceiling_without_the_number_of_raters(labels, systems):
    scores = score_systems(predictions_table(songs(labels, raters=[None] * SONGS), systems))
    assert "ceiling" not in scores.loc["repaired"].index


class TestTables:
    def test_intervals_stand_below_their_values(self, labels, systems):
        scores = tables.blocks(score_systems(predictions_table(songs(labels), systems)))["repaired"]
        lines = tables.text_table(scores).splitlines()
        assert [line.split("  ")[0] for line in lines[1:]] == [
            "model",
            "",
            "ridge",
            "",
            "ceiling",
            "model - ridge",
            "",
        ]
        assert lines[1].split()[1] == f"{scores.loc['model', 'valence_rmse']:.3f}"
        low, high = scores.loc["model", ["valence_rmse_low", "valence_rmse_high"]]
        assert lines[2].startswith(" ") and f"[{low:.3f}, {high:.3f}]" in lines[2]
        assert f"<br>[{low:.3f},&nbsp;{high:.3f}] " in tables.markdown_table(scores)

    def test_both_treatments_are_printed_and_folds_above_the_first(self, labels, systems):
        scores = score_systems(predictions_table(under_another(labels)[0], systems))
        folds = scores.loc["repaired"].iloc[:1].rename(index={"model": "fold 0"})
        out = tables.scores_text(scores, {}, folds)
        assert (
            out.index("fold 0")
            < out.index("model, pooled")
            < out.index("labels distributed")
            < out.index("jackknife-t")
        )
        assert out.count("fold 0") == 1
