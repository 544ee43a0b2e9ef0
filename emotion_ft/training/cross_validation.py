"""k-fold cross-validation: one run per fold, each song held out once, and the pooled predictions of all folds."""

import copy
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from .. import run_folder
from ..config.settings import Config
from ..data.files import first_ids
from ..data.songs import artists_of, collections_of, grouping, select_splits
from ..data.splits import SplitError, Splits, k_folds
from ..errors import SAME_COMMAND, UsageError
from ..faults import writing
from ..modeling import ASTEmotionFeatureExtractor
from ..reports.page import write_page
from ..reports.song_plots import plot_held_out
from ..reports.tables import read_curve_scores
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import (
    artist_of_song,
    flat,
    read_table,
    references,
    score_systems,
    score_with_intervals,
    system_predictions,
)
from .checkpoints import last_checkpoint, prepare_output_dir
from .finetuning import finetune
from .inputs import (
    build_extractor,
    find_checkpoint,
    load_all,
    make_deterministic,
    split_facts,
    store_features,
    write_audit,
)

logger = logging.getLogger(__name__)

PLACES = (
    "data_root",
    "prepared",
    "cache_dir",
    "num_proc",
    "output_dir",
    "dataloader_num_workers",
    "report_to",
    "save_total_limit",
)


class Pooled(NamedTuple):
    """What a cross-validation leaves behind.

    Args:
        folder: of the cross-validation; each fold's run lies in it.
        missing: folds that are still to come; while there are any, the rest is None.
        scores: of the pooled out-of-fold predictions.
        fold_scores: of the model, one row per fold.
        curve_scores: of emotion over time, mean over folds; None unless the labels are dynamic.
        results: what `all_results.json` holds.
    """

    folder: Path
    missing: list[int]
    scores: pd.DataFrame | None = None
    fold_scores: pd.DataFrame | None = None
    curve_scores: pd.DataFrame | None = None
    results: dict[str, Any] | None = None


def run_cross_validation(
    config: Config, folds: int = 5, only: Sequence[int] | None = None, output: str | Path | None = None
) -> Pooled | None:
    """Fine-tune once per fold, so that every song is held out once, and score the pooled predictions.

    Finished folds are kept and a killed one resumes, so the same call goes on after a kill.

    Args:
        config: of every fold's run.
        folds: how many.
        only: the folds to run here, counted from 0; None: all. Whoever comes last scores them.
        output: the folder; None: the configuration's `output_dir` with "-cv" at its end.

    Returns:
        The outcome; None on processes other than the first.

    Raises:
        UsageError: for anything that the user can fix; the message says how.
    """
    training, folder = config.training, Path(output or f"{config.training.output_dir}-cv")
    start = find_checkpoint(config.model)
    extractor = build_extractor(config)
    songs = load_all(config.data)
    splits, protocol = draw_folds(songs, config, folds)
    with writing(folder, "output", SAME_COMMAND):
        settle(config, folder, protocol)
        stored, bad_files = store_features(DatasetDict({"all": songs}), extractor, config.data)
        songs = stored["all"]
        for fold in range(folds) if only is None else only:
            if finished(folder, fold):
                continue
            logger.info("fold %d of %d", fold, folds)
            ours = fold_config(config, folder, fold)
            checkpoint = prepare_output_dir(ours.training)
            make_deterministic(training)
            sides = fold_songs(songs, splits[fold], protocol, fold)
            finetune(ours, extractor, sides, bad_files, checkpoint, start)
        if training.process_index:
            return None
        if missing := [fold for fold in range(folds) if not finished(folder, fold)]:
            return Pooled(folder, missing)
        write_audit(folder, config.data)
        return write_pooled(config, folder, folds, songs, protocol, extractor)


