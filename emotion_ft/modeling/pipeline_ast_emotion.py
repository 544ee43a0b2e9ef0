"""`transformers.pipeline("music-emotion", model=...)`: audio files and waveforms to valence and arousal."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForAudioClassification
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

from .audio_ast_emotion import read_pieces
from .feature_extraction_ast_emotion import ASTEmotionFeatureExtractor


class MusicEmotionPipeline(ChunkPipeline):
    """Valence and arousal of music on the label scale, 1-9 for DEAM.

    The prediction of a song is the mean over windows spread evenly from its start to its end, `num_windows` of the
    feature extractor or, in a longer song, one every 15 s; a curve has one window every `step` seconds, and the song
    is their mean. A file is decoded, resampled and turned into a log-mel piece
    by piece; only the log-mel of one song, float16, and one batch of windows are in memory.

    `save_pretrained` and `push_to_hub` of the pipeline add its code and `custom_pipelines` to the model, for use with
    `trust_remote_code=True` where emotion_ft is not installed; those of the model alone do not.

        pipe = pipeline("music-emotion", model="my/model")
        pipe("song.mp3")  # {"valence": 6.2, "arousal": 4.9}
        pipe(["a.mp3", {"raw": waveform, "sampling_rate": 44100}], curve=True, batch_size=32)

    Args:
        model: an `ASTForEmotionRegression`.
        feature_extractor: the `ASTEmotionFeatureExtractor` saved with it.
        batch_size: windows per forward pass, of one song or of several; None: those of one song on a CPU, where larger
            batches outgrow the caches and are slower, and 16 on an accelerator.
        curve, step, min_seconds: defaults for `__call__`.
        **kwargs: as for every pipeline: `device`, `num_workers`.

    Raises:
        ValueError: without a feature extractor, and when `step` or `batch_size` is not positive.
    """

    feature_extractor: ASTEmotionFeatureExtractor

    _load_feature_extractor: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_tokenizer: Any = False

    def __init__(self, model, feature_extractor=None, *, batch_size: int | None = None, **kwargs):
        if feature_extractor is None:
            raise ValueError("a feature_extractor is needed: the ASTEmotionFeatureExtractor saved with the model.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        super().__init__(model, feature_extractor=feature_extractor, batch_size=batch_size, **kwargs)
        if batch_size is None:
            self._batch_size = min(feature_extractor.num_windows, 16) if self.device.type == "cpu" else 16

    def __call__(self, inputs: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
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
            curve (`bool`, default False): predict over time too.
            step (`float`, default 0.5): seconds from one window of the curve to the next.
            min_seconds (`float`, default 1.0): shorter inputs are refused.
            batch_size (`int`): windows per forward pass.

        Returns:
            One dict per input, in a list for a list: "valence" and "arousal", floats on the label scale; when the
            model was calibrated, "valence_interval" and "arousal_interval", [low, high], which hold the label of
            `config.interval_level` of songs; with `curve`, "curve": {"time", "valence", "arousal"}, lists with one
            value per window, time being the middle of the window in seconds.

        Raises:
            ValueError: for an input that is missing, empty, not decodable, too short, too long, not finite or of a
                wrong type, shape or rate, and for `step` or `batch_size` that are not positive; the message says
                which.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        if isinstance(inputs, list | tuple) and not inputs:
            raise ValueError(f"no input: got an empty {type(inputs).__name__}.")
        inputs = list(inputs) if isinstance(inputs, tuple) else inputs
        return super().__call__(inputs, *args, batch_size=batch_size, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]  # so that others are refused
        self, curve=None, step=None, min_seconds=None, local_files_only=None
    ):
        # `pipeline` passes its own local_files_only on.
        if step is not None and not 0 < step < np.inf:
            raise ValueError(f"step must be a positive number of seconds, got {step}.")
        given = {"curve": curve, "step": step, "min_seconds": min_seconds}
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def preprocess(  # type: ignore[override]  # transformers' annotations are those of a pipeline without chunks
        self, input_: Any, curve: bool = False, step: float = 0.5, min_seconds: float = 1.0
    ) -> Iterator[dict[str, Any]]:
        """The windows of one input, one by one: those of the song, or those of the curve.

        Yields:
            "input_values" (1, max_length, mels), float32; "time", the middle of a window of the curve in seconds, else
            None; "is_last", whether it is the last window of this input.
        """
        extractor = self.feature_extractor
        shortest = max(min_seconds, (extractor.min_samples + 1) / extractor.sampling_rate)
        pieces = read_pieces(input_, extractor.sampling_rate, shortest)
        log_mel = np.concatenate([part.astype(np.float16) for part in extractor.iter_log_mel(pieces)])

        frames = len(log_mel)
        starts = extractor.curve_starts(frames, step) if curve else extractor.window_starts(frames)
        times = (starts + (min(extractor.max_length, frames) - 1) / 2) / extractor.frame_rate
        for index, (start, time) in enumerate(zip(starts, times.tolist(), strict=True)):
            window = torch.from_numpy(extractor.window(log_mel, start))
            last = index == len(starts) - 1
            yield {"input_values": window[None], "time": time if curve else None, "is_last": last}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Windows (batch, max_length, mels) to "values" (batch, 2) in (-1, 1), float32; the rest is passed on."""
        self.model.eval()
        values = model_inputs.pop("input_values").to(self.model.dtype)
        return {"values": self.model(values).logits.float(), **model_inputs}

    def postprocess(self, model_outputs: list[dict[str, Any]]) -> dict[str, Any]:  # type: ignore[override]
        """All windows of one input to its result; see `__call__`."""
        config = self.model.config
        values = torch.cat([output["values"] for output in model_outputs]).numpy()
        values = values * config.label_halfwidth + config.label_center
        song = values.mean(0).tolist()
        result = dict(zip(("valence", "arousal"), song, strict=True))
        for name, halfwidth in zip(("valence", "arousal"), config.interval_halfwidths or (), strict=False):
            result[f"{name}_interval"] = [result[name] - halfwidth, result[name] + halfwidth]
        times = [output["time"] for output in model_outputs]
        if times[0] is not None:
            valence, arousal = values.T.tolist()
            result["curve"] = {"time": times, "valence": valence, "arousal": arousal}
        return result


# A copy from the Hub, beside an installed emotion_ft, leaves the installed class registered.
if not __name__.startswith("transformers_modules.") or "music-emotion" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.supported_tasks.pop("music-emotion", None)  # the stand-in of registration.py
    PIPELINE_REGISTRY.register_pipeline(
        "music-emotion", pipeline_class=MusicEmotionPipeline, pt_model=AutoModelForAudioClassification, type="audio"
    )
