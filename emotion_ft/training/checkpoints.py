"""The output folder of a run and its checkpoints: which are whole, and where a run resumes.

A checkpoint is judged by the ends and the sizes of its files, so that gigabytes are checked in milliseconds.
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

PICKLES = (".pt", ".pth", ".bin", ".pkl")  # as torch saves them: a zip file, whose table of contents comes last


def checkpoint_fault(checkpoint: str | Path, state_name: str) -> str | None:
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
        if reason := file_fault(path):
            return reason
    best = Path(checkpoint).with_name(Path(state.get("best_model_checkpoint") or checkpoint).name)
    if best.name != Path(checkpoint).name and best.is_dir() and (reason := checkpoint_fault(best, state_name)):
        return f"{reason} in {best.name}, the best one so far"
    return None


def file_fault(path: Path) -> str | None:
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


class OutputDirError(UsageError):
    """The output folder holds a run that must not be overwritten, or no checkpoint to resume from."""


def checkpoints(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> list[Path]:
    """The whole checkpoints of a run, oldest first; see `checkpoint_fault`."""
    whole = [path for path in checkpoint_folders(folder) if checkpoint_fault(path, state_name) is None]
    return sorted(whole, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_folders(folder: str | Path) -> list[Path]:
    """Where the checkpoints of a run lie, whole or not."""
    return [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def last_checkpoint(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> Path | None:
    """The last whole checkpoint of a run."""
    return next(reversed(checkpoints(folder, state_name)), None)


def pass_over_damaged(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> None:
    """Remove what a kill or a power cut left of checkpoints: Trainer would count it among those that it keeps."""
    for path in checkpoint_folders(folder):
        if reason := checkpoint_fault(path, state_name):
            logger.warning("%s is passed over, and removed: %s", path, reason)
            shutil.rmtree(path)


def prepare_output_dir(
    training: TrainingConfig, output_dir: str | None = None, state_name: str = TRAINER_STATE_NAME
) -> str | None:
    """Make the output folder and say which checkpoint to resume from, if any.

    Args:
        training: with `overwrite_output_dir` and `resume_from_checkpoint`.
        output_dir: the folder, when it is not `training.output_dir`.
        state_name: the file that makes a checkpoint whole.

    Raises:
        OutputDirError: when the folder already holds a run and neither `overwrite_output_dir` nor
            `resume_from_checkpoint` is set, or when there is nothing whole to resume from.
    """
    folder = Path(os.path.expanduser(output_dir or training.output_dir))
    last = last_checkpoint(folder, state_name)
    if training.resume_from_checkpoint:
        checkpoint = last if training.resume_from_checkpoint == "last" else training.resume_from_checkpoint
        reason = checkpoint and checkpoint_fault(checkpoint, state_name)
        if checkpoint is None or reason:
            looked = f"looked for '{checkpoint or folder / 'checkpoint-*'}', with its {state_name}"
            raise OutputDirError(f"no checkpoint to resume from: {looked}{f': {reason}' if reason else ''}.")
        PartialState().wait_for_everyone()  # all have looked
        with PartialState().main_process_first():
            if PartialState().is_main_process:
                pass_over_damaged(folder, state_name)
        return str(checkpoint)
    finished = (folder / run_folder.RESULTS).is_file()
    if (finished or last) and not training.overwrite_output_dir:
        state = "a finished run" if finished else f"an unfinished run (up to {last.name})"
        resume = "" if finished else " --resume_from_checkpoint to go on,"
        raise OutputDirError(
            f"'{folder}' already holds {state}:{resume} --overwrite_output_dir to start anew, "
            f"or another --{'gan_output_dir' if output_dir else 'output_dir'} to keep it."
        )
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            if finished or last:
                run_folder.clear(folder)
            pass_over_damaged(folder, state_name)
    if not folder.is_dir():
        raise OutputDirError(
            f"process {PartialState().process_index} sees no '{folder}': machines that train together need an output "
            "folder that they share."
        )
    return None
