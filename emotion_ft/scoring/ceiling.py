"""How well these labels can be predicted at all, given how much their raters disagree."""

import numpy as np

from ..data.collections.annotations import RATERS
from .metrics import by_key


def noise_ceiling(
    references: np.ndarray, deviations: np.ndarray, raters: int | np.ndarray = RATERS, ddof: int = 1
) -> dict[str, float]:
    """Scores on these labels of a predictor that knows every song's true emotion.

    A label y is the mean of `raters` ratings, and the truth t what that mean would be over infinitely many, so that
    the noise has variance s² / raters. With rho = var(t) / var(y), the labels' reliability in classical test theory
    (Lord & Novick 1968, Statistical Theories of Mental Test Scores, chapter 3):

        RMSE = sqrt(mean(s²) / raters)                  R² = rho = 1 - RMSE² / var(y)
        MAE  = mean(sqrt(2 / pi) s / sqrt(raters))      r = sqrt(rho)       CCC = 2 rho / (1 + rho)

    MAE assumes normal noise and a known s; with s estimated from ten ratings it is 3 % too low. The CCC is Lin's
    (1989) for cov(t, y) = var(t) and equal means. Labels that vary less than their noise give a negative R², and r
    and CCC of 0.

    Args:
        references: (songs, 2), the labels y, valence and arousal.
        deviations: (songs, 2), standard deviation s of a song's ratings, in units of the references. Songs where it is
            NaN count towards var(y) only.
        raters: ratings per song, one number or (songs, 1).
        ddof: of the deviations, as in `numpy.std`: 1 for sample deviations, 0 for population deviations, as in DEAM's
            files. The squares of the latter are s² (raters - 1) / raters, which is corrected for.

    Returns:
        Keys and units as in `metrics.score`.

    Raises:
        ValueError: for wrong shapes, labels that are not finite, negative or infinite deviations, a dimension without
            deviations or with constant labels, or too few raters for `ddof`.
    """
    references, deviations = np.asarray(references, np.float64), np.asarray(deviations, np.float64)
    if references.shape != deviations.shape or references.ndim != 2 or references.shape[1] != 2:
        raise ValueError(f"expected two arrays (songs, 2), got {references.shape} and {deviations.shape}")
    if not np.isfinite(references).all() or np.isinf(deviations).any() or (deviations < 0).any():
        raise ValueError("expected finite labels, and deviations that are not negative or infinite")
    if np.isnan(deviations).all(axis=0).any():
        raise ValueError("no song has a standard deviation of its ratings in one of the dimensions")
    if (np.ptp(references, axis=0) == 0).any():
        raise ValueError(f"the labels of all {len(references)} songs are equal in one of the dimensions")
    divisor = np.asarray(raters) - 1 + ddof
    if (divisor <= 0).any():
        raise ValueError(f"deviations with ddof {ddof} need at least {2 - ddof} raters per song, got {np.min(raters)}")
    variances = deviations**2 / divisor
    noise = np.nanmean(variances, axis=0)
    r2 = 1 - noise / references.var(axis=0)
    reliability = np.maximum(r2, 0)
    mae = np.nanmean(np.sqrt(2 / np.pi * variances), axis=0)
    return by_key(np.stack([np.sqrt(noise), mae, r2, np.sqrt(reliability), 2 * reliability / (1 + reliability)]))
