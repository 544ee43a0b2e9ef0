"""A prepared collection: labels and log-mels as Parquet, without audio, in a folder, on the Hub or at any URL.

- `collection.json`: the front end, and what the collection is under each treatment of its labels
- `labels/TREATMENT.parquet`: one row per song; `songs.FEATURES`, with `file` (`log_mels/00000.parquet/2.mp3`) in place
  of `audio`
- `log_mels/00000.parquet`: one row group per song; `song_id`, `log_mel` (frames x mels, float16, as bytes), `frames`

This module reads prepared collections; `shards` writes them.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

from .. import run_folder
from ..errors import UsageError
from .songs import songs_dataset

COLLECTION_NAME = "collection.json"
LABELS, LOG_MELS = "labels", "log_mels"
SUFFIX = ".parquet"
FILES = (COLLECTION_NAME, f"{LABELS}/*{SUFFIX}", f"{LOG_MELS}/*{SUFFIX}")
PLACE = re.compile(rf"{LOG_MELS}/[^/]+{re.escape(SUFFIX)}/[^/]+")  # where a song's log-mel is
PART = ".part-"  # begins the names of files that are still being written


def refuse_in_use(output: str | Path) -> None:
    """Raise `UsageError` if a folder or URL contains anything but a prepared collection, complete or not."""
    with _errors(f"cannot write to '{output}', which must be a folder or a URL that fsspec can write to"):
        system, root = fsspec.url_to_fs(str(output))
        is_file, folder = system.isfile(root), system.isdir(root)
        names = [os.path.basename(path.rstrip("/")) for path in system.ls(root, detail=False)] if folder else []
    ours = {COLLECTION_NAME, LABELS, LOG_MELS, run_folder.CARD}
    others = sorted(name for name in names if name not in ours and not name.startswith(PART))
    if others or is_file:
        what = others[0] if others else "a file"
        raise UsageError(f"'{output}' is in use ({what}): choose a new or an empty folder.")


def read_about(source: str | Path) -> dict:
    """`collection.json`: `songs`, `left_out`, `seconds`, `collections`, `descriptions` by treatment, `front_end`.

    Args:
        source: a folder, or a URL that fsspec knows.

    Raises:
        UsageError: if there is no prepared collection.
    """
    with _read_errors(str(source)), fsspec.open(f"{source}/{COLLECTION_NAME}", "rt") as file:
        return json.load(file)


def load_prepared(source: str, labels: str) -> Dataset:
    """The songs of a prepared collection, as `deam.load_songs` would return them; log-mels are not read yet.

    Args:
        source: a folder, the id of a dataset on the Hub (`you/name` or `you/name@revision`; its small files are
            cached, so that a later call needs no network), or a URL that fsspec knows.
        labels: how they were treated: "repaired", "distributed" or "dynamic".

    Raises:
        UsageError: if there is no prepared collection, or none with such labels.
    """
    labels_at, log_mels_at = _locate(source)
    about = read_about(labels_at)
    with _read_errors(source):
        if labels not in about["descriptions"]:
            raise UsageError(f"'{source}' has no labels '{labels}', only {', '.join(about['descriptions'])}.")
        with fsspec.open(f"{labels_at}/{LABELS}/{labels}{SUFFIX}") as file:
            columns = pq.read_table(file).to_pydict()
        files = columns.pop("file")
        if strange := [file for file in files if not PLACE.fullmatch(file)]:
            raise UsageError(f"'{source}': a log-mel cannot be at '{strange[0]}', only in {LOG_MELS}/*{SUFFIX}.")
        columns["audio"] = [f"{log_mels_at}/{file}" for file in files]
        return songs_dataset(columns, about["descriptions"][labels])


def is_prepared(path: str) -> bool:
    """Whether an audio path points into a prepared collection."""
    return os.path.dirname(path).endswith(SUFFIX)


def read_prepared(path: str, song_id: int, front_end: dict) -> dict:
    """A song's `log_mel`, (frames, mels) float16 as bytes, and `frames`; only its part of the Parquet file is read.

    Args:
        path: the song's, from `load_prepared`.
        song_id: the song's.
        front_end: the settings that the log-mel must have been made with.

    Raises:
        UsageError: if it was made with others, or cannot be read.
    """
    shard = os.path.dirname(path)
    source = shard.rsplit("/", 2)[0]
    with _read_errors(source):
        _refuse_other_front_end(source, front_end)
        file, groups = _open(shard, os.getpid())
        return file.read_row_group(groups[song_id], columns=["log_mel", "frames"]).to_pylist()[0]


def shard_identity(path: str) -> list:
    """What changes whenever a song's Parquet file does: its address if that names a commit, else its state as well."""
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
    """A Parquet file opened by this process, and the row group of each song in it, found in its footer."""
    file = pq.ParquetFile(fsspec.open(shard).open())
    column = file.schema_arrow.get_field_index("song_id")
    groups = range(file.num_row_groups)
    return file, {file.metadata.row_group(group).column(column).statistics.min: group for group in groups}


_read_about = lru_cache(maxsize=4)(read_about)


def _refuse_other_front_end(source: str, front_end: dict) -> None:
    theirs = _read_about(source)["front_end"]
    others = [
        f"{name} {theirs.get(name)}, not {value}" for name, value in front_end.items() if theirs.get(name) != value
    ]
    if others:
        raise UsageError(
            f"the log-mels in '{source}' were made with {', '.join(others)}: change the section 'audio' to match, or "
            "prepare the collection again."
        )


def _locate(source: str) -> tuple[str, str]:
    """The folders or URLs of the labels and of the log-mels."""
    if "://" in source:
        return (source.rstrip("/"),) * 2
    if Path(os.path.expanduser(source)).is_dir():
        return (str(Path(os.path.expanduser(source)).absolute()),) * 2
    repo_id, _, revision = source.partition("@")
    with _read_errors(source):
        small = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=[COLLECTION_NAME, f"{LABELS}/*{SUFFIX}"],
        )
    return small, f"hf://datasets/{repo_id}@{Path(small).name}"


def _read_errors(source: str) -> AbstractContextManager[None]:
    return _errors(
        f"cannot read a prepared collection from '{source}', which must be a folder written by `emotion-ft prepare`, "
        "a dataset on the Hub (you/name) or a URL"
    )


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn errors of files, the Hub, fsspec and pyarrow into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, HTTPError, KeyError, ValueError, ImportError) as error:
        raise UsageError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error
