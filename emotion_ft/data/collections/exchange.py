"""Finding the songs whose valence and arousal are exchanged, by comparing them with the dynamic annotations.

If a song's static valence is above its static arousal, the same should be true of the means of its curves. So, the
difference static valence - static arousal correlates positively with the same difference of the curves' means over
songs whose columns are in order, and negatively over songs whose columns are exchanged. The sign does not depend on
how strongly the two dimensions correlate, although that makes a column correlate with the wrong curve as well.
"""

import hashlib
import logging
from typing import NamedTuple

import numpy as np
import pandas as pd

from .annotations import EXCHANGED_UP_TO, Curve

logger = logging.getLogger(__name__)

RESAMPLES, PERMUTATIONS = 1000, 200
KNOWN_BLOCK = "e400120644c41d27a9d70a0d3f99ad4bf5765a0c632ffae27165adc34b4d7982"
"""SHA-256 of DEAM's static annotations with ids up to 1000: ids and 100 x the four columns, as little-endian int64."""
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
    curves assigned to songs at random. Single songs can look exchanged, so its ends are
    uncertain: see `range_of_ends`.
    """
    if len(means) < FEWEST:
        return None
    static, curves = _differences(means)
    total, start, end = _largest_run(-static * curves)
    rng = np.random.default_rng(seed)
    unrelated = [_largest_run(-static * rng.permutation(curves))[0] for _ in range(PERMUTATIONS)]
    check = check_columns(means, int(means.index[start]), int(means.index[max(end - 1, start)]), seed)
    return check if check.verdict == "exchanged" and total > np.quantile(unrelated, 0.99) else None


def range_of_ends(means: pd.DataFrame, seed: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """Between which ids the first and the last song of an exchanged range lie: bootstrap 95 % intervals, over songs.

    Args:
        means: `paired_means` of a collection in which `find_exchanged` finds a range.
        seed: of the bootstrap (percentile intervals, Efron 1979).
    """
    static, curves = _differences(means)
    evidence, rng, count = -static * curves, np.random.default_rng(seed), len(means)
    ends = []
    for _ in range(RESAMPLES):
        rows = np.sort(rng.integers(count, size=count))
        _, start, end = _largest_run(evidence[rows])
        # A song that was not drawn may belong to either side of the end that it is next to.
        earliest = rows[start - 1] + 1 if start else 0
        latest = rows[end] - 1 if end < count else count - 1
        ends.append((earliest, rows[start], rows[end - 1], latest))
    low, high = np.quantile(ends, [0.025, 0.975], axis=0, method="nearest")
    ids = means.index.to_numpy()
    return (int(ids[low[0]]), int(ids[high[1]])), (int(ids[low[2]]), int(ids[high[3]]))


class Exchange(NamedTuple):
    """The songs that are distributed with valence and arousal exchanged.

    Args:
        ids: theirs.
        decided: whether it is known which they are.
        check: how the two annotations agree over their range, or over the block that DEAM exchanges if there are none;
            None without curves.
        recognised: whether they were recognised as `KNOWN_BLOCK`, and not found from the curves.
    """

    ids: pd.Index
    decided: bool
    check: ColumnCheck | None = None
    recognised: bool = False


def is_known_block(static: pd.DataFrame) -> bool:
    """Whether the rows with ids up to `EXCHANGED_UP_TO` are those that DEAM distributes, exchanged."""
    block = static.loc[static.index <= EXCHANGED_UP_TO, ["valence", "valence_std", "arousal", "arousal_std"]]
    numbers = np.column_stack([block.index, (100 * block).round()]).astype("<i8")
    return hashlib.sha256(numbers.tobytes()).hexdigest() == KNOWN_BLOCK


def exchanged_songs(static: pd.DataFrame, dynamic: dict[int, Curve], told: tuple[int, int] | None = None) -> Exchange:
    """Which songs are distributed with valence and arousal exchanged, with or without curves; logged in one line.

    DEAM distributes its first block (ids up to 1000, 744 songs) with valence and arousal exchanged, standard
    deviations too. If the curves confirm it, exactly that range is taken; any other range is what the curves show. If
    they cannot tell, the block is taken if it is `KNOWN_BLOCK`. `told` is a range, first and last id, that is taken
    whatever the data show.
    """
    if told:
        ids = static.index[(static.index >= told[0]) & (static.index <= told[1])]
        logger.info("ids %d to %d: valence and arousal are exchanged in %d rows, as configured", *told, len(ids))
        return Exchange(ids, True)
    block, none = static.index[static.index <= EXCHANGED_UP_TO], static.index[:0]
    means = paired_means(static, dynamic)
    check = check_columns(means, int(block[0]), int(block[-1])) if len(block) else None
    if check and check.verdict == "exchanged":
        return _logged(Exchange(block, True, check))
    if found := find_exchanged(means):
        return _logged(
            Exchange(static.index[(static.index >= found.first) & (static.index <= found.last)], True, found)
        )
    if check is None:
        return Exchange(none, bool(dynamic))
    if check.verdict == "in order":
        return _logged(Exchange(none, True, check))
    if is_known_block(static):
        logger.info("valence and arousal are exchanged in %d rows, which are recognised as DEAM's own", len(block))
        return Exchange(block, True, None, recognised=True)
    logger.warning(
        "cannot tell whether valence and arousal are exchanged in ids up to %d, so they stay as distributed: %d of %d "
        "songs have curves in valence.csv and arousal.csv, but at least %d that differ are needed",
        *(EXCHANGED_UP_TO, check.songs, len(block), FEWEST),
    )
    return Exchange(none, False, check)


def _logged(exchange: Exchange) -> Exchange:
    """Log what the curves decided."""
    if check := exchange.check:
        logger.info(
            "static ~ dynamic over %d songs with ids %d to %d: valence %.3f, arousal %.3f, crossed %.3f, %.3f; "
            "differences %.3f (95 %% interval %.3f to %.3f): valence and arousal %s",
            *(check.songs, check.first, check.last, check.valence, check.arousal, check.crossed_valence),
            *(check.crossed_arousal, check.difference, check.low, check.high),
            f"are exchanged in {len(exchange.ids)} rows" if len(exchange.ids) else "are in order",
        )
    return exchange


def exchange_back(static: pd.DataFrame, song_ids: pd.Index) -> pd.DataFrame:
    """A copy of `static` in which valence and arousal, means and deviations, are exchanged for these songs."""
    repaired, columns = static.copy(), ["valence", "valence_std", "arousal", "arousal_std"]
    repaired.loc[song_ids, columns] = static.loc[song_ids, [*columns[2:], *columns[:2]]].to_numpy()
    return repaired


def repair(static: pd.DataFrame, dynamic: dict[int, Curve]) -> pd.DataFrame:
    """A copy of `static` in which valence and arousal are in order for all songs; see `exchanged_songs`."""
    return exchange_back(static, exchanged_songs(static, dynamic).ids)


def _largest_run(values: np.ndarray) -> tuple[float, int, int]:
    """(sum, start, end) of the consecutive values with the largest sum; (0, 0, 0) if none is positive."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    gains = sums - np.minimum.accumulate(sums)
    end = int(gains.argmax())
    start = int(sums[: end + 1].argmin())
    return float(gains[end]), start, end
