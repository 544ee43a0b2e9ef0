"""Predictions of a trained model for audio files and stored songs, and files that hold them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.audio import read_pieces
from ..data.augment import EvaluationTransform
from ..data.front_end import FrontEnd
from ..data.scale import to_unit
from ..data.songs import CURVE_STEP
from ..data.synthetic import refuse_synthetic


class WindowModel(Protocol):
    """What windows are predicted with: an `ASTForEmotionRegression`, or its export as an `OnnxModel`."""

    config: Any

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def eval(self) -> Any: ...

    def __call__(self, input_values: torch.Tensor) -> Any:
        """Windows (batch, frames, mels) -> an object with their `logits` (batch, 2) in (-1, 1)."""


class EmotionCurve(NamedTuple):
    """Emotion over time: `time`, the middle of each window in seconds, `valence` and `arousal` (windows,) on 1-9."""

    time: np.ndarray
    valence: np.ndarray
    arousal: np.ndarray


class Prediction(NamedTuple):
    """The emotion of a song: `valence` and `arousal` on 1-9.

    `curve` is the same over time, on request. `halfwidths`, of valence and arousal, span the intervals that hold the
    label of `interval_level` of songs like those that the model was calibrated on; None without calibration.
    """

    valence: float
    arousal: float
    curve: EmotionCurve | None = None
    halfwidths: tuple[float, float] | None = None


@torch.inference_mode()
def _predict_windows(model: WindowModel, windows: Iterator[np.ndarray], batch_size: int) -> np.ndarray:
    """Windows (frames, mels), one after the other -> (windows, 2) on 1-9; only one batch is in memory."""
    model.eval()
    predictions: list[np.ndarray] = []
    batch: list[np.ndarray] = []

    def flush() -> None:
        values = torch.from_numpy(np.stack(batch)).to(model.device, model.dtype)
        predictions.append(model(values).logits.float().cpu().numpy())
        batch.clear()

    for window in windows:
        batch.append(window)
        if len(batch) == batch_size:
            flush()
    if batch:
        flush()
    return np.concatenate(predictions) * model.config.label_halfwidth + model.config.label_center


def predict_file(
    model: WindowModel,
    extractor: FrontEnd,
    path: str | Path,
    curve_step: float | None = None,
    batch_size: int = 16,
    min_seconds: float = 1.0,
) -> Prediction:
    """Valence and arousal of one audio file: the mean over the evenly spaced windows of `extractor.window_starts`.

    Args:
        model: an `ASTForEmotionRegression`, on any device.
        extractor: the one saved with the model.
        path: any file that libsndfile opens, within the bounds of `modeling.audio_ast_emotion.read_file`.
        curve_step: predict overlapping windows instead, one every so many seconds, at least a frame, and as the song's
            values their means; DEAM annotates every 0.5 s.
        batch_size: windows per forward pass.
        min_seconds: shorter files are refused.

    Raises:
        AudioError: when the file cannot be used; the message says why.
    """
    return predict_log_mel(model, extractor, read_log_mel(extractor, path, min_seconds), curve_step, batch_size)


def read_log_mel(extractor: FrontEnd, path: str | Path, min_seconds: float = 1.0) -> np.ndarray:
    """The log-mel (frames, mels), float16, of a whole audio file; raises `AudioError` as `predict_file` does."""
    shortest = max(min_seconds, (extractor.min_samples + 1) / extractor.sampling_rate)
    pieces = read_pieces(path, extractor.sampling_rate, shortest)
    return np.concatenate([part.astype(np.float16) for part in extractor.iter_log_mel(pieces)])


def predict_log_mel(
    model: WindowModel,
    extractor: FrontEnd,
    log_mel: np.ndarray,
    curve_step: float | None = None,
    batch_size: int = 16,
) -> Prediction:
    """`predict_file` for a log-mel (frames, mels) of `read_log_mel`."""
    frames, curve = len(log_mel), None
    starts = extractor.window_starts(frames) if curve_step is None else extractor.curve_starts(frames, curve_step)
    values = _predict_windows(model, (extractor.window(log_mel, start) for start in starts), batch_size)
    if curve_step is not None:
        length = min(extractor.max_length, frames)
        curve = EmotionCurve((starts + (length - 1) / 2) / extractor.frame_rate, values[:, 0], values[:, 1])
    song = values.mean(0)
    halfwidths = model.config.interval_halfwidths
    return Prediction(float(song[0]), float(song[1]), curve, halfwidths and tuple(halfwidths))


def predict_songs(model: WindowModel, extractor: FrontEnd, songs: Dataset, batch_size: int = 16) -> np.ndarray:
    """Valence and arousal of stored songs, (songs, 2) on 1-9, each the mean over its evenly spaced windows.

    Args:
        songs: with `log_mel`, as `store_log_mels` returns them.
        batch_size: windows per forward pass.
    """
    refuse_synthetic(songs)
    decode, counts = EvaluationTransform(extractor).decode, []

    def windows() -> Iterator[np.ndarray]:
        for row in tqdm(songs.select_columns("log_mel"), desc="Predicting", unit="song"):
            log_mel = decode(row["log_mel"])
            starts = extractor.window_starts(len(log_mel))
            counts.append(len(starts))
            yield from (extractor.window(log_mel, start) for start in starts)

    values = _predict_windows(model, windows(), batch_size)
    return np.stack([part.mean(0) for part in np.split(values, np.cumsum(counts)[:-1])])


def predict_curves(model: WindowModel, extractor: FrontEnd, songs: Dataset, batch_size: int = 16) -> list[np.ndarray]:
    """Predicted curves of stored songs, at the times of the annotated ones: every 0.5 s from the song's `curve_start`.

    Each value is the prediction of the window around its time, moved inwards at the ends of the song.

    Args:
        songs: with `log_mel` and annotated curves.
        batch_size: windows per forward pass.

    Returns:
        One array per song, (values, 2) valence and arousal in [-1, 1].
    """
    refuse_synthetic(songs)
    decode = EvaluationTransform(extractor).decode
    rows = songs.select_columns(["log_mel", "curve_start", "curve_valence"])
    lengths = [len(row["curve_valence"]) for row in songs.select_columns("curve_valence")]

    def windows() -> Iterator[np.ndarray]:
        for row, length in zip(tqdm(rows, desc="Predicting curves", unit="song"), lengths, strict=True):
            log_mel = decode(row["log_mel"])
            middles = (row["curve_start"] + CURVE_STEP * np.arange(length)) * extractor.frame_rate
            last = max(len(log_mel) - extractor.max_length, 0)
            starts = np.clip(np.round(middles - (extractor.max_length - 1) / 2).astype(int), 0, last)
            yield from (extractor.window(log_mel, start) for start in starts)

    return np.split(to_unit(_predict_windows(model, windows(), batch_size)), np.cumsum(lengths)[:-1])


def write_predictions(path: str | Path, predictions: dict[str, Prediction], failures: dict[str, str]) -> None:
    """Write predictions by file name, and why other files failed.

    Args:
        path: `.json` or `.jsonl`: one object per file, `{"file", "valence", "arousal", "curve": {"time", ...}}`, or
            `{"file", "error"}`; with intervals, `valence_low` and so on too. `.csv`: the same without curves; with
            curves, one row per window with its `time`.
        predictions: by file name.
        failures: reasons by file name.
    """
    records: list[dict[str, Any]] = []
    for file, prediction in predictions.items():
        record: dict[str, Any] = {"file": str(file), "valence": prediction.valence, "arousal": prediction.arousal}
        for name, halfwidth in zip(("valence", "arousal"), prediction.halfwidths or (), strict=False):
            record |= {f"{name}_low": record[name] - halfwidth, f"{name}_high": record[name] + halfwidth}
        if prediction.curve is not None:
            record["curve"] = {name: values.tolist() for name, values in prediction.curve._asdict().items()}
        records.append(record)
    records += [{"file": str(file), "error": reason} for file, reason in failures.items()]
    suffix = Path(path).suffix
    if suffix == ".json":
        text = json.dumps(records, indent=2) + "\n"
    elif suffix == ".jsonl":
        text = "".join(json.dumps(record) + "\n" for record in records)
    else:
        rows = [{"file": r["file"], **point} for r in records for point in _points(r)]
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.4f")
    Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")  # file names need not be UTF-8


def _points(record: dict) -> list[dict]:
    """The CSV rows of one file: one, or with a curve one per window."""
    if "curve" in record:
        names, columns = record["curve"].keys(), record["curve"].values()
        return [dict(zip(names, point, strict=True)) for point in zip(*columns, strict=True)]
    return [{name: value for name, value in record.items() if name != "file"}]
