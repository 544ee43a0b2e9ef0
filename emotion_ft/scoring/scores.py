"""From what was predicted to what is reported: every system, against every treatment of the labels, with intervals."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ..data.leaks import OTHER_LABELS
from ..data.songs import OTHER
from ..data.splits import artist_key
from .ceiling import noise_ceiling
from .intervals import bootstrap_scores
from .metrics import DIMENSIONS, METRICS, score

SYSTEMS = {"model": "predicted", "ridge": "ridge", "svr": "svr", "mean": "mean"}
"""Rows of a table, and how the columns of `predictions.csv` begin that hold them."""
CEILING = "ceiling"
KEYS = [f"{dimension}_{metric}" for dimension in (*DIMENSIONS, "mean") for metric in METRICS]


TEXT = ("source", "audio", "artist", "labels")


def songs_table(songs: Dataset) -> pd.DataFrame:
    """A row a song: id, source, name of its audio file, artist, labels on 1-9 under both treatments, deviations."""
    table = songs.select_columns(["song_id", "source", "artist", "labels"]).to_pandas()
    table.insert(2, "audio", [Path(audio["path"]).name for audio in songs["audio"]])
    for name in (*DIMENSIONS, "valence_std", "arousal_std", "raters", *OTHER_LABELS):
        table[name] = np.array(songs[name], dtype=np.float64)  # None becomes NaN
    return table


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of songs that was written as CSV; an artist called 311, or NA, keeps that name."""
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    for name in TEXT:
        table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def predictions_table(songs: Dataset, systems: dict[str, np.ndarray]) -> pd.DataFrame:
    """`songs_table` and what each of `SYSTEMS` says of these songs, (songs, 2) on 1-9."""
    columns = {
        f"{SYSTEMS[name]}_{dimension}": values[:, column]
        for name, values in systems.items()
        for column, dimension in enumerate(DIMENSIONS)
    }
    return songs_table(songs).assign(**columns)


def system_predictions(table: pd.DataFrame, system: str) -> np.ndarray:
    """(songs, 2), on 1-9, of a table of predictions."""
    return table[[f"{SYSTEMS[system]}_{dimension}" for dimension in DIMENSIONS]].to_numpy(np.float64)


def references(table: pd.DataFrame, other_treatment: bool = False) -> np.ndarray:
    """(songs, 2) labels on 1-9 of a table of songs; under the other treatment where there is one."""
    labels = table[list(DIMENSIONS)].to_numpy(np.float64)
    if not other_treatment:
        return labels
    others = table[list(OTHER_LABELS)].to_numpy(np.float64)
    return np.where(np.isnan(others), labels, others)


def treatments(table: pd.DataFrame) -> dict[str, bool]:
    """The names of the treatments of the labels that a table holds, and whether they are the other one."""
    other = table["other_valence"].notna()
    names = {" + ".join(dict.fromkeys(table["labels"])): False}
    if other.any():
        others = np.where(other, table["labels"].map(OTHER), table["labels"])
        name = " + ".join(dict.fromkeys(others))
        names[name if name not in names else f"{name}, the other way round"] = True
    return names


def artist_of_song(table: pd.DataFrame) -> list[str]:
    """What intervals are resampled over: the artist, or the song where the artist is not known."""
    return [
        artist_key(artist) if isinstance(artist, str) else f"song {song_id}"
        for song_id, artist in zip(table["song_id"], table["artist"], strict=True)
    ]


def score_systems(table: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Score every system of a table of predictions.

    Args:
        table: of `predictions_table`.
        resamples: of the bootstrap over artists; songs of unknown artists are drawn alone.

    Returns:
        A row for each treatment of the labels and system, and "ceiling", what a predictor of the true emotions would
        score against the mean of a few raters (see `ceiling`), where their number is known. Where there is another
        treatment of the labels, the systems are scored against that too; of several collections, the model has a row
        each. Columns: the keys of `metrics.score`, and these with `_low` and `_high`, the bootstrap 95 % interval.
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
    """`metrics.score`, and its bootstrap 95 % intervals over clusters as `<key>_low` and `<key>_high`.

    There are none when all songs are of one cluster.
    """
    row = score(predictions, truth)
    if len(set(clusters)) < 2:
        return row
    for key, (low, high) in bootstrap_scores(predictions, truth, clusters, resamples).items():
        row |= {f"{key}_low": low, f"{key}_high": high}
    return row


def flat(scores: pd.DataFrame) -> dict[str, float | list[float]]:
    """Scores by name, for `all_results.json`.

    `test_*` is the model, `baseline_<system>_*` the others, `ceiling_*` the raters' noise; `<treatment>_` stands
    before those against the other treatment of the labels; `*_interval` is the model's bootstrap interval.
    """
    first = scores.index[0][0]
    results = {}
    for (treatment, system), row in scores.iterrows():
        if system not in (*SYSTEMS, CEILING):
            continue
        prefix = {"model": "test", CEILING: "ceiling"}.get(system, f"baseline_{system}")
        prefix = prefix if treatment == first else f"{treatment}_{prefix}"
        results |= {f"{prefix}_{key}": float(row[key]) for key in KEYS}
        if system == "model":
            results |= {
                f"{prefix}_{key}_interval": [float(row[f"{key}_low"]), float(row[f"{key}_high"])]
                for key in KEYS
                if f"{key}_low" in row
            }
    return results
