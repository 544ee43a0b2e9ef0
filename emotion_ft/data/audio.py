"""Audio files to mono waveforms, piece by piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..modeling.audio_ast_emotion import read_file


class AudioError(UsageError):
    """A file that cannot be used as music; the message says why, in words that fit into a sentence or a table."""


def read_pieces(path: str | Path, sampling_rate: int = 16000, min_seconds: float = 0.0) -> Iterator[np.ndarray]:
    """Decode a file of up to six hours in flat memory; see `modeling.audio_ast_emotion.read_file`.

    Args:
        path: any file that libsndfile opens, within the bounds of `read_file`.
        sampling_rate: of the waveform wanted, in Hz.
        min_seconds: shorter files are refused.

    Yields:
        Consecutive parts (samples,) of the mono waveform, float32, at most about 20 s each.

    Raises:
        AudioError: when the file cannot be used.
    """
    try:
        yield from read_file(path, sampling_rate, min_seconds)
    except ValueError as error:
        raise AudioError(str(error).removesuffix(".")) from error


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """The whole waveform (samples,) of a file, float32 mono at `sampling_rate` Hz; see `read_pieces`."""
    return np.concatenate(list(read_pieces(path, sampling_rate)))
