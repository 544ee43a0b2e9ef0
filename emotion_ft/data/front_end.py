"""What code that works on log-mels needs from a front end, so that it does not have to import a model."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np


class FrontEnd(Protocol):
    """A feature extractor such as `ASTEmotionFeatureExtractor`, where these names are documented."""

    front_end: str
    sampling_rate: int
    n_fft: int
    hop_length: int
    num_mel_bins: int
    f_min: float
    f_max: float
    max_length: int
    num_windows: int
    log_floor: float

    @property
    def frame_rate(self) -> float:
        """Frames per second."""

    @property
    def min_samples(self) -> int:
        """The shortest waveform that has a frame, in samples."""

    def iter_log_mel(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Consecutive parts (samples,) of a mono waveform -> consecutive parts (frames, mels) of its log-mel."""

    def window(self, log_mel: np.ndarray, start: int) -> np.ndarray:
        """One standardised window (max_length, mels) of a log-mel (frames, mels)."""

    def standardise(self, log_mel: np.ndarray) -> np.ndarray:
        """(frames, mels) of any length -> the same with zero mean and unit variance."""

    def window_starts(self, frames: int, num_windows: int | None = None) -> np.ndarray:
        """First frames (windows,) of windows spread evenly over an excerpt."""

    def windows(self, log_mel: np.ndarray, num_windows: int | None = None) -> np.ndarray:
        """Evenly spaced standardised windows (windows, max_length, mels)."""

    def curve_starts(self, frames: int, step: float) -> np.ndarray:
        """First frames (windows,) of overlapping windows, one every `step` seconds."""

    def to_dict(self) -> dict[str, Any]:
        """The settings, as in `preprocessor_config.json`."""
