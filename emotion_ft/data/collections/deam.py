"""DEAM's folder -> `datasets.DatasetDict`, one row per song.

DEAM: 1802 songs (1744 excerpts of 45 s, 58 full songs) under Creative Commons licences, each rated for valence and
arousal by about ten people. Source: Aljanaki, Yang & Soleymani (2017), "Developing a benchmark for emotional analysis
of music", PLoS ONE 12(3).
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from ..files import AUDIO_SUFFIXES, AnnotationError, StrPath, files_under, is_rendered, warn_left_out
from ..scale import from_unit
from ..songs import songs_dataset, split_songs
from ..splits import FULL_SONGS_FROM
from . import annotations
from .annotations import Curve, read_artists, read_dynamic, read_static
from .exchange import Exchange, exchange_back, exchanged_songs

logger = logging.getLogger(__name__)

LABELS = ("repaired", "distributed", "dynamic")


def load_deam(
    root: StrPath,
    split: StrPath = "random",
    labels: str = "repaired",
    seed: int = 42,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    group_by_artist: bool = True,
    exchanged_ids: tuple[int, int] | None = None,
) -> DatasetDict:
    """DEAM under `root`, as `train`, `validation` and `test`: `load_songs`, then `songs.split_songs`.

    Raises `AnnotationError` for a faulty collection and `SplitError` for a split that cannot be filled or that leaks.
    """
    songs = load_songs(root, labels, exchanged_ids)
    return split_songs(songs, split, seed, validation_fraction, test_fraction, group_by_artist)


def load_songs(root: StrPath, labels: str = "repaired", exchanged_ids: tuple[int, int] | None = None) -> Dataset:
    """All songs under `root` that have annotations and audio, sorted by id; the columns are `songs.FEATURES`.

    Args:
        root: a folder with DEAM's files at any depth. Audio files are named by song id
            (`DEAM_audio/MEMD_audio/2.mp3`). Songs with annotations or audio alone are left out with a warning.
        labels: "repaired": static labels, with valence and arousal exchanged back where the dynamic annotations show
            an exchange or, without these, where DEAM's own file is recognised (see `exchange.exchanged_songs`), and as
            distributed if it cannot be decided. "distributed": static labels as they are. "dynamic": the means of the
            songs' curves, 5 + 4 x, without deviations; songs without a curve are left out with a warning.
        exchanged_ids: first and last id of the songs to exchange back, whatever the data show.

    Returns:
        The songs; `info.description` says how the labels were treated.

    Raises:
        AnnotationError: for a missing or empty root, faulty annotations, two audio files for a song, no audio, or no
            curves if `labels` is "dynamic".
    """
    if labels not in LABELS:
        raise ValueError(f"labels must be {', '.join(map(repr, LABELS[:-1]))} or {LABELS[-1]!r}, got {labels!r}")
    root = Path(os.path.expanduser(root)).absolute()
    static, curves, artists = read_static(root), read_dynamic(root), read_artists(root)
    audio = _annotated_audio(root, static)
    song_ids = list(audio)
    if labels == "dynamic":
        if not curves:
            raise AnnotationError(f"labels 'dynamic' need valence.csv and arousal.csv, but {root} does not have both")
        warn_left_out("songs without a curve", set(song_ids) - curves.keys())
        song_ids = [song_id for song_id in song_ids if song_id in curves]
    used, other, labels, treatment = _treated(static, curves, song_ids, labels, exchanged_ids)
    differs = not np.array_equal(used[["valence", "arousal"]], other[["valence", "arousal"]])
    found = [curves.get(song_id) for song_id in song_ids]
    rendered = is_rendered(root)
    collection = "songs rendered in DEAM's layout" if rendered else "DEAM"
    columns: dict[str, Any] = {
        "song_id": song_ids,
        "source": [collection] * len(song_ids),
        "audio": [audio[song_id] for song_id in song_ids],
        **{str(name): values.to_numpy("float32") for name, values in used.items()},
        "raters": np.where(np.array(song_ids) < FULL_SONGS_FROM, annotations.RATERS, annotations.FULL_SONG_RATERS),
        "labels": [labels] * len(song_ids),
        **{f"other_{name}": other[name].to_numpy("float32") for name in ("valence", "arousal") if differs},
        "artist": [artists.get(song_id) for song_id in song_ids],
        "rendered": [rendered] * len(song_ids),
        "curve_start": [curve and curve.start for curve in found],
        "curve_valence": [curve and curve.valence for curve in found],
        "curve_arousal": [curve and curve.arousal for curve in found],
    }
    return songs_dataset(columns, f"{collection}; labels {treatment}")


def _annotated_audio(root: Path, static: pd.DataFrame) -> dict[int, Path]:
    """The audio file of each annotated song that has one, by ascending id."""
    audio = find_audio(root)
    song_ids = sorted(audio.keys() & static.index)
    if not song_ids:
        raise AnnotationError(
            f"no audio for any of {len(static)} annotated songs under {root}: looked for files named by song id, such "
            f"as {static.index[0]}{AUDIO_SUFFIXES[0]}, with one of the suffixes {' '.join(AUDIO_SUFFIXES)}"
        )
    warn_left_out("annotated songs without audio", static.index.difference(song_ids))
    warn_left_out("audio files without static annotations", audio.keys() - static.index)
    return {song_id: audio[song_id] for song_id in song_ids}


def _treated(
    static: pd.DataFrame,
    curves: dict[int, Curve],
    song_ids: list[int],
    labels: str,
    exchanged_ids: tuple[int, int] | None,
) -> tuple[pd.DataFrame, pd.DataFrame, str, str]:
    """The songs' labels under the treatment asked for and under the other one, the treatment, and its description.

    If the data cannot decide what to repair, the treatment is "distributed".
    """
    exchange = exchanged_songs(static, curves, exchanged_ids)
    distributed, repaired = static.loc[song_ids], exchange_back(static, exchange.ids).loc[song_ids]
    if labels == "dynamic":
        return _curve_means(curves).loc[song_ids], repaired, labels, "dynamic (means of the curves)"
    if labels == "distributed":
        return distributed, repaired, labels, "as distributed"
    if not exchange.decided:
        why = f"{'too few' if curves else 'no'} dynamic annotations to repair them by"
        return distributed, repaired, "distributed", f"as distributed ({why})"
    how = _repaired(exchange, len(exchange.ids.intersection(song_ids)), exchanged_ids)
    return repaired, distributed, labels, how


def _curve_means(curves: dict[int, Curve]) -> pd.DataFrame:
    """The curves' means on 1-9, by song id."""
    means = {key: (from_unit(curve.valence.mean()), from_unit(curve.arousal.mean())) for key, curve in curves.items()}
    return pd.DataFrame.from_dict(means, orient="index", columns=["valence", "arousal"])


