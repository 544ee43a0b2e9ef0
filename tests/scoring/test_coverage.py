"""How often 95 % intervals of scores contain the population's score, where songs of one artist resemble each other.

`pytest -s tests/scoring/test_coverage.py -k table` prints the table behind the choice of `intervals.score_intervals`.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotion_ft.scoring import intervals
from emotion_ft.scoring.metrics import DIMENSIONS, METRICS, concordance_correlation

SYSTEMS = {"model": (0.7, 0.45, 0.1), "other": (0.55, 0.55, 0.0)}  # slope, deviation of the noise, bias
SHARED = 0.4  # of the variance of labels and of noise, what an artist's songs have in common
SEEDS, SEED_SLOPE = 3, 0.05  # deviation of a seed's slope
LEVEL = 0.95


def artists_of(songs, artists, rng):
    """The artist of every song: one song each, the others at random, so that some artists have many."""
    return np.sort(np.r_[np.arange(artists), rng.choice(artists, songs - artists, p=rng.dirichlet(np.ones(artists)))])


def deam(rng):
    """1802 songs: 744 by 300 artists, the others each by an artist of their own."""
    return np.r_[artists_of(744, 300, rng), np.arange(300, 1358)]


def normal(codes, rng, *seeds):
    """Standard normal values (..., songs, 2), correlated within artists."""
    artist = rng.normal(size=(*seeds, codes.max() + 1, 2))
    return np.sqrt(SHARED) * artist[..., codes, :] + np.sqrt(1 - SHARED) * rng.normal(size=(*seeds, len(codes), 2))


def draw(codes, rng):
    """Labels (songs, 2), predictions of both systems, and of the model by several seeds (seeds, songs, 2)."""
    labels, common = normal(codes, rng), normal(codes, rng)
    predictions = {
        name: slope * labels + noise * (common + normal(codes, rng)) / np.sqrt(2) + bias
        for name, (slope, noise, bias) in SYSTEMS.items()
    }
    slope, noise, bias = SYSTEMS["model"]
    slopes = rng.normal(slope, SEED_SLOPE, size=(SEEDS, 1, 1))
    seeds = slopes * labels + noise * (common + normal(codes, rng, SEEDS)) / np.sqrt(2) + bias
    return labels, predictions["model"], predictions["other"], seeds


def population(slope, noise, bias):
    """`METRICS` of infinitely many songs and artists: labels and noise are normal, labels of variance 1."""
    spread = np.hypot(1 - slope, noise)
    mae = np.sqrt(2 / np.pi) * spread * np.exp(-((bias / spread) ** 2) / 2) + bias * (
        1 - 2 * stats.norm.cdf(-bias / spread)
    )
    mse, variance = spread**2 + bias**2, slope**2 + noise**2
    return np.array([np.sqrt(mse), mae, 1 - mse, slope / np.sqrt(variance), 2 * slope / (1 + variance + bias**2)])


def truths():
    model, other = (population(*settings) for settings in SYSTEMS.values())
    slopes = stats.norm(SYSTEMS["model"][0], SEED_SLOPE).ppf((np.arange(2000) + 0.5) / 2000)
    seeds = np.mean([population(slope, *SYSTEMS["model"][1:]) for slope in slopes], axis=0)
    return {"score": model, "difference": model - other, f"mean of {SEEDS} seeds": seeds}


TRUTHS = truths()


def ends(found):
    """Intervals by key -> low and high, (2, metrics, 2): valence and arousal."""
    return np.array([[found[f"{d}_{m}"] for d in DIMENSIONS] for m in METRICS]).transpose(2, 0, 1)


def adopted(labels, model, other, seeds, codes, rng):
    return {
        "score": ends(intervals.score_intervals(model, labels, codes)),
        "difference": ends(intervals.paired_intervals(model, other, labels, codes)),
        f"mean of {SEEDS} seeds": ends(intervals.score_intervals(seeds, labels, codes)),
    }


def untransformed(labels, model, other, seeds, codes, rng):
    ours = intervals._jackknife(model, labels, codes)
    return {"score": np.stack(intervals._t_interval(ours.value, ours.sources, LEVEL))[..., :2]}


def resampled(labels, predictions, codes, draws):
    """Scores of resamples of whole artists (draws, metrics, 3), and sums of moments: of resamples, and of artists.

    `draws`, (draws, artists), says how often an artist is drawn.
    """
    p, r = predictions, labels
    moments = np.stack([np.ones_like(p), p, r, p * p, r * r, p * r, np.abs(p - r), (p - r) ** 2], axis=1)
    sums = np.zeros((codes.max() + 1, *moments.shape[1:]))
    np.add.at(sums, codes, moments)
    totals = np.tensordot(draws, sums, axes=1)
    return intervals._scores(totals, np.zeros(2)), totals, sums


def percentile(labels, model, other, seeds, codes, rng, count=300):
    """Efron's (1979) percentile bootstrap over artists; both systems share its draws."""
    artists = codes.max() + 1
    draws = rng.multinomial(artists, np.full(artists, 1 / artists), size=count).astype(float)
    ours, theirs = (resampled(labels, values, codes, draws)[0][..., :2] for values in (model, other))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {"score": np.quantile(ours, tails, axis=0), "difference": np.quantile(ours - theirs, tails, axis=0)}


