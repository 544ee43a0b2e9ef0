"""A prepared collection: labels and log-mels as Parquet, without audio, in a folder, on the Hub or behind any URL.

- `collection.json`: the front end, and the collection under each treatment of its labels
- `labels/TREATMENT.parquet`: `songs.FEATURES` without `audio`, but with `file`, as `log_mels/00000.parquet/2.mp3`; a
  row a song
- `log_mels/00000.parquet`: `song_id`, `log_mel` (frames x mels, float16, as bytes) and `frames`; a row group a song
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from tqdm.auto import tqdm

from ..errors import UsageError
from .songs import songs_dataset

COLLECTION_NAME = "collection.json"
LABELS, LOG_MELS = "labels", "log_mels"
SUFFIX = ".parquet"
FILES = (COLLECTION_NAME, f"{LABELS}/*{SUFFIX}", f"{LOG_MELS}/*{SUFFIX}")
PLACE = re.compile(rf"{LOG_MELS}/[^/]+{re.escape(SUFFIX)}/[^/]+")  # of a song
COLUMNS = ["song_id", "log_mel", "frames"]
SHARD_SONGS = 256


def write_prepared(folder: str | Path, tables: dict[str, Dataset], stored: Dataset, front_end: dict) -> Path:
    """Write a prepared collection into `folder`; `collection.json` comes last and marks it as whole.

    Args:
        folder: made if it is not there; of an earlier collection in it nothing stays.
        tables: the songs by treatment of their labels, columns `songs.FEATURES`.
        stored: all of these songs with their `log_mel` and `frames`, as `store_log_mels` returns them. Songs that are
            not in it are left out.
        front_end: what the log-mels were made with, as `features.front_end` says.

    Returns:
        The folder.
    """
    folder = Path(folder)
    for name in (LABELS, LOG_MELS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob(f"*{SUFFIX}"):
            old.unlink()
    (folder / COLLECTION_NAME).unlink(missing_ok=True)

    stored = stored.select(np.argsort(stored["song_id"]))
    place = {}
    shards = range(0, len(stored), SHARD_SONGS)
    for number, start in enumerate(tqdm(shards, desc="Writing log-mels", unit="file")):
        shard = stored.select(range(start, min(start + SHARD_SONGS, len(stored))))
        name = f"{LOG_MELS}/{number:05d}{SUFFIX}"
        shard.select_columns(COLUMNS).to_parquet(folder / name, batch_size=1)
        for song_id, audio in zip(shard["song_id"], shard["audio"], strict=True):
            place[song_id] = f"{name}/{Path(audio['path']).name}"
    for treatment, songs in tables.items():
        kept = songs.select([row for row, song_id in enumerate(songs["song_id"]) if song_id in place])
        files = [place[song_id] for song_id in kept["song_id"]]
        kept.remove_columns("audio").add_column("file", files).to_parquet(folder / LABELS / f"{treatment}{SUFFIX}")
    about = {
        "songs": len(stored),
        "left_out": len({song_id for songs in tables.values() for song_id in songs["song_id"]}) - len(stored),
        "seconds": round(sum(stored["frames"]) * front_end["hop_length"] / front_end["sampling_rate"]),
        "descriptions": {treatment: songs.info.description for treatment, songs in tables.items()},
        "front_end": front_end,
    }
    (folder / COLLECTION_NAME).write_text(json.dumps(about, indent=2) + "\n")
    return folder


def refuse_in_use(folder: str | Path) -> None:
    """Raise `UsageError` when a folder holds anything but a prepared collection, whole or not."""
    ours = {COLLECTION_NAME, LABELS, LOG_MELS, "README.md"}
    folder = Path(folder)
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise UsageError(
            f"'{folder}' is in use ({others[0] if others else 'a file'}): choose a new or an empty folder."
        )


def read_about(source: str | Path) -> dict:
    """`collection.json`: `songs`, `left_out`, `seconds`, `descriptions` by treatment of the labels, `front_end`.

    Args:
        source: a folder, or a URL that fsspec knows.

    Raises:
        UsageError: when there is no prepared collection.
    """
    with _read_errors(str(source)):
        return json.loads(_read(f"{source}/{COLLECTION_NAME}"))


def load_prepared(source: str, labels: str) -> Dataset:
    """The songs of a prepared collection, as `deam.load_songs` would return them; log-mels are not read yet.

    Args:
        source: a folder, the id of a data set on the Hub (`you/name` or `you/name@revision`; its small files are
            cached, so that a later call needs no network), or a URL that fsspec knows.
        labels: their treatment: "repaired", "distributed" or "dynamic".

    Raises:
        UsageError: when there is no prepared collection, or none with such labels.
    """
    labels_at, log_mels_at = _locate(source)
    about = read_about(labels_at)
    with _read_errors(source):
        if labels not in about["descriptions"]:
            raise UsageError(f"'{source}' holds no labels '{labels}', but {', '.join(about['descriptions'])}.")
        with fsspec.open(f"{labels_at}/{LABELS}/{labels}{SUFFIX}") as file:
            columns = pq.read_table(file).to_pydict()
        files = columns.pop("file")
        if strange := [file for file in files if not PLACE.fullmatch(file)]:
            raise UsageError(f"'{source}': a log-mel cannot lie at '{strange[0]}', only in {LOG_MELS}/*{SUFFIX}.")
        columns["audio"] = [f"{log_mels_at}/{file}" for file in files]
        return songs_dataset(columns, about["descriptions"][labels])


def is_prepared(path: str) -> bool:
    """Whether an audio path is a row of a prepared collection."""
    return os.path.dirname(path).endswith(SUFFIX)


def read_prepared(path: str, song_id: int, front_end: dict) -> dict:
    """A song's `log_mel`, (frames, mels) float16 as bytes, and `frames`; only its part of the Parquet file is read.

    Args:
        path: of the song, as `load_prepared` gives it.
        song_id: its id.
        front_end: what the log-mel must have been made with.

    Raises:
        UsageError: when it was made otherwise, or cannot be read.
    """
    shard = os.path.dirname(path)
    source = shard.rsplit("/", 2)[0]
    with _read_errors(source):
        _refuse_another(source, front_end)
        file, groups = _open(shard, os.getpid())
        return file.read_row_group(groups[song_id], columns=["log_mel", "frames"]).to_pylist()[0]


def shard_identity(path: str) -> list:
    """What changes when a song's Parquet file does: its address alone where that names a commit, else its state."""
    shard = os.path.dirname(path)
    if "@" in shard and shard.startswith("hf://"):
        return [shard]
    return [shard, _state(shard)]


