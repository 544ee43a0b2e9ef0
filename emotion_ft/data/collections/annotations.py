"""Reading and checking DEAM's annotation CSVs.

Sources: the DEAM manual; Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis of music",
PLoS ONE 12(3).
"""

import csv
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...errors import brief, nearest_hint
from .. import files
from ..files import COLLECTION, MAX_FAULTS, AnnotationError, StrPath, find_file, refuse_faults
from ..songs import CURVE_STEP

logger = logging.getLogger(__name__)

STATIC_FILES = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
DYNAMIC_FILES = {"valence": "valence.csv", "arousal": "arousal.csv"}
METADATA_FILES = ("metadata_2013.csv", "metadata_2014.csv", "metadata_2015.csv")
STATIC_COLUMNS = {
    "valence_mean": ("valence", 1, 9),
    "valence_std": ("valence_std", 0, math.inf),
    "arousal_mean": ("arousal", 1, 9),
    "arousal_std": ("arousal_std", 0, math.inf),
}
RATERS, FULL_SONG_RATERS = 10, 5
"""How many people rated an excerpt of DEAM, and one of its full songs. This is inferred from ratings being whole
numbers: the means of 1738 of 1744 excerpts are multiples of 1/10, those of 50 of 58 full songs of 1/5, and the
deviations fit these numbers as population deviations."""
EXCHANGED_UP_TO = 1000
"""The last song id of the block that DEAM distributes with valence and arousal exchanged."""


class Curve(NamedTuple):
    """One song's emotion over time: `start` and `step` in seconds, `valence` and `arousal` float32 in [-1, 1]."""

    start: float
    step: float
    valence: np.ndarray
    arousal: np.ndarray


def read_static(root: StrPath) -> pd.DataFrame:
    """One row per song, sorted by the index `song_id`: `valence`, `valence_std`, `arousal`, `arousal_std`.

    float64 on the 1-9 scale, as distributed: mean and standard deviation over the song's annotators. Ids are int64,
    from 0 to `COLLECTION` - 1. Columns are found by name, since the two files order them differently. Either file may
    be missing.
    Raises `AnnotationError`, with file, line and value, for anything else.
    """
    paths = [path for name in STATIC_FILES if (path := find_file(root, name))]
    if not paths:
        raise AnnotationError(f"no static annotations under {root}: looked for {' and '.join(STATIC_FILES)}")
    songs: dict[int, dict[str, float]] = {}
    places: dict[int, str] = {}
    faults: list[str] = []
    for path in paths:
        rows = _rows(path)
        header = _header(path, rows, ("song_id", *STATIC_COLUMNS))
        for line, cells in rows:
            place = f"{path}, line {line}"
            try:
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells for {len(header)} columns: '{brief(','.join(cells))}'")
                song_id = _song_id(cells[header.index("song_id")])
                if song_id in places:
                    raise ValueError(f"song_id {song_id} is repeated, first given in {places[song_id]}")
                songs[song_id] = {
                    column: _number(cells[header.index(name)], name, low, high)
                    for name, (column, low, high) in STATIC_COLUMNS.items()
                }
                places[song_id] = place
            except ValueError as fault:
                faults.append(f"{place}: {fault}")
                if len(faults) == MAX_FAULTS:
                    break
    refuse_faults(faults)
    if not songs:
        raise AnnotationError(f"no songs in {' and '.join(map(str, paths))}: nothing follows the header")
    static = pd.DataFrame.from_dict(songs, orient="index", dtype="float64").sort_index()
    return static.rename_axis("song_id")


def read_dynamic(root: StrPath) -> dict[int, Curve]:
    """The curves of each song that has them, from `valence.csv` and `arousal.csv`; {} if neither exists.

    The files are wide: one row per song and one column per moment (`song_id,sample_15000ms,sample_15500ms,...`), with
    values until the song ends. Songs without a single value are skipped with a warning.
    Raises `AnnotationError` if one file is missing or the two differ in songs or moments, and, with file, line and
    value, for gaps and for values that are not numbers in [-1, 1].
    """
    paths = {axis: path for axis, name in DYNAMIC_FILES.items() if (path := find_file(root, name))}
    if not paths:
        return {}
    for axis in DYNAMIC_FILES.keys() - paths:
        (there,) = paths.values()
        raise AnnotationError(f"found {there} but no {DYNAMIC_FILES[axis]} under {root}: both are needed")
    start, valence, lines = _read_curves(paths["valence"])
    arousal_start, arousal, _ = _read_curves(paths["arousal"])
    if start != arousal_start:
        raise AnnotationError(f"{paths['valence']} starts at {start} s, but {paths['arousal']} at {arousal_start} s")
    for axis, only in (("valence", valence.keys() - arousal), ("arousal", arousal.keys() - valence)):
        if only:
            raise AnnotationError(
                f"{len(only)} songs are only in {paths[axis]}: {files.first_ids(sorted(only))}; both files need them"
            )
    empty = {song_id for song_id in valence if not len(valence[song_id]) or not len(arousal[song_id])}
    uneven = [song_id for song_id in valence.keys() - empty if len(valence[song_id]) != len(arousal[song_id])]
    if uneven:
        raise AnnotationError(
            f"{len(uneven)} songs have unequal numbers of values in {paths['valence']} and {paths['arousal']}: "
            f"{files.first_ids(sorted(uneven))}"
        )
    if empty:
        places = ", ".join(f"{song_id} (line {lines[song_id]})" for song_id in sorted(empty)[:10])
        logger.warning(
            "%d songs have no dynamic values in %s or %s and are left without curves: %s",
            *(len(empty), *paths.values(), places + (", ..." if len(empty) > 10 else "")),
        )
    return {key: Curve(start, CURVE_STEP, valence[key], arousal[key]) for key in sorted(valence.keys() - empty)}


