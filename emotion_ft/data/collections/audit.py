"""What a collection in DEAM's layout contains, and what is wrong with it."""

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import soundfile
from datasets import DatasetDict
from tqdm.auto import tqdm

from ..artists import group_names, is_known, joined_names
from ..copies import Copies, find_copies
from ..features import store_log_mels
from ..files import StrPath, is_rendered
from ..front_end import FrontEnd
from ..songs import CURVE_STEP
from ..splits import FULL_SONGS_FROM
from .annotations import EXCHANGED_UP_TO, read_artists, read_dynamic, read_genres, read_static
from .deam import find_audio, load_songs
from .exchange import ColumnCheck, Exchange, check_columns, exchanged_songs, paired_means, range_of_ends

OUTLYING = 4.0  # robust standard deviations of static labels from what the curves predict
BLOCKS = ((0, EXCHANGED_UP_TO), (EXCHANGED_UP_TO + 1, FULL_SONGS_FROM - 1), (FULL_SONGS_FROM, 10**9))


class Audit(NamedTuple):
    """A collection's audit.

    Args:
        counts: what there is and what is missing, by name.
        songs: one row per song id: labels as distributed, the curves' means and end in seconds, the residual of the
            labels on the curves in robust standard deviations, the audio's path, and its duration in seconds, sampling
            rate in Hz and channels according to its header, the artist, and `problems`, a sentence or nothing.
        checks: how static annotations and curves agree in each block of ids.
        exchange: the songs whose valence and arousal are exchanged, as `deam.load_songs` repairs them.
        ends: between which ids the first and the last of them lie according to the curves, if these show any.
        genres: means of the exchanged songs, or of all if there are none, by genre where known: `songs`, `valence`,
            `arousal` as distributed, `curve_valence`, `curve_arousal`.
        joined: the names of artists that are one group for splits, where a group has several.
        copies: the pairs of songs that are one recording.
    """

    counts: dict[str, int]
    songs: pd.DataFrame
    checks: list[ColumnCheck]
    exchange: Exchange
    ends: tuple[tuple[int, int], tuple[int, int]] | None
    genres: pd.DataFrame
    joined: list[list[str]]
    copies: list[Copies]


def audit(root: StrPath, headers: bool = True, seed: int = 0, extractor: FrontEnd | None = None) -> Audit:
    """Audit the collection under `root`; if there is no audio, its annotations alone.

    Args:
        headers: also read the header of every audio file.
        seed: of the bootstrap.
        extractor: a front end, to find recordings with two ids by their sound; all audio is then decoded and stored as
            `store_log_mels` does, with its errors. None: only files with the same bytes are found.

    Raises:
        AnnotationError: for annotations that cannot be read at all.
    """
    root = Path(os.path.expanduser(root))
    static, dynamic, artists, audio = read_static(root), read_dynamic(root), read_artists(root), find_audio(root)
    means = paired_means(static, dynamic)
    exchange = exchanged_songs(static, dynamic)
    range_found = range_of_ends(means, seed) if exchange.check and len(exchange.ids) else None
    ids = means.index
    blocks = [block for block in BLOCKS if ((ids >= block[0]) & (ids <= block[1])).any()]
    checks = [check_columns(means, *_ends(ids, *block), seed) for block in blocks]
    songs = static.join(means[["curve_valence", "curve_arousal"]])
    ends = {key: curve.start + CURVE_STEP * (len(curve.valence) - 1) for key, curve in dynamic.items()}
    songs["curve_end"] = pd.Series(ends, dtype="float64")
    songs["residual"] = _residuals(means, exchange.ids)
    songs["artist"] = pd.Series(artists, dtype="object")
    songs["audio"] = pd.Series({key: str(path.relative_to(root)) for key, path in audio.items()}, dtype="object")
    songs = songs.join(_headers(audio if headers else {}))
    songs["problems"] = [_problems(row, bool(audio), headers) for row in songs.itertuples()]
    known = [artist for artist in songs["artist"] if is_known(artist)]
    counts = {
        "songs with static annotations": len(static),
        "of these with curves": len(means),
        "curves without static annotations": len(dynamic.keys() - set(static.index)),
        "audio files": len(audio),
        "annotated songs without audio": len(set(static.index) - audio.keys()) if audio else 0,
        "audio files without static annotations": len(audio.keys() - set(static.index)),
        "songs with a known artist": len(known),
        "groups of artists": len(set(group_names(known).values())),
        "songs with problems": int((songs["problems"] != "").sum()),
    }
    copies = _same_recordings(root, extractor) if extractor and audio else _same_files(audio if headers else {})
    genres = _by_genre(songs.loc[exchange.ids] if len(exchange.ids) else songs, root)
    return Audit(counts, songs, checks, exchange, range_found, genres, joined_names(known), copies)


