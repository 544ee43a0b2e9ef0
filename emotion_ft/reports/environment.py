"""What a command ran on: versions and hardware."""

import platform
from importlib.metadata import version
from typing import Any

import accelerate
import torch

LIBRARIES = ("emotion_ft", "torch", "transformers", "datasets", "accelerate")


def environment(device: torch.device) -> dict[str, Any]:
    """What a training ran on, for `all_results.json`: `versions` by package, and `device`."""
    versions = {"Python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    name = f"CPU ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    processes = accelerate.PartialState().num_processes
    return {
        "versions": versions,
        "device": f"{processes} x {name}" if processes > 1 else name,
    }
