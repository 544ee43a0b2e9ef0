"""k-fold cross-validation: one run per fold, every song held out once, and scores of the pooled predictions."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from .. import run_folder
from ..config.settings import Config
from ..data.artists import warn_of_large_group
from ..data.copies import Copies, find_copies, leave_out_copies
from ..data.features import BadFile
from ..data.files import first_ids
from ..data.leaks import refuse_crossing
from ..data.songs import artists_of, collections_of, grouping, select_splits
from ..data.splits import SplitError, Splits, k_folds, read_folds, shared_artists
from ..errors import SAME_COMMAND, UsageError
from ..faults import writing
from ..modeling import ASTEmotionFeatureExtractor
from ..reports import page, tables
from ..scoring import scores as scoring
from ..scoring.metrics import DIMENSIONS
from ..training import inputs
from ..training.checkpoints import prepare_output_dir
from ..training.finetuning import finetune, write_held_out
from .series import config_in, finished, settle

logger = logging.getLogger(__name__)

FOLDS = 5


class Pooled(NamedTuple):
    """The results of a cross-validation; scores are None while folds are missing."""

    folder: Path  # of the cross-validation, which contains the folders of the folds
    folds: int
    missing: list[int]
    scores: pd.DataFrame | None = None  # of the pooled out-of-fold predictions
    fold_scores: pd.DataFrame | None = None  # of the model, one row per fold
    curve_scores: pd.DataFrame | None = None  # of emotion over time, mean over folds, if the labels are dynamic
    results: dict[str, Any] | None = None  # the contents of `all_results.json`


def run_cross_validation(
    config: Config, folds: int | None = None, only: Sequence[int] | None = None, output: str | Path | None = None
) -> Pooled | None:
    """Fine-tune once per fold, so that every song is held out once, and score the pooled predictions.

    Finished folds are kept and an interrupted one is resumed, so the same call continues after a kill.

    Args:
        config: for every fold's run; its split is "random", or a folder of folds (see `splits.read_folds`).
        folds: number of folds; None: those in the folder, or `FOLDS`.
        only: the folds to run here, counted from 0; None: all. The call that finishes the last fold scores them.
        output: the folder; None: the configuration's `output_dir` followed by "-cv".

    Returns:
        The results; None on processes other than the first. Raises `UsageError` for whatever the user can fix.
    """
    training, folder = config.training, Path(output or f"{config.training.output_dir}-cv")
    start = inputs.find_checkpoint(config.model)
    extractor = inputs.build_extractor(config)
    songs = inputs.load_all(config.data)
    splits, protocol = draw_folds(songs, config, folds)
    folds = len(splits)
    if only and not 0 <= min(only) <= max(only) < folds:
        raise UsageError(f"--fold must lie in 0 to {folds - 1}, got {', '.join(map(str, only))}.")
    with writing(folder, "output", SAME_COMMAND):
        settle(config, folder, protocol, run_folder.CROSS_VALIDATION)
        stored, bad_files = inputs.store_features(DatasetDict({"all": songs}), extractor, config.data)
        songs = stored["all"]
        copies = find_copies(songs, extractor.frame_rate)
        for fold in range(folds) if only is None else only:
            place = run_folder.fold_folder(folder, fold)
            if finished(place):
                continue
            logger.info("fold %d of %d", fold, folds)
            ours = config_in(place, config)
            checkpoint = prepare_output_dir(ours.training)
            inputs.make_deterministic(training)
            sides, left_out = fold_songs(songs, splits[fold], protocol, fold, copies)
            finetune(ours, extractor, sides, bad_files + left_out, checkpoint, start)
        if training.process_index:
            return None
        if missing := [fold for fold in range(folds) if not finished(run_folder.fold_folder(folder, fold))]:
            return Pooled(folder, folds, missing)
        inputs.write_audit(folder, config.data)
        return write_pooled(config, folder, folds, songs, protocol, extractor)


def draw_folds(songs: Dataset, config: Config, folds: int | None = None) -> tuple[list[Splits], str]:
    """The splits of all folds, and the name of the protocol; see `splits.k_folds` and `splits.read_folds`.

    Args:
        songs: all songs.
        config: its split is "random", or a folder of folds.
        folds: how many; None: those in the folder, or `FOLDS`.

    Raises:
        SplitError: for folds that cannot be filled or read, or that leak.
        UsageError: for another split, another number of folds than the folder has, or `push_to_hub`.
    """
    data, seed = config.data, config.training.seed
    if config.training.push_to_hub:
        raise UsageError(
            "cross-validation makes one model per fold: leave out push_to_hub, and push one with `emotion-ft push`."
        )
    artists = artists_of(songs)
    groups = artists if data.group_by_artist else None
    warn_of_large_group(groups or {}, len(songs))
    fraction = f", {data.validation_fraction:g} validation"
    if data.split == "random":
        splits = k_folds(
            songs["song_id"][:], groups, FOLDS if folds is None else folds, seed, data.validation_fraction
        )
        kind = "artist-grouped" if groups else "song-level"
        grouped = grouping(artists, len(songs), data.group_by_artist)
        return splits, f"{kind} {len(splits)}-fold cross-validation{fraction}, {grouped}, seed {seed}"
    if not Path(data.split).is_dir():
        raise UsageError(
            f"cross-validation draws its own folds, or takes them from a folder: leave out --split {data.split}, or "
            "name a folder with fold-0, fold-1, ..."
        )
    splits, drawn = read_folds(data.split, songs["song_id"][:], groups, seed, data.validation_fraction)
    if folds not in (None, len(splits)):
        raise UsageError(f"'{data.split}' has {len(splits)} folds, not {folds}: leave out --folds.")
    for fold in splits:
        refuse_crossing(fold, groups)
    leaks = sum(len(shared_artists({**fold, "validation": []}, artists)) for fold in splits)
    protocol = f"{len(splits)}-fold cross-validation by the id lists in {Path(data.split).name}"
    protocol += f"{fraction}, seed {seed}" if drawn else ""
    return splits, protocol + (f"; {leaks} test songs share an artist with their fold's train" if leaks else "")


def fold_songs(
    songs: Dataset, splits: Splits, protocol: str, fold: int, copies: Sequence[Copies] = ()
) -> tuple[DatasetDict, list[BadFile]]:
    """One fold's songs as train, validation and test, without those whose audio could not be used.

    Args:
        copies: pairs of songs that are one recording; see `copies.leave_out_copies`, also for the second result.

    Raises `SplitError` if fewer than two are left on a side, too few for scores.
    """
    usable = set(songs["song_id"])
    sides = {name: [song_id for song_id in ids if song_id in usable] for name, ids in splits.items()}
    chosen, left_out = leave_out_copies(select_splits(songs, sides, f"{protocol}, fold {fold}"), copies)
    for name, side in chosen.items():
        if len(side) < 2:
            raise SplitError(f"fold {fold} has {len(side)} {name} songs, but scores need two: ask for fewer folds")
    return chosen, left_out


def pool(folder: Path, folds: int) -> pd.DataFrame:
    """The out-of-fold predictions of all songs, with their `fold`: `scores.predictions_table` of every fold.

    Raises `UsageError` if a song is in two folds, which then do not belong to one cross-validation.
    """
    paths = [run_folder.fold_folder(folder, fold) / run_folder.PREDICTIONS for fold in range(folds)]
    found = [scoring.read_table(path).assign(fold=fold) for fold, path in enumerate(paths)]
    table = pd.concat(found, ignore_index=True).sort_values("song_id", ignore_index=True)
    if twice := sorted(set(table["song_id"][table["song_id"].duplicated()])):
        raise UsageError(f"{len(twice)} songs are test songs of two folds in '{folder}': {first_ids(twice)}.")
    return table


def score_folds(table: pd.DataFrame) -> pd.DataFrame:
    """The model's scores, one row per fold; columns as in `scores.score_systems`."""
    rows = {}
    for fold, songs in table.groupby("fold"):
        predictions, artists = scoring.system_predictions(songs, "model"), scoring.artist_of_song(songs)
        rows[f"fold {fold}"] = scoring.score_with_intervals(predictions, scoring.references(songs), artists)
    return pd.DataFrame.from_dict(rows, orient="index")