def _same_files(audio: dict[int, Path]) -> list[Copies]:
    """The pairs of songs whose files have the same bytes; only readable files of the same size are read."""
    sizes: dict[int, list[int]] = defaultdict(list)
    for song_id, path in sorted(audio.items()):
        if os.access(path, os.R_OK):
            sizes[path.stat().st_size].append(song_id)
    contents: dict[bytes, list[int]] = defaultdict(list)
    for song_id in (song_id for same in sizes.values() if len(same) > 1 for song_id in same):
        with audio[song_id].open("rb") as file:
            contents[hashlib.file_digest(file, "sha256").digest()].append(song_id)
    return sorted(Copies(*pair, 1.0) for same in contents.values() for pair in combinations(same, 2))


def _same_recordings(root: Path, extractor: FrontEnd) -> list[Copies]:
    stored, _ = store_log_mels(DatasetDict({"all": load_songs(root, "distributed")}), extractor)
    return find_copies(stored["all"], extractor.frame_rate)


def _ends(ids: pd.Index, first: int, last: int) -> tuple[int, int]:
    inside = ids[(ids >= first) & (ids <= last)]
    return int(inside[0]), int(inside[-1])


def _by_genre(songs: pd.DataFrame, root: Path) -> pd.DataFrame:
    """`Audit.genres`; empty for rendered songs, whose genres say nothing about their sound."""
    genre = songs.index.map({} if is_rendered(root) else read_genres(root))
    by_genre = songs[["valence", "arousal", "curve_valence", "curve_arousal"]].groupby(genre)
    means = by_genre.mean().rename_axis("genre")
    means.insert(0, "songs", by_genre.size())
    return means


def _residuals(means: pd.DataFrame, exchanged: pd.Index) -> pd.Series:
    """The larger of the two dimensions' residuals of label on curve, in robust deviations (1.4826 MAD), signed."""
    if len(means) < 3:
        return pd.Series(np.nan, means.index)
    labels = means[["valence", "arousal"]].to_numpy().copy()
    inside = means.index.isin(exchanged)
    labels[inside] = labels[inside][:, ::-1]
    residuals = []
    for label, curve in zip(labels.T, means[["curve_valence", "curve_arousal"]].to_numpy().T, strict=True):
        rest = label - np.polyval(np.polyfit(curve, label, 1), curve) if np.ptp(curve) else label - label.mean()
        scale = 1.4826 * np.median(np.abs(rest - np.median(rest)))
        residuals.append(rest / scale if scale else np.zeros_like(rest))
    scores = np.stack(residuals, axis=1)
    return pd.Series(np.take_along_axis(scores, np.abs(scores).argmax(1)[:, None], axis=1)[:, 0], means.index)


def _headers(audio: dict[int, Path]) -> pd.DataFrame:
    """What the audio files' headers say, or what is wrong with them, by song id."""

    def read(item: tuple[int, Path]) -> tuple:
        try:
            info = soundfile.info(str(item[1]))
        except soundfile.LibsndfileError as error:
            return (item[0], np.nan, np.nan, np.nan, error.error_string.strip())
        return (item[0], info.duration, info.samplerate, info.channels, "")

    with ThreadPoolExecutor() as pool:
        rows = list(tqdm(pool.map(read, audio.items()), total=len(audio), desc="Headers", disable=not audio))
    columns = ["song_id", "duration", "sampling_rate", "channels", "fault"]
    return pd.DataFrame(rows, columns=columns).set_index("song_id")


def _problems(row: Any, has_audio: bool, headers: bool) -> str:
    problems = []
    if has_audio and not isinstance(row.audio, str):
        problems.append("no audio")
    if headers and isinstance(row.fault, str) and row.fault:
        problems.append(f"unreadable audio: {row.fault}")
    if row.duration + CURVE_STEP < row.curve_end:
        problems.append(f"the header says {row.duration:.1f} s, but the curves run to {row.curve_end:.1f} s")
    if abs(row.residual) > OUTLYING:
        problems.append(f"the labels are {row.residual:+.1f} robust deviations from what the curves predict")
    return "; ".join(problems)
