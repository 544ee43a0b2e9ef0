"""Writing a prepared collection from audio, shard by shard: several processes and machines can write to one place.

A shard is a Parquet file of consecutive songs. Its writer decodes these songs and no others, and it appears whole or
not at all. Its footer says what it was made from: a shard made from the same input is kept, so that a killed run can
resume, and its bytes are the same whoever wrote it. The small files come last, from whoever finds all shards complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, Value
from fsspec.implementations.local import LocalFileSystem
from tqdm.auto import tqdm

from ..errors import SAME_COMMAND
from ..faults import writing
from .features import BadFile, LogMel, follow_parent, report_bad_files, storing_pool
from .prepared import COLLECTION_NAME, LABELS, LOG_MELS, PART, SUFFIX
from .songs import collections_of

SHARD_SONGS = 256
SCHEMA = Features({"song_id": Value("int64"), "log_mel": Value("binary"), "frames": Value("int32")}).arrow_schema
MADE_FROM, LEFT_OUT = b"emotion_ft.made_from", b"emotion_ft.left_out"  # in a shard's footer


class Shard(NamedTuple):
    """A Parquet file: its name in the collection, and the `song_id` and `path` of its songs, by ascending id."""

    name: str
    rows: list[dict]


def plan_shards(tables: dict[str, Dataset]) -> list[Shard]:
    """All songs of a collection, divided into shards; the same on every machine that sees the same songs.

    Args:
        tables: the songs under each treatment of their labels, with the columns `songs.FEATURES`.
    """
    paths = {
        song_id: audio["path"]
        for songs in tables.values()
        for song_id, audio in zip(songs["song_id"], songs["audio"], strict=True)
    }
    rows = [{"song_id": song_id, "path": paths[song_id]} for song_id in sorted(paths)]
    starts = range(0, len(rows), SHARD_SONGS)
    return [
        Shard(f"{LOG_MELS}/{number:05d}{SUFFIX}", rows[start : start + SHARD_SONGS])
        for number, start in enumerate(starts)
    ]


def store_shards(output: str | Path, shards: list[Shard], log_mel: LogMel, num_proc: int = 1) -> None:
    """Write the shards that are not there yet.

    Args:
        output: a folder, or a URL that fsspec can write to.
        shards: the shards of `plan_shards` to write here; nobody else may be writing them at the same time.
        log_mel: computes a song's log-mel.
        num_proc: processes that decode and compute, on one core each.

    Raises:
        DiskError: if the output cannot be written to.
        WorkerKilled: if one of the processes was.
    """
    system, root = fsspec.url_to_fs(str(output))
    todo = [shard for shard in shards if not _made(_footer(system, f"{root}/{shard.name}"), shard, log_mel)]
    songs = sum(len(shard.rows) for shard in todo)
    with (
        writing(root, "output", SAME_COMMAND),
        tqdm(total=songs, desc="Storing log-mels", unit="song", disable=not todo) as bar,
        storing_pool(num_proc, _begin_worker) as pool,
    ):
        system.makedirs(f"{root}/{LOG_MELS}", exist_ok=True)
        if todo:
            _remove(system, f"{root}/{COLLECTION_NAME}")
        for shard in todo:
            with _whole(system, f"{root}/{shard.name}") as place:
                _write(place, shard, pool.map(log_mel, shard.rows, chunksize=4), log_mel, bar)


def finish_prepared(
    output: str | Path,
    tables: dict[str, Dataset],
    shards: list[Shard],
    log_mel: LogMel,
    write_card: Callable[[Path], object] | None = None,
    max_bad_fraction: float = 0.05,
) -> list[str]:
    """If all shards are there, write the labels, the card and, last of all, `collection.json`.

    Args:
        output, log_mel: as for `store_shards`.
        tables, shards: the argument of `plan_shards`, and what it returns.
        write_card: writes a card into a folder that contains everything but the log-mels.
        max_bad_fraction: the share of songs without a log-mel, in [0, 1], above which to stop.

    Returns:
        The names of the shards that are still missing; if there are any, nothing is written.

    Raises:
        TooManyBadFiles: with the first bad files and their reasons.
        DiskError: if the output cannot be written to.
    """
    system, root = fsspec.url_to_fs(str(output))
    footers, missing = _footers(system, root, shards, log_mel)
    if missing:
        return missing
    pairs = list(zip(shards, footers, strict=True))
    bad = [file for shard, footer in pairs for file in _bad_files(shard, footer)]
    report_bad_files(bad, sum(len(shard.rows) for shard in shards), max_bad_fraction)
    frames, place = _frames(pairs)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, Path(root).name)
        (folder / LABELS).mkdir(parents=True)
        for treatment, songs in tables.items():
            _write_labels(folder / LABELS / f"{treatment}{SUFFIX}", songs, place)
        about = {
            "songs": len(place),
            "left_out": len(bad),
            "seconds": round(frames * log_mel.front_end["hop_length"] / log_mel.front_end["sampling_rate"]),
            "collections": collections_of(next(iter(tables.values()))),
            "descriptions": {treatment: songs.info.description for treatment, songs in tables.items()},
            "front_end": log_mel.front_end,
        }
        (folder / COLLECTION_NAME).write_text(json.dumps(about, indent=2) + "\n")
        if write_card is not None:
            write_card(folder)
        with writing(root, "output", SAME_COMMAND):
            _publish(folder, system, root, {shard.name for shard in shards})
    return []


def _begin_worker() -> None:
    follow_parent()
    torch.set_num_threads(1)


def _write(place: str, shard: Shard, log_mels: Iterable[dict], log_mel: LogMel, bar: tqdm) -> None:
    """Write one row group per song, as their log-mels arrive."""
    left_out: dict[int, str] = {}
    with pq.ParquetWriter(place, SCHEMA, use_content_defined_chunking=True, write_page_index=True) as writer:
        for row, made in zip(shard.rows, log_mels, strict=True):
            if made["error"]:
                left_out[row["song_id"]] = made["error"]
            else:
                stored = {"song_id": row["song_id"], "log_mel": made["log_mel"], "frames": made["frames"]}
                writer.write_table(pa.Table.from_pylist([stored], SCHEMA))
            bar.update()
        writer.add_key_value_metadata({MADE_FROM: _made_from(shard, log_mel), LEFT_OUT: json.dumps(left_out)})


def _made_from(shard: Shard, log_mel: LogMel) -> str:
    """A digest of the front end and the files' names and sizes, but not their times, which differ between machines."""
    files = [[row["song_id"], os.path.basename(row["path"]), _size(row["path"])] for row in shard.rows]
    return hashlib.sha256(json.dumps([log_mel.front_end, log_mel.min_seconds, files]).encode()).hexdigest()


