"""Is a checkpoint whole? By the ends and the sizes of its files, so that gigabytes are told in milliseconds."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

PICKLES = (".pt", ".pth", ".bin", ".pkl")  # as torch saves them: a zip file, whose table of contents comes last


def of_checkpoint(checkpoint: str | Path, state_name: str) -> str | None:
    """What a kill or a power cut has made of a checkpoint, in words; None when it is whole.

    Args:
        checkpoint: a folder.
        state_name: the file in it that is written last, as JSON. The checkpoint that it calls the best one has to be
            whole, too: without it, a run would end in other weights.
    """
    try:
        state = json.loads(Path(checkpoint, state_name).read_text())
    except (OSError, ValueError) as error:
        return f"no {state_name}" if isinstance(error, FileNotFoundError) else f"{state_name} is cut short"
    for path in sorted(Path(checkpoint).rglob("*")):
        if reason := of_file(path):
            return reason
    best = Path(checkpoint).with_name(Path(state.get("best_model_checkpoint") or checkpoint).name)
    if best.name != Path(checkpoint).name and best.is_dir() and (reason := of_checkpoint(best, state_name)):
        return f"{reason} in {best.name}, the best one so far"
    return None


def of_file(path: Path) -> str | None:
    """The same for one of its files."""
    if path.suffix in PICKLES and not zipfile.is_zipfile(path):
        return f"{path.name} is cut short"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):  # checks the file's size against its header
                return None
        except (OSError, SafetensorError):
            return f"{path.name} is cut short"
    return None
