"""Tables of songs and predictions, and the scores of every system under every treatment of the labels."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.artists import group_songs
from ..data.leaks import OTHER_LABELS
from ..data.songs import OTHER
from .ceiling import noise_ceiling
from .intervals import Intervals, paired_intervals, score_intervals
from .metrics import DIMENSIONS, KEYS, score

SYSTEMS = {"model": "predicted", "ridge": "ridge", "svr": "svr", "mean": "mean"}
"""Rows of a table, and the prefixes of their columns in `predictions.csv`."""
DIFFERENCES = {f"model - {system}": system for system in SYSTEMS if system != "model"}
"""Rows of paired differences, and the system that each compares the model with."""
CEILING, LEAST_CEILING = "ceiling", "ceiling, at least"
"""The row of `ceiling.noise_ceiling`, and its name where only the least number of raters is known."""
TEXT = ("source", "audio", "artist", "labels")


def songs_table(songs: Dataset) -> pd.DataFrame:
    """One row per song: id, source, audio file name, artist, labels on 1-9 under both treatments, deviations."""
    table = pd.DataFrame(songs.select_columns(["song_id", "source", "artist", "labels"]).to_pandas())
    table.insert(2, "audio", [Path(audio["path"]).name for audio in songs["audio"]])
    for name in (*DIMENSIONS, "valence_std", "arousal_std", "raters", *OTHER_LABELS):
        table[name] = np.array(songs[name], dtype=np.float64)  # None becomes NaN
    table["raters_at_least"] = np.array(songs["raters_at_least"], dtype=bool)
    return table


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of songs from its CSV file; an artist called 311 or NA keeps that name."""
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    for name in TEXT:
        table[name] = table[name].astype(object).where(table[name].notna(), None)
    table["raters_at_least"] = table.get("raters_at_least", False)  # earlier versions did not know
    return table


def predictions_table(songs: Dataset, systems: dict[str, np.ndarray]) -> pd.DataFrame:
    """`songs_table` with predictions of some of `SYSTEMS`, (songs, 2) each, on 1-9."""
    columns = {
        f"{SYSTEMS[name]}_{dimension}": values[:, column]
        for name, values in systems.items()
        for column, dimension in enumerate(DIMENSIONS)
    }
    return songs_table(songs).assign(**columns)


def system_predictions(table: pd.DataFrame, system: str) -> np.ndarray:
    """The predictions of one of `SYSTEMS` in a table, (songs, 2), on 1-9."""
    return table[[f"{SYSTEMS[system]}_{dimension}" for dimension in DIMENSIONS]].to_numpy(np.float64)


def references(table: pd.DataFrame, other_treatment: bool = False) -> np.ndarray:
    """The labels in a table of songs, (songs, 2), on 1-9; with `other_treatment`, the other ones where they differ."""
    labels, others = (table[list(names)].to_numpy(np.float64) for names in (DIMENSIONS, OTHER_LABELS))
    return np.where(np.isnan(others), labels, others) if other_treatment else labels


def treatments(table: pd.DataFrame) -> dict[str, bool]:
    """The treatments of the labels in a table by name, and whether each is the other one."""
    other = table["other_valence"].notna()
    names = {" + ".join(dict.fromkeys(table["labels"])): False}
    if other.any():
        others = np.where(other, table["labels"].map(OTHER), table["labels"])
        name = " + ".join(dict.fromkeys(others))
        names[name if name not in names else f"{name}, the other way round"] = True
    return names


def artist_of_song(table: pd.DataFrame) -> list[str]:
    """The groups of songs that intervals are over: artists, or the song itself where its artist is not known."""
    return group_songs(table["song_id"], dict(zip(table["song_id"], table["artist"], strict=True)))


