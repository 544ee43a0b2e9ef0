"""Versions and hardware that a command ran on."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import accelerate
import torch

LIBRARIES = ("emotion_ft", "torch", "transformers", "datasets", "accelerate")
OTHERS: tuple[str, ...] = ("torchaudio", "evaluate", "huggingface_hub", "soundfile", "soxr", "scikit-learn", "numpy")
OTHERS = (*OTHERS, "onnxruntime", "librosa")
MODEL_NEEDS = ("torch", "torchaudio", "transformers", "soundfile", "soxr")


def environment(device: torch.device) -> dict[str, Any]:
    """For `all_results.json`: `versions` by package, and the `device` that a model was trained on."""
    name = f"CPU ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    processes = accelerate.PartialState().num_processes
    return {"versions": versions(), "device": f"{processes} x {name}" if processes > 1 else name}


def versions(others: tuple[str, ...] = ()) -> dict[str, str]:
    """The versions of Python, of the packages that every training uses, and of `others`."""
    found = {"Python": platform.python_version()}
    for name in LIBRARIES + others:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> str:
    """Processor, cores and GPU, on one line."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    cpu = models[0].split(":")[1].strip() if models else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu}, {os.cpu_count()} cores; {gpu}"


def describe() -> str:
    """Versions and hardware for a bug report, one per line."""
    lines = {"platform": platform.platform(), "hardware": hardware(), "CUDA": torch.version.cuda or "none"}
    lines["CPU capability"] = torch.backends.cpu.get_cpu_capability()
    return "\n".join(f"{name}: {value}" for name, value in {**versions(OTHERS), **lines}.items())


def install_line() -> str:
    """The pip command for the packages that a published model needs, in versions that work together."""
    needed = {re.split(r"[<>=!~; \[]", line)[0]: line.split(";")[0].strip() for line in requires("emotion_ft") or ()}
    return "pip install " + " ".join(f'"{needed[name]}"' for name in MODEL_NEEDS)
