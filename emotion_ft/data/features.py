"""Songs to stored log-mels: every audio file is decoded once, whatever happens to labels and splits afterwards."""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import groupby
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from tqdm.auto import tqdm

from ..errors import SAME_COMMAND, UsageError
from ..faults import WorkerKilled, writing
from .audio import AudioError, read_pieces
from .front_end import FrontEnd
from .prepared import is_prepared, read_prepared, shard_identity

logger = logging.getLogger(__name__)

# Songs with the same id // PART_SIZE are stored in one file: an interrupted run resumes after the last whole file.
PART_SIZE = 32
# Part of the stored files' names: raise it when the output of decoding or of a front end changes.
STORE_VERSION = 1
# What a stored log-mel depends on; the length and number of windows do not matter.
FRONT_END_SETTINGS = (
    "front_end",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "num_mel_bins",
    "f_min",
    "f_max",
    "log_floor",
)


class BadFile(NamedTuple):
    """An audio file that was left out, and why."""

    song_id: int
    path: str
    reason: str


class TooManyBadFiles(UsageError):
    """More audio files cannot be used than `max_bad_fraction` allows."""


def front_end(extractor: FrontEnd) -> dict:
    """The settings of a front end that its log-mels depend on."""
    return {"version": STORE_VERSION, **{name: getattr(extractor, name) for name in FRONT_END_SETTINGS}}


class LogMel:
    """For `Dataset.map`: a row's audio file -> `log_mel` (frames x mels, float16, as bytes), `frames` and `error`.

    For a row of a prepared collection, the log-mel stored there is read.
    """

    def __init__(self, extractor: FrontEnd, min_seconds: float):
        self.extractor = extractor
        self.front_end = front_end(extractor)
        self.min_seconds = max(min_seconds, (extractor.min_samples + 1) / extractor.sampling_rate)

    def __call__(self, row: dict) -> dict:
        if is_prepared(row["path"]):
            return self._checked(read_prepared(row["path"], row["song_id"], self.front_end))
        try:
            pieces = read_pieces(row["path"], self.extractor.sampling_rate, self.min_seconds)
            # Each piece becomes float16 at once, so that an hour of music is never in memory as float32.
            log_mel = np.concatenate([part.astype(np.float16) for part in self.extractor.iter_log_mel(pieces)])
        except (AudioError, OSError) as error:  # OSError: deleted since it was listed, or a failing disk
            return {"log_mel": b"", "frames": 0, "error": getattr(error, "strerror", None) or str(error)}
        return {"log_mel": log_mel.tobytes(), "frames": len(log_mel), "error": ""}

    def _checked(self, row: dict) -> dict:
        seconds = row["frames"] * self.extractor.hop_length / self.extractor.sampling_rate
        if seconds < self.min_seconds:
            return {"log_mel": b"", "frames": 0, "error": f"too short: {seconds:.2f} s"}
        return {**row, "error": ""}


STORED = Features(
    {"song_id": Value("int64"), "log_mel": Value("binary"), "frames": Value("int32"), "error": Value("string")}
)


