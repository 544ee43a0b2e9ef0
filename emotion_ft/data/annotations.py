"""DEAM's annotation CSVs: reading and checking.

Sources: the DEAM manual; Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis of music",
PLoS ONE 12(3).
"""

import csv
import difflib
import io
import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import UsageError, brief
from .splits import COLLECTION

logger = logging.getLogger(__name__)

STATIC_FILES = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
DYNAMIC_FILES = {"valence": "valence.csv", "arousal": "arousal.csv"}
RENDER_SETTINGS = "render_settings.json"
"""Lies in the root of a collection that was rendered, and not downloaded."""
METADATA_FILES = ("metadata_2013.csv", "metadata_2014.csv", "metadata_2015.csv")
STATIC_COLUMNS = {
    "valence_mean": ("valence", 1, 9),
    "valence_std": ("valence_std", 0, math.inf),
    "arousal_mean": ("arousal", 1, 9),
    "arousal_std": ("arousal_std", 0, math.inf),
}
CURVE_STEP = 0.5
"""Seconds between two values of a dynamic annotation."""
RATERS, FULL_SONG_RATERS = 10, 5
"""How many people rated an excerpt of DEAM, and one of its full songs. Ratings are whole numbers, which tells: the
means of 1738 of 1744 excerpts are multiples of 1/10, those of 50 of 58 full songs of 1/5, and the deviations fit these
numbers as population deviations."""
MAX_BYTES = 1 << 24
"""Of a CSV file; DEAM's largest has 3 MB, and read into memory a file takes several times its size."""
MAX_COLUMNS = 1 << 14
"""Of a CSV file: a dynamic annotation of more than two hours; DEAM's longest has 1224."""
MAX_FAULTS = 1000
"""Rows of a file that are found to be bad before the reader gives up: they are held in memory."""
EXCHANGED_UP_TO = 1000
"""The last song id of the block in which DEAM distributes valence as arousal and arousal as valence."""


class AnnotationError(UsageError):
    """A collection's files are missing, or hold something that cannot be used as distributed."""


class Curve(NamedTuple):
    """One song's emotion over time: `start` and `step` in seconds, `valence` and `arousal` float32 in [-1, 1]."""

    start: float
    step: float
    valence: np.ndarray
    arousal: np.ndarray


def files_under(root: str | os.PathLike) -> Iterator[Path]:
    """Every visible file anywhere under `root`, in sorted order, through links.

    Hidden files and folders and the copies that macOS archives carry (`._*`, `__MACOSX`) are left out.
    Raises `AnnotationError` if `root` is not a folder, or a folder below it cannot be listed.
    """
    if not os.path.isdir(root):  # Path.is_dir would raise for a name that is too long
        raise AnnotationError(f"expected the folder of an unzipped collection, but {brief(root, 500)} is not a folder")
    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if name != "__MACOSX" and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def find_file(root: str | os.PathLike, name: str) -> Path | None:
    """The file called `name` at any depth under `root`, or None.

    Raises `AnnotationError` if `root` is missing or empty, or if two files of that name differ in content.
    """
    files = list(files_under(root))
    if not files:
        raise AnnotationError(f"{root} holds no files: unzip the collection's annotations and audio there")
    copies = [path for path in files if path.name == name]
    for copy in copies[1:]:
        if read_bytes(copies[0]) != read_bytes(copy):
            raise AnnotationError(f"two different files are called {name}: {copies[0]} and {copy}; remove one")
    return copies[0] if copies else None


def read_static(root: str | os.PathLike) -> pd.DataFrame:
    """One row a song, sorted by its index `song_id`: `valence`, `valence_std`, `arousal`, `arousal_std`.

    float64 on the 1-9 scale, as distributed: mean and standard deviation over the song's annotators. Ids are int64,
    from 0 to `COLLECTION` - 1. Columns are found by name, since the two files order them differently. Either file may
    be absent.
    Raises `AnnotationError`, naming file, line and value, for anything but that.
    """
    paths = [path for name in STATIC_FILES if (path := find_file(root, name))]
    if not paths:
        raise AnnotationError(f"no static annotations under {root}: looked for {' and '.join(STATIC_FILES)}")
    songs, places, faults = {}, {}, []
    for path in paths:
        rows = _rows(path)
        header = _header(path, rows, ("song_id", *STATIC_COLUMNS))
        for line, cells in rows:
            place = f"{path}, line {line}"
            try:
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells under {len(header)} columns: '{brief(','.join(cells))}'")
                song_id = _song_id(cells[header.index("song_id")])
                if song_id in places:
                    raise ValueError(f"song_id {song_id} again, already given in {places[song_id]}")
                songs[song_id] = {
                    column: _number(cells[header.index(name)], name, low, high)
                    for name, (column, low, high) in STATIC_COLUMNS.items()
                }
                places[song_id] = place
            except ValueError as fault:
                faults.append(f"{place}: {fault}")
                if len(faults) == MAX_FAULTS:
                    break
    _report(faults)
    if not songs:
        raise AnnotationError(f"no songs in {' and '.join(map(str, paths))}: there is nothing below the header")
    static = pd.DataFrame.from_dict(songs, orient="index", dtype="float64").sort_index()
    return static.rename_axis("song_id")


