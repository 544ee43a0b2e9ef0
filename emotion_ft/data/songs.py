"""A collection as a `datasets.Dataset`, one row per song: its columns, joined collections, and their splits."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Audio, Dataset, DatasetDict, DatasetInfo, Features, List, Value, concatenate_datasets

from .artists import is_known, warn_of_large_group
from .leaks import refuse_crossing, refuse_same_songs
from .splits import SplitError, full_songs_split, id_list_split, random_split, shared_artists

logger = logging.getLogger(__name__)

CURVE_STEP = 0.5
"""Seconds between two values of a dynamic annotation."""
FEATURES = Features(
    {
        "song_id": Value("int64"),
        "source": Value("string"),
        "audio": Audio(decode=False),
        "valence": Value("float32"),
        "arousal": Value("float32"),
        "valence_std": Value("float32"),
        "arousal_std": Value("float32"),
        "raters": Value("int32"),
        "raters_at_least": Value("bool"),
        "labels": Value("string"),
        "other_valence": Value("float32"),
        "other_arousal": Value("float32"),
        "artist": Value("string"),
        "curve_start": Value("float32"),
        "curve_valence": List(Value("float32")),
        "curve_arousal": List(Value("float32")),
        "rendered": Value("bool"),
        "synthetic": Value("bool"),
    }
)
"""The columns of a row; every collection has all of them, None where a value is not known.

- `song_id`: unique among all collections; DEAM's songs keep their ids
- `source`: the collection's name
- `audio`: the path, under "path"; not decoded
- `valence`, `arousal`: means over the annotators, 1-9, and their standard deviations `valence_std`, `arousal_std`
- `raters`: how many people a label is the mean of; with `raters_at_least`, that many or more
- `labels`: how they were treated: "repaired", "distributed" or "dynamic" (see `deam.load_songs`)
- `other_valence`, `other_arousal`: the labels under the other treatment, `OTHER[labels]`, where that differs
- `artist`
- `curve_valence`, `curve_arousal`: in [-1, 1], every 0.5 s from `curve_start` seconds
- `rendered`: whether the audio was rendered from the labels
- `synthetic`: False; what a generator made is marked True
"""

OTHER = {"repaired": "distributed", "distributed": "repaired", "dynamic": "repaired"}
"""Treatments of DEAM's labels, and the one that results are reported against besides."""


def songs_dataset(columns: dict[str, Sequence], description: str) -> Dataset:
    """Columns of `FEATURES` -> a dataset in memory. Others are None, or False where they are boolean.

    Args:
        columns: with `audio` as a list of paths.
        description: the collection and the treatment of its labels, as every result names them.
    """
    rows = len(columns["song_id"])
    given = {**columns, "audio": [{"bytes": None, "path": str(path)} for path in columns["audio"]]}
    defaults = {name: [False if kind == Value("bool") else None] * rows for name, kind in FEATURES.items()}
    # Dataset.from_dict would encode the paths, and for that import torchcodec.
    table = pa.Table.from_pydict({**defaults, **given}, schema=FEATURES.arrow_schema)
    return Dataset(table, info=DatasetInfo(description=description, features=FEATURES))


def join(collections: Sequence[Dataset]) -> Dataset:
    """Several collections as one, each row with its `source`.

    Raises:
        SplitError: when a song is in two of them.
    """
    if len(collections) == 1:
        return collections[0]
    for index, songs in enumerate(collections):
        for earlier in collections[:index]:
            refuse_same_songs(songs, earlier, f"joined with {earlier['source'][0]}")
    joint = concatenate_datasets(list(collections))
    joint.info.description = " + ".join(songs.info.description for songs in collections)
    return joint


def collections_of(*sides: Dataset) -> list[dict[str, Any]]:
    """The collections that songs come from.

    Returns:
        One entry per collection: its name `source`, the treatment of its `labels`, the number of `songs`, and whether
        they were `rendered`.
    """
    names = ("source", "labels", "rendered")
    counts = Counter(row for songs in sides for row in zip(*(songs[name] for name in names), strict=True))
    return [dict(zip(names, row, strict=True)) | {"songs": count} for row, count in counts.items()]


def artists_of(songs: Dataset) -> dict[int, str]:
    """Artists by song id, where they are known (see `artists.is_known`)."""
    return {key: artist for key, artist in zip(songs["song_id"], songs["artist"], strict=True) if is_known(artist)}


def labels_of(songs: Dataset) -> np.ndarray:
    """(songs, 2) valence and arousal, on 1-9."""
    return np.stack([songs["valence"], songs["arousal"]], axis=1).astype(np.float64)


def split_songs(
    songs: Dataset,
    split: str | os.PathLike = "random",
    seed: int = 42,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    group_by_artist: bool = True,
) -> DatasetDict:
    """Songs as `train`, `validation` and `test`.

    `split` is "random", "full_songs" (MediaEval 2015: test on the 58 full songs), or a folder of id lists
    (`train.txt`, `validation.txt`, `test.txt`, one song id per line). With `group_by_artist`, a split that is drawn
    keeps an artist's songs on one side, and id lists that do not are refused. Labels and split are named in the
    `info.description` of each split. Raises `SplitError` for a split that cannot be filled, or that leaks.
    """
    song_ids = songs["song_id"][:]
    artists = artists_of(songs)
    grouped = artists if group_by_artist else None
    warn_of_large_group(grouped or {}, len(songs))
    if split == "random":
        splits = random_split(song_ids, grouped, seed, validation_fraction, test_fraction)
        protocol = f"random, {validation_fraction:g} validation, {test_fraction:g} test"
    elif split == "full_songs":
        splits = full_songs_split(song_ids, grouped, seed, validation_fraction)
        protocol = f"full_songs (test on the full songs, as MediaEval 2015), {validation_fraction:g} validation"
    elif Path(split).is_dir():
        splits = id_list_split(split, song_ids)
        protocol = f"by the id lists in {Path(split).name}"
    else:
        raise SplitError(f"split {os.fspath(split)!r} is neither 'random', 'full_songs' nor a folder of id lists")
    if split in ("random", "full_songs"):
        protocol += f", {grouping(artists, len(songs), group_by_artist)}, seed {seed}"
    refuse_crossing(splits, grouped)
    if leaks := shared_artists(splits, artists):
        protocol += f"; {len(leaks)} validation and test songs share an artist with train"
    datasets = select_splits(songs, splits, protocol)
    logger.info("%s: %s", datasets["train"].info.description, ", ".join(f"{k} {len(v)}" for k, v in splits.items()))
    return datasets


def grouping(artists: dict[int, str], songs: int, group_by_artist: bool) -> str:
    """The half sentence of a protocol that says whether artists are kept apart."""
    if not group_by_artist:
        return "not grouped by artist"
    if not artists:
        return "grouped by song (no artist is known)"
    return f"grouped by artist (known for {len(artists)} of {songs} songs)"


def select_splits(songs: Dataset, splits: dict[str, list[int]], protocol: str) -> DatasetDict:
    """The songs of each side, in the order of `splits`; `protocol` goes into their descriptions."""
    row_of = {song_id: row for row, song_id in enumerate(songs["song_id"])}
    datasets = DatasetDict({name: songs.select([row_of[key] for key in ids]) for name, ids in splits.items()})
    for dataset in datasets.values():
        dataset.info.description = f"{songs.info.description}; split {protocol}"
    return datasets
