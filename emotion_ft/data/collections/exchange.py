"""Finding the songs whose valence and arousal are exchanged, by comparing them with the dynamic annotations.

If a song's static valence is above its static arousal, the same should be true of the means of its curves. So, the
difference static valence - static arousal correlates positively with the same difference of the curves' means over
songs whose columns are in order, and negatively over songs whose columns are exchanged. The sign does not depend on
how strongly the two dimensions correlate, although that makes a column correlate with the wrong curve as well.
"""

import logging
from typing import NamedTuple

import numpy as np
import pandas as pd

from .annotations import EXCHANGED_UP_TO, Curve

logger = logging.getLogger(__name__)

RESAMPLES, PERMUTATIONS = 1000, 200
FEWEST = 10  # with fewer songs, a correlation is not worth an interval


class ColumnCheck(NamedTuple):
    """How static annotations and curves agree over a range of song ids.

    Args:
        first, last: ids of the range.
        songs: how many songs in it have both annotations.
        valence, arousal: Pearson's r of a static mean with the mean of its own curve.
        crossed_valence, crossed_arousal: the same with the other dimension's curve.
        difference: r of the differences valence - arousal.
        low, high: bootstrap 95 % interval of `difference`, over songs.
    """

    first: int
    last: int
    songs: int
    valence: float
    arousal: float
    crossed_valence: float
    crossed_arousal: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "in order", "exchanged", or "undecided" if the interval contains zero."""
        return "in order" if self.low > 0 else "exchanged" if self.high < 0 else "undecided"


def paired_means(static: pd.DataFrame, dynamic: dict[int, Curve]) -> pd.DataFrame:
    """Songs with both annotations, by id: `valence`, `arousal` (1-9), `curve_valence`, `curve_arousal` ([-1, 1])."""
    songs = [song_id for song_id in static.index if song_id in dynamic]
    means = [(float(dynamic[key].valence.mean()), float(dynamic[key].arousal.mean())) for key in songs]
    curves = pd.DataFrame(means, index=pd.Index(songs, name="song_id"), columns=["curve_valence", "curve_arousal"])
    return static.loc[songs, ["valence", "arousal"]].join(curves).sort_index()


def _differences(means: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Standardised valence minus standardised arousal of the static means, and of the curves' means, (songs,) each."""
    z = ((means - means.mean()) / means.std(ddof=0).replace(0, np.nan)).fillna(0.0)
    return (z["valence"] - z["arousal"]).to_numpy(), (z["curve_valence"] - z["curve_arousal"]).to_numpy()


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis; 0 if one side is constant."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(x).sum(-1) * np.square(y).sum(-1))
    return np.divide((x * y).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)


def check_columns(means: pd.DataFrame, first: int, last: int, seed: int = 0) -> ColumnCheck:
    """Check the songs with ids from `first` to `last`; undecided for fewer than ten, or if a column is constant.

    Args:
        means: `paired_means` of the whole collection, whose spread is the unit of the differences.
        seed: of the bootstrap (percentile interval, Efron 1979).
    """
    inside = (means.index >= first) & (means.index <= last)
    static, curves = (values[inside] for values in _differences(means))
    block = means[inside]
    count = len(block)
    if count < FEWEST or (np.ptp(block.to_numpy(), axis=0) == 0).any():
        return ColumnCheck._make([first, last, count, *[float("nan")] * 5, -1.0, 1.0])
    rows = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    low, high = np.quantile(_correlation(static[rows], curves[rows]), [0.025, 0.975])
    pairs = [("valence", "curve_valence"), ("arousal", "curve_arousal")]
    pairs += [("valence", "curve_arousal"), ("arousal", "curve_valence")]
    r = [float(_correlation(block[label].to_numpy(), block[curve].to_numpy())) for label, curve in pairs]
    return ColumnCheck._make([first, last, count, *r, float(_correlation(static, curves)), float(low), float(high)])


