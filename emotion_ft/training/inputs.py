"""The inputs of a run, from its configuration: songs, log-mels, front end and model."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict, concatenate_datasets
from safetensors import SafetensorError
from transformers import enable_full_determinism, set_seed

from .. import run_folder
from ..config.settings import Config, ConfigError, DataConfig, ModelConfig, TrainingConfig
from ..data.collections import audit as deam_audit
from ..data.collections.csv_collection import load_collection_file
from ..data.collections.deam import load_songs
from ..data.copies import find_copies, leave_out_copies
from ..data.features import BadFile, store_log_mels
from ..data.prepared import load_prepared
from ..data.rendering.songs import render_deam
from ..data.songs import artists_of, join, split_songs
from ..data.splits import read_split, split_off, write_split
from ..errors import UsageError
from ..inference.fetch import fetch
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
from ..reports import audit
from ..scoring.scores import songs_table
from . import adapters

logger = logging.getLogger(__name__)

Labels = Literal["repaired", "distributed", "dynamic"]


def make_deterministic(training: TrainingConfig) -> None:
    """Seed all random generators and make cuDNN deterministic; with `full_determinism`, all kernels."""
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
        raise ConfigError(f"section 'audio': {error}") from error


def load_all(data: DataConfig) -> Dataset:
    """All songs of the data section's collections; songs to be rendered are rendered first.

    Raises `UsageError` if the section names no collection, or one of them cannot be read.
    """
    if data.data_root is None and not data.collections and not data.prepared:
        raise ConfigError("data_root is not set: name the folder of your unzipped DEAM with --data_root.")
    with PartialState().main_process_first():
        if data.data_root and data.rendered_songs and not data.prepared and PartialState().is_main_process:
            render_deam(data.data_root, data.rendered_songs, data.rendered_seconds, num_proc=data.num_proc)
    found = []
    if data.prepared:
        found.append(load_prepared(data.prepared, data.labels))
    elif data.data_root is not None:
        found.append(load_songs(data.data_root, data.labels, data.exchanged_range()))
    for path in data.collections or []:
        if data.labels == "dynamic":
            raise ConfigError(f"labels 'dynamic' need curves, but {path} is a collection with labels alone.")
        found.append(load_collection_file(path))
    return join(found)


def load_treatments(data: DataConfig) -> dict[str, Dataset]:
    """`load_all` under every treatment of the labels that the songs allow; "distributed" has every song."""
    tables: dict[str, Dataset] = {}
    treatments: tuple[Labels, ...] = ("repaired", "distributed", "dynamic")
    for labels in treatments:
        if labels == "dynamic" and (data.collections or not any(tables["distributed"]["curve_valence"])):
            continue
        tables[labels] = load_all(replace(data, labels=labels, label_weights="none"))
    return tables


def load_collection(data: DataConfig, seed: int) -> DatasetDict:
    """The songs of the data section as train, validation and test; see `split_songs`."""
    fractions = (data.validation_fraction, data.test_fraction)
    return split_songs(load_all(data), data.split, seed, *fractions, data.group_by_artist)


def load_side(data: DataConfig, split: str | Path, side: str) -> DatasetDict:
    """The songs of one side of a folder of id lists; the audio of the other sides may be absent.

    Raises `UsageError` if none of them is in the collection.
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


def calibration_songs(config: Config, validation: Dataset) -> tuple[Dataset, Dataset | None]:
    """The validation songs that select the weights, and those set apart to calibrate prediction intervals.

    `calibration_fraction` of the groups that the split keeps together are set apart; None for 0, where all songs do
    both. Raises `SplitError` if one side would be empty.
    """
    fraction = config.data.calibration_fraction
    if not fraction:
        return validation, None
    groups = artists_of(validation) if config.data.group_by_artist else None
    sides = split_off(validation["song_id"], groups, config.training.seed, fraction, "calibration_fraction")
    row_of = {song_id: row for row, song_id in enumerate(validation["song_id"])}
    selecting, apart = (validation.select([row_of[song_id] for song_id in side]) for side in sides)
    if len(selecting) < 2:
        raise UsageError("one validation song is left to select the weights, but scores need two.")
    return selecting, apart


def store_features(
    songs: DatasetDict, extractor: ASTEmotionFeatureExtractor, data: DataConfig
) -> tuple[DatasetDict, list[BadFile]]:
    """`store_log_mels` with the data section's settings; one process per machine computes, the others read.

    Of several sides, those before the last are without songs whose recordings are also on a later one; they are among
    the files that were left out (see `copies.leave_out_copies`).
    """
    limits = (data.min_seconds, data.max_bad_fraction)
    with PartialState().local_main_process_first():
        songs, bad = store_log_mels(songs, extractor, data.cache_dir, data.num_proc, *limits)
    copies: list[BadFile] = []
    if len(songs) > 1:
        found = find_copies(concatenate_datasets(list(songs.values())), extractor.frame_rate)
        songs, copies = leave_out_copies(songs, found)
    for name, side in songs.items():
        if len(side) < 2:
            raise UsageError(f"{name} holds {len(side)} usable songs, but scores need at least two.")
    return songs, bad + copies


def find_checkpoint(model: ModelConfig) -> Path | None:
    """The folder of the weights to start from, downloaded if necessary; None for random weights.

    Called before any decoding, so that a missing network shows at once. Raises `UsageError` if there are no such
    weights.
    """
    advice = "name a folder with --checkpoint FOLDER, or train a small AST from scratch with the configuration "
    return fetch(model.checkpoint, model.checkpoint_revision, f"{advice}deam_small") if model.checkpoint else None


def build_model(config: Config, extractor: ASTEmotionFeatureExtractor, start: Path | None = None) -> Any:
    """The model section's AST, for windows of the front end's size; with LoRA, as `peft` wraps it.

    Args:
        start: the folder of its pretrained weights; None: that of `find_checkpoint`.
    """
    settings: dict[str, Any] = {"max_length": extractor.max_length, "num_mel_bins": extractor.num_mel_bins}
    settings |= {name: getattr(config.model, name) for name in ("head_dropout", "loss", "attn_implementation")}
    try:
        if start := start or find_checkpoint(config.model):
            model = ASTForEmotionRegression.from_ast(str(start), **settings)
        else:
            settings |= config.model.architecture()
            model = ASTForEmotionRegression(ASTEmotionConfig(**settings))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        name = config.model.checkpoint or "a model with random weights"
        raise UsageError(f"section 'model': cannot make {name}: {error}") from error
    rank, targets = config.model.lora_rank, config.model.lora_targets
    return adapters.add_lora(model, rank, targets) if rank else model


def split_facts(config: Config) -> dict[str, Any]:
    """How songs were assigned to train, validation and test, for `all_results.json`."""
    data = config.data
    drawn = data.split in ("random", "full_songs")
    facts: dict[str, Any] = {"kind": data.split if drawn else "id lists", "group_by_artist": data.group_by_artist}
    if drawn:
        facts |= {"seed": config.training.seed, "validation_fraction": data.validation_fraction}
    if data.split == "random":
        facts["test_fraction"] = data.test_fraction
    return facts


def save_inputs(config: Config, songs: DatasetDict, bad: list[BadFile]) -> None:
    """Write the inputs of a run into its folder.

    These are `config.yaml`, `splits/`, `songs.csv` (the side and labels of every song) and, if any, `bad_files.csv`.
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
    """Write the audit of DEAM's folder, if the run uses one, into `audit/`."""
    if data.data_root is not None and not data.prepared and PartialState().is_main_process:
        audit.write_audit(Path(folder, run_folder.AUDIT), deam_audit.audit(data.data_root), data.data_root)
