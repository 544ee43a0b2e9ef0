"""Uncertainty: intervals of scores and of their differences, and conformal intervals of single predictions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .metrics import KEYS, as_pairs

CONSTANT = 1e-12  # variance over mean square below which only rounding errors are left

Intervals = dict[str, tuple[float, float]]
"""(low, high) by `metrics.KEYS`; NaN where there is no interval."""


def score_intervals(
    predictions: np.ndarray, references: np.ndarray, groups: Sequence[Any] | None = None, level: float = 0.95
) -> Intervals:
    """Jackknife-t interval of every metric.

    Each group of songs is left out once (delete-a-group jackknife: Shao & Tu 1995, The Jackknife and Bootstrap,
    section 2.3): songs by one artist resemble each other, so that intervals over songs would be too narrow. Student's
    t has one degree of freedom less than Kish's effective number of groups, (sum n)² / sum n² for groups of n songs,
    and is applied to log RMSE, log MAE, log(1 - R²) and Fisher's z of r and CCC. `tests/scoring/test_coverage.py`
    measures the coverage beside the bootstrap's.

    With predictions by several seeds, a score is the mean of the seeds' scores, and the variance over seeds, by the
    jackknife too, is added to that over groups; the degrees of freedom are Satterthwaite's (1946). Two or three seeds
    say little about others: where they differ more than groups do, their intervals are too narrow.

    Args:
        predictions: (songs, 2), valence and arousal, or (seeds, songs, 2).
        references: (songs, 2), on the same scale.
        groups: one label per song, such as its artist; a song labelled None or NaN is a group of its own. None: every
            song is.
        level: confidence level, in (0, 1).

    Returns:
        Keys and units as in `metrics.score`. There is no interval where the score is undefined with or without one of
        the groups (constant labels; for r, constant predictions; no error at all), or is the same without any of them.

    Raises:
        ValueError: for wrong shapes, values that are not finite, another number of labels than songs, fewer than two
            groups, or a `level` out of range.
    """
    ours = _jackknife(predictions, references, groups)
    sources = [(_unbounded(values), freedom) for values, freedom in ours.sources]
    return _by_key(*map(_bounded, _t_interval(_unbounded(ours.value), sources, level)))


def paired_intervals(
    predictions: np.ndarray,
    others: np.ndarray,
    references: np.ndarray,
    groups: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Intervals:
    """Jackknife-t interval of the difference, score of `predictions` minus score of `others`, of every metric.

    Both systems are scored without the same group at a time, so that what makes songs easy or hard for both cancels.
    Differences are taken on the scales of the metrics. Seeds of the two systems are taken as independent.

    Arguments, values and errors are otherwise those of `score_intervals`; the two systems may have different numbers
    of seeds.
    """
    ours, theirs = _jackknife(predictions, references, groups), _jackknife(others, references, groups)
    (mine, freedom), (yours, _) = ours.sources[0], theirs.sources[0]
    sources = [(mine - yours, freedom)]
    sources += [(values - theirs.value, freedom) for values, freedom in ours.sources[1:]]
    sources += [(ours.value - values, freedom) for values, freedom in theirs.sources[1:]]
    return _by_key(*_t_interval(ours.value - theirs.value, sources, level))


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


def share_interval(share: float, songs: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval (1934) of a share of `songs`, in [0, 1], as if the songs were independent."""
    low, high = stats.binomtest(round(share * songs), songs).proportion_ci(level)
    return float(low), float(high)


class _Jackknife(NamedTuple):
    """Scores of all songs and seeds, and without one group or seed, (..., metrics, valence, arousal and mean)."""

    value: np.ndarray  # (metrics, 3)
    sources: list[tuple[np.ndarray, float]]  # groups first, then seeds if several: (left out, metrics, 3), freedom


