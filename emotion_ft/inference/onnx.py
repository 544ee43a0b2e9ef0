"""A trained model as ONNX, in float32 and int8: exported, loaded in place of the torch model, and compared with it."""

import copy
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pandas as pd
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from .. import run_folder
from ..data.front_end import FrontEnd
from ..errors import UsageError
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
from .loading import load_settings
from .predict import WindowModel, predict_log_mel

# Where the tools of the Hub look for them.
FILES = {"onnx": Path(run_folder.ONNX, "model.onnx"), "onnx-int8": Path(run_folder.ONNX, "model_quantized.onnx")}


class _Logits(nn.Module):
    """`input_values` (batch, frames, mels) -> `logits` (batch, 2), and nothing else."""

    def __init__(self, model: ASTForEmotionRegression):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


def export(model: ASTForEmotionRegression, folder: str | Path) -> dict[str, Path]:
    """Write a model as ONNX into `folder/onnx`; the batch axis is dynamic.

    The int8 model has quantised weights and quantises its activations on the fly: onnxruntime's dynamic quantisation.

    Args:
        model: on any device, of any dtype; exported in float32 from the CPU.
        folder: of the model.

    Returns:
        The files, by the names of `FILES`.
    """
    model = copy.deepcopy(model).float().cpu()
    # sdpa is exported with guards against rows without a key, which no window has; they take a fifth of the int8 time.
    model.set_attn_implementation("eager")
    paths = {name: Path(folder, file) for name, file in FILES.items()}
    paths["onnx"].parent.mkdir(parents=True, exist_ok=True)
    config = model.config
    windows = torch.zeros(2, config.max_length, config.num_mel_bins)
    program = torch.onnx.export(
        _Logits(model).eval(),
        (windows,),
        dynamo=True,
        dynamic_shapes={"input_values": {0: torch.export.Dim("batch")}},
        input_names=["input_values"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    program.save(paths["onnx"])
    # One scale per output channel; the convolution that embeds patches would be slower in int8.
    products = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    quantize_dynamic(paths["onnx"], paths["onnx-int8"], weight_type=QuantType.QInt8, **products)
    return paths


class OnnxModel:
    """An exported model in place of an `ASTForEmotionRegression`, on the CPU: windows in, `logits` out.

    Args:
        path: of an ONNX file of `export`.
        config: of the model.

    Raises:
        UsageError: when the file holds no ONNX model.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: str | Path, config: ASTEmotionConfig):
        self.config = config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
            raise UsageError(f"'{path}' is not an ONNX model that can be run: {error}") from error

    def eval(self) -> "OnnxModel":
        """As `nn.Module.eval`; there is nothing to switch."""
        return self

    def __call__(self, input_values: torch.Tensor) -> SimpleNamespace:
        """(batch, frames, mels) -> `logits` (batch, 2) in (-1, 1)."""
        (logits,) = self.session.run(None, {"input_values": input_values.numpy()})
        return SimpleNamespace(logits=torch.from_numpy(logits))


def load_onnx(folder: str | Path, runtime: str = "onnx") -> tuple[OnnxModel, ASTEmotionFeatureExtractor]:
    """An exported model and its feature extractor, for `predict_file` and the like.

    Args:
        folder: of the model, with its `onnx` folder.
        runtime: a name of `FILES`.

    Raises:
        UsageError: when the folder holds no exported model.
    """
    path = Path(folder, FILES[runtime])
    if not path.is_file():
        raise UsageError(f"no ONNX model at '{path}': make it with `emotion-ft export_onnx {folder}`.")
    config, extractor = load_settings(folder)
    return OnnxModel(path, config), extractor


def parity_table(
    runtimes: Mapping[str, WindowModel], extractor: FrontEnd, log_mels: list[np.ndarray], repeats: int = 3
) -> pd.DataFrame:
    """Compare the predictions and the speed of several runtimes with those of the first one.

    Args:
        runtimes: models by name.
        log_mels: (frames, mels) each.
        repeats: how often all songs are predicted, by one runtime after the other; the median time is reported.

    Returns:
        One row per runtime: the largest differences of songs' `valence` and `arousal` from the first runtime's, on
        1-9, and `ms per window`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    values: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, model in runtimes.items():
            start = time.perf_counter()
            values[name] = np.array([predict_log_mel(model, extractor, log_mel)[:2] for log_mel in log_mels])
            seconds[name].append(time.perf_counter() - start)
    first, windows = next(iter(values.values())), sum(len(extractor.window_starts(len(x))) for x in log_mels)
    rows = {
        name: [*np.abs(values[name] - first).max(0), 1000 * statistics.median(seconds[name]) / windows]
        for name in runtimes
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["valence", "arousal", "ms per window"])