def _size(path: str) -> int | None:
    with suppress(OSError):
        return os.path.getsize(path)
    return None


def _footers(
    system: fsspec.AbstractFileSystem, root: str, shards: list[Shard], log_mel: LogMel
) -> tuple[list[pq.FileMetaData], list[str]]:
    """The shards' footers, and the names of the shards that are missing or were made from something else."""
    if missing := sorted({shard.name for shard in shards} - _names(system, root, LOG_MELS)):
        return [], missing
    with ThreadPoolExecutor(16) as pool:  # they wait for the network
        footers = list(pool.map(lambda shard: _footer(system, f"{root}/{shard.name}"), shards))
    pairs = zip(shards, footers, strict=True)
    return footers, [shard.name for shard, footer in pairs if not _made(footer, shard, log_mel)]


def _footer(system: fsspec.AbstractFileSystem, path: str) -> pq.FileMetaData | None:
    """The metadata at the end of a Parquet file; None if it is missing or incomplete."""
    try:
        with system.open(path) as file:
            return pq.read_metadata(file)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _made(footer: pq.FileMetaData | None, shard: Shard, log_mel: LogMel) -> bool:
    found = footer and (footer.metadata or {}).get(MADE_FROM, b"").decode()
    return found == _made_from(shard, log_mel)


def _bad_files(shard: Shard, footer: pq.FileMetaData) -> Iterator[BadFile]:
    reasons = json.loads(footer.metadata[LEFT_OUT])
    for row in shard.rows:
        if reason := reasons.get(str(row["song_id"])):
            yield BadFile(row["song_id"], row["path"], reason)


def _frames(pairs: list[tuple[Shard, pq.FileMetaData]]) -> tuple[int, dict[int, str]]:
    """The number of all frames, and each song's place, as `log_mels/00000.parquet/2.mp3`; from the footers alone."""
    frames, place = 0, {}
    song_column, frames_column = SCHEMA.get_field_index("song_id"), SCHEMA.get_field_index("frames")
    for shard, footer in pairs:
        names = {row["song_id"]: os.path.basename(row["path"]) for row in shard.rows}
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            song_id = group.column(song_column).statistics.min
            place[song_id] = f"{shard.name}/{names[song_id]}"
            frames += group.column(frames_column).statistics.min
    return frames, place


def _write_labels(path: Path, songs: Dataset, place: dict[int, str]) -> None:
    kept = songs.select([row for row, song_id in enumerate(songs["song_id"]) if song_id in place])
    files = [place[song_id] for song_id in kept["song_id"]]
    kept.remove_columns("audio").add_column("file", files).to_parquet(path)


def _publish(folder: Path, system: fsspec.AbstractFileSystem, root: str, shards: set[str]) -> None:
    """Copy the small files to their place, `collection.json` last; remove what an earlier collection left there."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if all(_is_there(system, f"{root}/{name}", folder / name) for name in names):
        return  # another process has just finished, and may be reading them
    _remove(system, f"{root}/{COLLECTION_NAME}")
    for name in sorted(names - {COLLECTION_NAME}):
        _copy(folder, system, root, name)
    labels = {name for name in _names(system, root, LABELS) if name.endswith(SUFFIX)}
    for old in (labels | _names(system, root, LOG_MELS)) - names - shards:
        _remove(system, f"{root}/{old}")
    _copy(folder, system, root, COLLECTION_NAME)


def _is_there(system: fsspec.AbstractFileSystem, path: str, file: Path) -> bool:
    """Whether a file has been published already, to the byte."""
    try:
        return system.cat_file(path) == file.read_bytes()
    except FileNotFoundError:
        return False


def _copy(folder: Path, system: fsspec.AbstractFileSystem, root: str, name: str) -> None:
    system.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
    with _whole(system, f"{root}/{name}") as place:
        Path(place).write_bytes((folder / name).read_bytes())


def _names(system: fsspec.AbstractFileSystem, root: str, folder: str) -> set[str]:
    system.invalidate_cache()
    with suppress(FileNotFoundError):  # an object store has no empty folders
        return {
            f"{folder}/{os.path.basename(path.rstrip('/'))}" for path in system.ls(f"{root}/{folder}", detail=False)
        }
    return set()


def _remove(system: fsspec.AbstractFileSystem, path: str) -> None:
    with suppress(FileNotFoundError):  # another process may have been quicker
        system.rm(path, recursive=True)


@contextmanager
def _whole(system: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """A path on this machine to write to; the file is then moved to `path` in one step."""
    local = isinstance(system, LocalFileSystem)
    with TemporaryDirectory(prefix=PART, dir=os.path.dirname(path) if local else None) as folder:
        place = os.path.join(folder, os.path.basename(path))
        yield place
        if local:
            os.replace(place, path)
        else:
            system.put_file(place, path)