def read_dynamic(root: str | os.PathLike) -> dict[int, Curve]:
    """The curves of each song that has them, from `valence.csv` and `arousal.csv`; {} where neither exists.

    The files are wide, a row a song and a column a moment (`song_id,sample_15000ms,sample_15500ms,...`), each row
    filled as far as its song lasts. Songs without a single value are skipped with a warning.
    Raises `AnnotationError` if one file is missing, if the two do not hold the same songs and moments, and, naming
    file, line and value, for gaps and for values that are not numbers in [-1, 1].
    """
    paths = {axis: find_file(root, name) for axis, name in DYNAMIC_FILES.items()}
    if not any(paths.values()):
        return {}
    for axis, path in paths.items():
        if path is None:
            there = next(filter(None, paths.values()))
            raise AnnotationError(f"found {there} but no {DYNAMIC_FILES[axis]} under {root}: both are needed")
    (start, valence, lines), (arousal_start, arousal, _) = (_read_curves(path) for path in paths.values())
    if start != arousal_start:
        raise AnnotationError(f"{paths['valence']} starts at {start} s, but {paths['arousal']} at {arousal_start} s")
    for axis, only in (("valence", valence.keys() - arousal), ("arousal", arousal.keys() - valence)):
        if only:
            raise AnnotationError(f"{len(only)} songs are only in {paths[axis]}: {_listed(only)}; both need them")
    empty = {song_id for song_id in valence if not len(valence[song_id]) or not len(arousal[song_id])}
    uneven = [song_id for song_id in valence.keys() - empty if len(valence[song_id]) != len(arousal[song_id])]
    if uneven:
        raise AnnotationError(
            f"{len(uneven)} songs have unequal numbers of values in {paths['valence']} and {paths['arousal']}: "
            f"{_listed(uneven)}"
        )
    if empty:
        places = ", ".join(f"{song_id} (line {lines[song_id]})" for song_id in sorted(empty)[:10])
        logger.warning(
            "%d songs have no dynamic values in %s or %s and are left without curves: %s",
            *(len(empty), *paths.values(), places + (", ..." if len(empty) > 10 else "")),
        )
    return {key: Curve(start, CURVE_STEP, valence[key], arousal[key]) for key in sorted(valence.keys() - empty)}


def read_artists(root: str | os.PathLike) -> dict[int, str]:
    """The artist of each song for which one of the metadata files names one; {} where there are no such files.

    The rows are ragged (unquoted commas, trailing labels), so each line is parsed on its own, and lines that do not
    begin with an integer id are skipped with a warning. Raises `AnnotationError` if a file lacks the two columns.
    """
    artists = {}
    for path in filter(None, (find_file(root, name) for name in METADATA_FILES)):
        lines = io.StringIO(_text(path), newline=None)
        rows = enumerate((_cells(line) for line in lines if line.strip(", \t\r\n")), start=1)
        header = _header(path, rows, ("song_id", "artist"))
        key, name = header.index("song_id"), header.index("artist")
        skipped = 0
        for _, cells in rows:
            try:
                song_id = _song_id(cells[key])
            except (ValueError, IndexError):
                skipped += 1
                continue
            artist = " ".join(cells[name].split()) if len(cells) > name else ""
            if artist:
                artists[song_id] = artist
        if skipped:
            logger.warning("%s: skipped %d rows without an integer song id", path, skipped)
    return artists


