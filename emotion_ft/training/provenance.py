"""Provenance: the songs, labels and front end that a run used, and checks that other data may be combined with it."""

from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict

from .. import run_folder
from ..config.parser import parse_config
from ..config.settings import Config
from ..data.artists import songs_by
from ..data.features import FRONT_END_SETTINGS
from ..data.files import first_ids
from ..data.front_end import FrontEnd
from ..data.leaks import refuse_same_songs
from ..data.songs import artists_of
from ..data.splits import SPLIT_NAMES, SplitError, read_split
from ..errors import UsageError
from ..scoring.scores import read_table


def seen_songs(folder: str | Path) -> pd.DataFrame:
    """The training and validation songs of a model, from `songs.csv` in its folder; raises `UsageError` without it."""
    path = Path(folder, run_folder.SONGS)
    if not path.is_file():
        raise UsageError(f"'{folder}' does not say which songs it was trained on: no {run_folder.SONGS}.")
    songs = read_table(path)
    return songs[songs["split"] != "test"].reset_index(drop=True)


def refuse_seen(checkpoint: str | Path, songs: DatasetDict, group_by_artist: bool) -> None:
    """Raise a `SplitError` if the run to start from was trained or selected on songs that are held out here.

    Args:
        checkpoint: a run's folder or one of its checkpoints; anything else has no list of songs and passes.
        songs: `validation` and `test` are held out.
        group_by_artist: whether to refuse songs by artists that it was trained on, too.
    """
    places = (Path(checkpoint), Path(checkpoint).parent)
    folder = next((place for place in places if (place / run_folder.SONGS).is_file()), None)
    if folder is None:
        return
    for name in ("validation", "test"):
        side, seen = songs[name], seen_songs(folder)
        seen = seen[seen["split"] == "train"] if name == "validation" else seen  # selecting on a song twice is no leak
        if same := sorted(set(side["song_id"]) & set(seen["song_id"])):
            raise SplitError(
                f"'{checkpoint}' was trained or selected on {len(same)} of the {len(side)} {name} songs: "
                f"{first_ids(same)}. Start from it with its own split, --split {folder / run_folder.SPLITS}, or from "
                "weights that have not seen them."
            )
        if group_by_artist and (shared := songs_by(artists_of(side), seen["artist"].dropna())):
            raise SplitError(
                f"'{checkpoint}' was trained or selected on songs by the artists of {len(shared)} of the {len(side)} "
                f"{name} songs: {first_ids(shared)}. Start from other weights, or accept it with --group_by_artist "
                "false."
            )


def refuse_another_split(folder: str | Path, songs: DatasetDict) -> None:
    """Raise a `SplitError` if a run would resume with other songs on a side, or other labels, than it began with."""
    if not (Path(folder) / run_folder.SPLITS).is_dir():
        return
    theirs = read_split(Path(folder) / run_folder.SPLITS)
    changes = []
    for name in SPLIT_NAMES:
        if others := sorted(set(songs[name]["song_id"]) ^ set(theirs[name])):
            changes.append(f"{name} differs in {len(others)} songs, {first_ids(others)}")
    if not changes and (Path(folder) / run_folder.SONGS).is_file():
        labels = dict(pair for side in songs.values() for pair in zip(side["song_id"], side["labels"], strict=True))
        began = read_table(Path(folder) / run_folder.SONGS)
        if any(labels[key] != name for key, name in zip(began["song_id"], began["labels"], strict=True)):
            changes.append(f"its labels are {began['labels'][0]}")
    if changes:
        raise SplitError(
            f"'{folder}' was begun with other songs or labels: {'; '.join(changes)}. Resuming would score songs that "
            "it was trained on: use the settings in its config.yaml, or start again with --overwrite_output_dir."
        )


def same_songs(songs: Dataset, folder: str | Path) -> int:
    """Count the songs of another collection whose artist a model has seen.

    Raises `SplitError` if the model was trained or selected on some of the songs, under whatever name.
    """
    seen = seen_songs(folder)
    columns = ["song_id", "source", "valence", "arousal", "other_valence", "other_arousal"]
    refuse_same_songs(songs, Dataset.from_pandas(seen[columns], preserve_index=False), f"tested with '{folder}'")
    return len(songs_by(artists_of(songs), seen["artist"].dropna()))


def check_front_end(ours: FrontEnd, theirs: FrontEnd, name: str) -> None:
    """Raise a `UsageError` that lists the settings in which our front end differs from that of the run `name`."""
    pairs = [(key, getattr(ours, key), getattr(theirs, key)) for key in (*FRONT_END_SETTINGS, "max_length")]
    if differences := [f"{key} is {here} here and {there} there" for key, here, there in pairs if here != there]:
        raise UsageError(
            f"section 'audio' differs from that of '{name}': {'; '.join(differences)}. Their windows do not mix: use "
            f"the settings in {Path(name) / run_folder.CONFIG}."
        )


def check_labels(config: Config, folder: str | Path) -> Config:
    """The configuration of a folder's run; raises `UsageError` if its labels are not treated as in `config`."""
    # Earlier versions wrote label_smoothing beside a hinge loss, whether or not the run had a GAN.
    unused = ("--precision", "fp32", "--adversarial_loss", "bce")
    theirs = parse_config([str(Path(folder) / run_folder.CONFIG), *unused])
    if theirs.data.labels != config.data.labels:
        here, there = config.data.labels, theirs.data.labels
        raise UsageError(f"labels are {here} here, but {there} in '{folder}': use the same.")
    return theirs
