import time

import numpy as np
import pytest
from scipy import stats

from emotion_ft.scoring.intervals import (
    conformal_halfwidths,
    coverage,
    paired_intervals,
    score_intervals,
    share_interval,
)
from emotion_ft.scoring.metrics import KEYS, score

TO = {"rmse": np.log, "mae": np.log, "r2": lambda x: np.log(1 - x), "r": np.arctanh, "ccc": np.arctanh}
BACK = {"rmse": np.exp, "mae": np.exp, "r2": lambda x: 1 - np.exp(x), "r": np.tanh, "ccc": np.tanh}
GROUPINGS = [
    (None, range(12)),
    (["b", "a", "b", "c", "c", "c", "a", "d", "e", "b", "f", "f"], [0, 1, 0, 2, 2, 2, 1, 3, 4, 0, 5, 5]),
    (["b", None, "b", 7, 7, np.nan, "b", "x", "x", "y", "z", None], [0, 5, 0, 1, 1, 6, 0, 2, 2, 3, 4, 7]),
]
"""Labels, and the group that each song is in."""


def songs(count, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.uniform(1, 9, size=(count, 2))
    return references * 0.5 + [2.0, 3.5] + rng.normal(size=(count, 2)), references


def without_each(predictions, references, codes):
    """`score` of the songs that are left without each group: one dictionary per group."""
    codes = np.asarray(codes)
    return [score(predictions[codes != code], references[codes != code]) for code in sorted(set(codes.tolist()))]


def freedom(codes):
    sizes = np.unique(codes, return_counts=True)[1]
    return sizes.sum() ** 2 / (sizes**2).sum() - 1


def by_hand(value, lefts, freedoms, level):
    """Student's t around a value, from what is left without each unit of each source of chance."""
    spreads = [(len(left) - 1) / len(left) * sum((x - value) ** 2 for x in left) for left in lefts]
    total = sum(spreads)
    df = total**2 / sum(spread**2 / one for spread, one in zip(spreads, freedoms, strict=True))
    return stats.t(df, value, np.sqrt(total)).interval(level)


@pytest.mark.parametrize(("groups", "codes"), GROUPINGS)
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_scores_without_each_group_decide(groups, codes, level):
    predictions, references = songs(12)
    found = score_intervals(predictions, references, groups, level)
    value, left = score(predictions, references), without_each(predictions, references, codes)
    assert list(found) == list(value) == KEYS
    for key in KEYS:
        to, back = (table[key.split("_")[1]] for table in (TO, BACK))
        ends = by_hand(to(value[key]), [[to(row[key]) for row in left]], [freedom(codes)], level)
        assert found[key] == pytest.approx(sorted(map(back, ends)), abs=1e-9)


@pytest.mark.parametrize(("groups", "codes"), GROUPINGS)
def test_differences_without_each_group_decide(groups, codes):
    (predictions, references), others = songs(12), songs(12, seed=1)[0]
    found = paired_intervals(predictions, others, references, groups)
    ours, theirs = (without_each(values, references, codes) for values in (predictions, others))
    for key in KEYS:
        value = score(predictions, references)[key] - score(others, references)[key]
        left = [mine[key] - yours[key] for mine, yours in zip(ours, theirs, strict=True)]
        assert found[key] == pytest.approx(by_hand(value, [left], [freedom(codes)], 0.95), abs=1e-9)


def test_seeds_add_their_variance():
    references, codes = songs(20)[1], np.arange(20) % 7
    ours, theirs = (np.stack([songs(20, seed)[0] for seed in seeds]) for seeds in ((0, 1, 2), (3, 4)))

    def parts(predictions):
        """Mean scores of the seeds: of all songs, without each group, and without each seed, (…, keys)."""
        scores = np.array([list(score(one, references).values()) for one in predictions])
        rows = [[list(row.values()) for row in without_each(one, references, codes)] for one in predictions]
        return scores.mean(axis=0), np.mean(rows, axis=0), (scores.sum(axis=0) - scores) / (len(scores) - 1)

    single, paired = score_intervals(ours, references, codes), paired_intervals(ours, theirs, references, codes)
    columns = zip(KEYS, *(part.T for values in (ours, theirs) for part in parts(values)), strict=True)
    for key, value, left, seeds, other, other_left, other_seeds in columns:
        to, back = (table[key.split("_")[1]] for table in (TO, BACK))
        ends = by_hand(to(value), [to(left), to(seeds)], [freedom(codes), 2], 0.95)
        assert single[key] == pytest.approx(sorted(map(back, ends)), abs=1e-9)
        lefts = [left - other_left, seeds - other, value - other_seeds]
        expected = by_hand(value - other, lefts, [freedom(codes), 2, 1], 0.95)
        assert paired[key] == pytest.approx(expected, abs=1e-9)


def test_one_seed_is_a_run():
    predictions, references = songs(15)
    assert score_intervals(predictions[None], references) == score_intervals(predictions, references)


def test_what_both_systems_find_hard_cancels():
    predictions, references = songs(60)
    others = predictions + 0.1 * np.random.default_rng(1).normal(size=predictions.shape)
    single, paired = score_intervals(predictions, references), paired_intervals(predictions, others, references)
    assert all(np.ptp(paired[key]) < 0.3 * np.ptp(single[key]) for key in KEYS)
    swapped = paired_intervals(others, predictions, references)
    assert all(paired[key] == pytest.approx([-end for end in reversed(swapped[key])]) for key in KEYS)


def test_ends_stay_within_the_range_of_the_metric():
    rng = np.random.default_rng(0)
    references = rng.normal(size=(8, 2))
    found = score_intervals(references + 0.1 * rng.normal(size=(8, 2)), references)
    for key, (low, high) in found.items():
        assert low < high and (high <= 1 if key.endswith(("r2", "_r", "ccc")) else low > 0)


def absent(intervals):
    return {key for key, ends in intervals.items() if np.isnan(ends).all()}


def keys(*metrics):
    return {key for key in KEYS if key.split("_")[1] in metrics}


@pytest.mark.filterwarnings("error")
class TestNoInterval:
    def test_of_correlations_of_a_constant(self):
        _, references = songs(30)
        for constant in (5.0, 5.1):  # binary numbers cannot hold the second
            found = score_intervals(np.full_like(references, constant), references)
            assert absent(found) == keys("r", "ccc")

    def test_of_what_constant_labels_leave_undefined(self):
        references = np.repeat([[3.0, 3.1], [4.0, 7.3]], [9, 3], axis=0)  # constant without the second group
        predictions = references + np.random.default_rng(0).normal(size=references.shape)
        found = score_intervals(predictions, references, np.repeat([0, 1], [9, 3]))
        assert absent(found) == keys("r2", "r")
        assert absent(score_intervals(predictions, np.full_like(references, 0.1))) == keys("r2", "r", "ccc")

    def test_of_perfect_predictions(self):
        _, references = songs(30)
        assert absent(score_intervals(references, references)) >= keys("rmse", "mae", "r2")

    def test_of_the_difference_between_a_system_and_itself(self):
        predictions, references = songs(30)
        assert absent(paired_intervals(predictions, predictions, references)) == set(KEYS)

    def test_is_infinite(self):
        rng = np.random.default_rng(0)
        for seed in range(200):
            count = int(rng.integers(2, 5))
            references = rng.uniform(1, 9, size=(count, 2)).round(seed % 3)
            predictions = (references + rng.choice([0, 1e-9, 1], p=[0.4, 0.2, 0.4], size=(count, 2))).round(9)
            others = rng.uniform(1, 9, size=(count, 2)).round(1)
            for found in (
                score_intervals(predictions, references),
                paired_intervals(predictions, others, references),
                score_intervals(np.stack([predictions, others]), references),
            ):
                for low, high in found.values():
                    assert (np.isnan(low) and np.isnan(high)) or (np.isfinite([low, high]).all() and low <= high)


def test_many_songs_take_no_time():
    pair = songs(20000)
    start = time.process_time()
    score_intervals(*pair)
    assert time.process_time() - start < 2  # 0.1 on one core


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictions": np.zeros((5, 2))}, r"two arrays \(songs, 2\), got \(5, 2\) and \(4, 2\)"),
        ({"predictions": np.zeros((3, 5, 2))}, r"two arrays \(songs, 2\), got \(5, 2\) and \(4, 2\)"),
        ({"predictions": np.zeros((4, 3)), "references": np.zeros((4, 3))}, "two arrays"),
        ({"predictions": np.full((4, 2), np.nan)}, "finite"),
        ({"references": np.full((4, 2), np.inf)}, "finite"),
        ({"groups": ["a", "b", "c"]}, r"each of 4 songs, got \(3,\)"),
        ({"groups": ["a"] * 4}, "at least two groups to leave out, got 1 over 4 songs"),
        ({"predictions": np.zeros((1, 2)), "references": np.zeros((1, 2))}, "at least two groups"),
        ({"predictions": np.zeros((0, 2)), "references": np.zeros((0, 2))}, "at least two groups"),
        ({"level": 1.0}, "level"),
        ({"level": 0.0}, "level"),
    ],
)
def test_unusable_input_is_refused(settings, message):
    given = {"predictions": np.zeros((4, 2)), "references": np.ones((4, 2)), **settings}
    with pytest.raises(ValueError, match=message):
        score_intervals(**given)
    with pytest.raises(ValueError, match=message):
        paired_intervals(others=given["predictions"], **given)


