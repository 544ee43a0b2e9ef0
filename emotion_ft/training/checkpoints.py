"""The output folder of a run and its checkpoints: which of them are complete, and which one to resume from.

Only the ends and sizes of a checkpoint's files are read, so that checking gigabytes takes milliseconds.
"""

import json
import logging
import os
import re
import shutil
import zipfile
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME

from .. import run_folder
from ..config.settings import TrainingConfig
from ..errors import UsageError

logger = logging.getLogger(__name__)

PICKLES = (".pt", ".pth", ".bin", ".pkl")  # torch saves them as zip files, with the table of contents at the end


class OutputDirError(UsageError):
    """The output folder holds a run that must not be overwritten, or no checkpoint to resume from."""


def checkpoint_fault(checkpoint: str | Path, state_name: str) -> str | None:
    """How a kill or a power cut has damaged a checkpoint, in words; None if it is complete.

    `state_name` is the JSON file in it that is written last. The checkpoint that this names as the best one has to be
    complete too, since a resumed run would otherwise end with other weights.
    """
    try:
        state = json.loads(Path(checkpoint, state_name).read_text())
    except (OSError, ValueError) as error:
        return f"no {state_name}" if isinstance(error, FileNotFoundError) else f"{state_name} is cut short"
    if damaged := next((path for path in sorted(Path(checkpoint).rglob("*")) if _cut_short(path)), None):
        return f"{damaged.name} is cut short"
    best = Path(checkpoint).with_name(Path(state.get("best_model_checkpoint") or checkpoint).name)
    if best.name != Path(checkpoint).name and best.is_dir() and (reason := checkpoint_fault(best, state_name)):
        return f"{reason} in {best.name}, the best one so far"
    return None


def _cut_short(path: Path) -> bool:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):  # checks the file's size against its header
                return False
        except (OSError, SafetensorError):
            return True
    return path.suffix in PICKLES and not zipfile.is_zipfile(path)


def checkpoints(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> list[Path]:
    """The complete checkpoints of a run, oldest first; see `checkpoint_fault`."""
    complete = [path for path in checkpoint_folders(folder) if checkpoint_fault(path, state_name) is None]
    return sorted(complete, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_folders(folder: str | Path) -> list[Path]:
    """The checkpoints of a run, complete or not."""
    return [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def last_checkpoint(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> Path | None:
    """The last complete checkpoint of a run."""
    return next(reversed(checkpoints(folder, state_name)), None)


def prepare_output_dir(
    training: TrainingConfig, output_dir: str | None = None, state_name: str = TRAINER_STATE_NAME
) -> str | None:
    """Create or clear the output folder (None: `training.output_dir`); returns the checkpoint to resume from, if any.

    Raises `OutputDirError` if the folder already holds a run and neither `overwrite_output_dir` nor
    `resume_from_checkpoint` is set, or if there is no complete checkpoint to resume from.
    """
    folder = Path(os.path.expanduser(output_dir or training.output_dir))
    last = last_checkpoint(folder, state_name)
    if training.resume_from_checkpoint:
        checkpoint = last if training.resume_from_checkpoint == "last" else training.resume_from_checkpoint
        reason = checkpoint and checkpoint_fault(checkpoint, state_name)
        if checkpoint is None or reason:
            looked = f"looked for '{checkpoint or folder / 'checkpoint-*'}', with its {state_name}"
            raise OutputDirError(f"no checkpoint to resume from: {looked}{f': {reason}' if reason else ''}.")
        PartialState().wait_for_everyone()  # until every process has read the checkpoints
        _clean(folder, state_name)
        return str(checkpoint)
    finished, seeds = (folder / run_folder.RESULTS).is_file(), run_folder.seed_folders(folder)
    if (finished or last or seeds) and not training.overwrite_output_dir:
        state = "a finished run" if finished else f"the runs of {len(seeds)} seeds"
        if last and not finished:
            state = f"an unfinished run (up to {last.name})"
        resume = " --resume_from_checkpoint to resume it," if last and not finished else ""
        raise OutputDirError(
            f"'{folder}' already holds {state}:{resume} --overwrite_output_dir to start again, "
            f"or another --{'gan_output_dir' if output_dir else 'output_dir'} to keep it."
        )
    _clean(folder, state_name, clear=bool(finished or last or seeds))
    if not folder.is_dir():
        raise OutputDirError(
            f"process {PartialState().process_index} sees no '{folder}': machines that train together need a shared "
            "output folder."
        )
    return None


def _clean(folder: Path, state_name: str, clear: bool = False) -> None:
    """On the main process: create the folder, remove a run from it, and remove damaged checkpoints.

    Trainer would count damaged checkpoints among those that it keeps.
    """
    with PartialState().main_process_first():
        if not PartialState().is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if clear:
            run_folder.clear(folder)
        for path in checkpoint_folders(folder):
            if reason := checkpoint_fault(path, state_name):
                logger.warning("%s is passed over, and removed: %s", path, reason)
                shutil.rmtree(path)