def draw_folds(songs: Dataset, config: Config, folds: int) -> tuple[list[Splits], str]:
    """The splits of all folds (see `splits.k_folds`), and the name of the protocol.

    Raises:
        UsageError: when the configuration names a split, or asks to push.
        SplitError: for fewer artists (or songs, when they are not kept apart by artist) than folds.
    """
    data, seed = config.data, config.training.seed
    if config.training.push_to_hub:
        raise UsageError("a cross-validation leaves a model a fold: leave out push_to_hub, and push one with push.py.")
    if data.split != "random":
        raise UsageError(f"cross-validation draws its own folds: leave out --split {data.split}.")
    artists = artists_of(songs)
    groups = artists if data.group_by_artist else None
    splits = k_folds(songs["song_id"][:], groups, folds, seed, data.validation_fraction)
    kind = "artist-grouped" if groups else "song-level"
    protocol = f"{kind} {folds}-fold cross-validation, {data.validation_fraction:g} validation, "
    return splits, f"{protocol}{grouping(artists, len(songs), data.group_by_artist)}, seed {seed}"


def settle(config: Config, folder: Path, protocol: str) -> None:
    """Make the folder, and note in it what the folds are made of.

    Raises:
        UsageError: when it holds folds of other settings and `overwrite_output_dir` is not set, or a run of its own.
    """
    with PartialState().main_process_first():
        if not PartialState().is_main_process:
            return
        note = folder / run_folder.CROSS_VALIDATION
        if not note.is_file() and ((folder / run_folder.RESULTS).is_file() or last_checkpoint(folder)):
            raise UsageError(f"'{folder}' holds a run and no cross-validation: choose another --output.")
        anew = config.training.overwrite_output_dir
        settings = {"protocol": protocol, "config": _settings(config)}
        if note.is_file() and not anew and (changes := _changes(settings, json.loads(note.read_text()))):
            raise UsageError(
                f"'{folder}' holds folds of other settings ({'; '.join(changes[:6])}): --overwrite_output_dir to "
                "start anew, or another --output."
            )
        folder.mkdir(parents=True, exist_ok=True)
        if anew:
            run_folder.clear(folder)
        config.save(folder)
        note.write_text(json.dumps(settings, indent=2) + "\n")


