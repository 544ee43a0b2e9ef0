"""DEAM's nine-point scale and the model's [-1, 1]."""

import numpy as np
from numpy.typing import ArrayLike

CENTER, HALFWIDTH = 5.0, 4.0


def to_unit(labels: ArrayLike) -> np.ndarray:
    """Labels on 1..9 (self-assessment manikins, DEAM manual) -> [-1, 1], the scale that the model is trained on."""
    return (np.asarray(labels) - CENTER) / HALFWIDTH


def from_unit(predictions: ArrayLike) -> np.ndarray:
    """[-1, 1] -> 1..9, the scale that every result is reported on."""
    return np.asarray(predictions) * HALFWIDTH + CENTER