def bootstrap_t(labels, model, other, seeds, codes, rng, count=300):
    """Student's t of resamples of artists, on the adopted scales, in place of its tables."""
    artists = codes.max() + 1
    draws = rng.multinomial(artists, np.full(artists, 1 / artists), size=count).astype(float)
    ours = intervals._jackknife(model, labels, codes)
    value, left = intervals._unbounded(ours.value), intervals._unbounded(ours.sources[0][0])
    scores, totals, sums = resampled(labels, model, codes, draws)
    scores = intervals._unbounded(scores)
    with np.errstate(invalid="ignore"):  # artists that were not drawn cannot be left out
        without = intervals._unbounded(intervals._scores(totals[:, None] - sums, np.zeros(2)))
    weights = draws[..., None, None]
    squares = np.sum(weights * np.where(weights > 0, without - scores[:, None], 0) ** 2, axis=1)
    t = (scores - value) / np.sqrt((artists - 1) / artists * squares)
    deviation = np.sqrt((artists - 1) / artists * np.sum((left - value) ** 2, axis=0))
    high, low = np.nanquantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    found = [intervals._bounded(value - end * deviation) for end in (low, high)]
    return {"score": np.stack(found)[..., :2]}


def coverage(method, codes, rounds, rng):
    """Share of intervals that contain the population's score, (metrics,) over both dimensions, by what they are of."""
    hits = {}
    for _ in range(rounds):
        for name, (low, high) in method(*draw(codes, rng), codes, rng).items():
            truth = TRUTHS[name][:, None]
            hits.setdefault(name, []).append((low <= truth) & (truth <= high))
    return {name: np.mean(covered, axis=(0, 2)) for name, covered in hits.items()}


def test_the_population_is_that_of_the_songs():
    rng = np.random.default_rng(0)
    labels, model, _, _ = draw(np.arange(400000), rng)
    found = intervals.score_intervals(model, labels, np.arange(400000) // 1000)
    low, high = ends(found)
    truth = TRUTHS["score"][:, None]
    assert ((low - 0.002 <= truth) & (truth <= high + 0.002)).all() and (high - low < 0.02).all()


def test_intervals_of_51_songs_by_17_artists_cover():
    rounds = 400
    rng = np.random.default_rng(0)
    lowest, highest = stats.binom.ppf([0.001, 0.999], rounds, LEVEL) / rounds
    found = coverage(adopted, np.repeat(np.arange(17), 3), rounds, rng)
    assert found.keys() == TRUTHS.keys()
    for name, shares in found.items():
        assert ((lowest <= shares) & (shares <= highest)).all(), (name, shares)
    too_few = coverage(percentile, np.repeat(np.arange(17), 3), rounds, rng)
    assert too_few["score"][0] < lowest and too_few["score"][2] < lowest


@pytest.mark.slow
def test_print_the_table():
    designs = {
        "51 songs, 17 artists of 3": (np.repeat(np.arange(17), 3), 600),
        "51 songs, 17 artists": (artists_of(51, 17, np.random.default_rng(1)), 600),
        "270 songs, 90 artists": (artists_of(270, 90, np.random.default_rng(1)), 300),
        "1802 songs, 1358 artists": (deam(np.random.default_rng(1)), 80),
    }
    rows = {}
    for design, (codes, rounds) in designs.items():
        methods = {"jackknife-t": adopted, "jackknife-t, plain scales": untransformed, "percentile": percentile}
        methods |= {"bootstrap-t": bootstrap_t} if codes.max() < 20 else {}
        for method, function in methods.items():
            for name, shares in coverage(function, codes, rounds, np.random.default_rng(0)).items():
                rows[design, name, method] = shares
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(METRICS))
    table.index = pd.MultiIndex.from_tuples(table.index, names=["songs", "of", "method"])
    print(f"\n{table.sort_index(level=[0, 1], sort_remaining=False).to_string(float_format='{:.3f}'.format)}")
    ours, theirs = (table.xs(method, level="method") for method in ("jackknife-t", "percentile"))
    off, before = (ours - LEVEL).abs().mean(axis=1), (theirs - LEVEL).abs().mean(axis=1)
    assert (off < 0.05).all() and (off[before.index] < before)[[design for design in designs if "51" in design]].all()


def conformal_coverage(songs, checkpoints, rounds, rng):
    """Mean coverage of new songs at level 0.9, by a checkpoint with the best mean CCC on the calibration songs.

    All checkpoints are equally good, and half of the variance of their errors is the same for all.
    """
    shares = []
    for _ in range(rounds):
        labels, shared = rng.normal(size=(2, songs + 1000, 2))
        errors = (shared + rng.normal(size=(checkpoints, songs + 1000, 2))) / np.sqrt(2)
        predictions = 0.7 * labels + 0.5 * errors
        validation = [
            sum(concordance_correlation(one[:songs, column], labels[:songs, column]) for column in (0, 1))
            for one in predictions
        ]
        chosen = predictions[np.argmax(validation)]
        halfwidths = intervals.conformal_halfwidths(chosen[:songs], labels[:songs], 0.9)
        shares.append(intervals.coverage(chosen[songs:], labels[songs:], halfwidths).mean())
    return np.mean(shares)


@pytest.mark.slow
def test_choosing_the_checkpoint_on_the_calibration_songs_costs_coverage():
    """`-s` prints how much: the numbers in docs/evaluation.md."""
    rng = np.random.default_rng(0)
    costs = []
    for songs, rank in ((20, 19), (55, 51), (270, 244)):  # the smallest above 0.9 (songs + 1)
        by_others, by_themselves = (conformal_coverage(songs, count, 150, rng) for count in (1, 10))
        assert by_others == pytest.approx(rank / (songs + 1), abs=0.012)
        costs.append(by_others - by_themselves)
        print(f"{songs} songs: coverage {by_others:.3f}, of the best of 10 checkpoints {by_themselves:.3f}")
    assert costs[0] > costs[1] > costs[2] > 0