def _identity(path: str) -> list:
    """Name, size and times; also when its permissions changed, so that a file that is made readable is tried again."""
    if is_prepared(path):
        return [Path(path).name, *shard_identity(path)]
    try:
        stat = Path(path).stat()
    except FileNotFoundError:  # a broken link: a bad file like others
        return [Path(path).name]
    return [Path(path).name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _cache_file(cache_dir: Path, rows: list[dict], log_mel: LogMel) -> Path:
    """The Arrow file for these rows, named after the audio files' names, sizes and times and the front end."""
    identity = [[row["song_id"], *_identity(row["path"])] for row in rows]
    digest = hashlib.sha256(json.dumps([identity, log_mel.front_end, log_mel.min_seconds]).encode()).hexdigest()
    return cache_dir / f"log_mel-{digest[:24]}.arrow"


def _store_part(rows: list[dict], log_mel: LogMel, cache_file: Path) -> int:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    # Written elsewhere first: under its own name, a part is whole, and a full disk is not kept full by leftovers.
    with tempfile.TemporaryDirectory(prefix="part-", dir=cache_file.parent) as folder:
        part = Path(folder, cache_file.name)
        Dataset.from_list(rows).map(
            log_mel, remove_columns=["path"], features=STORED, cache_file_name=str(part), writer_batch_size=16
        )
        part.replace(cache_file)
    return len(rows)


def _open_part(rows: list[dict], cache_file: Path) -> Dataset | None:
    """A stored part, memory-mapped; None if it is missing, or incomplete, as after a power cut."""
    try:
        stored = Dataset.from_file(str(cache_file))
    except (OSError, pa.ArrowException) as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s is incomplete and will be stored again", cache_file)
        return None
    return stored if stored["song_id"][:] == [row["song_id"] for row in rows] else None


def store_log_mels(
    songs: DatasetDict,
    extractor: FrontEnd,
    cache_dir: str | Path | None = None,
    num_proc: int = 1,
    min_seconds: float = 1.0,
    max_bad_fraction: float = 0.05,
) -> tuple[DatasetDict, list[BadFile]]:
    """Add every song's log-mel spectrogram, read from the disk if it is already stored there.

    Args:
        songs: as `load_deam` returns them, with `song_id` and `audio` (a path, not decoded).
        extractor: the front end.
        cache_dir: where the Arrow files go; by default a folder in the cache of the `datasets` library. A file is
            reused if the audio files' names, sizes and times and the front end are the same.
        num_proc: processes that decode and compute.
        min_seconds: shorter audio files are bad.
        max_bad_fraction: the share of bad files, in [0, 1], above which to stop.

    Returns:
        The same splits with two more columns, memory-mapped: `log_mel`, the whole excerpt's (frames, mels) float16 as
        bytes, and `frames`; and the files that were left out.

    Raises:
        TooManyBadFiles: with the first bad files and their reasons.
        DiskError: if `cache_dir` cannot be written to.
        WorkerKilled: if one of `num_proc` processes was. What is stored by then is used again.
    """
    cache_dir = Path(os.path.expanduser(cache_dir or datasets.config.HF_DATASETS_CACHE / "emotion_ft"))
    log_mel = LogMel(extractor, min_seconds)

    # One table in memory, sorted by id whatever the splits, so that the stored log-mels can be joined to it.
    joint = concatenate_datasets(list(songs.values()))
    table = Dataset(joint.with_format("arrow")[:].sort_by("song_id"), info=joint.info)
    rows = [
        {"song_id": row["song_id"], "path": row["audio"]["path"]} for row in table.select_columns(["song_id", "audio"])
    ]
    parts = [list(part) for _, part in groupby(rows, key=lambda row: row["song_id"] // PART_SIZE)]
    files = [_cache_file(cache_dir, part, log_mel) for part in parts]
    with writing(cache_dir, "cache_dir", SAME_COMMAND):
        cache_dir.mkdir(parents=True, exist_ok=True)
        _store_missing(parts, files, log_mel, num_proc)

    stored = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
    bad = [
        BadFile(row["song_id"], row["path"], error) for row, error in zip(rows, stored["error"], strict=True) if error
    ]
    report_bad_files(bad, len(rows), max_bad_fraction)

    joined = concatenate_datasets([table, stored.remove_columns(["song_id", "error"])], axis=1)
    return _split_again(joined, songs, {file.song_id for file in bad}), bad


def _split_again(joined: Dataset, songs: DatasetDict, left_out: set[int]) -> DatasetDict:
    """The rows of `joined` in the splits of `songs`, in their order and with their descriptions."""
    row_of = {song_id: row for row, song_id in enumerate(joined["song_id"]) if song_id not in left_out}
    result = DatasetDict()
    for name, split in songs.items():
        result[name] = joined.select([row_of[i] for i in split["song_id"] if i in row_of])
        result[name].info.description = split.info.description
    return result


def _store_missing(parts: list[list[dict]], files: list[Path], log_mel: LogMel, num_proc: int) -> None:
    todo = [(part, log_mel, file) for part, file in zip(parts, files, strict=True) if _open_part(part, file) is None]
    if not todo:
        return
    songs, missing = sum(map(len, parts)), sum(len(part) for part, _, _ in todo)
    with tqdm(total=songs, initial=songs - missing, desc="Storing log-mels", unit="song") as bar:
        if num_proc > 1:
            with storing_pool(num_proc, follow_parent) as pool:
                for done in as_completed([pool.submit(_store_part, *job) for job in todo]):
                    bar.update(done.result())
            return
        threads, bars = torch.get_num_threads(), datasets.are_progress_bars_disabled()
        try:
            for job in todo:
                bar.update(_store_part(*job))
        finally:
            torch.set_num_threads(threads)
            if not bars:
                datasets.enable_progress_bars()


@contextmanager
def storing_pool(num_proc: int, begin_worker: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Processes that store log-mels; raises `WorkerKilled` if one of them is killed."""
    with ProcessPoolExecutor(num_proc, initializer=begin_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise WorkerKilled(
                f"a process storing log-mels was killed. If it ran out of memory, lower num_proc ({num_proc}); "
                f"{SAME_COMMAND}."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # those that have not started


def follow_parent() -> None:
    """For a worker: exit on SIGTERM, and when its parent is killed, as it would otherwise wait for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def report_bad_files(bad: list[BadFile], total: int, max_bad_fraction: float) -> None:
    """Log the bad files, or raise `TooManyBadFiles`."""
    if not bad:
        return
    listed = "; ".join(f"{Path(file.path).name}: {file.reason}" for file in bad[:5])
    summary = f"{len(bad)} of {total} audio files cannot be used ({listed}{'; ...' if len(bad) > 5 else ''})"
    if len(bad) > max_bad_fraction * total:
        raise TooManyBadFiles(
            f"{summary}. That is more than max_bad_fraction={max_bad_fraction:g} allows: fix or remove the files, "
            "or raise max_bad_fraction."
        )
    logger.warning("%s; they are left out.", summary)
