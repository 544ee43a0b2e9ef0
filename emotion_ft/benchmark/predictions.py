"""From files to valence and arousal: the pipeline and the int8 model beside a plain loop, wall time on all cores."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import pipeline

from ..config.settings import hardware_precision
from ..data.audio import read_audio
from ..inference.onnx import export, load_onnx
from ..inference.predict import predict_file
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
from ..modeling.pipeline_ast_emotion import MusicEmotionPipeline
from .figures import Figure, wall_seconds
from .workbench import Workbench

SHARES = {"pipeline in bf16": 0.65, "onnx-int8": 0.5}  # targets, as shares of the plain loop's time


def file_windows(extractor: ASTEmotionFeatureExtractor, file: Path) -> torch.Tensor:
    """The windows (num_windows, max_length, mels) of a song, whose file is decoded in one piece."""
    waveform = read_audio(file, extractor.sampling_rate)
    return torch.from_numpy(extractor.windows(extractor.log_mel(waveform)))


@torch.no_grad()
def plain_loop(model: ASTForEmotionRegression, extractor: ASTEmotionFeatureExtractor, file: Path) -> np.ndarray:
    """Valence and arousal (2,) of a file on 1-9, in the model's precision, one window at a time."""
    logits = torch.cat([model(window[None]).logits for window in file_windows(extractor, file)])
    return logits.mean(0).numpy() * model.config.label_halfwidth + model.config.label_center


def in_pipeline(pipe: MusicEmotionPipeline, file: Path) -> tuple[float, float]:
    """Valence and arousal of a file on 1-9."""
    result = pipe(str(file))
    return result["valence"], result["arousal"]


@torch.no_grad()
def random_model(bench: Workbench) -> ASTForEmotionRegression:
    """Random weights, the head scaled so that predictions of the bench's windows have mean 5 and deviation 1 on 1-9.

    As initialised, a model predicts nearly the same for all songs, and the effect of rounding on that means nothing.
    """
    model = ASTForEmotionRegression(bench.config).eval()
    logits = torch.cat([model(file_windows(bench.extractor, file)).logits for file in bench.files])
    values, output = logits.atanh(), model.head.out_proj
    scale = 1 / bench.config.label_halfwidth / values.std(0)
    output.weight *= scale[:, None]
    output.bias.copy_(scale * (output.bias - values.mean(0)))
    return model


def one_song(bench: Workbench, dtype: torch.dtype) -> list[Figure]:
    """The time that the bench's model takes for one song, and how far predictions of all songs are from the loop's."""
    folder, model, extractor = bench.folder / "model", random_model(bench), bench.extractor
    for part in (model, extractor):
        part.save_pretrained(folder)
    export(model, folder)
    quantised, _ = load_onnx(folder, "onnx-int8")

    def load(**changes: Any) -> MusicEmotionPipeline:
        settings: dict[str, Any] = {"task": "music-emotion", "model": str(folder), "device": "cpu", **changes}
        return cast(MusicEmotionPipeline, pipeline(**settings))

    shipped = load()
    ways: dict[str, Callable[[Path], Sequence[float] | np.ndarray]] = {
        "loop": partial(plain_loop, model, extractor),
        "pipeline in fp32": partial(in_pipeline, shipped),
    }
    if dtype == torch.bfloat16:
        ways["pipeline in bf16"] = partial(in_pipeline, load(dtype=dtype))
    ways["onnx-int8"] = lambda file: predict_file(quantised, extractor, file)[:2]

    song, length = bench.files[0], f"{bench.seconds:g} s MP3"
    (log_mel,) = wall_seconds(bench.repeats, log_mel=lambda: next(shipped.preprocess(str(song))))
    loop, *others = wall_seconds(bench.repeats, **{name: partial(way, song) for name, way in ways.items()})
    values = {name: np.array([way(file) for file in bench.files]) for name, way in ways.items()}
    target = 100.0 if bench.seconds == 45 else None
    figures = [Figure("inference", f"{length} to log-mel in the pipeline", "ms", 1e3 * log_mel, target=target)]
    usual = "plain fp32 loop over windows"
    for name, seconds in zip(list(ways)[1:], others, strict=True):
        figures.append(Figure("inference", f"{name}, {length}", "s", seconds, usual, loop))
        if name in SHARES:
            figures.append(Figure("inference", f"share of the loop, {name}", "", seconds / loop, target=SHARES[name]))
            largest = np.abs(values[name] - values["loop"]).max(0)
            figures += [
                Figure("inference", f"{dimension}, largest difference, {name}", "of 1-9", [difference])
                for dimension, difference in zip(("valence", "arousal"), largest, strict=True)
            ]
    return figures


def many_songs(bench: Workbench, dtype: torch.dtype) -> list[Figure]:
    """A list of songs in one call of a small model's pipeline, beside one song per call."""
    size: dict[str, Any] = {
        "num_hidden_layers": 4,
        "hidden_size": 192,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    model = ASTForEmotionRegression(ASTEmotionConfig(max_length=bench.extractor.max_length, **size))
    pipe = MusicEmotionPipeline(cast(Any, model).to(dtype), bench.extractor, device="cpu")
    songs = [str(bench.files[i % len(bench.files)]) for i in range(bench.songs)]
    call, calls = wall_seconds(bench.repeats, call=lambda: pipe(songs), calls=lambda: [pipe(song) for song in songs])
    name = f"{bench.songs} songs in one call, 4 layers x 192"
    ours, peer = (1e3 * seconds / bench.songs for seconds in (call, calls))
    return [
        Figure("inference", f"{name}, per song", "ms", ours, "one song per call", peer),
        Figure("inference", f"share of one song per call, {name}", "", call / calls, target=1.0),
    ]


def inference(bench: Workbench) -> list[Figure]:
    """From MP3s to valence and arousal by an AST-base with random weights, and many songs in one call, all cores."""
    dtype = torch.bfloat16 if hardware_precision() == "bf16" else torch.float32
    return one_song(bench, dtype) + many_songs(bench, dtype)
