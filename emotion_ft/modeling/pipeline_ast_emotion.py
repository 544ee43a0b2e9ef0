"""`transformers.pipeline("music-emotion", model=...)`: audio files and waveforms to valence and arousal."""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from transformers import AutoModelForAudioClassification
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

PIECE_SECONDS = 20.0
# The bounds of emotion_ft's own reader, emotion_ft/data/audio.py: samples times channels that are decoded at once;
# what a header may claim, in s and Hz; samples whose power is still finite; libsndfile's word for an open length.
PIECE_VALUES = 1 << 22
MAX_SECONDS = 6 * 3600.0
SAMPLING_RATES = (1000, 768000)
MAX_CHANNELS = 64
MAX_AMPLITUDE = 2.0**31
UNKNOWN_FRAMES = 2**63 - 1
# What one input may be; `Audio` columns of datasets call a waveform "array".
INPUTS = 'a path, the bytes of a file, a waveform (samples,) or {"raw": waveform, "sampling_rate": Hz}'


class _Bytes(io.BytesIO):
    """The bytes of a file; damaged ones send libsndfile to before their start, where an error would be printed."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(start + offset, 0))


def _file_pieces(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The mono waveform of an open file, (samples,) float32 in pieces of 20 s: the mean of its channels."""
    if file.channels > MAX_CHANNELS:
        raise ValueError(f"{file.channels} channels: at most {MAX_CHANNELS} can be read.")
    if file.frames == UNKNOWN_FRAMES:  # FLAC from a pipe
        raise ValueError("cannot be decoded: its header does not say how long it is; encode it again.")
    _refuse_long(file.frames, file.samplerate)
    length = min(int(PIECE_SECONDS * file.samplerate), PIECE_VALUES // file.channels)
    # libsndfile leaves Opus that lacks a page somewhere behind its end, from where soundfile cannot read.
    while file.tell() < file.frames and len(samples := file.read(length, dtype="float32", always_2d=True)):
        total = samples[:, 0].copy()
        with np.errstate(over="ignore", invalid="ignore"):  # refused by `_resampled`
            for channel in range(1, samples.shape[1]):  # many times faster than `mean(axis=1)`
                total += samples[:, channel]
        yield total / np.float32(samples.shape[1])


def _array_pieces(waveform: np.ndarray | torch.Tensor, rate: int) -> Iterator[np.ndarray]:
    """A waveform (samples,) of floats on any device, float32 in pieces of 20 s."""
    if isinstance(waveform, torch.Tensor):
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


def _refuse_long(samples: int, rate: float) -> None:
    if samples > MAX_SECONDS * rate:
        hours = samples / rate / 3600
        raise ValueError(f"too long: {hours:.1f} h, at most {MAX_SECONDS / 3600:g} h can be read; cut it.")


def _resampled(pieces: Iterable[np.ndarray], rate: int, target: int, min_seconds: float) -> Iterator[np.ndarray]:
    """Pieces (samples,) at `rate` Hz -> pieces at `target` Hz, with soxr's HQ; checked on the way."""
    lowest, highest = SAMPLING_RATES
    if not lowest <= rate <= highest:
        raise ValueError(f"sampling rate {rate} Hz: {lowest} to {highest} Hz can be read.")
    stream = None if rate == target else soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")
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


def _decoded(source: str | os.PathLike | bytes, target: int, min_seconds: float) -> Iterator[np.ndarray]:
    """A file, or its bytes, to mono pieces (samples,) at `target` Hz; what is wrong with a path starts with it."""
    name = "" if isinstance(source, bytes) else f"{os.fspath(source)}: "
    try:
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
        with soundfile.SoundFile(opened) as file:
            yield from _resampled(_file_pieces(file), file.samplerate, target, min_seconds)
    except soundfile.LibsndfileError as error:
        # libsndfile reports an MP3 without a single MPEG frame as a file that does not exist.
        reason = "no audio in it." if "does not exist" in error.error_string else error.error_string
        raise ValueError(f"{name}cannot be decoded: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{name}{error}") from error
    except OSError as error:
        raise ValueError(f"{name}cannot be opened: {error.strerror}.") from error


def read_pieces(audio: Any, target: int, min_seconds: float) -> Iterator[np.ndarray]:
    """One input of `MusicEmotionPipeline` to consecutive mono pieces (samples,), float32 at `target` Hz."""
    if isinstance(audio, str | os.PathLike | bytes):
        return _decoded(audio, target, min_seconds)
    rate = target
    if isinstance(audio, dict):
        waveform = audio.get("raw", audio.get("array"))
        if waveform is None or "sampling_rate" not in audio:
            raise ValueError(f'a dict must have "raw", or "array", and "sampling_rate", got {list(audio)}.')
        audio, rate = waveform, audio["sampling_rate"]
        if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 1 <= rate < np.inf:
            raise ValueError(f"sampling_rate must be a positive number of Hz, got {rate!r}.")
    elif not isinstance(audio, np.ndarray | torch.Tensor):
        raise ValueError(f"an input must be {INPUTS}, got {type(audio).__name__}.")
    return _resampled(_array_pieces(audio, rate), rate, target, min_seconds)


class MusicEmotionPipeline(ChunkPipeline):
    """Valence and arousal of music on the label scale, 1-9 for DEAM.

    The prediction of a song is the mean over `feature_extractor.num_windows` windows, spread evenly from its start to
    its end; a curve has a window every `step` seconds. A file is decoded, resampled and turned into a log-mel piece by
    piece; only the log-mel of one song, float16, and one batch of windows are in memory.

    `save_pretrained` and `push_to_hub` of the pipeline add this file and `custom_pipelines` to the model, for use with
    `trust_remote_code=True` where emotion_ft is not installed; those of the model alone do not.

        pipe = pipeline("music-emotion", model="my/model")
        pipe("song.mp3")  # {"valence": 6.2, "arousal": 4.9}
        pipe(["a.mp3", {"raw": waveform, "sampling_rate": 44100}], curve=True, batch_size=32)

    Args:
        model: an `ASTForEmotionRegression`.
        feature_extractor: the `ASTEmotionFeatureExtractor` saved with it.
        batch_size: windows a forward pass, of one song or of several; None: a song's on a CPU, where larger batches
            outgrow the caches and are slower, and 16 on an accelerator.
        curve, step, min_seconds: defaults of `__call__`'s.
        **kwargs: of every pipeline: `device`, `num_workers`.

    Raises:
        ValueError: without a feature extractor, and when `step` or `batch_size` is not positive.
    """

    _load_feature_extractor = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __init__(self, model, feature_extractor=None, *, batch_size: int | None = None, **kwargs):
        if feature_extractor is None:
            raise ValueError("a feature_extractor is needed: the ASTEmotionFeatureExtractor saved with the model.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        super().__init__(model, feature_extractor=feature_extractor, batch_size=batch_size, **kwargs)
        if batch_size is None:
            self._batch_size = min(feature_extractor.num_windows, 16) if self.device.type == "cpu" else 16

    def __call__(self, inputs: Any, **kwargs: Any) -> dict | list[dict]:
        """Predict valence and arousal.

        Args:
            inputs: one input, or a list of inputs. An input is
                - a path to anything that libsndfile opens: MP3, WAV, FLAC, Ogg Vorbis, Opus; 1 to 768 kHz, up to 64
                  channels, up to six hours;
                - the bytes of such a file;
                - a mono waveform (samples,), a numpy array or torch tensor of floats in [-1, 1], at
                  `feature_extractor.sampling_rate`;
                - `{"raw": waveform, "sampling_rate": Hz}`, at 1 to 768 kHz; "array" is another name for "raw".
                A generator or a dataset of inputs gives an iterator of results.
            curve (`bool`, default False): also predict over time.
            step (`float`, default 0.5): seconds from one window of the curve to the next.
            min_seconds (`float`, default 1.0): shorter inputs are refused.
            batch_size (`int`): windows a forward pass.

        Returns:
            A dict an input, a list of them for a list: "valence" and "arousal", floats on the label scale; when the
            model was calibrated, "valence_interval" and "arousal_interval", [low, high], which hold the label of
            `config.interval_level` of songs; with `curve`, "curve": {"time", "valence", "arousal"}, lists with a
            value a window, time being the middle of the window in seconds.

        Raises:
            ValueError: for an input that is missing, empty, not decodable, too short, too long, not finite or of a
                wrong type, shape or rate, and for `step` or `batch_size` that are not positive; the message says
                which.
        """
        batch_size = kwargs.get("batch_size")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        if isinstance(inputs, list | tuple) and not inputs:
            raise ValueError(f"no input: got an empty {type(inputs).__name__}.")
        return super().__call__(list(inputs) if isinstance(inputs, tuple) else inputs, **kwargs)

    def _sanitize_parameters(self, curve=None, step=None, min_seconds=None, local_files_only=None):
        # `pipeline` hands its own local_files_only on.
        if step is not None and not 0 < step < np.inf:
            raise ValueError(f"step must be a positive number of seconds, got {step}.")
        given = {"curve": curve, "step": step, "min_seconds": min_seconds}
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def preprocess(
        self, inputs: Any, curve: bool = False, step: float = 0.5, min_seconds: float = 1.0
    ) -> Iterator[dict[str, Any]]:
        """One input to windows, one by one: first those of the song, then those of the curve.

        Yields:
            "input_values" (1, max_length, mels), float32; "time", the middle of a window of the curve in seconds, or
            None for a window of the song; "is_last", whether it is the last window of this input.
        """
        extractor = self.feature_extractor
        shortest = max(min_seconds, (extractor.min_samples + 1) / extractor.sampling_rate)
        pieces = read_pieces(inputs, extractor.sampling_rate, shortest)
        log_mel = np.concatenate([part.astype(np.float16) for part in extractor.iter_log_mel(pieces)])

        starts = extractor.window_starts(len(log_mel))
        times = [None] * len(starts)
        if curve:
            frame_rate = extractor.sampling_rate / extractor.hop_length
            last = max(len(log_mel) - extractor.max_length, 0)
            # Steps below a frame would only name the same windows again, millions of times.
            curve_starts = np.unique(np.round(np.arange(0, last + 0.5, max(step * frame_rate, 1))).astype(int))
            middle = (min(extractor.max_length, len(log_mel)) - 1) / 2
            starts = np.concatenate([starts, curve_starts])
            times += ((curve_starts + middle) / frame_rate).tolist()
        for index, (start, time) in enumerate(zip(starts, times, strict=True)):
            window = torch.from_numpy(extractor.window(log_mel, start))
            yield {"input_values": window[None], "time": time, "is_last": index == len(starts) - 1}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        """Windows (batch, max_length, mels) to "values" (batch, 2) in (-1, 1), float32; the rest is handed on."""
        self.model.eval()
        values = model_inputs.pop("input_values").to(self.model.dtype)
        return {"values": self.model(values).logits.float(), **model_inputs}

    def postprocess(self, model_outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """All windows of one input to its result; see `__call__`."""
        config = self.model.config
        values = torch.cat([output["values"] for output in model_outputs]).numpy()
        values = values * config.label_halfwidth + config.label_center
        times = [output["time"] for output in model_outputs]
        windows = times.count(None)
        song = values[:windows].mean(0).tolist()
        result = dict(zip(("valence", "arousal"), song, strict=True))
        for name, halfwidth in zip(("valence", "arousal"), config.interval_halfwidths or (), strict=False):
            result[f"{name}_interval"] = [result[name] - halfwidth, result[name] + halfwidth]
        if len(times) > windows:
            valence, arousal = values[windows:].T.tolist()
            result["curve"] = {"time": times[windows:], "valence": valence, "arousal": arousal}
        return result


# With `trust_remote_code=True` beside an imported emotion_ft, the installed class stays the registered one.
if "music-emotion" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "music-emotion", pipeline_class=MusicEmotionPipeline, pt_model=AutoModelForAudioClassification, type="audio"
    )
