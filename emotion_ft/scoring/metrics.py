"""Metrics of predicted valence and arousal: RMSE, MAE, R², Pearson's r and CCC, per dimension and their mean."""

from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from transformers import EvalPrediction

from ..data.scale import from_unit

DIMENSIONS = ("valence", "arousal")
METRICS = ("rmse", "mae", "r2", "r", "ccc")
KEYS = [f"{name}_{metric}" for name in (*DIMENSIONS, "mean") for metric in METRICS]


def concordance_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Lin's concordance correlation coefficient (1989), in [-1, 1]; 0 for constant predictions.

    2 cov / (var_p + var_r + (mean_p - mean_r)²), with population moments.
    """
    covariance = np.mean((predictions - predictions.mean()) * (references - references.mean()))
    spread = predictions.var() + references.var() + (predictions.mean() - references.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else 0.0


def pearson_r(predictions: np.ndarray, references: np.ndarray) -> float:
    """Pearson's correlation, in [-1, 1]; 0 where it is undefined because one side is constant."""
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(stats.pearsonr(predictions, references).statistic)


def as_pairs(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (songs, 2); raises `ValueError` for other shapes and values that are not finite."""
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if predictions.shape != references.shape or predictions.ndim != 2 or predictions.shape[1] != 2:
        raise ValueError(f"expected two arrays (songs, 2), got {predictions.shape} and {references.shape}")
    if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
        raise ValueError("predictions and references must be finite, but hold NaN or infinite values")
    return predictions, references


def by_key(scores: np.ndarray) -> dict[str, float]:
    """`METRICS` of valence and arousal, (metrics, 2) -> these and their means, by `KEYS`."""
    columns = np.column_stack([scores, scores.mean(axis=1)])
    return dict(zip(KEYS, columns.T.ravel().tolist(), strict=True))


def score(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """All metrics of one prediction per song.

    Args:
        predictions, references: (songs, 2), valence and arousal on the same scale; at least two songs.

    Returns:
        By `KEYS`: `valence_rmse`, ..., `arousal_ccc`, and the means of both dimensions, `mean_rmse`, ..., `mean_ccc`.
        RMSE and MAE are in units of the scale; R² (scikit-learn's coefficient of determination), r and CCC have none.

    Raises:
        ValueError: for wrong shapes, fewer than two songs, or values that are not finite.
    """
    predictions, references = as_pairs(predictions, references)
    if len(predictions) < 2:
        raise ValueError(f"correlations need at least two songs, got {len(predictions)}")
    columns = []
    for p, r in zip(predictions.T, references.T, strict=True):
        errors = [root_mean_squared_error(r, p), mean_absolute_error(r, p)]
        columns.append([*errors, r2_score(r, p), pearson_r(p, r), concordance_correlation(p, r)])
    return by_key(np.array(columns).T)


class EmotionMetric(evaluate.Metric):
    """`score` as an `evaluate.Metric`: `EmotionMetric().compute(predictions=(n, 2), references=(n, 2))`."""

    def _info(self) -> evaluate.MetricInfo:
        pair = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Errors and correlations of predicted valence and arousal.",
            citation="Lin (1989), A concordance correlation coefficient to evaluate reproducibility, Biometrics 45.",
            inputs_description="predictions, references: (songs, 2), valence and arousal, on one scale.",
            features=datasets.Features({"predictions": pair, "references": pair}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return score(predictions, references)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """For `Trainer`: one averaged prediction per song, in [-1, 1] -> metrics on the 1-9 scale."""
    pair = (prediction.predictions, prediction.label_ids)
    predictions, references = (from_unit(np.asarray(values, np.float64)) for values in pair)
    return EmotionMetric().compute(predictions=predictions, references=references)
