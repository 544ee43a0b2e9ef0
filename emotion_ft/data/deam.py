"""DEAM's folder -> `datasets.DatasetDict`, one row a song.

DEAM: 1802 songs (1744 excerpts of 45 s, 58 full songs) under Creative Commons licences, each rated for valence and
arousal by about ten people. Source: Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis
of music", PLoS ONE 12(3).
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
from datasets import Audio, Dataset, DatasetDict, DatasetInfo, Features, List, Value

from .annotations import (
    EXCHANGED_UP_TO,
    RENDER_SETTINGS,
    AnnotationError,
    files_under,
    find_file,
    read_artists,
    read_dynamic,
    read_static,
)
from .exchange import exchange_back, exchanged_songs
from .splits import SplitError, full_songs_split, id_list_split, random_split, shared_artists

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".aiff", ".aif")

FEATURES = Features(
    {
        "song_id": Value("int64"),
        "audio": Audio(decode=False),
        "valence": Value("float32"),
        "arousal": Value("float32"),
        "valence_std": Value("float32"),
        "arousal_std": Value("float32"),
        "artist": Value("string"),
        "curve_start": Value("float32"),
        "curve_valence": List(Value("float32")),
        "curve_arousal": List(Value("float32")),
        "synthetic": Value("bool"),
    }
)


def load_deam(
    root: str | os.PathLike,
    split: str | os.PathLike = "random",
    labels: str = "repaired",
    seed: int = 42,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    group_by_artist: bool = True,
) -> DatasetDict:
    """DEAM under `root`, as `train`, `validation` and `test`; the rows are those of `load_songs`.

    `split` is "random", "full_songs" (MediaEval 2015: test on the 58 full songs), or a folder of id lists
    (`train.txt`, `validation.txt`, `test.txt`, one song id a line). `group_by_artist` keeps an artist's songs on one
    side of a split that is drawn. Labels and split are named in the `info.description` of each split.
    Raises `AnnotationError` for a faulty collection and `SplitError` for a split that it cannot fill.
    """
    songs = load_songs(root, labels)
    song_ids = songs["song_id"][:]
    artists = {key: artist for key, artist in zip(song_ids, songs["artist"], strict=True) if artist}
    groups = artists if group_by_artist else None
    if split == "random":
        splits = random_split(song_ids, groups, seed, validation_fraction, test_fraction)
        protocol = f"random, {validation_fraction:g} validation, {test_fraction:g} test"
    elif split == "full_songs":
        splits = full_songs_split(song_ids, groups, seed, validation_fraction)
        protocol = f"full_songs (test on the full songs, as MediaEval 2015), {validation_fraction:g} validation"
    elif Path(split).is_dir():
        splits = id_list_split(split, song_ids)
        protocol = f"by the id lists in {Path(split).name}"
    else:
        raise SplitError(f"split {os.fspath(split)!r} is neither 'random', 'full_songs' nor a folder of id lists")
    if split in ("random", "full_songs"):
        grouping = f"grouped by artist (known for {len(artists)} of {len(songs)} songs)"
        protocol += f", {grouping if group_by_artist else 'not grouped by artist'}, seed {seed}"
    if leaks := shared_artists(splits, artists):
        protocol += f"; {len(leaks)} validation and test songs share an artist with train"
    row_of = {song_id: row for row, song_id in enumerate(song_ids)}
    datasets = DatasetDict({name: songs.select([row_of[key] for key in ids]) for name, ids in splits.items()})
    for dataset in datasets.values():
        dataset.info.description = f"{songs.info.description}; split {protocol}"
    logger.info("%s: %s", datasets["train"].info.description, ", ".join(f"{k} {len(v)}" for k, v in splits.items()))
    return datasets


def load_songs(root: str | os.PathLike, labels: str = "repaired") -> Dataset:
    """All songs under `root` that have static annotations and audio, sorted by id; nothing is decoded.

    `labels` is "repaired" (see `exchange.repair`) or "distributed". The columns:

    - `song_id`, `artist` (None where unknown), `audio`: the path, under "path"
    - `valence`, `arousal`: means over the annotators, 1-9, and their standard deviations `valence_std`, `arousal_std`
    - `curve_valence`, `curve_arousal`: in [-1, 1], every 0.5 s from `curve_start` seconds; None without dynamic CSVs
    - `synthetic`: False; what a generator made is marked True

    Audio is found at any depth by its name, the song id (`DEAM_audio/MEMD_audio/2.mp3`). Songs with only one of
    annotation and audio are left out with a warning. `info.description` names the treatment of the labels.
    Raises `AnnotationError` for a missing or empty root, faulty annotations, two audio files of one song, or no audio.
    """
    if labels not in ("repaired", "distributed"):
        raise ValueError(f"labels must be 'repaired' or 'distributed', got {labels!r}")
    root = Path(root).expanduser().absolute()
    static, curves, artists = read_static(root), read_dynamic(root), read_artists(root)
    audio = find_audio(root)
    song_ids = sorted(audio.keys() & static.index)
    if not song_ids:
        raise AnnotationError(
            f"no audio for any of {len(static)} annotated songs under {root}: looked for files named by song id, as "
            f"{static.index[0]}{AUDIO_SUFFIXES[0]}, with one of the suffixes {' '.join(AUDIO_SUFFIXES)}"
        )
    _warn_left_out("annotated songs have no audio", static.index.difference(song_ids))
    _warn_left_out("audio files have no static annotations", audio.keys() - static.index)
    treatment = "as distributed"
    if labels == "repaired":
        ids = exchanged_songs(static, curves)
        static = exchange_back(static, ids)
        where = f"{ids[0]}-{ids[-1]}" if len(ids) and ids[-1] > EXCHANGED_UP_TO else f"≤ {EXCHANGED_UP_TO}"
        rows = len(ids.intersection(song_ids))
        treatment = f"repaired (valence and arousal exchanged back in {rows} rows with ids {where})"
        if not curves:
            treatment = "as distributed (no dynamic annotations to repair them by)"
    static = static.loc[song_ids]
    found = [curves.get(song_id) for song_id in song_ids]
    columns = {
        "song_id": song_ids,
        "audio": [{"bytes": None, "path": str(audio[song_id])} for song_id in song_ids],
        **{name: static[name].to_numpy("float32") for name in static},
        "artist": [artists.get(song_id) for song_id in song_ids],
        "curve_start": [curve and curve.start for curve in found],
        "curve_valence": [curve and curve.valence for curve in found],
        "curve_arousal": [curve and curve.arousal for curve in found],
        "synthetic": [False] * len(song_ids),
    }
    collection = "songs rendered in DEAM's layout" if find_file(root, RENDER_SETTINGS) else "DEAM"
    # Dataset.from_dict would encode the paths, and for that import torchcodec.
    table = pa.Table.from_pydict(columns, schema=FEATURES.arrow_schema)
    return Dataset(table, info=DatasetInfo(description=f"{collection}; labels {treatment}", features=FEATURES))


def find_audio(root: Path) -> dict[int, Path]:
    """The audio file of every song id, at any depth under `root`; `AnnotationError` for two files of one song."""
    audio = {}
    for path in files_under(root):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.stem.isascii() and path.stem.isdecimal():
            song_id = int(path.stem)
            if song_id in audio:
                raise AnnotationError(f"two audio files for song {song_id}: {audio[song_id]} and {path}; remove one")
            audio[song_id] = path
    return audio


def _warn_left_out(what: str, song_ids: Collection[int]) -> None:
    if len(song_ids):
        first = ", ".join(map(str, sorted(song_ids)[:10]))
        logger.warning("left out: %d %s: %s%s", len(song_ids), what, first, ", ..." if len(song_ids) > 10 else "")
