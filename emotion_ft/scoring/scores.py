"""Tables of songs and predictions, and the scores of every system under every treatment of the labels."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.artists import group_songs
from ..data.leaks import OTHER_LABELS
from ..data.songs import OTHER
from .ceiling import noise_ceiling
from .intervals import bootstrap_scores
from .metrics import DIMENSIONS, KEYS, score

SYSTEMS = {"model": "predicted", "ridge": "ridge", "svr": "svr", "mean": "mean"}
"""Rows of a table, and the prefixes of their columns in `predictions.csv`."""
CEILING = "ceiling"
TEXT = ("source", "audio", "artist", "labels")


def songs_table(songs: Dataset) -> pd.DataFrame:
    """One row per song: id, source, audio file name, artist, labels on 1-9 under both treatments, deviations."""
    table = pd.DataFrame(songs.select_columns(["song_id", "source", "artist", "labels"]).to_pandas())
    table.insert(2, "audio", [Path(audio["path"]).name for audio in songs["audio"]])
    for name in (*DIMENSIONS, "valence_std", "arousal_std", "raters", *OTHER_LABELS):
        table[name] = np.array(songs[name], dtype=np.float64)  # None becomes NaN
    return table


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of songs from its CSV file; an artist called 311 or NA keeps that name."""
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    for name in TEXT:
        table[name] = table[name].astype(object).where(table[name].notna(), None)
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
    """The groups that intervals are resampled over: artists, or the song itself where its artist is not known."""
    return group_songs(table["song_id"], dict(zip(table["song_id"], table["artist"], strict=True)))


def score_systems(table: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Score every system of a table of predictions.

    Args:
        table: of `predictions_table`.
        resamples: of the bootstrap over artists; songs of unknown artists are drawn one by one.

    Returns:
        One row per treatment of the labels and system. "ceiling" is what a predictor of the true emotions would score
        (see `ceiling`), where the number of raters is known. Where there are several collections, the model also has
        one row for each. Columns: `metrics.KEYS`, and these with `_low` and `_high`, the bootstrap 95 % interval.
    """
    clusters = artist_of_song(table)
    rows = {}
    for treatment, other in treatments(table).items():
        truth = references(table, other)
        for system in SYSTEMS:
            if f"{SYSTEMS[system]}_valence" in table:
                predictions = system_predictions(table, system)
                rows[treatment, system] = score_with_intervals(predictions, truth, clusters, resamples)
        for source, part in table.groupby("source") if table["source"].nunique() > 1 else ():
            if len(part) > 1:
                rows[treatment, f"model, {source}"] = score_with_intervals(
                    system_predictions(part, "model"), references(part, other), artist_of_song(part), resamples
                )
        deviations = table[["valence_std", "arousal_std"]].to_numpy(np.float64)
        raters = table[["raters"]].to_numpy(np.float64)
        if not np.isnan(deviations).all(axis=0).any() and not np.isnan(raters).any() and not other:
            rows[treatment, CEILING] = noise_ceiling(truth, deviations, raters, ddof=0)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["labels", "system"])


def score_with_intervals(
    predictions: np.ndarray, truth: np.ndarray, clusters: list[str], resamples: int = 1000
) -> dict[str, float]:
    """`metrics.score`, and bootstrap 95 % intervals as `<key>_low` and `<key>_high` if there are several clusters."""
    row = score(predictions, truth)
    if len(set(clusters)) < 2:
        return row
    for key, (low, high) in bootstrap_scores(predictions, truth, clusters, resamples).items():
        row |= {f"{key}_low": low, f"{key}_high": high}
    return row


def flat(scores: pd.DataFrame) -> dict[str, float | list[float]]:
    """Scores by name, for `all_results.json`.

    `test_*` are the model's, `baseline_<system>_*` the other systems', `ceiling_*` the ceiling's; `<treatment>_`
    precedes those against the other treatment of the labels; `*_interval` is the model's bootstrap interval.
    """
    first = scores.index[0][0]
    results: dict[str, float | list[float]] = {}
    for (treatment, system), row in zip(scores.index.tolist(), scores.to_dict("records"), strict=True):
        if system not in (*SYSTEMS, CEILING):
            continue
        prefix = {"model": "test", CEILING: "ceiling"}.get(system, f"baseline_{system}")
        prefix = prefix if treatment == first else f"{treatment}_{prefix}"
        results |= {f"{prefix}_{key}": row[key] for key in KEYS}
        if system == "model" and f"{KEYS[0]}_low" in row:
            results |= {f"{prefix}_{key}_interval": [row[f"{key}_low"], row[f"{key}_high"]] for key in KEYS}
    return results