@lru_cache(maxsize=64)
def _state(shard: str) -> str:
    with _read_errors(shard.rsplit("/", 2)[0]):
        system, name = fsspec.url_to_fs(shard)
        return system.ukey(name)


@lru_cache(maxsize=4)
def _open(shard: str, process: int) -> tuple[pq.ParquetFile, dict[int, int]]:
    """An open Parquet file, of this process alone, and the row group of every song in it, by its footer."""
    file = pq.ParquetFile(fsspec.open(shard).open())
    column = file.schema_arrow.get_field_index("song_id")
    groups = range(file.num_row_groups)
    return file, {file.metadata.row_group(group).column(column).statistics.min: group for group in groups}


_read_about = lru_cache(maxsize=4)(read_about)


def _refuse_another(source: str, front_end: dict) -> None:
    theirs = _read_about(source)["front_end"]
    others = [
        f"{name} {theirs.get(name)}, not {value}" for name, value in front_end.items() if theirs.get(name) != value
    ]
    if others:
        raise UsageError(
            f"the log-mels in '{source}' were made with {', '.join(others)}: set the section 'audio' as they need, or "
            "prepare the collection anew."
        )


def _locate(source: str) -> tuple[str, str]:
    """Where the labels lie, and where the log-mels."""
    if "://" in source:
        return (source.rstrip("/"),) * 2
    if Path(source).expanduser().is_dir():
        return (str(Path(source).expanduser().absolute()),) * 2
    repo_id, _, revision = source.partition("@")
    with _read_errors(source):
        small = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=[COLLECTION_NAME, f"{LABELS}/*{SUFFIX}"],
        )
    return small, f"hf://datasets/{repo_id}@{Path(small).name}"


def _read(url: str) -> str:
    with fsspec.open(url, "rt") as file:
        return file.read()


@contextmanager
def _read_errors(source: str) -> Iterator[None]:
    """Errors of files, of the Hub and of pyarrow as one sentence."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, HTTPError, KeyError, ValueError) as error:
        raise UsageError(
            f"cannot read a prepared collection from '{source}', which must be a folder of recipes/prepare.py, a data "
            f"set on the Hub (you/name) or a URL: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