def pooled_results(folder: Path, folds: int) -> dict[str, float]:
    """Other results of the folds: counts and times, coverage over all songs, and half-widths as means over folds."""
    results = [run_folder.read_results(run_folder.fold_folder(folder, fold)) for fold in range(folds)]
    songs = [result["test_songs"] for result in results]
    pooled = {
        "test_songs": sum(songs),
        "synthetic_windows": max(result["synthetic_windows"] for result in results),
        "bad_files": max(result["bad_files"] for result in results),
        "train_runtime": sum(result["train_runtime"] for result in results),
        "epochs": float(np.mean([result["epochs"] for result in results])),
    }
    if all("interval_level" in result for result in results):
        pooled["interval_level"] = results[0]["interval_level"]
        pooled["calibration_songs"] = sum(result.get("calibration_songs", 0) for result in results)
        for dimension in DIMENSIONS:
            halfwidths = [result[f"interval_{dimension}"] for result in results]
            shares = [result[f"test_{dimension}_coverage"] for result in results]
            pooled[f"interval_{dimension}"] = float(np.mean(halfwidths))
            pooled[f"test_{dimension}_coverage"] = float(np.average(shares, weights=songs))
    return pooled


def write_pooled(
    config: Config, folder: Path, folds: int, songs: Dataset, protocol: str, extractor: ASTEmotionFeatureExtractor
) -> Pooled:
    """Score the pooled predictions of finished folds, and write tables, plots, the page and `all_results.json`.

    `songs` are all songs, with stored log-mels; `protocol` is from `draw_folds`.
    """
    table = pool(folder, folds)
    scores, fold_scores = scoring.score_systems(table), score_folds(table)
    folders = [run_folder.fold_folder(folder, fold) for fold in range(folds)]
    of_folds = [table for table in map(tables.read_curve_scores, folders) if table is not None]
    curve_scores = pd.concat(of_folds).groupby(level=0, sort=False).mean() if of_folds else None
    results = {
        "protocol": f"{songs.info.description}; {protocol}",
        "collections": collections_of(songs),
        "labels": scores.index[0][0],
        "split": inputs.split_facts(config) | {"kind": "cross-validation"},
        "folds": folds,
        **pooled_results(folder, folds),
        **scoring.flat(scores),
    }
    run_folder.write_table(folder, run_folder.FOLD_SCORES, fold_scores.rename_axis("fold").reset_index())
    write_held_out(folder, table, scores, curve_scores, results, songs, extractor)
    page.write_page(folder, results)
    run_folder.write_results(folder, results)
    return Pooled(folder, folds, [], scores, fold_scores, curve_scores, results)
