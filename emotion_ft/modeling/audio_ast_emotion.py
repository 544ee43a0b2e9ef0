"""Audio files, their bytes and waveforms to mono pieces at one sampling rate, within bounds and in flat memory."""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

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
"""libsndfile's word for a header without a length, as of FLAC from a pipe; soundfile cannot read such files."""
INPUTS = 'a path, the bytes of a file, a waveform (samples,) or {"raw": waveform, "sampling_rate": Hz}'


class _Bytes(io.BytesIO):
    """The bytes of a file; damaged ones send libsndfile to before their start, where an error would be printed."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(start + offset, 0))


def _mono(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,), the mean; channel by channel, many times faster than `mean(axis=1)`."""
    total = samples[:, 0].copy()
    with np.errstate(over="ignore", invalid="ignore"):  # refused by `_resampled`
        for channel in range(1, samples.shape[1]):
            total += samples[:, channel]
    return total / np.float32(samples.shape[1])


def _refuse_long(samples: int, rate: float) -> None:
    if samples > MAX_SECONDS * rate:
        hours = samples / rate / 3600
        raise ValueError(f"too long: {hours:.1f} h, at most {MAX_SECONDS / 3600:g} h can be read; cut it.")


def _file_pieces(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """An open file as consecutive mono pieces (samples,) of about 20 s, float32."""
    if file.channels > MAX_CHANNELS:
        raise ValueError(f"{file.channels} channels: at most {MAX_CHANNELS} can be read.")
    if file.frames == UNKNOWN_FRAMES:
        raise ValueError("cannot be decoded: its header does not say how long it is; encode it again.")
    _refuse_long(file.frames, file.samplerate)  # nothing behind the length that a header claims is decoded
    length = min(int(PIECE_SECONDS * file.samplerate), PIECE_VALUES // file.channels)
    # libsndfile leaves Opus that lacks a page somewhere behind its end, from where soundfile cannot read.
    while file.tell() < file.frames and len(samples := file.read(length, dtype="float32", always_2d=True)):
        yield _mono(samples)


def _is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor; torch takes seconds to import, and files are read without it."""
    return hasattr(value, "is_floating_point")


def _array_pieces(waveform: Any, rate: float) -> Iterator[np.ndarray]:
    """A waveform (samples,) of floats, a numpy array or a torch tensor on any device, as pieces of 20 s, float32."""
    if _is_tensor(waveform):
        waveform = waveform.detach().cpu()
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).numpy()
    if not isinstance(waveform, np.ndarray):
        raise ValueError(f"a waveform must be a numpy array or a torch tensor, got {type(waveform).__name__}.")
    if waveform.ndim != 1:
        raise ValueError(f"a waveform must be mono, (samples,), got shape {waveform.shape}.")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"a waveform must hold floats in [-1, 1], got {waveform.dtype}; divide 16-bit integers by 32768."
        )
    _refuse_long(len(waveform), rate)
    length = int(PIECE_SECONDS * rate)
    for start in range(0, len(waveform), length):
        with np.errstate(over="ignore"):  # refused by `_resampled`
            yield waveform[start : start + length].astype(np.float32)


def _resampled(
    pieces: Iterable[np.ndarray], rate: float, sampling_rate: int, min_seconds: float
) -> Iterator[np.ndarray]:
    """Pieces (samples,) at `rate` Hz -> pieces at `sampling_rate` Hz, with soxr's HQ; checked on the way."""
    lowest, highest = SAMPLING_RATES
    if not lowest <= rate <= highest:
        raise ValueError(f"sampling rate {rate} Hz: {lowest} to {highest} Hz can be read.")
    stream = None
    if rate != sampling_rate:
        stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
    samples = 0
    for piece in pieces:
        samples += len(piece)
        if not np.abs(piece).max() <= MAX_AMPLITUDE:  # nor is NaN
            raise ValueError(f"holds NaN or infinite samples, or some beyond ±{MAX_AMPLITUDE:.0f}.")
        yield piece if stream is None else stream.resample_chunk(piece)
    if samples == 0:
        raise ValueError("empty: no samples.")
    if samples < min_seconds * rate:
        raise ValueError(f"too short: {samples / rate:.2f} s, at least {min_seconds:g} s are needed.")
    if stream is not None:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _openable(source: str | os.PathLike | bytes) -> Path | _Bytes:
    """A file, or its bytes, as soundfile opens it."""
    opened: Path | _Bytes
    if isinstance(source, bytes):
        size, opened = len(source), _Bytes(source)
    else:
        opened = Path(source)
        if not opened.is_file():
            raise ValueError("not a file." if opened.exists() else "no such file.")
        if opened.suffix.lower() == ".raw":  # soundfile would ask for its rate and channels
            raise ValueError("cannot be decoded: raw samples without a header.")
        size = opened.stat().st_size
    if not size:
        raise ValueError("empty: zero bytes.")
    return opened


def read_file(source: str | os.PathLike | bytes, sampling_rate: int, min_seconds: float) -> Iterator[np.ndarray]:
    """Decode a file of up to six hours in flat memory.

    Args:
        source: anything that libsndfile opens, or its bytes: MP3, WAV, FLAC, Ogg Vorbis, Opus, AIFF; any of
            `SAMPLING_RATES`, up to `MAX_CHANNELS`, up to `MAX_SECONDS`.
        sampling_rate: of the waveform wanted, in Hz; resampled with soxr's HQ, librosa's default.
        min_seconds: shorter files are refused.

    Yields:
        Consecutive parts (samples,) of the mono waveform, float32, full scale being [-1, 1], at most about 20 s each;
        joined, they are what decoding in one go gives.

    Raises:
        ValueError: when the file is missing, cannot be decoded, is empty, too short or too long, has a rate or a
            number of channels beyond those above, or samples that are NaN, infinite or beyond `MAX_AMPLITUDE`; the
            message says why, without the file's name.
    """
    try:
        with soundfile.SoundFile(_openable(source)) as file:
            yield from _resampled(_file_pieces(file), file.samplerate, sampling_rate, min_seconds)
    except soundfile.LibsndfileError as error:
        # libsndfile reports an MP3 without a single MPEG frame as a file that does not exist.
        reason = "no audio in it." if "does not exist" in error.error_string else error.error_string
        raise ValueError(f"cannot be decoded: {reason}") from error
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}.") from error


def _read_path(path: str | os.PathLike, sampling_rate: int, min_seconds: float) -> Iterator[np.ndarray]:
    """`read_file`, with messages that start with the path."""
    try:
        yield from read_file(path, sampling_rate, min_seconds)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def read_pieces(audio: Any, sampling_rate: int, min_seconds: float) -> Iterator[np.ndarray]:
    """One input of `MusicEmotionPipeline` to consecutive mono pieces (samples,), float32 at `sampling_rate` Hz.

    Raises:
        ValueError: as `read_file`, and for an input that is none of `INPUTS`; the path of a file precedes its message.
    """
    if isinstance(audio, bytes):
        return read_file(audio, sampling_rate, min_seconds)
    if isinstance(audio, str | os.PathLike):
        return _read_path(audio, sampling_rate, min_seconds)
    rate = sampling_rate
    if isinstance(audio, dict):
        waveform = audio.get("raw", audio.get("array"))  # as `Audio` columns of datasets call it
        if waveform is None or "sampling_rate" not in audio:
            raise ValueError(f'a dict must have "raw", or "array", and "sampling_rate", got {list(audio)}.')
        audio, rate = waveform, audio["sampling_rate"]
        if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 1 <= rate < np.inf:
            raise ValueError(f"sampling_rate must be a positive number of Hz, got {rate!r}.")
    elif not isinstance(audio, np.ndarray) and not _is_tensor(audio):
        raise ValueError(f"an input must be {INPUTS}, got {type(audio).__name__}.")
    return _resampled(_array_pieces(audio, rate), rate, sampling_rate, min_seconds)
