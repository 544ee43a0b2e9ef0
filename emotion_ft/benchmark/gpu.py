"""How much of an accelerator a training uses: its matrix rate, memory, and what each option is worth."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..modeling import ASTEmotionConfig, ASTForEmotionRegression
from .figures import Figure, wall_seconds
from .trainings import our_run
from .workbench import Workbench

# What the others are compared with comes first; sdpa and a fused AdamW are the defaults.
OPTIONS = {
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "bf16, eager attention": {"precision": "bf16", "attention": "eager"},
    "bf16, torch.compile": {"precision": "bf16", "torch_compile": True},
    "bf16, AdamW without fusion": {"precision": "bf16", "optim": "adamw_torch"},
}


def sample_flops(config: ASTEmotionConfig) -> int:
    """Floating-point operations of one training sample, forward and backward, counted by torch on the meta device.

    With eager attention, whose products are plain matrix products; sdpa computes the same ones.
    """
    with torch.device("meta"):
        model = ASTForEmotionRegression(ASTEmotionConfig(**config.to_diff_dict() | {"attn_implementation": "eager"}))
        window, label = torch.empty(1, config.max_length, config.num_mel_bins), torch.empty(1, 2)
    with FlopCounterMode(display=False) as counter:
        model(window, labels=label).loss.backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations a second of square matrix products, the best of the repeats."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = 20 if device.type == "cuda" else 2

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    (seconds,) = wall_seconds(repeats, products=products)
    return times * 2 * size**3 / seconds.min()


def accelerator(bench: Workbench) -> list[Figure]:
    """Training under each option, data and all: samples/s, memory, and the share of the measured bf16 matrix rate."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    on_gpu = device.type == "cuda"
    rate, flops = matrix_rate(device, torch.bfloat16, bench.repeats), sample_flops(bench.config)
    speeds, memory, waits = {}, {}, {}
    for name, options in OPTIONS.items():
        if on_gpu or options["precision"] != "fp16":  # whose loss scaling needs a GPU
            speeds[name], memory[name], waits[name] = measure(bench, **options)
    reference, *others = speeds
    figures = [
        Figure("accelerator", "matrix product, bf16", "TFLOP/s", [rate / 1e12]),
        Figure("accelerator", "AST, forward and backward, a sample", "GFLOP", [flops / 1e9]),
        Figure("accelerator", f"training, {reference}", "samples/s", speeds[reference]),
        *(
            Figure(
                "accelerator", f"training, {name}", "samples/s", speeds[name], reference, speeds[reference], None, True
            )
            for name in others
        ),
    ]
    if on_gpu:
        figures += [
            Figure("accelerator", f"peak memory, {name}", "GiB", [memory[name]], reference, [memory[reference]])
            for name in others
        ]
    used = [100 * speed * flops / rate for speed in speeds["bf16"]]
    goals = {"utilisation": 45, "wait": 5, "bf16": 1.4} if on_gpu else {}
    ratios = [bf16 / fp32 for bf16, fp32 in zip(speeds["bf16"], speeds["fp32"], strict=True)]
    return [
        *figures,
        Figure("accelerator", "model FLOPs utilisation, bf16", "%", used, "", (), goals.get("utilisation"), True),
        Figure("accelerator", "waiting for data, bf16", "%", [100 * waits["bf16"]], target=goals.get("wait")),
        Figure("accelerator", "bf16, times fp32", "x", ratios, "", (), goals.get("bf16"), True),
    ]


def measure(bench: Workbench, precision: str, attention: str = "sdpa", **changes) -> tuple[list[float], float, float]:
    """Samples/s of each repeat, the peak memory of a GPU in GiB, and the share of the time that waited for data."""
    run = our_run(bench, precision, attention, **changes)
    run.run()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    speeds = [run.run() for _ in range(min(bench.repeats, 3))]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return speeds, peak, run.clock.wait_share
