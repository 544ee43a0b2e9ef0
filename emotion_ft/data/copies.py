"""One recording under two ids, found in stored log-mels, whatever the files' formats, bitrates and levels.

The fingerprint is that of Haitsma & Kalker (2002), "A highly robust audio fingerprinting system", ISMIR: the signs of
the differences between neighbouring bands' energies, minus those a moment before. It is computed from log-mels here,
so that a gain cancels out. Two recordings are one if most signs agree at some shift. Only those whose signs have
similar covariances, which no shift changes, are compared like that.
"""

import hashlib
import logging
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.fft import irfft, next_fast_len, rfft
from sklearn.neighbors import NearestNeighbors

from .features import BadFile
from .splits import SPLIT_NAMES

logger = logging.getLogger(__name__)

BANDS = 17
RATE = 25  # moments per second
SMOOTHING = 8  # moments that an energy is the mean of
STEADY = 0.02  # smaller changes of a log-energy have no sign: float16 rounds the floor of a log-mel to 0.008
DELAYS = (0, 4, 8, 16)  # of the covariances, in moments
NEIGHBOURS = 3
SHORTEST = 5 * RATE
"""How many moments two recordings have to share; shorter ones are copies only if their log-mels are the same bytes."""
AGREEMENT = 0.4
"""How well the signs of one recording agree at least, from -1 to 1: 1 minus twice the bit error rate, here 0.3.
Haitsma & Kalker allow 0.35."""


COLUMNS = ["song_id", "audio"]


class Copies(NamedTuple):
    """Two songs that are one recording: their ids, and how well they agree, from `AGREEMENT` to 1."""

    song_id: int
    other: int
    agreement: float


def find_copies(songs: Dataset, frame_rate: float) -> list[Copies]:
    """The pairs of songs that are one recording, the lower id first, in ascending order.

    Args:
        songs: with stored log-mels.
        frame_rate: of these, frames per second.
    """
    ids, prints = [int(song_id) for song_id in songs["song_id"]], []
    same: dict[bytes, list[int]] = {}
    for number, row in enumerate(songs.with_format(None).select_columns(["log_mel", "frames"])):
        log_mel = np.frombuffer(row["log_mel"], np.float16).reshape(row["frames"], -1)
        prints.append(fingerprint(log_mel, frame_rate))
        same.setdefault(hashlib.sha256(row["log_mel"]).digest(), []).append(number)
    found = {pair: 1.0 for numbers in same.values() for pair in combinations(numbers, 2)}
    for pair in _neighbours(prints):
        if pair not in found and (agrees := agreement(prints[pair[0]], prints[pair[1]])) >= AGREEMENT:
            found[pair] = agrees
    return sorted(Copies(min(ids[a], ids[b]), max(ids[a], ids[b]), agrees) for (a, b), agrees in found.items())


def fingerprint(log_mel: np.ndarray, frame_rate: float) -> np.ndarray:
    """A (frames, mels) log-mel -> signs (moments, BANDS - 1), int8: -1, 1, and 0 where nothing changes.

    The highest eighth of the mels is left out, because lossy formats remove it.
    """
    mels = np.array_split(np.arange(log_mel.shape[1] * 7 // 8), BANDS)
    to_bands = np.zeros((log_mel.shape[1], BANDS), np.float32)
    for band, its in enumerate(mels):
        to_bands[its, band] = 1 / max(len(its), 1)
    step = max(1, round(frame_rate / RATE))
    moments = len(log_mel) // step
    bands = (log_mel[: moments * step].astype(np.float32) @ to_bands).reshape(moments, step, BANDS).mean(1)
    sums = np.cumsum(np.diff(bands, axis=1), axis=0, dtype=np.float64)
    means = (sums[SMOOTHING:] - sums[:-SMOOTHING]) / SMOOTHING
    changes = means[SMOOTHING // 2 :] - means[: -(SMOOTHING // 2)]
    return np.where(np.abs(changes) > STEADY, np.sign(changes), 0).astype(np.int8)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The mean product of two fingerprints' signs where both are not zero, from -1 to 1, at the best shift.

    -1 if no shift leaves as many of them in common as there are in `SHORTEST` moments.
    """
    size = next_fast_len(len(one) + len(other), real=True)
    products, shared = _correlate(one, other, size), _correlate(np.abs(one), np.abs(other), size)
    enough = shared >= SHORTEST * (BANDS - 1) - 0.5
    return float(np.clip(np.max(products[enough] / shared[enough], initial=-1), -1, 1))  # to the bit, despite rounding


def _correlate(one: np.ndarray, other: np.ndarray, size: int) -> np.ndarray:
    """The cross-correlation (size,) of two (moments, columns), summed over columns, at all shifts."""
    spectra = [rfft(signs.astype(np.float32), size, axis=0) for signs in (one, other)]
    return irfft((spectra[0] * spectra[1].conj()).sum(1), size)


def _neighbours(prints: list[np.ndarray]) -> list[tuple[int, int]]:
    """The pairs (lower, higher) of which one is among the `NEIGHBOURS` most similar to the other; none is short."""
    rows = [row for row, signs in enumerate(prints) if len(signs) >= SHORTEST]
    if len(rows) < 2:
        return []
    covariances = np.stack([_covariances(prints[row]) for row in rows])
    count = min(NEIGHBOURS, len(rows) - 1)
    nearest = NearestNeighbors(n_neighbors=count, metric="cosine").fit(covariances - covariances.mean(0))
    pairs = zip(np.repeat(rows, count), np.take(rows, nearest.kneighbors(return_distance=False)).ravel(), strict=True)
    return sorted({(int(min(pair)), int(max(pair))) for pair in pairs})


def _covariances(signs: np.ndarray) -> np.ndarray:
    """Products of all pairs of bands' signs at all `DELAYS`, as means over time, (values,)."""
    signs = signs.astype(np.float32)
    moments = len(signs)
    return np.stack([signs[: moments - delay].T @ signs[delay:] / (moments - delay) for delay in DELAYS]).ravel()


def leave_out_copies(sides: DatasetDict, copies: Iterable[Copies]) -> tuple[DatasetDict, list[BadFile]]:
    """Leave songs out of train and validation whose recordings are also on a later one of train, validation and test.

    Args:
        sides: of a split; those with other names are kept as they are.
        copies: of all their songs, from `find_copies`.

    Returns:
        The sides, with descriptions that say how many songs were left out; and these songs.
    """
    rank = {name: number for number, name in enumerate(SPLIT_NAMES)}
    rows = {row["song_id"]: (name, row) for name in rank.keys() & sides for row in sides[name].select_columns(COLUMNS)}
    left_out = {}
    for pair in copies:
        early, late = sorted((pair.song_id, pair.other), key=lambda key: rank[rows[key][0]] if key in rows else -1)
        if early in rows and rows[early][0] != rows[late][0]:
            reason = f"the same recording as {late}, a {rows[late][0]} song"
            left_out[early] = BadFile(early, rows[early][1]["audio"]["path"], reason)
    if not left_out:
        return sides, []
    listed = [f"{file.song_id} is {file.reason}" for file in left_out.values()]
    more = "; ..." if len(listed) > 5 else ""
    logger.warning("left out %d songs: %s", len(listed), "; ".join(listed[:5]) + more)
    result = DatasetDict(sides)
    for name, songs in sides.items():
        result[name] = songs.select([row for row, key in enumerate(songs["song_id"]) if key not in left_out])
        note = f"{len(listed)} songs left out, whose recordings are also on another side"
        result[name].info.description = f"{songs.info.description}; {note}"
    return result, list(left_out.values())
