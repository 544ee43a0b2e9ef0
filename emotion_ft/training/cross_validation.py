"""k-fold cross-validation: a run a fold, each song a test song once, and the pooled predictions of all folds."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from .. import run_folder
from ..config.settings import Config
from ..data.files import first_ids
from ..data.songs import artists_of, grouping, select_splits
from ..data.splits import SplitError, Splits, k_folds
from ..errors import UsageError
from ..modeling import ASTEmotionFeatureExtractor
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
from .checkpoints import last_checkpoint

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


def fold_folder(folder: str | Path, fold: int) -> Path:
    """Where a fold's run lies."""
    return Path(folder, f"fold-{fold}")


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
    place = fold_folder(folder, fold)
    ours.training.output_dir = str(place)
    ours.data.split = str(place / run_folder.SPLITS)
    going_on = last_checkpoint(place) is not None
    ours.training.resume_from_checkpoint = "last" if going_on else None
    ours.training.overwrite_output_dir = not going_on
    return ours


def finished(folder: Path, fold: int) -> bool:
    """Whether a fold has been scored."""
    return (fold_folder(folder, fold) / run_folder.RESULTS).is_file()


def pool(folder: Path, folds: int) -> pd.DataFrame:
    """The out-of-fold predictions of all songs, with their `fold`: `scores.predictions_table` of every fold.

    Raises:
        UsageError: when a song is in two folds, so that they cannot be of one cross-validation.
    """
    tables = [
        read_table(fold_folder(folder, fold) / run_folder.PREDICTIONS).assign(fold=fold) for fold in range(folds)
    ]
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
    results = [json.loads((fold_folder(folder, fold) / run_folder.RESULTS).read_text()) for fold in range(folds)]
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
    tables = [read_curve_scores(fold_folder(folder, fold)) for fold in range(folds)]
    return None if tables[0] is None else sum(tables) / folds


def write_pooled(
    folder: Path, folds: int, songs: Dataset, protocol: str, extractor: ASTEmotionFeatureExtractor
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None, dict]:
    """Score the pooled predictions of finished folds, and write tables, plots and `all_results.json`.

    Args:
        songs: all, stored, for their spectrograms.
        protocol: of `draw_folds`.

    Returns:
        The scores, those of each fold, those of curves, and all results.
    """
    table = pool(folder, folds)
    scores, fold_scores, curve_scores = score_systems(table), score_folds(table), mean_curve_scores(folder, folds)
    protocol = f"{songs.info.description}; {protocol}"
    results = {"protocol": protocol, "labels": scores.index[0][0], "folds": folds}
    results |= {**pooled_results(folder, folds), **flat(scores)}
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    run_folder.write_table(folder, run_folder.FOLD_SCORES, fold_scores.rename_axis("fold").reset_index())
    if curve_scores is not None:
        run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
    plot_held_out(folder, table, scores, protocol, songs, extractor)
    run_folder.write_results(folder, results)
    return scores, fold_scores, curve_scores, results
