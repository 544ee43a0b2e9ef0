"""CSV files about the same songs -> the cells of each song, each with its place for messages."""

import csv as csv_files
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import brief, nearest_hint
from ..files import MAX_FAULTS, AnnotationError, StrPath, canonical, read_bytes, refuse_columns, refuse_faults

COLUMNS = {
    "song_id": ("song_id", "musicId", "id"),
    "valence": ("valence", "valence_mean", "mean_valence"),
    "arousal": ("arousal", "arousal_mean", "mean_arousal"),
    "valence_std": ("valence_std", "std_valence"),
    "arousal_std": ("arousal_std", "std_arousal"),
    "artist": ("artist", "Artist"),
    "audio": (),
}
"""Our names, and the header's names that are tried for each, in turn, unless `columns` says otherwise."""
NEEDED = ("song_id", "valence", "arousal")


class Cell(NamedTuple):
    """A cell's text, and its place for messages: file, line and column."""

    text: str
    place: str


Songs = dict[str, dict[str, Cell]]
"""The cells of each song, by its id in the collection and by our column names."""


def read_songs(paths: list[Path], columns: Mapping[str, str | Sequence[str]]) -> Songs:
    """The songs of the first file, with the cells that any file has for them; the first file with a column wins.

    Raises:
        AnnotationError: for a file that cannot be read, a missing or repeated column, a repeated song, a row that is
            not as long as the header, and a file that shares no song with the first.
    """
    if not isinstance(columns, Mapping):
        raise AnnotationError(f"columns must map our names to the header's, got {brief(repr(columns))}")
    check_names(columns, COLUMNS, "name under columns")
    names = COLUMNS | {field: several(given, f"columns: {field}") for field, given in columns.items()}
    headers, tables = zip(*(_read(path, names) for path in paths), strict=True)
    for field in (*NEEDED, *columns):
        if not any(set(header) & set(names[field]) for header in headers):
            pairs = zip(paths, headers, strict=True)
            raise AnnotationError("\n".join(_no_column(path, field, names, header) for path, header in pairs))
    for path, table in zip(paths, tables, strict=True):
        if not tables[0].keys() & table:
            raise AnnotationError(f"{path} has no songs{'' if path == paths[0] else f' in common with {paths[0]}'}")
    return {song: {k: v for table in tables[::-1] for k, v in table.get(song, {}).items()} for song in tables[0]}


def _read(path: Path, names: Mapping[str, Sequence[str]]) -> tuple[list[str], Songs]:
    """One file's header and songs."""
    rows = _rows(path)
    line, header = next(rows, (1, []))
    used = {field: found[0] for field, options in names.items() if (found := [n for n in options if n in header])}
    if "song_id" not in used:
        raise AnnotationError(_no_column(path, "song_id", names, header))
    if repeated := [name for name in used.values() if header.count(name) > 1]:
        raise AnnotationError(f"{path}, line {line}: two columns are called {brief(repeated[0])}; rename one")
    songs: Songs = {}
    faults: list[str] = []
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        here = {field: Cell(row.get(name, ""), f"{path}, line {line}: {brief(name)}") for field, name in used.items()}
        song, place = canonical(here["song_id"].text), here["song_id"].place
        if len(cells) != len(header):
            shown = brief(",".join(cells))
            faults.append(f"{path}, line {line}: {len(cells)} cells for {len(header)} columns: '{shown}'")
        elif not song:
            faults.append(f"{place} is empty")
        elif song in songs:
            faults.append(f"{place} {brief(song)} is repeated, first given in {songs[song]['song_id'].place}")
        else:
            songs[song] = here
        if len(faults) == MAX_FAULTS:
            break
    refuse_faults(faults)
    return header, songs


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each row that is not blank."""
    line = 1
    try:
        data = read_bytes(path)
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        reader = csv_files.reader(text, skipinitialspace=True, strict=True)
        for row in reader:
            refuse_columns(path, line, len(row))
            if any(cells := [cell.strip() for cell in row]):
                yield line, cells
            line = reader.line_num + 1
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{path}, line {line}: not UTF-8; save the file in that encoding") from error
    except csv_files.Error as error:
        raise AnnotationError(f"{path}, line {line}: not a CSV file: {error}") from error


def check_names(given: Iterable[str], valid: Iterable[str], what: str) -> None:
    """Raise an `AnnotationError` for the first name that is not valid, with the nearest valid one."""
    for name in given:
        if name not in valid:
            hint = nearest_hint([str(name)], valid)
            raise AnnotationError(f"unknown {what}: '{brief(name)}'{hint}; valid are {', '.join(valid)}")


def _no_column(path: Path, field: str, names: Mapping[str, Sequence[str]], header: list[str]) -> str:
    return (
        f"{path}, line 1: no column for {field}: looked for {brief(' or '.join(names[field]), 500)}"
        f"{nearest_hint(names[field], header)}; found {brief(', '.join(header), 500) or 'none'}. "
        "Give its name under columns"
    )


def several(given: StrPath | Sequence[StrPath], what: str) -> list[str]:
    """One name or several, as a list."""
    names = [given] if isinstance(given, str | os.PathLike) else given
    if not (isinstance(names, list | tuple) and names and all(isinstance(x, str | os.PathLike) for x in names)):
        raise AnnotationError(f"{what} must be one name or a list of names, got {brief(repr(given))}")
    return [os.fspath(name).strip() for name in names]