def _read_curves(path: Path) -> tuple[float, dict[int, np.ndarray], dict[int, int]]:
    """The first column's time in seconds, each song's values without the missing ones at the end, and its line."""
    rows = _rows(path)
    header = _header(path, rows, ("song_id",))
    moments = [re.fullmatch(r"sample_([0-9]{1,9})ms", name) for name in header[1:]]
    times = [int(moment[1]) / 1000 if moment else math.nan for moment in moments]
    if not times or not np.array_equal(times, times[0] + CURVE_STEP * np.arange(len(times))):
        raise AnnotationError(
            f"{path}, line 1: expected song_id,sample_15000ms,sample_15500ms,..., a column every {CURVE_STEP} s, "
            f"got {brief(','.join(header[:4]))},..."
        )
    curves, lines, faults = {}, {}, []
    for line, cells in rows:
        try:
            song_id = _song_id(cells[0])
            if song_id in lines:
                raise ValueError(f"song_id {song_id} again, already given in line {lines[song_id]}")
            lines[song_id] = line
            end = next((i for i in range(len(cells), 1, -1) if not _missing(cells[i - 1])), 1)
            if end > len(header):
                raise ValueError(f"{end} cells under {len(header)} columns")
            values = [_number(cell, name, -1, 1) for cell, name in zip(cells[1:end], header[1:end], strict=True)]
            curves[song_id] = np.array(values, np.float32)
        except ValueError as fault:
            faults.append(f"{path}, line {line}: {fault}")
            if len(faults) == MAX_FAULTS:
                break
    _report(faults)
    return times[0], curves, lines


def read_bytes(path: Path) -> bytes:
    """A CSV file's content.

    Raises:
        AnnotationError: when it is not a file, cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AnnotationError(f"{path} cannot be read: not a file")
        if size > MAX_BYTES:
            raise AnnotationError(
                f"{path} has {size} bytes, but a CSV file may have {MAX_BYTES}: keep only the rows and columns "
                "that are needed"
            )
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error


def refuse_columns(path: Path, line: int, number: int) -> None:
    """Raise an `AnnotationError` for a row of more than `MAX_COLUMNS` cells."""
    if number > MAX_COLUMNS:
        raise AnnotationError(f"{path}, line {line}: {number} columns, but at most {MAX_COLUMNS} can be read")


def _text(path: Path) -> str:
    return read_bytes(path).decode("utf-8-sig", errors="replace")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number in the file, cells) of each row that is not blank."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                refuse_columns(path, reader.line_num, len(cells))
                yield reader.line_num, cells
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: not a CSV file: {error}") from error


def _cells(line: str) -> list[str]:
    """The cells of a line by itself; none where one is too long for the csv module."""
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return []


def _header(path: Path, rows: Iterator[tuple[int, list[str]]], wanted: Iterable[str]) -> list[str]:
    """The column names in the first row, in lower case and without spaces, `id` read as `song_id`."""
    names = ["".join(name.split()).lower() for name in next(rows, (1, []))[1]]
    names = ["song_id" if name == "id" else name for name in names]
    missing = [name for name in wanted if name not in names]
    if missing:
        nearest = {name: difflib.get_close_matches(name, names[:100], n=1) for name in missing}
        hints = [f"{name} (nearest: {brief(match[0])})" if match else name for name, match in nearest.items()]
        raise AnnotationError(
            f"{path}, line 1: missing columns {', '.join(hints)}; needed {', '.join(wanted)}; "
            f"there are {brief(', '.join(names), 500) or 'none'}"
        )
    return names


def _song_id(cell: str) -> int:
    """An id within DEAM; Python's own `int` would also take 1_000, other scripts' digits and any number of them."""
    song_id = int(cell) if re.fullmatch(r"\s*[0-9]{1,10}\s*", cell) else COLLECTION
    if song_id >= COLLECTION:
        raise ValueError(f"song_id '{brief(cell)}' is not an integer from 0 to {COLLECTION - 1}")
    return song_id


def _number(cell: str, name: str, low: float, high: float) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name} '{brief(cell)}' is not a number")
    if not low <= value <= high or math.isinf(value):
        raise ValueError(f"{name} '{brief(cell)}' is outside {low} to {high}")
    return value


def _missing(cell: str) -> bool:
    return not cell or cell.strip().lower() in ("", "nan")


def _report(faults: list[str]) -> None:
    if faults:
        more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise AnnotationError(f"{len(faults)} bad rows:\n" + "\n".join([*faults[:5], *more]))


def _listed(song_ids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(song_ids)[:10])) + (", ..." if len(song_ids) > 10 else "")


def _raise(error: OSError) -> None:
    raise AnnotationError(f"{error.filename} cannot be listed: {error.strerror}") from error
