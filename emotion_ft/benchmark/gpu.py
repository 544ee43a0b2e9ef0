"""How much of an accelerator a training uses: its matrix rate, memory, and what each option gains.

Without one, the same is measured on the CPU, in the precisions that its hardware computes in.
"""

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..config.settings import hardware_precision
from ..modeling import ASTEmotionConfig, ASTForEmotionRegression
from .figures import Figure, wall_seconds
from .trainings import our_run
from .workbench import Workbench

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VARIANTS: dict[str, dict[str, Any]] = {
    "eager attention": {"attention": "eager"},
    "torch.compile": {"torch_compile": True},
    "AdamW without fusion": {"optim": "adamw_torch"},
}
"""Each changes one default, in the hardware's own precision; sdpa and a fused AdamW are the defaults."""


class Measured(NamedTuple):
    """Trainings under one option.

    Args:
        speeds: samples per second, one number per repeat.
        memory: peak on the GPU, in GiB; 0 without a GPU.
        wait: share of the time that was spent waiting for data.
    """

    speeds: list[float]
    memory: float
    wait: float


def options(fast: str, on_gpu: bool) -> dict[str, dict[str, Any]]:
    """What to train with, by name; the others are compared with the first one.

    Args:
        fast: the precision of `hardware_precision`.
        on_gpu: whether fp16 can be measured, whose loss scaling needs a GPU.
    """
    precisions = dict.fromkeys(["fp32", *(["fp16"] if on_gpu else []), fast])
    variants = {f"{fast}, {name}": {"precision": fast, **changes} for name, changes in VARIANTS.items()}
    return {precision: {"precision": precision} for precision in precisions} | variants


def sample_flops(config: ASTEmotionConfig) -> int:
    """Floating-point operations of one training sample, forward and backward, counted by torch on the meta device.

    With eager attention, whose products are plain matrix products; sdpa computes the same ones.
    """
    settings: dict[str, Any] = config.to_diff_dict() | {"attn_implementation": "eager"}
    with torch.device("meta"):
        model = ASTForEmotionRegression(ASTEmotionConfig(**settings))
        window, label = torch.empty(1, config.max_length, config.num_mel_bins), torch.empty(1, 2)
    with FlopCounterMode(display=False) as counter:
        model(window, labels=label).loss.backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations per second of square matrix products, the best of the repeats."""
    size, times = (8192, 20) if device.type == "cuda" else (512, 8)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    (seconds,) = wall_seconds(repeats, products=products)
    return times * 2 * size**3 / seconds.min()


def measure(bench: Workbench, precision: str, attention: str = "sdpa", **changes: Any) -> Measured:
    """Train, after a warm-up run."""
    run = our_run(bench, precision, attention, **changes)
    run.run()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    speeds = [run.run() for _ in range(min(bench.repeats, 3))]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return Measured(speeds, peak, run.clock.wait_share)


def accelerator(bench: Workbench) -> list[Figure]:
    """Training under each option, data and all: samples/s, memory, and the share of the measured matrix rate."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    on_gpu, fast = device.type == "cuda", hardware_precision()
    rate, flops = matrix_rate(device, DTYPES[fast], bench.repeats), sample_flops(bench.config)
    measured = {name: measure(bench, **option) for name, option in options(fast, on_gpu).items()}
    return [
        Figure("accelerator", f"matrix product, {fast}", "TFLOP/s", [rate / 1e12]),
        Figure("accelerator", "AST, forward and backward, a sample", "GFLOP", [flops / 1e9]),
        *_comparisons(measured, on_gpu),
        *_shares(measured, fast, flops / rate, on_gpu),
    ]


def _comparisons(measured: dict[str, Measured], on_gpu: bool) -> list[Figure]:
    """Speed, and on a GPU memory, of every option beside the first one's."""
    (reference, first), *others = measured.items()
    figures = [Figure("accelerator", f"training, {reference}", "samples/s", first.speeds)]
    for name, other in others:
        pair = (other.speeds, reference, first.speeds)
        figures.append(Figure("accelerator", f"training, {name}", "samples/s", *pair, higher_is_better=True))
    for name, other in others if on_gpu else ():
        pair = ([other.memory], reference, [first.memory])
        figures.append(Figure("accelerator", f"peak memory, {name}", "GiB", *pair))
    return figures


def _shares(measured: dict[str, Measured], fast: str, seconds: float, on_gpu: bool) -> list[Figure]:
    """How well the hardware's own precision uses the hardware.

    Args:
        seconds: that one sample takes at the measured matrix rate.
    """
    goals = {"utilisation": 45.0, "wait": 5.0, "gain": 1.4} if on_gpu else {}
    used = [100 * speed * seconds for speed in measured[fast].speeds]
    wait = [100 * measured[fast].wait]
    figures = [
        Figure("accelerator", f"model FLOPs utilisation, {fast}", "%", used, "", (), goals.get("utilisation"), True),
        Figure("accelerator", f"waiting for data, {fast}", "%", wait, target=goals.get("wait")),
    ]
    if fast != "fp32":
        pairs = zip(measured[fast].speeds, measured["fp32"].speeds, strict=True)
        gains = [ours / plain for ours, plain in pairs]
        figures.append(Figure("accelerator", f"{fast}, times fp32", "x", gains, "", (), goals.get("gain"), True))
    return figures