def _jackknife(predictions: np.ndarray, references: np.ndarray, groups: Sequence[Any] | None) -> _Jackknife:
    seeds = np.asarray(predictions, np.float64)
    pairs = [as_pairs(one, references) for one in (seeds if seeds.ndim == 3 else seeds[None])]
    codes = _codes(groups, len(references))
    sizes = np.bincount(codes)
    if len(sizes) < 2:
        raise ValueError(f"intervals need at least two groups to leave out, got {len(sizes)} over {len(codes)} songs")
    values = [_whole_and_without(*pair, codes) for pair in pairs]
    wholes, without = np.stack([whole for whole, _ in values]), np.mean([groups for _, groups in values], axis=0)
    sources = [(without, max(sizes.sum() ** 2 / np.sum(sizes**2) - 1, 1.0))]
    if (count := len(wholes)) > 1:
        sources.append(((wholes.sum(axis=0) - wholes) / (count - 1), count - 1.0))
    return _Jackknife(wholes.mean(axis=0), sources)


def _whole_and_without(
    predictions: np.ndarray, references: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all songs (metrics, 3), and without each group (groups, metrics, 3)."""
    error, bias = predictions - references, predictions.mean(0) - references.mean(0)
    p, r = predictions - predictions.mean(0), references - references.mean(0)
    moments = np.stack([np.ones_like(p), p, r, p * p, r * r, p * r, np.abs(error), error**2], axis=1)
    sums = np.zeros((codes.max() + 1, *moments.shape[1:]))  # (groups, moments, 2)
    np.add.at(sums, codes, moments)
    whole = moments.sum(axis=0)
    return _scores(whole, bias), _scores(whole - sums, bias)


def _scores(sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sums (..., moments, 2) -> `METRICS` of valence, arousal and their mean, (..., metrics, 3); NaN if undefined.

    `bias` (2,) is the mean error over all songs: the sums are of predictions and references minus their means.
    """
    p, r, pp, rr, pr, mae, mse = np.moveaxis(sums[..., 1:, :] / sums[..., :1, :], -2, 0)
    var_p, var_r = (np.where(xx - x * x <= CONSTANT * xx, 0, xx - x * x) for x, xx in ((p, pp), (r, rr)))
    covariance = np.where(var_p * var_r > 0, pr - p * r, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(var_r > 0, 1 - mse / var_r, np.nan)
        correlation = covariance / np.sqrt(var_p * var_r)
        ccc = 2 * covariance / (var_p + var_r + (p - r + bias) ** 2)
        scores = np.stack([np.sqrt(mse), mae, r2, correlation, ccc], axis=-2)
    return np.concatenate([scores, scores.mean(axis=-1, keepdims=True)], axis=-1)


def _unbounded(scores: np.ndarray) -> np.ndarray:
    """Scores (..., metrics, 3) on scales without bounds: log RMSE, log MAE, -log(1 - R²), Fisher's z of r and CCC."""
    rmse, mae, r2, r, ccc = np.moveaxis(scores, -2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([np.log(rmse), np.log(mae), -np.log1p(-r2), np.arctanh(r), np.arctanh(ccc)], axis=-2)


def _bounded(values: np.ndarray) -> np.ndarray:
    """The scores that `_unbounded` makes these values of."""
    rmse, mae, r2, r, ccc = np.moveaxis(values, -2, 0)
    with np.errstate(over="ignore"):
        return np.stack([np.exp(rmse), np.exp(mae), -np.expm1(-r2), np.tanh(r), np.tanh(ccc)], axis=-2)


def _t_interval(
    value: np.ndarray, sources: list[tuple[np.ndarray, float]], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval around a value with the jackknife variances of all sources; NaN where there is none."""
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = [(len(left) - 1) / len(left) * np.sum((left - value) ** 2, axis=0) for left, _ in sources]
        variance = np.sum(spreads, axis=0)
        freedom = variance**2 / sum(spread**2 / free for spread, (_, free) in zip(spreads, sources, strict=True))
        margin = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance)
    return value - margin, value + margin


def _by_key(low: np.ndarray, high: np.ndarray) -> Intervals:
    """Ends (metrics, 3) by `KEYS`, both NaN where one is not finite."""
    ends = np.stack([low, high], axis=-1)
    ends[~np.isfinite(ends).all(axis=-1)] = np.nan
    return dict(zip(KEYS, map(tuple, ends.swapaxes(0, 1).reshape(-1, 2).tolist()), strict=True))


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
