"""Songs to stored log-mels: every audio file is decoded once, whatever happens afterwards to labels and splits."""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from tqdm.auto import tqdm

from ..errors import UsageError
from ..faults import SAME_COMMAND, WorkerKilled, writing
from .audio import AudioError, read_pieces
from .front_end import FrontEnd
from .prepared import is_prepared, read_prepared, shard_identity

logger = logging.getLogger(__name__)

# Songs with the same id // PART_SIZE are stored as one file: an interrupted run goes on from the last of these.
PART_SIZE = 32
# Part of the stored files' names: raise it when decoding or a front end changes its output.
STORE_VERSION = 1
# What a stored log-mel depends on; the window's length and number do not matter to it.
FRONT_END_SETTINGS = ("front_end", "sampling_rate", "n_fft", "hop_length", "num_mel_bins", "f_min", "f_max")


class BadFile(NamedTuple):
    """An audio file that was left out, and why."""

    song_id: int
    path: str
    reason: str


class TooManyBadFiles(UsageError):
    """More audio files than allowed cannot be read."""


def front_end(extractor: FrontEnd) -> dict:
    """What the log-mels of a front end depend on."""
    return {"version": STORE_VERSION, **{name: getattr(extractor, name) for name in FRONT_END_SETTINGS}}


class LogMel:
    """For `Dataset.map`: a row's audio file -> `log_mel` (frames x mels, float16, as bytes), `frames` and `error`.

    A row of a prepared collection is read as it was stored there.
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
            # Piece by piece to float16, so that an hour of music never stands here as float32.
            log_mel = np.concatenate([part.astype(np.float16) for part in self.extractor.iter_log_mel(pieces)])
        except (AudioError, OSError) as error:  # gone between the listing and here, or a disk that fails
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
    """Name, size and times; the time of the last change of its rights too, so that a verdict on it can be overcome."""
    if is_prepared(path):
        return [Path(path).name, *shard_identity(path)]
    try:
        stat = Path(path).stat()
    except FileNotFoundError:  # a link to nowhere: a bad file like others
        return [Path(path).name]
    return [Path(path).name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _cache_file(cache_dir: Path, rows: list[dict], log_mel: LogMel) -> Path:
    """Named after the files' names, sizes and times, and after the front end."""
    identity = [[row["song_id"], *_identity(row["path"])] for row in rows]
    digest = hashlib.sha256(json.dumps([identity, log_mel.front_end, log_mel.min_seconds]).encode()).hexdigest()
    return cache_dir / f"log_mel-{digest[:24]}.arrow"


def _store_part(rows: list[dict], log_mel: LogMel, cache_file: Path) -> int:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    # Written aside: under its own name, a part is whole. On a full disk, nothing is left that would keep it full.
    with tempfile.TemporaryDirectory(prefix="part-", dir=cache_file.parent) as folder:
        part = Path(folder, cache_file.name)
        Dataset.from_list(rows).map(
            log_mel, remove_columns=["path"], features=STORED, cache_file_name=str(part), writer_batch_size=16
        )
        part.replace(cache_file)
    return len(rows)


def _open_part(rows: list[dict], cache_file: Path) -> Dataset | None:
    """A stored part, memory-mapped; None where there is none, or it is not whole, as after a power cut."""
    try:
        stored = Dataset.from_file(str(cache_file))
    except (OSError, pa.ArrowException) as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s is passed over, and stored again: it is cut short", cache_file)
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
    """Add every song's log-mel spectrogram, from the disk where it is already stored.

    Args:
        songs: as `load_deam` returns them, with `song_id` and `audio` (a path, not decoded).
        extractor: the front end, with `sampling_rate` and `iter_log_mel`.
        cache_dir: where the Arrow files go; by default a folder of the `datasets` library's cache. A file is used
            again when the audio files' names, sizes and times and the front end are the same.
        num_proc: processes that decode and compute.
        min_seconds: shorter audio files are bad.
        max_bad_fraction: share of bad files, in [0, 1], above which to stop.

    Returns:
        The same splits with two more columns, memory-mapped: `log_mel`, the whole excerpt's (frames, mels) float16 as
        bytes, and `frames`; and the files that were left out.

    Raises:
        TooManyBadFiles: naming the first bad files and their reasons.
        DiskError: when `cache_dir` cannot be written to.
        WorkerKilled: when one of `num_proc` processes was. Parts that are stored by then are used again.
    """
    cache_dir = Path(os.path.expanduser(cache_dir or datasets.config.HF_DATASETS_CACHE / "emotion_ft"))
    log_mel = LogMel(extractor, min_seconds)

    # As one in-memory table in the order of the ids, whatever the split; stored log-mels will stand beside its rows.
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
    unusable = {file.song_id for file in bad}
    row_of = {song_id: row for row, song_id in enumerate(table["song_id"]) if song_id not in unusable}
    result = DatasetDict()
    for name, split in songs.items():
        result[name] = joined.select([row_of[i] for i in split["song_id"] if i in row_of])
        result[name].info.description = split.info.description
    return result, bad


def _store_missing(parts: list[list[dict]], files: list[Path], log_mel: LogMel, num_proc: int) -> None:
    todo = [(part, log_mel, file) for part, file in zip(parts, files, strict=True) if _open_part(part, file) is None]
    if not todo:
        return
    bar = tqdm(total=sum(map(len, parts)), desc="Storing log-mels", unit="song")
    bar.update(bar.total - sum(len(part) for part, _, _ in todo))
    if num_proc == 1:
        threads, bars = torch.get_num_threads(), datasets.are_progress_bars_disabled()
        try:
            for job in todo:
                bar.update(_store_part(*job))
        finally:
            torch.set_num_threads(threads)
            if not bars:
                datasets.enable_progress_bars()
    else:
        with ProcessPoolExecutor(num_proc, initializer=follow_parent) as pool:
            try:
                for done in as_completed([pool.submit(_store_part, *job) for job in todo]):
                    bar.update(done.result())
            except BrokenProcessPool as error:
                raise WorkerKilled(
                    "a process that stores log-mels was killed. When it was for want of memory, lower num_proc "
                    f"({num_proc}); {SAME_COMMAND}."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # of what has not been begun
    bar.close()


def follow_parent() -> None:
    """For a worker: leave on SIGTERM, and when the process that started it is killed, which would leave it waiting."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def report_bad_files(bad: list[BadFile], total: int, max_bad_fraction: float) -> None:
    if not bad:
        return
    listed = "; ".join(f"{Path(file.path).name}: {file.reason}" for file in bad[:5])
    summary = f"{len(bad)} of {total} audio files cannot be used ({listed}{'; ...' if len(bad) > 5 else ''})"
    if len(bad) > max_bad_fraction * total:
        raise TooManyBadFiles(
            f"{summary}. That is more than max_bad_fraction={max_bad_fraction:g} allows: mend or remove the files, "
            "or raise max_bad_fraction."
        )
    logger.warning("%s; they are left out.", summary)