def _repaired(exchange: Exchange, rows: int, exchanged_ids: tuple[int, int] | None) -> str:
    """How labels were repaired, for the description."""
    ids = exchange.ids
    known = not len(ids) or ids[-1] <= annotations.EXCHANGED_UP_TO
    where = f"≤ {annotations.EXCHANGED_UP_TO}" if known else f"{ids[0]}-{ids[-1]}"
    if exchanged_ids:
        where = f"{exchanged_ids[0]}-{exchanged_ids[1]}, as told"
    if exchange.recognised:
        where += ", recognised as DEAM's own"
    return f"repaired (valence and arousal exchanged back in {rows} rows with ids {where})"


def find_deam(folder: StrPath) -> Path | None:
    """The innermost folder in `folder` that contains DEAM's annotations and its audio, or None."""
    root = Path(folder)
    tables = root.rglob(annotations.STATIC_FILES[0])
    folders = {place for table in tables for place in table.parents if place.is_relative_to(root)}
    innermost_first = sorted(folders, key=lambda place: (-len(place.parts), place))
    return next((place for place in innermost_first if find_audio(place)), None)


def find_audio(root: Path) -> dict[int, Path]:
    """The audio file of every song id, at any depth under `root`; `AnnotationError` for two files of one song."""
    audio: dict[int, Path] = {}
    for path in files_under(root):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.stem.isascii() and path.stem.isdecimal():
            song_id = int(path.stem)
            if song_id in audio:
                raise AnnotationError(f"two audio files for song {song_id}: {audio[song_id]} and {path}; remove one")
            audio[song_id] = path
    return audio