def find_exchanged(means: pd.DataFrame, seed: int = 0) -> ColumnCheck | None:
    """The range of ids in which valence and arousal are exchanged, or None if there is none.

    The range is the run of consecutive ids with the largest sum of -(static difference) * (curve difference), which is
    the evidence for an exchange. It counts if its interval excludes zero and the sum exceeds 99 % of those found with
    curves assigned to songs at random. A song or two at its ends may be wrong, since single songs can look exchanged.
    """
    if len(means) < FEWEST:
        return None
    static, curves = _differences(means)
    total, start, end = _largest_run(-static * curves)
    rng = np.random.default_rng(seed)
    unrelated = [_largest_run(-static * rng.permutation(curves))[0] for _ in range(PERMUTATIONS)]
    check = check_columns(means, int(means.index[start]), int(means.index[max(end - 1, start)]), seed)
    return check if check.verdict == "exchanged" and total > np.quantile(unrelated, 0.99) else None


class Exchange(NamedTuple):
    """The ids of songs that are distributed with valence and arousal exchanged, and whether that could be decided."""

    ids: pd.Index
    decided: bool


def exchanged_songs(static: pd.DataFrame, dynamic: dict[int, Curve], told: tuple[int, int] | None = None) -> Exchange:
    """Which songs are distributed with valence and arousal exchanged, with or without curves; logged in one line.

    DEAM distributes its first block (ids up to 1000, 744 songs) with valence and arousal exchanged, standard
    deviations too. If the data confirm it, exactly that range is taken; any other range is what the data show.
    `told` is a range, first and last id, that is taken whatever the data show.
    """
    if told:
        ids = static.index[(static.index >= told[0]) & (static.index <= told[1])]
        logger.info("ids %d to %d: valence and arousal are exchanged in %d rows, as configured", *told, len(ids))
        return Exchange(ids, True)
    block = static.index[static.index <= EXCHANGED_UP_TO]
    means = paired_means(static, dynamic)
    known = means.index[means.index <= EXCHANGED_UP_TO]
    check = check_columns(means, 0, EXCHANGED_UP_TO) if len(block) else None
    ids, where = static.index[:0], f"ids up to {EXCHANGED_UP_TO}"
    if check and check.verdict == "exchanged":
        ids = block
    elif found := find_exchanged(means):
        check, ids = found, static.index[(static.index >= found.first) & (static.index <= found.last)]
        where = f"ids {found.first} to {found.last}"
    if check is None:
        return Exchange(ids, bool(dynamic))
    if check.verdict == "undecided" and len(block):
        logger.warning(
            "cannot tell whether valence and arousal are exchanged in %s, so they stay as distributed: %d of %d songs "
            "have curves in valence.csv and arousal.csv, but at least %d that differ are needed",
            *(where, len(known), len(block), FEWEST),
        )
        return Exchange(ids, False)
    logger.info(
        "static ~ dynamic over %d songs with %s: valence %.3f, arousal %.3f, crossed %.3f, %.3f; differences %.3f "
        "(95 %% interval %.3f to %.3f): valence and arousal %s",
        *(check.songs, where, check.valence, check.arousal, check.crossed_valence, check.crossed_arousal),
        *(check.difference, check.low, check.high),
        f"are exchanged in {len(ids)} rows" if len(ids) else "are in order",
    )
    return Exchange(ids, True)


def exchange_back(static: pd.DataFrame, song_ids: pd.Index) -> pd.DataFrame:
    """A copy of `static` in which valence and arousal, means and deviations, are exchanged for these songs."""
    repaired, columns = static.copy(), ["valence", "valence_std", "arousal", "arousal_std"]
    repaired.loc[song_ids, columns] = static.loc[song_ids, [*columns[2:], *columns[:2]]].to_numpy()
    return repaired


def repair(static: pd.DataFrame, dynamic: dict[int, Curve]) -> pd.DataFrame:
    """A copy of `static` in which valence and arousal are in order for all songs; see `exchanged_songs`."""
    return exchange_back(static, exchanged_songs(static, dynamic).ids)


def _largest_run(values: np.ndarray) -> tuple[float, int, int]:
    """(sum, start, end) of the consecutive values with the largest sum (Kadane's algorithm)."""
    best, current, start = (0.0, 0, 0), 0.0, 0
    for index, value in enumerate(values):
        if current <= 0:
            current, start = 0.0, index
        current += value
        if current > best[0]:
            best = (float(current), start, index + 1)
    return best
