"""A file of music to a mono waveform, piece by piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..errors import UsageError

PIECE_SECONDS = 20.0


class AudioError(UsageError):
    """A file that cannot be used as music; the message says why."""


def _mono(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,), the mean; channel by channel, many times faster than `mean(axis=1)`."""
    total = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        total += samples[:, channel]
    return total / np.float32(samples.shape[1])


def read_pieces(path: str | Path, sampling_rate: int = 16000, min_seconds: float = 0.0) -> Iterator[np.ndarray]:
    """Decode a file of any length in flat memory.

    Args:
        path: anything that libsndfile opens: MP3, WAV, FLAC, Ogg Vorbis, Opus, AIFF; any rate, any channels.
        sampling_rate: of the waveform wanted, in Hz; resampled with soxr's HQ, librosa's default.
        min_seconds: shorter files are refused.

    Yields:
        Consecutive parts (samples,) of the mono waveform, float32 in [-1, 1], about 20 s each; joined, they are what
        decoding in one go gives.

    Raises:
        AudioError: when the file is missing, cannot be decoded, is empty, too short, or holds NaN or infinite samples.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError("not a file" if path.exists() else "no such file")
    if not path.stat().st_size:
        raise AudioError("empty: zero bytes")
    if path.suffix.lower() == ".raw":  # soundfile would ask for its rate and channels
        raise AudioError("cannot be decoded: raw samples without a header")
    try:
        with soundfile.SoundFile(path) as file:
            yield from _resampled(file, sampling_rate, min_seconds)
    except soundfile.LibsndfileError as error:
        # libsndfile reports an MP3 without a single MPEG frame as a file that does not exist.
        reason = "no audio in it" if "does not exist" in error.error_string else error.error_string
        raise AudioError(f"cannot be decoded: {reason}") from error


def _resampled(file: soundfile.SoundFile, sampling_rate: int, min_seconds: float) -> Iterator[np.ndarray]:
    stream = None
    if file.samplerate != sampling_rate:
        stream = soxr.ResampleStream(file.samplerate, sampling_rate, 1, dtype="float32", quality="HQ")
    decoded = 0
    while len(samples := file.read(int(PIECE_SECONDS * file.samplerate), dtype="float32", always_2d=True)):
        decoded += len(samples)
        piece = _mono(samples)
        if not np.isfinite(piece).all():
            raise AudioError("holds NaN or infinite samples")
        yield piece if stream is None else stream.resample_chunk(piece)
    if decoded == 0:
        raise AudioError("empty: no samples")
    if decoded < min_seconds * file.samplerate:
        raise AudioError(f"too short: {decoded / file.samplerate:.2f} s, at least {min_seconds:g} s are needed")
    if stream is not None:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """The whole waveform (samples,) of a file, float32 mono at `sampling_rate` Hz; see `read_pieces`."""
    return np.concatenate(list(read_pieces(path, sampling_rate)))