def read_artists(root: StrPath) -> dict[int, str]:
    """The artist of each song for which a metadata file gives one; {} if there are no such files.

    Raises `AnnotationError` if a file has no such column.
    """
    return _read_metadata(root, "artist")


def read_genres(root: StrPath) -> dict[int, str]:
    """The genre of each song for which a metadata file that has genres gives one."""
    return _read_metadata(root, "genre", needed=False)


def _read_metadata(root: StrPath, column: str, needed: bool = True) -> dict[int, str]:
    """A column of the metadata files, by song id; a file without it is skipped unless it is `needed`.

    The rows are ragged (unquoted commas, trailing labels), so each line is parsed on its own, and lines that do not
    begin with an integer id are skipped with a warning.
    """
    found: dict[int, str] = {}
    for path in filter(None, (find_file(root, name) for name in METADATA_FILES)):
        lines = io.StringIO(_text(path), newline=None)
        rows = enumerate((_cells(line) for line in lines if line.strip(", \t\r\n")), start=1)
        header = _header(path, rows, ("song_id", column) if needed else ("song_id",))
        if column not in header:
            continue
        key, name = header.index("song_id"), header.index(column)
        skipped = 0
        for _, cells in rows:
            try:
                song_id = _song_id(cells[key])
            except (ValueError, IndexError):
                skipped += 1
                continue
            if len(cells) > name and (text := " ".join(cells[name].split())):
                found[song_id] = text
        if skipped:
            logger.warning("%s: skipped %d rows without an integer song id", path, skipped)
    return found


def _read_curves(path: Path) -> tuple[float, dict[int, np.ndarray], dict[int, int]]:
    """The first column's time in seconds, each song's values without the missing ones at the end, and its line."""
    rows = _rows(path)
    header = _header(path, rows, ("song_id",))
    moments = [re.fullmatch(r"sample_([0-9]{1,9})ms", name) for name in header[1:]]
    times = [int(moment[1]) / 1000 if moment else math.nan for moment in moments]
    if not times or not np.array_equal(times, times[0] + CURVE_STEP * np.arange(len(times))):
        raise AnnotationError(
            f"{path}, line 1: expected song_id,sample_15000ms,sample_15500ms,..., one column per {CURVE_STEP} s, "
            f"got {brief(','.join(header[:4]))},..."
        )
    curves: dict[int, np.ndarray] = {}
    lines: dict[int, int] = {}
    faults: list[str] = []
    for line, cells in rows:
        try:
            song_id = _song_id(cells[0])
            if song_id in lines:
                raise ValueError(f"song_id {song_id} is repeated, first given in line {lines[song_id]}")
            lines[song_id] = line
            end = next((i for i in range(len(cells), 1, -1) if not _missing(cells[i - 1])), 1)
            if end > len(header):
                raise ValueError(f"{end} cells for {len(header)} columns")
            values = [_number(cell, name, -1, 1) for cell, name in zip(cells[1:end], header[1:end], strict=True)]
            curves[song_id] = np.array(values, np.float32)
        except ValueError as fault:
            faults.append(f"{path}, line {line}: {fault}")
            if len(faults) == MAX_FAULTS:
                break
    refuse_faults(faults)
    return times[0], curves, lines


def _text(path: Path) -> str:
    return files.read_bytes(path).decode("utf-8-sig", errors="replace")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number in the file, cells) of each row that is not blank."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                files.refuse_columns(path, reader.line_num, len(cells))
                yield reader.line_num, cells
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: not a CSV file: {error}") from error


def _cells(line: str) -> list[str]:
    """The cells of a single line; none if one is too long for the csv module."""
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return []


def _header(path: Path, rows: Iterator[tuple[int, list[str]]], wanted: Iterable[str]) -> list[str]:
    """The column names in the first row, in lower case and without spaces, with `song_id` for `id`."""
    names = ["".join(name.split()).lower() for name in next(rows, (1, []))[1]]
    names = ["song_id" if name == "id" else name for name in names]
    missing = [name for name in wanted if name not in names]
    if missing:
        hints = [name + nearest_hint([name], names) for name in missing]
        raise AnnotationError(
            f"{path}, line 1: missing columns {', '.join(hints)}; expected {', '.join(wanted)}; "
            f"found {brief(', '.join(names), 500) or 'none'}"
        )
    return names


def _song_id(cell: str) -> int:
    """An id within DEAM; Python's own `int` would also accept 1_000, digits of other scripts, and any length."""
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
