"""DEAM's nine-point scale and the model's [-1, 1]."""

import numpy as np

CENTER, HALFWIDTH = 5.0, 4.0


def to_unit(labels: np.ndarray) -> np.ndarray:
    """Labels on 1..9 (self-assessment manikins, DEAM manual) -> [-1, 1], what the model is trained on."""
    return (np.asarray(labels) - CENTER) / HALFWIDTH


def from_unit(predictions: np.ndarray) -> np.ndarray:
    """[-1, 1] -> 1..9, the scale that every result is reported on."""
    return np.asarray(predictions) * HALFWIDTH + CENTER
