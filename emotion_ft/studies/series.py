"""What runs in one folder share, such as folds or seeds: their settings, and how the same command resumes them."""

import copy
import json
from pathlib import Path
from typing import Any

from accelerate import PartialState

from .. import run_folder
from ..config.settings import Config
from ..errors import UsageError
from ..training.checkpoints import last_checkpoint

PLACES = {"data_root", "prepared", "cache_dir", "num_proc", "output_dir"}
PLACES |= {"dataloader_num_workers", "report_to", "save_total_limit"}


def settle(config: Config, folder: Path, protocol: str, note: str) -> None:
    """Create the folder, and write the settings of its runs into it.

    Args:
        config: of every run.
        folder: of the series.
        protocol: how its songs are split.
        note: the name of the file of settings, which marks a folder as one of this kind of series.

    Raises `UsageError` if it holds a single run, or runs with other settings without `overwrite_output_dir`.
    """
    with PartialState().main_process_first():
        if not PartialState().is_main_process:
            return
        path = folder / note
        if not path.is_file() and ((folder / run_folder.RESULTS).is_file() or last_checkpoint(folder)):
            raise UsageError(f"'{folder}' holds another run, without {note}: choose another folder.")
        overwrite = config.training.overwrite_output_dir
        settings = {"protocol": protocol, "config": _settings(config)}
        if path.is_file() and not overwrite and (changes := _changes(settings, json.loads(path.read_text()))):
            raise UsageError(
                f"'{folder}' holds runs with other settings ({'; '.join(changes[:6])}): --overwrite_output_dir to "
                "start again, or choose another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            run_folder.clear(folder)
        config.save(folder)
        path.write_text(json.dumps(settings, indent=2) + "\n")


def config_in(place: Path, config: Config) -> Config:
    """The configuration of the run in `place`, by the split there; it resumes from its last checkpoint, if any."""
    ours = copy.deepcopy(config)
    ours.training.output_dir, ours.data.split = str(place), str(place / run_folder.SPLITS)
    resume = last_checkpoint(place) is not None
    ours.training.resume_from_checkpoint, ours.training.overwrite_output_dir = "last" if resume else None, not resume
    return ours


def finished(place: Path) -> bool:
    """Whether the run in `place` is finished."""
    return (place / run_folder.RESULTS).is_file()


def _settings(config: Config) -> dict[str, Any]:
    """The settings in `config.yaml`, without those that may differ from machine to machine."""
    pairs = ((name, key, value) for name, keys in config.plain().items() for key, value in keys.items())
    return {f"{name}.{key}": value for name, key, value in pairs if key not in PLACES}


def _changes(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The differences, in words."""
    changes = [] if ours["protocol"] == theirs["protocol"] else [f"there, {theirs['protocol']}"]
    for key in sorted(ours["config"].keys() | theirs["config"].keys()):
        pair = [settings["config"].get(key) for settings in (ours, theirs)]
        if pair[0] != pair[1]:
            changes.append(f"{key} is {pair[0]} here and was {pair[1]}")
    return changes
