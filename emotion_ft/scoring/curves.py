"""Scores of emotion over time: predictions at every annotated half second against the annotators' mean curves."""

import numpy as np
import pandas as pd
from datasets import Dataset

from ..errors import UsageError
from .metrics import DIMENSIONS, concordance_correlation, pearson_r

METRICS = ("rmse", "r", "ccc")
ROWS = {
    "windows": "all windows of all songs together",
    "windows by song": "each song's windows, mean over songs (as MediaEval 2015)",
    "songs": "the mean of each song's curve",
}


def annotated_curves(songs: Dataset) -> list[np.ndarray]:
    """The annotated curves of each song, (values, 2) valence and arousal in [-1, 1]."""
    pairs = zip(songs["curve_valence"], songs["curve_arousal"], strict=True)
    return [np.array([valence, arousal], dtype=np.float64).T for valence, arousal in pairs]


def with_curves(songs: Dataset) -> Dataset:
    """The songs that have curves; raises `UsageError` if there are none."""
    rows = [row for row, start in enumerate(songs["curve_start"]) if start is not None]
    if not rows:
        raise UsageError(f"none of {len(songs)} songs has an annotated curve (valence.csv and arousal.csv).")
    return songs.select(rows)


def score_curves(predictions: list[np.ndarray], references: list[np.ndarray]) -> pd.DataFrame:
    """Score predicted curves in three ways (see `ROWS`).

    MediaEval 2015's Emotion in Music task ranked systems by the RMSE, then by r, of each test song's 2 Hz curve,
    averaged over the songs (Aljanaki, Yang & Soleymani 2015, "Emotion in Music Task at MediaEval 2015"), in [-1, 1]
    as here.

    Args:
        predictions, references: one array per song, (values, 2) valence and arousal in [-1, 1].

    Returns:
        One row per way of scoring; columns `valence_rmse`, `valence_r`, `valence_ccc` and the same for arousal. r and
        CCC of a constant curve are 0. Raises `ValueError` for no songs, or curves of different lengths.
    """
    if not references or [np.shape(p) for p in predictions] != [np.shape(r) for r in references]:
        raise ValueError("expected a predicted curve as long as the annotated one for each song")
    means = [np.stack([curve.mean(0) for curve in curves]) for curves in (predictions, references)]
    by_song = [_score(p, r) for p, r in zip(predictions, references, strict=True)]
    rows = {
        "windows": _score(np.concatenate(predictions), np.concatenate(references)),
        "windows by song": pd.DataFrame(by_song).mean().to_dict(),
        "songs": _score(*means),
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scored")


def _score(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    scores = {}
    for dimension, p, r in zip(DIMENSIONS, predictions.T, references.T, strict=True):
        scores[f"{dimension}_rmse"] = float(np.sqrt(np.mean(np.square(p - r))))
        scores[f"{dimension}_r"] = pearson_r(p, r) if len(p) > 1 else 0.0
        scores[f"{dimension}_ccc"] = concordance_correlation(p, r)
    return scores


def flat(scores: pd.DataFrame) -> dict[str, float]:
    """Scores by name, for `all_results.json`: `test_windows_valence_rmse` and so on."""
    rows = scores.to_dict("index")
    return {f"test_{str(way).replace(' ', '_')}_{key}": row[key] for way, row in rows.items() for key in row}
