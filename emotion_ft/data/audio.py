"""A file of music to a mono waveform, piece by piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..errors import UsageError

PIECE_SECONDS = 20.0
PIECE_VALUES = 1 << 22
"""Samples times channels that are decoded at once, whatever rate and channels a header claims: 16 MB."""
MAX_SECONDS = 6 * 3600.0
"""A longer file is no piece of music; its log-mel alone would take half a gigabyte on its way to the disk."""
SAMPLING_RATES = (1000, 768000)
"""In Hz. At 1 Hz, a small file would be resampled into days."""
MAX_CHANNELS = 64
MAX_AMPLITUDE = 2.0**31
"""Full scale is 1, but floats are also found on the scale of integers; the power of larger ones is infinite."""
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says where a header leaves the length open, as FLAC from a pipe does. soundfile cannot read that."""


class AudioError(UsageError):
    """A file that cannot be used as music; the message says why."""


def _mono(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,), the mean; channel by channel, many times faster than `mean(axis=1)`."""
    total = samples[:, 0].copy()
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the caller
        for channel in range(1, samples.shape[1]):
            total += samples[:, channel]
    return total / np.float32(samples.shape[1])


def read_pieces(path: str | Path, sampling_rate: int = 16000, min_seconds: float = 0.0) -> Iterator[np.ndarray]:
    """Decode a file of up to six hours in flat memory.

    Args:
        path: anything that libsndfile opens: MP3, WAV, FLAC, Ogg Vorbis, Opus, AIFF; any of `SAMPLING_RATES`, up to
            `MAX_CHANNELS`, up to `MAX_SECONDS`.
        sampling_rate: of the waveform wanted, in Hz; resampled with soxr's HQ, librosa's default.
        min_seconds: shorter files are refused.

    Yields:
        Consecutive parts (samples,) of the mono waveform, float32, full scale being [-1, 1], at most about 20 s each;
        joined, they are what decoding in one go gives.

    Raises:
        AudioError: when the file is missing, cannot be decoded, is empty, too short or too long, has a rate or a
            number of channels beyond those above, or samples that are NaN, infinite or beyond `MAX_AMPLITUDE`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise AudioError("not a file" if path.exists() else "no such file")
        if not path.stat().st_size:
            raise AudioError("empty: zero bytes")
    except OSError as error:
        raise AudioError(f"cannot be opened: {error.strerror}") from error
    if path.suffix.lower() == ".raw":  # soundfile would ask for its rate and channels
        raise AudioError("cannot be decoded: raw samples without a header")
    try:
        with soundfile.SoundFile(path) as file:
            _refuse_absurd(file)
            yield from _resampled(file, sampling_rate, min_seconds)
    except soundfile.LibsndfileError as error:
        # libsndfile reports an MP3 without a single MPEG frame as a file that does not exist.
        reason = "no audio in it" if "does not exist" in error.error_string else error.error_string
        raise AudioError(f"cannot be decoded: {reason}") from error


def _refuse_absurd(file: soundfile.SoundFile) -> None:
    """Raise an `AudioError` for a header that claims what no music has."""
    lowest, highest = SAMPLING_RATES
    if not lowest <= file.samplerate <= highest:
        raise AudioError(f"sampling rate {file.samplerate} Hz: {lowest} to {highest} Hz can be read")
    if file.channels > MAX_CHANNELS:
        raise AudioError(f"{file.channels} channels: at most {MAX_CHANNELS} can be read")
    if file.frames == UNKNOWN_FRAMES:
        raise AudioError("cannot be decoded: its header does not say how long it is; encode it again")
    # Nothing behind the length that a header claims is decoded.
    if file.frames > MAX_SECONDS * file.samplerate:
        hours = file.frames / file.samplerate / 3600
        raise AudioError(f"too long: {hours:.1f} h, at most {MAX_SECONDS / 3600:g} h can be read; cut it")


def _resampled(file: soundfile.SoundFile, sampling_rate: int, min_seconds: float) -> Iterator[np.ndarray]:
    stream = None
    if file.samplerate != sampling_rate:
        stream = soxr.ResampleStream(file.samplerate, sampling_rate, 1, dtype="float32", quality="HQ")
    decoded, length = 0, min(int(PIECE_SECONDS * file.samplerate), PIECE_VALUES // file.channels)
    # libsndfile leaves Opus that lacks a page somewhere behind its end, from where soundfile cannot read.
    while file.tell() < file.frames and len(samples := file.read(length, dtype="float32", always_2d=True)):
        decoded += len(samples)
        piece = _mono(samples)
        if not np.abs(piece).max() <= MAX_AMPLITUDE:  # nor is NaN
            raise AudioError(f"holds NaN or infinite samples, or some beyond ±{MAX_AMPLITUDE:.0f}")
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