def score_systems(table: pd.DataFrame) -> pd.DataFrame:
    """Score every system of a table of predictions, and compare the model with the others.

    Args:
        table: of `predictions_table`.

    Returns:
        One row per treatment of the labels and system. Where there are several collections, the model also has one row
        for each. "ceiling" is what a predictor of the true emotions would score (see `ceiling`), where the number of
        raters is known, and "ceiling, at least" where it is the least number for some songs. `DIFFERENCES` are the
        model's scores minus another system's on the same songs. Columns: `metrics.KEYS`, and these with `_low` and
        `_high`, the 95 % interval over artists, NaN where there is none (see `intervals`).
    """
    clusters = artist_of_song(table)
    rows = {}
    for treatment, other in treatments(table).items():
        truth = references(table, other)
        predictions = {
            name: system_predictions(table, name) for name in SYSTEMS if f"{SYSTEMS[name]}_valence" in table
        }
        for system, values in predictions.items():
            rows[treatment, system] = score_with_intervals(values, truth, clusters)
        for source, part in table.groupby("source") if table["source"].nunique() > 1 else ():
            if len(part) > 1:
                rows[treatment, f"model, {source}"] = score_with_intervals(
                    system_predictions(part, "model"), references(part, other), artist_of_song(part)
                )
        deviations = table[["valence_std", "arousal_std"]].to_numpy(np.float64)
        raters = table[["raters"]].to_numpy(np.float64)
        if not np.isnan(deviations).all(axis=0).any() and not np.isnan(raters).any() and not other:
            name = LEAST_CEILING if table["raters_at_least"].any() else CEILING
            rows[treatment, name] = noise_ceiling(truth, deviations, raters, ddof=0)
        for name, system in DIFFERENCES.items():
            if system in predictions:
                pair = predictions["model"], predictions[system]
                rows[treatment, name] = difference_with_intervals(*pair, truth, clusters)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["labels", "system"])


def score_with_intervals(predictions: np.ndarray, truth: np.ndarray, clusters: list[str]) -> dict[str, float]:
    """Scores, and their 95 % intervals as `<key>_low` and `<key>_high` if there are several clusters.

    `predictions` are (songs, 2), or (seeds, songs, 2) for the mean of the seeds' scores.
    """
    row = mean_score(predictions, truth)
    return row | _ends(score_intervals(predictions, truth, clusters)) if len(set(clusters)) > 1 else row


def difference_with_intervals(
    predictions: np.ndarray, others: np.ndarray, truth: np.ndarray, clusters: list[str]
) -> dict[str, float]:
    """Scores of `predictions` minus those of `others`, and their intervals; shapes as in `score_with_intervals`."""
    ours, theirs = mean_score(predictions, truth), mean_score(others, truth)
    row = {key: ours[key] - theirs[key] for key in KEYS}
    return row | _ends(paired_intervals(predictions, others, truth, clusters)) if len(set(clusters)) > 1 else row


def mean_score(predictions: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`metrics.score` of predictions (songs, 2), or the mean of the seeds' scores for (seeds, songs, 2)."""
    seeds = predictions if predictions.ndim == 3 else predictions[None]
    scores = [score(one, truth) for one in seeds]
    return {key: float(np.mean([row[key] for row in scores])) for key in KEYS}


def _ends(intervals: Intervals) -> dict[str, float]:
    return {f"{key}_{end}": ends[at] for key, ends in intervals.items() for at, end in enumerate(("low", "high"))}


def flat(scores: pd.DataFrame) -> dict[str, float | list[float]]:
    """Scores by name, for `all_results.json`.

    `test_*` are the model's, `baseline_<system>_*` the other systems', `test_minus_<system>_*` the differences between
    these, `ceiling_*` or `ceiling_at_least_*` the ceiling's; `<treatment>_` precedes those against the other treatment
    of the labels; `*_interval`, [low, high], is the interval of one of the model's scores or differences, where there
    is one.
    """
    first = scores.index[0][0]
    prefixes = {system: f"baseline_{system}" for system in SYSTEMS} | {"model": "test"}
    prefixes |= {CEILING: "ceiling", LEAST_CEILING: "ceiling_at_least"}
    prefixes |= {name: f"test_minus_{system}" for name, system in DIFFERENCES.items()}
    results: dict[str, float | list[float]] = {}
    for (treatment, system), row in zip(scores.index.tolist(), scores.to_dict("records"), strict=True):
        if system not in prefixes:
            continue
        prefix = prefixes[system] if treatment == first else f"{treatment}_{prefixes[system]}"
        results |= {f"{prefix}_{key}": row[key] for key in KEYS}
        for key in KEYS if system == "model" or system in DIFFERENCES else ():
            interval = [row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)]
            results |= {} if np.isnan(interval).any() else {f"{prefix}_{key}_interval": interval}
    return results
