"""Finished runs beside each other: their scores on the same test songs, and the differences between them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import run_folder
from ..errors import UsageError
from .metrics import KEYS, score
from .scores import (
    artist_of_song,
    difference_with_intervals,
    read_table,
    references,
    score_with_intervals,
    system_predictions,
    treatments,
)


class Comparison(NamedTuple):
    """Scores of runs on the same test songs."""

    songs: int
    artists: int  # songs of unknown artists count as artists of their own
    labels: str  # their treatment
    scores: pd.DataFrame  # one row per run, then deviations over seeds; columns as in `scores.score_systems`
    differences: pd.DataFrame  # one row per run after the first: its scores minus the first's


class _Run(NamedTuple):
    name: str
    table: pd.DataFrame  # of its test songs, by song_id
    predictions: np.ndarray  # (seeds, songs, 2)


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Score finished runs on the test songs that they share, and compare each with the first.

    Args:
        folders: of fine-tuning runs or cross-validations, or folders whose `seed-<n>` are such runs. Of several seeds,
            the mean of the scores counts, and intervals are over artists and seeds (see `intervals.score_intervals`).

    Raises:
        UsageError: for a folder without a finished run, or runs whose test songs or labels are not the same.
    """
    runs = [_read_run(Path(folder)) for folder in folders]
    first, *others = runs
    for run in others:
        _refuse_other_songs(run.name, run.table, first.name, first.table)
    truth, artists = references(first.table), artist_of_song(first.table)
    scores = {run.name: score_with_intervals(run.predictions, truth, artists) for run in runs}
    for run in (run for run in runs if len(run.predictions) > 1):
        by_seed = [score(seed, truth) for seed in run.predictions]
        scores[f"{run.name}, sd"] = {key: float(np.std([row[key] for row in by_seed], ddof=1)) for key in KEYS}
    differences = {
        f"{run.name} - {first.name}": difference_with_intervals(run.predictions, first.predictions, truth, artists)
        for run in others
    }
    return Comparison(
        len(truth),
        len(set(artists)),
        next(iter(treatments(first.table))),
        pd.DataFrame.from_dict(scores, orient="index").rename_axis("run"),
        pd.DataFrame.from_dict(differences, orient="index").rename_axis("run"),
    )


def _read_run(folder: Path) -> _Run:
    seeds = run_folder.seed_folders(folder)
    if (folder / run_folder.RESULTS).is_file() or not seeds:
        if missing := [name for name in (run_folder.RESULTS, run_folder.PREDICTIONS) if not (folder / name).is_file()]:
            raise UsageError(
                f"'{folder}' holds no finished run or seeds of one (no {', no '.join(missing)}): name the output "
                "folder of finetune or cross_validate."
            )
        table = _read_songs(folder)
        return _Run(str(folder), table, system_predictions(table, "model")[None])
    if missing := [seed.name for seed in seeds if not (seed / run_folder.RESULTS).is_file()]:
        raise UsageError(
            f"{len(missing)} of {len(seeds)} seeds in '{folder}' are not finished ({', '.join(missing)}): the command "
            "that started them finishes them."
        )
    tables = [_read_songs(seed) for seed in seeds]
    for seed, table in zip(seeds[1:], tables[1:], strict=True):
        _refuse_other_songs(str(seed), table, str(seeds[0]), tables[0])
    predictions = np.stack([system_predictions(table, "model") for table in tables])
    return _Run(f"{folder} ({len(seeds)} seeds)", tables[0], predictions)


def _read_songs(folder: Path) -> pd.DataFrame:
    return read_table(folder / run_folder.PREDICTIONS).sort_values("song_id", ignore_index=True)


def _refuse_other_songs(name: str, table: pd.DataFrame, first: str, of_first: pd.DataFrame) -> None:
    """Raise a `UsageError` if two runs were tested on different songs, or the same songs with different labels."""
    ours, theirs = set(table["song_id"]), set(of_first["song_id"])
    if ours != theirs:
        raise UsageError(
            f"'{name}' was tested on {len(ours)} songs and '{first}' on {len(theirs)}, and {len(ours & theirs)} songs "
            "are in both: train one of them again with the test songs of the other (--split FOLDER/splits)."
        )
    differ = (table["labels"] != of_first["labels"]) | ~np.isclose(references(table), references(of_first)).all(axis=1)
    if differ.any():
        labels = [" + ".join(dict.fromkeys(songs["labels"])) for songs in (table, of_first)]
        raise UsageError(
            f"the labels of {differ.sum()} of {len(table)} test songs differ between '{name}' ({labels[0]}) and "
            f"'{first}' ({labels[1]}): train both on the same collection with the same --labels."
        )