def _settings(config: Config) -> dict:
    """The configuration as `config.yaml` holds it, without what another machine may have otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        sections = yaml.safe_load(config.save(folder).read_text())
    return {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items() if key not in PLACES
    }


def _changes(ours: dict, theirs: dict) -> list[str]:
    """What differs, in words."""
    changes = [] if ours["protocol"] == theirs["protocol"] else [f"there, {theirs['protocol']}"]
    for key in sorted(ours["config"].keys() | theirs["config"].keys()):
        pair = [settings["config"].get(key) for settings in (ours, theirs)]
        if pair[0] != pair[1]:
            changes.append(f"{key} is {pair[0]} here and was {pair[1]}")
    return changes


def fold_songs(songs: Dataset, splits: Splits, protocol: str, fold: int) -> DatasetDict:
    """The songs of one fold's sides, as far as their audio could be used.

    Raises:
        SplitError: when a side is left with fewer than two, which no score can be made of.
    """
    there = set(songs["song_id"])
    sides = {name: [song_id for song_id in ids if song_id in there] for name, ids in splits.items()}
    for name, ids in sides.items():
        if len(ids) < 2:
            raise SplitError(f"fold {fold} has {len(ids)} {name} songs, but scores need two: ask for fewer folds")
    return select_splits(songs, sides, f"{protocol}, fold {fold}")


def fold_config(config: Config, folder: Path, fold: int) -> Config:
    """The configuration of one fold's run; it goes on from the fold's last checkpoint, if there is one."""
    ours = copy.deepcopy(config)
    place = run_folder.fold_folder(folder, fold)
    ours.training.output_dir = str(place)
    ours.data.split = str(place / run_folder.SPLITS)
    going_on = last_checkpoint(place) is not None
    ours.training.resume_from_checkpoint = "last" if going_on else None
    ours.training.overwrite_output_dir = not going_on
    return ours


def finished(folder: Path, fold: int) -> bool:
    """Whether a fold has been scored."""
    return (run_folder.fold_folder(folder, fold) / run_folder.RESULTS).is_file()


def pool(folder: Path, folds: int) -> pd.DataFrame:
    """The out-of-fold predictions of all songs, with their `fold`: `scores.predictions_table` of every fold.

    Raises:
        UsageError: when a song is in two folds, so that they cannot be of one cross-validation.
    """
    places = [run_folder.fold_folder(folder, fold) for fold in range(folds)]
    tables = [read_table(place / run_folder.PREDICTIONS).assign(fold=fold) for fold, place in enumerate(places)]
    table = pd.concat(tables, ignore_index=True).sort_values("song_id", ignore_index=True)
    if twice := sorted(set(table["song_id"][table["song_id"].duplicated()])):
        raise UsageError(f"{len(twice)} songs are test songs of two folds in '{folder}': {first_ids(twice)}.")
    return table


def score_folds(table: pd.DataFrame) -> pd.DataFrame:
    """The model's scores in each fold, a row a fold; columns as `scores.score_systems`."""
    rows = {
        f"fold {fold}": score_with_intervals(system_predictions(rows, "model"), references(rows), artist_of_song(rows))
        for fold, rows in table.groupby("fold")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def pooled_results(folder: Path, folds: int) -> dict[str, float]:
    """What the folds say beside their predictions: coverage over all songs, and the mean over folds of the rest."""
    results = [run_folder.read_results(run_folder.fold_folder(folder, fold)) for fold in range(folds)]
    songs = [result["test_songs"] for result in results]
    pooled = {
        "test_songs": sum(songs),
        "synthetic_windows": max(result["synthetic_windows"] for result in results),
        "bad_files": results[0]["bad_files"],
        "train_runtime": sum(result["train_runtime"] for result in results),
        "epochs": float(np.mean([result["epochs"] for result in results])),
    }
    if all("interval_level" in result for result in results):
        pooled["interval_level"] = results[0]["interval_level"]
        for dimension in DIMENSIONS:
            halfwidths = [result[f"interval_{dimension}"] for result in results]
            shares = [result[f"test_{dimension}_coverage"] for result in results]
            pooled[f"interval_{dimension}"] = float(np.mean(halfwidths))
            pooled[f"test_{dimension}_coverage"] = float(np.average(shares, weights=songs))
    return pooled


def mean_curve_scores(folder: Path, folds: int) -> pd.DataFrame | None:
    """The scores of curves, mean over folds; None where no curves were trained on."""
    tables = [read_curve_scores(run_folder.fold_folder(folder, fold)) for fold in range(folds)]
    return None if tables[0] is None else sum(tables) / folds


def write_pooled(
    config: Config, folder: Path, folds: int, songs: Dataset, protocol: str, extractor: ASTEmotionFeatureExtractor
) -> Pooled:
    """Score the pooled predictions of finished folds, and write tables, plots, the page and `all_results.json`.

    Args:
        songs: all, stored, for their spectrograms.
        protocol: of `draw_folds`.
    """
    table = pool(folder, folds)
    scores, fold_scores, curve_scores = score_systems(table), score_folds(table), mean_curve_scores(folder, folds)
    results = {
        "protocol": f"{songs.info.description}; {protocol}",
        "collections": collections_of(songs),
        "labels": scores.index[0][0],
        "split": split_facts(config) | {"kind": "cross-validation"},
        "folds": folds,
        **pooled_results(folder, folds),
        **flat(scores),
    }
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    run_folder.write_table(folder, run_folder.FOLD_SCORES, fold_scores.rename_axis("fold").reset_index())
    if curve_scores is not None:
        run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
    plot_held_out(folder, table, scores, results["protocol"], songs, extractor)
    write_page(folder, results)
    run_folder.write_results(folder, results)
    return Pooled(folder, [], scores, fold_scores, curve_scores, results)
