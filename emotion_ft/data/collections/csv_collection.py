"""Any collection with labels in CSV files -> one `Dataset`; arguments or a YAML file describe the collection."""

import hashlib
import inspect
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import pandas as pd
import yaml
from datasets import Dataset

from ...config.yaml_files import read_yaml
from ...errors import brief, nearest_hint
from ...shipped import configuration
from .. import files
from ..files import COLLECTION, AnnotationError, StrPath, canonical, is_number, refuse_faults
from ..songs import songs_dataset
from .csv_tables import Cell, Songs, check_names, read_songs, several

logger = logging.getLogger(__name__)

MAX_SCALE = 1e9
"""Mapping a scale beyond this, or narrower than its inverse, onto 1-9 would lose precision."""


class Scale(NamedTuple):
    """The lowest and the highest value of a scale."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


def load_csv(
    csv: StrPath | Sequence[StrPath],
    audio_dir: StrPath,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    label_range: tuple[float, float] = (1, 9),
    deviation_range: tuple[float, float] | None = None,
    source: str | None = None,
    ids: str | None = None,
    raters: int | None = None,
    raters_at_least: bool = False,
) -> Dataset:
    """The songs of the first CSV file that have audio, sorted by song id; the columns are `songs.FEATURES`.

    Args:
        csv: one file, or several to join by song id: labels in one, deviations or artists in another. A column that
            several files have is taken from the first of them.
        audio_dir: the folder with the audio at any depth, each file named by its song id (`12.mp3`) or as the column
            `audio` says. Songs without audio are left out with a warning.
        columns: from our names, the keys of `COLUMNS`, to the header's: one name, or several to try in turn.
        label_range: lowest and highest value of the collection's scale, which is mapped linearly onto 1-9.
        deviation_range: the same for the scale of the standard deviations, if that is not `label_range`.
        source: the collection's name, which determines its song ids (see `song_number`). By default, the name of the
            innermost folder that contains both CSV files and audio.
        ids: "deam" if the songs are DEAM's and have its ids (EmoMusic): the ids are kept as they are.
        raters: how many people each label is the mean of; without it, results have no ceiling.
        raters_at_least: whether that is only the least number, so that the ceiling is a lower bound.

    Raises:
        AnnotationError: for unsuitable arguments, files or columns, a repeated song, two audio files for a song or two
            songs for a file, and no audio at all; with file, line, column and value, for labels outside `label_range`
            and for deviations that are negative or exceed half of their range (by 5 %), which no standard deviation
            can (Popoviciu's inequality).
    """
    scale = _scale(label_range, "label_range")
    deviation_scale = scale if deviation_range is None else _scale(deviation_range, "deviation_range")
    paths = [_absolute(path) for path in several(csv, "csv")]
    audio_dir = _absolute(audio_dir)
    common = Path(os.path.commonpath([audio_dir, *(path.parent for path in paths)]))
    source = str(source or common.name or paths[0].stem)
    if raters is not None and (type(raters) is not int or not 1 <= raters < 1 << 31):
        raise AnnotationError(f"raters must be a number of people, got {brief(repr(raters))}")
    if type(raters_at_least) is not bool:
        raise AnnotationError(f"raters_at_least must be true or false, got {brief(repr(raters_at_least))}")
    songs = read_songs(paths, {} if columns is None else columns)
    labels = _labels(songs, scale).join(_deviations(songs, deviation_scale))
    numbers = _numbers(songs, source, ids)
    audio = _find_audio(songs, audio_dir)
    files.warn_left_out("annotated songs without audio", [song for song in songs if song not in audio])
    kept = sorted(audio, key=numbers.__getitem__)
    artists = [" ".join(songs[song]["artist"].text.split()) if "artist" in songs[song] else "" for song in kept]
    rows: dict[str, Sequence[Any]] = {
        "song_id": [numbers[song] for song in kept],
        "source": [source] * len(kept),
        "audio": [audio[song] for song in kept],
        **{str(name): [None if math.isnan(x) else x for x in column] for name, column in labels.loc[kept].items()},
        "raters": [raters] * len(kept),
        "raters_at_least": [raters_at_least] * len(kept),
        "labels": ["distributed"] * len(kept),
        "artist": [artist or None for artist in artists],
    }
    mapped = "" if scale == (1, 9) else f" ({scale} mapped to 1..9)"
    rendered = files.is_rendered(audio_dir)
    rows["rendered"] = [rendered] * len(kept)
    how = ", audio rendered from the labels" if rendered else ""
    return songs_dataset(rows, f"{source}{how}; labels as distributed{mapped}")


def read_labels(csv: StrPath | Sequence[StrPath]) -> pd.DataFrame:
    """`valence` and `arousal` of every song in CSV files whose scale is 1-9, by the collection's ids.

    Raises `AnnotationError` as `load_csv` does; no audio is needed.
    """
    return _labels(read_songs([_absolute(path) for path in several(csv, "csv")], {}), Scale(1, 9))


def load_collection_file(path: StrPath, root: StrPath | None = None) -> Dataset:
    """The collection described by a YAML file, whose keys are the arguments of `load_csv`, and `root`.

    A shipped one can be named by its bare name, such as "pmemo".
    By default, `source` is the YAML file's name without its suffix. Relative paths are relative to `root`; without it,
    to the file's key `root`, itself relative to the file's folder; without that, to the file's folder. CSV files that
    are not at their path are looked for by name, at any depth below.
    Raises `AnnotationError` for a file that is missing or does not describe a collection, and as `load_csv` does.
    """
    path = _absolute(configuration(path))
    try:
        content = read_yaml(path)
    except OSError as error:
        raise AnnotationError(f"no collection is described in {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise AnnotationError(f"{path} is not valid YAML: {error}") from error
    try:
        if not isinstance(content, dict):
            raise AnnotationError(f"expected lines 'key: value', got {brief(repr(content))}")
        check_names(content, [*inspect.signature(load_csv).parameters, "root"], "key")
        for key, kind in (("csv", str | list), ("audio_dir", str), ("root", str | None)):
            if not isinstance(content.get(key), kind):
                raise AnnotationError(f"'{key}' must be a path, got {brief(repr(content.get(key)))}")
        own_root = path.parent / _expanded(content.pop("root", None) or "")
        base = _absolute(own_root if root is None else root)
        content["csv"] = [_locate(base, name) for name in several(content["csv"], "csv")]
        content["audio_dir"] = base / _expanded(content["audio_dir"])
        return load_csv(**{"source": path.stem, **content})
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def song_number(source: str, text: str) -> int:
    """The id, unique among all collections, of the song that `source` calls `text`: from `COLLECTION` up to 2^48.

    A hash of `source`, from 1 to 65535, times `COLLECTION`, plus `text` if that is a decimal integer below
    `COLLECTION`, else a hash of it. It is the same on every machine.
    """
    song = canonical(text)
    number = int(song) if is_number(song) else _hash(song) % COLLECTION
    return (1 + _hash(source) % 0xFFFF) * COLLECTION + number


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _labels(songs: Songs, scale: Scale) -> pd.DataFrame:
    """`valence` and `arousal` on 1-9, one row per song."""
    hint = f"label_range, now {scale}, must be the scale of the labels"
    labels = 1 + 8 / scale.width * (_values(songs, ("valence", "arousal"), scale, hint) - scale.low)
    lowest, highest = labels.to_numpy().min(), labels.to_numpy().max()
    if len(labels) >= 20 and highest - lowest < 4:
        message = "all labels are in %.3g..%.3g, less than half of 1-9: is label_range, now %s, their scale?"
        logger.warning(message, lowest, highest, scale)
    return labels


def _deviations(songs: Songs, scale: Scale) -> pd.DataFrame:
    """`valence_std` and `arousal_std` on 1-9, one row per song; NaN where there is none."""
    hint = f"deviation_range, now {scale}, must be their scale: no standard deviation is above half of its width"
    possible = Scale(0, 1.05 * scale.width / 2)
    deviations = 8 / scale.width * _values(songs, ("valence_std", "arousal_std"), possible, hint, needed=False)
    largest = deviations.max(axis=1).dropna()
    if len(largest) >= 20 and largest.max() < 0.5:
        logger.warning(
            "the largest of all standard deviations is %.2g on 1-9: they seem to be on a smaller scale than "
            "label_range. deviation_range, now %s, should be that scale",
            largest.max(),
            scale,
        )
    return deviations


def _values(songs: Songs, names: Sequence[str], scale: Scale, hint: str, needed: bool = True) -> pd.DataFrame:
    """The numbers called `names`, one row per song; NaN for a missing or empty cell, unless it is `needed`."""
    values, slack = {name: dict.fromkeys(songs, math.nan) for name in names}, 1e-9 * scale.width
    faults: list[str] = []
    for song, cells in songs.items():
        for name in names:
            text, place = cells.get(name) or Cell("", f"{cells['song_id'].place} {brief(song)} has no {name}:")
            if not needed and text.lower() in ("", "nan"):
                continue
            try:
                values[name][song] = float(text)
            except ValueError:
                faults.append(f"{place} '{brief(text)}' is not a number")
            else:
                if not scale.low - slack <= values[name][song] <= scale.high + slack:
                    faults.append(f"{place} '{brief(text)}' is outside {scale}")
    refuse_faults(faults, hint)
    return pd.DataFrame(values)


def _numbers(songs: Songs, source: str, ids: str | None) -> dict[str, int]:
    """Each song's id, unique among all collections."""
    if ids not in (None, "deam"):
        raise AnnotationError(f"ids must be 'deam' or left out, got {brief(repr(ids))}")
    if ids == "deam":
        foreign = [cells["song_id"] for song, cells in songs.items() if not is_number(song)]
        refuse_faults([f"{cell.place} '{brief(cell.text)}' is not an integer, as DEAM's ids are" for cell in foreign])
        return {song: int(song) for song in songs}
    owners: dict[int, str] = {}
    for song, cells in songs.items():
        if (other := owners.setdefault(song_number(source, song), song)) != song:
            raise AnnotationError(
                f"{cells['song_id'].place} {brief(song)} gets the same id as {brief(other)}; rename one"
            )
    return {song: number for number, song in owners.items()}


def _find_audio(songs: Songs, audio_dir: Path) -> dict[str, Path]:
    """The audio file of each song that has one."""
    given = {song: PureWindowsPath(cells["audio"].text) for song, cells in songs.items() if "audio" in cells}
    wanted: dict[str, tuple[str, ...]] = {song: (song,) for song in songs}
    if given:
        wanted = {song: (f"/{path.as_posix()}", path.name) for song, path in given.items()}
    found: dict[str, list[Path]] = defaultdict(list)
    owners: dict[Path, str] = {}
    for path in files.files_under(audio_dir):
        if path.suffix.lower() in files.AUDIO_SUFFIXES:
            for key in (f"/{path.relative_to(audio_dir).as_posix()}", path.name) if given else (path.stem,):
                found[canonical(key)].append(path)
    for song, keys in wanted.items():
        paths = next((found[key] for key in map(canonical, keys) if key in found), [])
        if len(paths) > 1:
            raise AnnotationError(f"two audio files for song {brief(song)}: {paths[0]} and {paths[1]}; remove one")
        if paths and (other := owners.setdefault(paths[0], song)) != song:
            raise AnnotationError(f"songs {brief(other)} and {brief(song)} have the same audio file, {paths[0]}")
    if not owners:
        name = brief(next(iter(wanted.values()))[-1])
        example = f"as in the column for audio, {name}" if given else f"by song id, such as {name}.mp3"
        raise AnnotationError(
            f"no audio for any of {len(songs)} annotated songs under {audio_dir}: looked for files named {example}, "
            f"with one of the suffixes {' '.join(files.AUDIO_SUFFIXES)}"
        )
    return {song: path for path, song in owners.items()}


def _expanded(path: StrPath) -> Path:
    """With the home folder for `~`; unchanged for an unknown `~name`, for which `Path.expanduser` raises."""
    return Path(os.path.expanduser(path))


def _absolute(path: StrPath) -> Path:
    """Absolute and without `..`, so that every folder in it has a name."""
    return Path(os.path.abspath(_expanded(path)))


def _locate(base: Path, name: str) -> Path:
    """The file at `name` below `base`, or else the file of that name at any depth."""
    path = base / _expanded(name)
    found = path if os.path.isfile(path) else files.find_file(base, path.name)
    if not found:
        hint = nearest_hint([path.name], [file.name for file in files.files_under(base)])
        raise AnnotationError(f"no {brief(path.name)} anywhere under {base}{hint}")
    return found


def _scale(given: Sequence[float], what: str) -> Scale:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if isinstance(given, str) or not -MAX_SCALE <= low < high <= MAX_SCALE or high - low < 1 / MAX_SCALE:
        raise AnnotationError(
            f"{what} must be two numbers within ±{MAX_SCALE:g}, lowest and highest, got {brief(repr(given))}"
        )
    return Scale(low, high)
