"""Targets of training windows: the song's labels, or the mean of its curves over the window."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import UsageError
from .front_end import FrontEnd
from .scale import to_unit
from .songs import CURVE_STEP


class SongTarget:
    """The song's valence and arousal, wherever the window lies: `labels` (2,) in [-1, 1]."""

    columns: tuple[str, ...] = ("valence", "arousal")

    def starts(self, row: Mapping[str, Any], frames: int, extractor: FrontEnd) -> tuple[int, int]:
        """The first and the last frame at which a window may start."""
        return 0, max(frames - extractor.max_length, 0)

    def __call__(self, row: Mapping[str, Any], start: int, extractor: FrontEnd) -> dict[str, np.ndarray]:
        return {"labels": to_unit([row["valence"], row["arousal"]]).astype(np.float32)}


class AgreementTarget(SongTarget):
    """The song's labels, and `label_weights` (2,): more where its annotators agree.

    A label is the mean of a few ratings, so its noise variance is proportional to their variance s². With a model
    whose own errors vary as much as the noise does on average, weighted least squares asks for weights proportional to
    1 / (1 + s² / mean s²) (Aitken 1936). Here they are twice that: 1 for average agreement, in (0, 2].

    Args:
        songs: training songs with `valence_std` and `arousal_std`; a song without them has weight 1.

    Raises:
        UsageError: if no song has deviations in one of the dimensions.
    """

    columns = (*SongTarget.columns, "valence_std", "arousal_std")

    def __init__(self, songs: Dataset):
        deviations = np.array([songs["valence_std"], songs["arousal_std"]], dtype=np.float64)  # None becomes NaN
        if np.isnan(deviations).all(axis=1).any():
            raise UsageError(
                "label_weights agreement needs standard deviations of valence and of arousal, but one of the two is "
                f"missing in all {len(songs)} training songs."
            )
        self.mean_variance = np.nanmean(np.square(deviations), axis=1)

    def __call__(self, row: Mapping[str, Any], start: int, extractor: FrontEnd) -> dict[str, np.ndarray]:
        deviations = np.array([row["valence_std"], row["arousal_std"]], dtype=np.float64)
        weights = 2 / (1 + np.square(deviations) / self.mean_variance)
        return {
            **super().__call__(row, start, extractor),
            "label_weights": np.where(np.isnan(weights), 1, weights).astype(np.float32),
        }


class CurveTarget(SongTarget):
    """The mean of the song's curves over the window, which lies inside the annotated span if that is long enough.

    A value counts if its time is inside the window; a window without any takes the value nearest to its middle.
    """

    columns = ("curve_start", "curve_valence", "curve_arousal")

    def starts(self, row: Mapping[str, Any], frames: int, extractor: FrontEnd) -> tuple[int, int]:
        rate = extractor.sampling_rate / extractor.hop_length
        last = max(frames - extractor.max_length, 0)
        begin = row["curve_start"] * rate
        end = begin + CURVE_STEP * len(row["curve_valence"]) * rate - extractor.max_length
        if np.floor(end) < np.ceil(begin):  # shorter than a window: centred on it
            begin = end = round((begin + end) / 2)
        first, final = (int(np.clip(edge, 0, last)) for edge in (np.ceil(begin), np.floor(end)))
        return first, max(first, final)

    def __call__(self, row: Mapping[str, Any], start: int, extractor: FrontEnd) -> dict[str, np.ndarray]:
        rate = extractor.sampling_rate / extractor.hop_length
        times = row["curve_start"] + CURVE_STEP * np.arange(len(row["curve_valence"]))
        inside = (times >= start / rate) & (times < (start + extractor.max_length) / rate)
        if not inside.any():
            inside[np.abs(times - (start + extractor.max_length / 2) / rate).argmin()] = True
        curves = np.array([row["curve_valence"], row["curve_arousal"]], dtype=np.float64)
        return {"labels": curves[:, inside].mean(1).astype(np.float32)}