@pytest.mark.parametrize(("inside", "count"), [(50, 51), (51, 51), (0, 7), (460, 500)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(inside, count):
    low, high = share_interval(inside / count, count)
    if inside < count:  # the tails beyond the ends hold 2.5 % each
        assert stats.binom.cdf(inside, count, high) == pytest.approx(0.025, abs=1e-6)
    if inside > 0:
        assert stats.binom.sf(inside - 1, count, low) == pytest.approx(0.025, abs=1e-6)
    assert 0 <= low <= inside / count <= high <= 1


@pytest.mark.parametrize(
    ("count", "level", "rank"),
    [(9, 0.9, 9), (19, 0.9, 18), (20, 0.9, 19), (99, 0.55, 55), (3, 0.75, 3), (11, 0.85, 11)],
)
def test_conformal_halfwidth_is_an_order_statistic(count, level, rank):
    sizes = np.random.default_rng(0).permutation(count) + 1.0
    residuals = np.stack([sizes * (-1) ** np.arange(count), 10 * sizes[::-1]], axis=1)
    references = np.full((count, 2), 3.0)
    assert conformal_halfwidths(references - residuals, references, level).tolist() == [rank, 10 * rank]


def test_conformal_coverage_of_new_songs():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        predictions = rng.uniform(1, 9, size=(250, 2))
        references = predictions + rng.exponential(size=(250, 2)) * [1, 3] * rng.choice([-1, 2], size=(250, 2))
        halfwidths = conformal_halfwidths(predictions[:50], references[:50], 0.8)
        shares.append(coverage(predictions[50:], references[50:], halfwidths))
    # For continuous residuals the expected coverage is rank / (songs + 1), here ceil(40.8) / 51.
    assert np.mean(shares, axis=0) == pytest.approx([41 / 51] * 2, abs=0.009)


def test_coverage_counts_references_within_the_interval():
    references = np.array([[5, 5], [6, 5], [7, 5], [8, 5]], float)
    predictions = np.array([[5, 2], [5, 3], [5, 7], [5, 8.5]], float)
    assert coverage(predictions, references, np.array([1, 2])).tolist() == [0.5, 0.5]
    assert coverage(predictions, references, np.array([0.5, 3])).tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match=r"half-widths \(2,\), got 4 and \(\)"):
        coverage(predictions, references, 1.0)
    with pytest.raises(ValueError, match="expected songs"):
        coverage(np.zeros((0, 2)), np.zeros((0, 2)), np.ones(2))


def test_unusable_calibration_is_refused():
    for level, needed in ((0.9, 9), (0.95, 19), (0.5, 1)):
        with pytest.raises(ValueError, match=f"level {level} need at least {needed} songs, got {needed - 1}"):
            conformal_halfwidths(np.zeros((needed - 1, 2)), np.ones((needed - 1, 2)), level)
        assert conformal_halfwidths(np.zeros((needed, 2)), np.ones((needed, 2)), level).tolist() == [1, 1]
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="level in"):
            conformal_halfwidths(*songs(20), level)
    with pytest.raises(ValueError, match="finite"):
        conformal_halfwidths(np.full((20, 2), np.nan), np.zeros((20, 2)))
    with pytest.raises(ValueError, match="two arrays"):
        conformal_halfwidths(np.zeros(20), np.zeros(20))
