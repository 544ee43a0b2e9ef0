"""Any collection whose labels are in CSV files -> one `Dataset`, described by arguments or by a YAML file."""

import csv as csv_files
import hashlib
import inspect
import io
import logging
import math
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import pandas as pd
import yaml
from datasets import Dataset

from .annotations import AnnotationError, files_under, find_file
from .deam import AUDIO_SUFFIXES
from .songs import songs_dataset
from .splits import COLLECTION, first_ids

logger = logging.getLogger(__name__)

COLUMNS = {
    "song_id": ("song_id", "musicId", "id"),
    "valence": ("valence", "valence_mean", "mean_valence"),
    "arousal": ("arousal", "arousal_mean", "mean_arousal"),
    "valence_std": ("valence_std", "std_valence"),
    "arousal_std": ("arousal_std", "std_arousal"),
    "artist": ("artist", "Artist"),
    "audio": (),
}
"""Our names, and the header's names that each is looked for under, in turn, unless `columns` says otherwise."""
NEEDED = ("song_id", "valence", "arousal")


class Cell(NamedTuple):
    """A cell's text, and where it stands, for messages: file, line and column."""

    text: str
    place: str


class Scale(NamedTuple):
    """The lowest and the highest value of a scale."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


Songs = dict[str, dict[str, Cell]]
"""The cells of each song, by its id in the collection and by our names."""


def load_csv(
    csv: str | os.PathLike | Sequence[str | os.PathLike],
    audio_dir: str | os.PathLike,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    label_range: tuple[float, float] = (1, 9),
    deviation_range: tuple[float, float] | None = None,
    source: str | None = None,
    ids: str | None = None,
) -> Dataset:
    """The songs of the first CSV file that have audio, sorted by song id; the columns are `songs.FEATURES`.

    Args:
        csv: one file, or several that are joined by song id: labels in one, deviations or artists in another. A column
            that several files have is taken from the first of them.
        audio_dir: the folder that holds the audio at any depth, each file named by its song id (`12.mp3`) or as the
            column `audio` says. Songs without audio are left out with a warning.
        columns: from our names, the keys of `COLUMNS`, to the header's: one name, or several to try in turn.
        label_range: lowest and highest value of the collection's scale, which is mapped linearly onto 1-9.
        deviation_range: those of the scale that the standard deviations are given on, if it is not `label_range`.
        source: the collection's name, which decides its song ids (see `song_number`). By default, the name of the
            innermost folder that holds both CSV files and audio.
        ids: "deam" where the songs are DEAM's and have its ids (EmoMusic): the ids are kept as they are.

    Raises:
        AnnotationError: for arguments, files or columns that do not fit, a song given twice, two audio files of one
            song or two songs of one file, and no audio at all; naming file, line, column and value, for labels outside
            `label_range`, and for deviations that are negative or (by 5 %) greater than half of their range, which no
            standard deviation can be (Popoviciu's inequality).
    """
    scale = _scale(label_range, "label_range")
    deviation_scale = scale if deviation_range is None else _scale(deviation_range, "deviation_range")
    paths = [_absolute(path) for path in _several(csv, "csv")]
    audio_dir = _absolute(audio_dir)
    common = Path(os.path.commonpath([audio_dir, *(path.parent for path in paths)]))
    source = str(source or common.name or paths[0].stem)
    songs = _read_songs(paths, {} if columns is None else columns)
    labels = _labels(songs, scale).join(_deviations(songs, deviation_scale))
    numbers = _numbers(songs, source, ids)
    audio = _find_audio(songs, audio_dir)
    if absent := [song for song in songs if song not in audio]:
        logger.warning("left out: %d annotated songs have no audio: %s", len(absent), first_ids(absent))
    kept = sorted(audio, key=numbers.get)
    artists = [" ".join(songs[song]["artist"].text.split()) if "artist" in songs[song] else "" for song in kept]
    rows = {
        "song_id": [numbers[song] for song in kept],
        "source": [source] * len(kept),
        "audio": [audio[song] for song in kept],
        **{name: [None if math.isnan(x) else x for x in column] for name, column in labels.loc[kept].items()},
        "artist": [artist or None for artist in artists],
    }
    mapped = "" if scale == (1, 9) else f" ({scale} mapped to 1..9)"
    return songs_dataset(rows, f"{source}; labels as distributed{mapped}")


def load_collection_file(path: str | os.PathLike, root: str | os.PathLike | None = None) -> Dataset:
    """The collection that a YAML file describes; its keys are the arguments of `load_csv`, and `root`.

    `source` is by default the YAML file's name without its suffix. Relative paths are relative to `root`; without it,
    to the file's key `root`, itself relative to the file's folder; without that, to the file's folder. CSV files that
    are not where they should be are looked for by name, at any depth below.
    Raises `AnnotationError` for a file that is missing or does not describe a collection, and as `load_csv` does.
    """
    path = _absolute(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(f"no collection is described in {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} is not valid YAML: {error}") from error
    try:
        if not isinstance(content, dict):
            raise AnnotationError(f"expected lines 'key: value', got {content!r}")
        _check_names(content, [*inspect.signature(load_csv).parameters, "root"], "key")
        for key, kind in (("csv", str | list), ("audio_dir", str), ("root", str | None)):
            if not isinstance(content.get(key), kind):
                raise AnnotationError(f"'{key}' must be a path, got {content.get(key)!r}")
        own_root = path.parent / Path(content.pop("root", None) or "").expanduser()
        base = _absolute(own_root if root is None else root)
        content["csv"] = [_locate(base, name) for name in _several(content["csv"], "csv")]
        content["audio_dir"] = base / Path(content["audio_dir"]).expanduser()
        return load_csv(**{"source": path.stem, **content})
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def song_number(source: str, text: str) -> int:
    """The id, among all collections, of the song that `source` knows as `text`: from `COLLECTION` up to 2^48.

    A hash of `source`, from 1 to 65535, times `COLLECTION`, plus `text` if that is a decimal integer below
    `COLLECTION`, else a hash of it. It is the same on every machine.
    """
    song = _canonical(text)
    number = int(song) if _is_number(song) else _hash(song) % COLLECTION
    return (1 + _hash(source) % 0xFFFF) * COLLECTION + number


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < COLLECTION


def _canonical(text: str) -> str:
    """Ids and file names as they are compared: 007 is 7, and an accent is the same however the system encodes it."""
    return str(int(text)) if _is_number(text) else unicodedata.normalize("NFC", text)


def _read_songs(paths: list[Path], columns: Mapping[str, str | Sequence[str]]) -> Songs:
    """The songs of the first file, with the cells that any file has for them."""
    if not isinstance(columns, Mapping):
        raise AnnotationError(f"columns must map our names to the header's, got {columns!r}")
    _check_names(columns, COLUMNS, "name under columns")
    names = COLUMNS | {field: _several(given, f"columns: {field}") for field, given in columns.items()}
    headers, tables = zip(*(_read(path, names) for path in paths), strict=True)
    for field in (*NEEDED, *columns):
        if not any(set(header) & set(names[field]) for header in headers):
            pairs = zip(paths, headers, strict=True)
            raise AnnotationError("\n".join(_no_column(path, field, names, header) for path, header in pairs))
    for path, table in zip(paths, tables, strict=True):
        if not tables[0].keys() & table:
            raise AnnotationError(f"{path} has no song{'' if path == paths[0] else f' of those in {paths[0]}'}")
    return {song: {k: v for table in tables[::-1] for k, v in table.get(song, {}).items()} for song in tables[0]}


def _read(path: Path, names: Mapping[str, Sequence[str]]) -> tuple[list[str], Songs]:
    """One file's header and songs."""
    rows = _rows(path)
    line, header = next(rows, (1, []))
    there = {field: found[0] for field, options in names.items() if (found := [n for n in options if n in header])}
    if "song_id" not in there:
        raise AnnotationError(_no_column(path, "song_id", names, header))
    if twice := [name for name in there.values() if header.count(name) > 1]:
        raise AnnotationError(f"{path}, line {line}: two columns are called {twice[0]}; rename one")
    songs, faults = {}, []
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        here = {field: Cell(row.get(name, ""), f"{path}, line {line}: {name}") for field, name in there.items()}
        song, place = _canonical(here["song_id"].text), here["song_id"].place
        if len(cells) != len(header):
            faults.append(f"{path}, line {line}: {len(cells)} cells under {len(header)} columns: {','.join(cells)!r}")
        elif not song:
            faults.append(f"{place} is empty")
        elif song in songs:
            faults.append(f"{place} {song} again, already given in {songs[song]['song_id'].place}")
        else:
            songs[song] = here
    _refuse(faults)
    return header, songs


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each row that is not blank."""
    line = 1
    try:
        data = path.read_bytes()
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        reader = csv_files.reader(text, skipinitialspace=True, strict=True)
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                yield line, cells
            line = reader.line_num + 1
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{path}, line {line}: not UTF-8; save the file in that encoding") from error
    except csv_files.Error as error:
        raise AnnotationError(f"{path}, line {line}: not a CSV file: {error}") from error


def _labels(songs: Songs, scale: Scale) -> pd.DataFrame:
    """`valence` and `arousal` on 1-9, a row a song."""
    hint = f"label_range, now {scale}, must be the scale that the labels are given on"
    labels = 1 + 8 / scale.width * (_values(songs, ("valence", "arousal"), scale, hint) - scale.low)
    lowest, highest = labels.min(axis=None), labels.max(axis=None)
    if len(labels) >= 20 and highest - lowest < 4:
        message = "all labels lie in %.3g..%.3g on 1-9, less than half of it: is label_range, now %s, their scale?"
        logger.warning(message, lowest, highest, scale)
    return labels


def _deviations(songs: Songs, scale: Scale) -> pd.DataFrame:
    """`valence_std` and `arousal_std` on 1-9, a row a song; NaN where there is none."""
    hint = f"deviation_range, now {scale}, must be the scale that they are given on: none is above half of its width"
    possible = Scale(0, 1.05 * scale.width / 2)
    deviations = 8 / scale.width * _values(songs, ("valence_std", "arousal_std"), possible, hint, needed=False)
    largest = deviations.max(axis=1).dropna()
    if len(largest) >= 20 and largest.max() < 0.5:
        logger.warning(
            "the largest of all standard deviations is %.2g on 1-9: they look as if given on a smaller scale than "
            "label_range. deviation_range, now %s, should be that scale",
            largest.max(),
            scale,
        )
    return deviations


def _values(songs: Songs, names: Sequence[str], scale: Scale, hint: str, needed: bool = True) -> pd.DataFrame:
    """The numbers called `names`, a row a song; NaN where a cell that is not `needed` is empty or missing."""
    values, faults, slack = {name: dict.fromkeys(songs, math.nan) for name in names}, [], 1e-9 * scale.width
    for song, cells in songs.items():
        for name in names:
            text, place = cells.get(name) or Cell("", f"{cells['song_id'].place} {song} has no {name}:")
            if not needed and text.lower() in ("", "nan"):
                continue
            try:
                values[name][song] = float(text)
            except ValueError:
                faults.append(f"{place} {text!r} is not a number")
            else:
                if not scale.low - slack <= values[name][song] <= scale.high + slack:
                    faults.append(f"{place} {text!r} is outside {scale}")
    _refuse(faults, hint)
    return pd.DataFrame(values)


def _numbers(songs: Songs, source: str, ids: str | None) -> dict[str, int]:
    """Each song's id among all collections."""
    if ids not in (None, "deam"):
        raise AnnotationError(f"ids must be 'deam' or left out, got {ids!r}")
    if ids == "deam":
        foreign = [cells["song_id"] for song, cells in songs.items() if not _is_number(song)]
        _refuse([f"{cell.place} {cell.text!r} is not an integer, as DEAM's ids are" for cell in foreign])
        return {song: int(song) for song in songs}
    owners = {}
    for song, cells in songs.items():
        if (other := owners.setdefault(song_number(source, song), song)) != song:
            raise AnnotationError(f"{cells['song_id'].place} {song} gets the same number as {other}; rename one")
    return {song: number for number, song in owners.items()}


def _find_audio(songs: Songs, audio_dir: Path) -> dict[str, Path]:
    """The audio file of each song that has one."""
    given = {song: PureWindowsPath(cells["audio"].text) for song, cells in songs.items() if "audio" in cells}
    wanted = {song: (song,) for song in songs}
    if given:
        wanted = {song: (f"/{path.as_posix()}", path.name) for song, path in given.items()}
    found, owners = defaultdict(list), {}
    for path in files_under(audio_dir):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            for key in (f"/{path.relative_to(audio_dir).as_posix()}", path.name) if given else (path.stem,):
                found[_canonical(key)].append(path)
    for song, keys in wanted.items():
        paths = next((found[key] for key in map(_canonical, keys) if key in found), [])
        if len(paths) > 1:
            raise AnnotationError(f"two audio files for song {song}: {paths[0]} and {paths[1]}; remove one")
        if paths and (other := owners.setdefault(paths[0], song)) != song:
            raise AnnotationError(f"songs {other} and {song} have the same audio file, {paths[0]}")
    if not owners:
        name = next(iter(wanted.values()))[-1]
        example = f"as the column for audio says, {name}" if given else f"by song id, as {name}{AUDIO_SUFFIXES[0]}"
        raise AnnotationError(
            f"no audio for any of {len(songs)} annotated songs under {audio_dir}: looked for files named {example}, "
            f"with one of the suffixes {' '.join(AUDIO_SUFFIXES)}"
        )
    return {song: path for path, song in owners.items()}


def _absolute(path: str | os.PathLike) -> Path:
    """Without `..`, so that its folders can be named."""
    return Path(os.path.abspath(Path(path).expanduser()))


def _locate(base: Path, name: str) -> Path:
    """The file at `name` below `base`, or else the one of that name at any depth."""
    path = base / Path(name).expanduser()
    found = path if path.is_file() else find_file(base, path.name)
    if not found:
        hint = _nearest([path.name], [file.name for file in files_under(base)])
        raise AnnotationError(f"no {path.name} anywhere under {base}{hint}")
    return found


def _check_names(given: Iterable[str], valid: Iterable[str], what: str) -> None:
    for name in given:
        if name not in valid:
            hint = _nearest([str(name)], valid)
            raise AnnotationError(f"unknown {what}: '{name}'{hint}; valid are {', '.join(valid)}")


def _no_column(path: Path, field: str, names: Mapping[str, Sequence[str]], header: list[str]) -> str:
    return (
        f"{path}, line 1: no column for {field}: looked for {' or '.join(names[field])}"
        f"{_nearest(names[field], header)}; there are {', '.join(header) or 'none'}. Name it under columns"
    )


def _nearest(wanted: Iterable[str], names: Iterable[str]) -> str:
    """ " (nearest: NAME)", or nothing where no name is similar."""
    pairs = [(SequenceMatcher(None, a.lower(), b.lower()).ratio(), b) for a in wanted for b in names]
    ratio, name = max(pairs, default=(0, ""))
    return f" (nearest: {name})" if ratio > 0.6 else ""


def _several(given: str | os.PathLike | Sequence[str | os.PathLike], what: str) -> list[str]:
    """One name, or a list of them, as a list."""
    kind = str | os.PathLike
    names = [given] if isinstance(given, kind) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, kind) for name in names):
        raise AnnotationError(f"{what} must be one name or a list of names, got {given!r}")
    return [os.fspath(name).strip() for name in names]


def _scale(given: Sequence[float], what: str) -> Scale:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = math.nan
    if isinstance(given, str) or not -math.inf < low < high < math.inf:
        raise AnnotationError(f"{what} must be two numbers, the lowest and the highest, got {given!r}")
    return Scale(low, high)


def _refuse(faults: list[str], hint: str = "") -> None:
    """Raise the first five faults, and how many more there are."""
    if faults:
        more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise AnnotationError("\n".join([f"{len(faults)} faults:", *faults[:5], *more, *filter(None, [hint])]))
