"""From a configuration to the things a run is made of: its folder, its songs, its model."""

import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import enable_full_determinism, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from .. import run_folder
from ..config.settings import Config, DataConfig, TrainingConfig
from ..data.audit import audit as audit_deam
from ..data.csv_collection import load_collection_file
from ..data.deam import load_songs
from ..data.features import BadFile, store_log_mels
from ..data.prepared import load_prepared
from ..data.songs import OTHER, join, split_songs
from ..data.splits import read_split, write_split
from ..data.toy import render_deam
from ..errors import UsageError
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
from ..reports import audit
from ..scoring.scores import songs_table
from . import damage

logger = logging.getLogger(__name__)


class OutputDirError(UsageError):
    """The output folder holds a run that must not be overwritten, or no checkpoint to resume from."""


def checkpoints(folder: str | Path, state_name: str = TRAINER_STATE_NAME) -> list[Path]:
    """The whole checkpoints of a run, oldest first; see `damage.of_checkpoint`."""
    whole = [path for path in checkpoint_folders(folder) if damage.of_checkpoint(path, state_name) is None]
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
        if reason := damage.of_checkpoint(path, state_name):
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
        reason = checkpoint and damage.of_checkpoint(checkpoint, state_name)
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


def make_deterministic(training: TrainingConfig) -> None:
    """Seed every generator, and fix cuDNN's choices; with `full_determinism`, all kernels."""
    if training.full_determinism:
        enable_full_determinism(training.seed)
    else:
        set_seed(training.seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def build_extractor(config: Config) -> ASTEmotionFeatureExtractor:
    """The front end of the audio section."""
    try:
        return ASTEmotionFeatureExtractor(**config.audio.feature_extractor_kwargs())
    except ValueError as error:
        raise UsageError(f"section 'audio': {error}") from error


def load_all(data: DataConfig) -> Dataset:
    """All songs of the data section's collections, rendered first when it asks for that, with their `source`.

    Raises:
        UsageError: when it names no collection, or one of them cannot be read.
    """
    if data.data_root is None and not data.collections and not data.prepared:
        raise UsageError("data_root is not set: name the folder of your unzipped DEAM with --data_root.")
    with PartialState().main_process_first():
        if data.rendered_songs and not data.prepared and PartialState().is_main_process:
            render_deam(data.data_root, data.rendered_songs, data.rendered_seconds, num_proc=data.num_proc)
    found = []
    if data.prepared:
        found.append(load_prepared(data.prepared, data.labels))
    elif data.data_root is not None:
        found.append(load_songs(data.data_root, data.labels, data.exchanged_range()))
    for path in data.collections or []:
        if data.labels == "dynamic":
            raise UsageError(f"labels 'dynamic' need curves, but {path} is a collection with labels alone.")
        found.append(load_collection_file(path))
    return join(found)


def load_treatments(data: DataConfig) -> dict[str, Dataset]:
    """`load_all` by treatment of the labels: all that the songs can have; "distributed" has every song."""
    tables = {}
    for labels in OTHER:
        if labels == "dynamic" and (data.collections or not any(tables["distributed"]["curve_valence"])):
            continue
        tables[labels] = load_all(replace(data, labels=labels, label_weights="none"))
    return tables


def load_collection(data: DataConfig, seed: int) -> DatasetDict:
    """The songs of the data section as train, validation and test; see `split_songs`."""
    return split_songs(
        load_all(data), data.split, seed, data.validation_fraction, data.test_fraction, data.group_by_artist
    )


def load_side(data: DataConfig, split: str | Path, side: str) -> DatasetDict:
    """The songs of one side of a folder of id lists, alone; the others' audio need not be there.

    Raises:
        UsageError: when none of them is in the collection.
    """
    songs, place = load_all(data), data.prepared or data.data_root
    listed = set(read_split(split)[side])
    rows = [row for row, song_id in enumerate(songs["song_id"]) if song_id in listed]
    if not rows:
        raise UsageError(f"none of the {len(listed)} songs in {Path(split) / side}.txt is in {place}")
    if len(rows) < len(listed):
        logger.warning("%d of the %d %s songs are not in %s", len(listed) - len(rows), len(listed), side, place)
    chosen = songs.select(rows)
    chosen.info.description = f"{songs.info.description}; the {side} songs of the id lists in {split}"
    return DatasetDict({side: chosen})


def store_features(
    songs: DatasetDict, extractor: ASTEmotionFeatureExtractor, data: DataConfig
) -> tuple[DatasetDict, list[BadFile]]:
    """`store_log_mels` with the data section's settings; one process of a machine computes, the others read."""
    with PartialState().local_main_process_first():
        songs, bad = store_log_mels(
            songs, extractor, data.cache_dir, data.num_proc, data.min_seconds, data.max_bad_fraction
        )
    for name, side in songs.items():
        if len(side) < 2:
            raise UsageError(f"{name} holds {len(side)} usable songs, but scores need at least two.")
    return songs, bad


def build_model(config: Config, extractor: ASTEmotionFeatureExtractor) -> ASTForEmotionRegression:
    """The model section's AST, on pretrained weights when it names a checkpoint, fitted to the front end's windows."""
    settings = {
        "max_length": extractor.max_length,
        "num_mel_bins": extractor.num_mel_bins,
        "head_dropout": config.model.head_dropout,
        "loss": config.model.loss,
        "attn_implementation": config.model.attn_implementation,
    }
    try:
        if config.model.checkpoint:
            return ASTForEmotionRegression.from_ast(
                config.model.checkpoint, revision=config.model.checkpoint_revision, **settings
            )
        return ASTForEmotionRegression(ASTEmotionConfig(**config.model.architecture(), **settings))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        name = config.model.checkpoint or "a model with random weights"
        raise UsageError(f"section 'model': cannot make {name}: {error}") from error


def save_inputs(config: Config, songs: DatasetDict, bad: list[BadFile]) -> None:
    """Write what the run was made of into its folder.

    `config.yaml`; `splits/` and `songs.csv`, who is on which side, under which labels; `bad_files.csv`, if any.
    """
    folder = Path(config.training.output_dir)
    config.save(folder)
    write_split({name: split["song_id"][:] for name, split in songs.items()}, folder / run_folder.SPLITS)
    sides = [songs_table(side).assign(split=name) for name, side in songs.items()]
    pd.concat(sides).to_csv(folder / run_folder.SONGS, index=False, float_format="%.4f")
    (folder / run_folder.BAD_FILES).unlink(missing_ok=True)
    if bad:
        pd.DataFrame(bad).to_csv(folder / run_folder.BAD_FILES, index=False)


def write_audit(folder: str | Path, data: DataConfig) -> None:
    """Write the audit of DEAM's folder, if the run has one, into `audit/`."""
    if data.data_root is not None and not data.prepared and PartialState().is_main_process:
        audit.write_audit(Path(folder, run_folder.AUDIT), audit_deam(data.data_root), data.data_root)
