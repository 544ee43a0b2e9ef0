"""Uncertainty: bootstrap intervals of every metric, and conformal intervals of single predictions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .metrics import KEYS, as_pairs

CELLS = 2**21  # largest (resamples, groups) matrix of counts: 16 MB
CONSTANT = 1e-12  # variance over mean square below which only rounding errors are left


def bootstrap_scores(
    predictions: np.ndarray,
    references: np.ndarray,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval (Efron 1979) of every metric.

    With `groups`, whole groups are drawn with replacement, as many as there are (cluster bootstrap: Davison & Hinkley
    1997, Bootstrap Methods and their Application, section 3.8): songs by one artist resemble each other, so that
    intervals over songs would be too narrow.

    Args:
        predictions, references: (songs, 2), valence and arousal on the same scale.
        groups: one label per song, such as its artist; a song labelled None or NaN is a group of its own. None: every
            song is.
        level: share of the resamples' scores inside an interval, in (0, 1).

    Returns:
        (low, high) with keys and units as in `metrics.score`. Resamples follow its conventions: r and CCC are 0 where
        one side is constant; R² of constant references is 1 for perfect predictions, else 0 (scikit-learn).

    Raises:
        ValueError: for wrong shapes, values that are not finite, another number of labels than songs, fewer than two
            groups, or a `level` or `resamples` out of range.
    """
    predictions, references = as_pairs(predictions, references)
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected a level in (0, 1) and at least one resample, got {level} and {resamples}")
    codes = _codes(groups, len(references))
    count = codes.max(initial=-1) + 1
    if count < 2:
        raise ValueError(f"a bootstrap needs at least two groups to draw from, got {count} over {len(codes)} songs")
    error, bias = predictions - references, predictions.mean(0) - references.mean(0)
    p, r = predictions - predictions.mean(0), references - references.mean(0)
    moments = np.stack([np.ones_like(p), p, r, p * p, r * r, p * r, np.abs(error), error**2], axis=1)
    sums = np.zeros((count, *moments.shape[1:]))  # (groups, moments, 2)
    np.add.at(sums, codes, moments)
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS // count)
    drawn = []
    for start in range(0, resamples, chunk):
        draws = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))
        drawn.append(_scores(np.tensordot(draws.astype(np.float64), sums, axes=1), bias))
    scores = np.concatenate(drawn)  # (resamples, metrics, 2)
    columns = np.concatenate([scores, scores.mean(axis=2, keepdims=True)], axis=2)
    low, high = np.quantile(columns, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return dict(zip(KEYS, zip(low.T.ravel().tolist(), high.T.ravel().tolist(), strict=True), strict=True))


def conformal_halfwidths(predictions: np.ndarray, references: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Half-widths of intervals around new predictions that contain the label with probability `level` or more.

    Split conformal prediction (Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World; Lei et al. 2018,
    Distribution-Free Predictive Inference for Regression, JASA 113): the ceil((songs + 1) level)-th smallest absolute
    residual. It is guaranteed on average, for songs exchangeable with these, and for each dimension on its own.

    Args:
        predictions, references: (songs, 2), for songs that the model was neither trained nor selected on.
        level: in (0, 1).

    Returns:
        (2,), valence and arousal, in units of the references.

    Raises:
        ValueError: for wrong shapes, values that are not finite, a `level` out of range, or fewer than `songs_needed`.
    """
    predictions, references = as_pairs(predictions, references)
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    songs = len(references)
    if songs < (needed := songs_needed(level)):
        raise ValueError(f"conformal intervals of level {level} need at least {needed} songs, got {songs}")
    return np.sort(np.abs(references - predictions), axis=0)[_ceil((songs + 1) * level) - 1]


def songs_needed(level: float) -> int:
    """How many songs conformal intervals of a level in (0, 1) need: level / (1 - level), so nine for 0.9."""
    return _ceil(level / (1 - level))


def coverage(predictions: np.ndarray, references: np.ndarray, halfwidths: np.ndarray) -> np.ndarray:
    """Share of the references (songs, 2) within prediction ± half-width (2,), ends included: (2,), in [0, 1].

    Raises `ValueError` for wrong shapes, no songs, or values that are not finite.
    """
    predictions, references = as_pairs(predictions, references)
    if not len(references) or np.shape(halfwidths) != (2,):
        raise ValueError(f"expected songs and half-widths (2,), got {len(references)} and {np.shape(halfwidths)}")
    return np.mean(np.abs(references - predictions) <= halfwidths, axis=0)


def _scores(sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sums (resamples, moments, 2) -> `METRICS` of each resample, (resamples, metrics, 2).

    `bias` (2,) is the mean error over all songs: the sums are of predictions and references minus their means.
    """
    p, r, pp, rr, pr, mae, mse = np.moveaxis(sums[:, 1:] / sums[:, :1], 1, 0)
    constant_p, constant_r = pp - p * p <= CONSTANT * pp, rr - r * r <= CONSTANT * rr
    var_p, var_r = np.where(constant_p, 0, pp - p * p), np.where(constant_r, 0, rr - r * r)
    covariance = np.where(constant_p | constant_r, 0, pr - p * r)
    r2 = 1 - _ratio(mse, var_r, otherwise=mse > 0)
    correlation = _ratio(covariance, np.sqrt(var_p * var_r), otherwise=0)
    ccc = _ratio(2 * covariance, var_p + var_r + (p - r + bias) ** 2, otherwise=0)
    return np.stack([np.sqrt(mse), mae, r2, correlation, ccc], axis=1)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    """above / below, and `otherwise` where that is a division by zero."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), otherwise)


def _codes(groups: Sequence[Any] | None, songs: int) -> np.ndarray:
    """The group of each song, (songs,), counted from 0."""
    if groups is None:
        return np.arange(songs)
    labels = np.asarray(groups, dtype=object)
    if labels.shape != (songs,):
        raise ValueError(f"expected a group label for each of {songs} songs, got {labels.shape}")
    codes, names = pd.factorize(labels)
    return np.where(codes >= 0, codes, len(names) + np.cumsum(codes < 0) - 1)


def _ceil(number: float) -> int:
    """`math.ceil`, but not one more where only rounding lifts a product above an integer: 100 * 0.55."""
    return math.ceil(round(number, 9))
