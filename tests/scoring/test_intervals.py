import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from emotion_ft.scoring import intervals
from emotion_ft.scoring.intervals import bootstrap_scores, conformal_halfwidths, coverage
from emotion_ft.scoring.metrics import score


def songs(count, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.uniform(1, 9, size=(count, 2))
    return references * 0.5 + [2.0, 3.5] + rng.normal(size=(count, 2)), references


def brute_force(predictions, references, codes, resamples, seed):
    """`score` of the rows that the same draws of groups hold: (resamples, metrics)."""
    codes = np.asarray(codes)
    count = len(set(codes.tolist()))
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    rows = [np.repeat(np.arange(len(codes)), draw[codes]) for draw in draws]
    return np.array([list(score(predictions[row], references[row]).values()) for row in rows])


@pytest.mark.parametrize(
    ("groups", "codes"),  # in the order in which they appear, then songs without a label
    [
        (None, range(12)),
        (["b", "a", "b", "c", "c", "c", "a", "d", "e", "b", "f", "f"], [0, 1, 0, 2, 2, 2, 1, 3, 4, 0, 5, 5]),
        (["b", None, "b", 7, 7, np.nan, "b", "x", "x", "y", "z", None], [0, 5, 0, 1, 1, 6, 0, 2, 2, 3, 4, 7]),
    ],
)
def test_equals_scores_of_the_resampled_songs(groups, codes):
    predictions, references = songs(12)
    expected = brute_force(predictions, references, codes, 61, seed=3)
    for level in (0.5, 0.9):
        found = bootstrap_scores(predictions, references, groups, resamples=61, seed=3, level=level)
        assert list(found) == list(score(predictions, references))
        low_high = np.quantile(expected, [(1 - level) / 2, (1 + level) / 2], axis=0).T
        np.testing.assert_allclose(list(found.values()), low_high, rtol=0, atol=1e-9)


def test_equals_scores_of_constant_resamples():
    references = np.array([[3, 1], [5, 7], [6, 7]], float)  # means of thirds: centred values are rounded
    predictions = np.array([[3, 2], [4, 2], [6, 9]], float)  # perfect for two songs in valence
    expected = brute_force(predictions, references, range(3), 200, seed=0)
    names = list(score(predictions, references))
    for name, values in (("valence_r2", {0, 1}), ("arousal_r2", {0}), ("valence_r", {0}), ("arousal_ccc", {0})):
        assert values <= set(expected[:, names.index(name)])
    for level in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        found = bootstrap_scores(predictions, references, resamples=200, level=level)
        low_high = np.quantile(expected, [(1 - level) / 2, (1 + level) / 2], axis=0).T
        np.testing.assert_allclose(list(found.values()), low_high, rtol=0, atol=1e-9)


def test_constants_that_binary_numbers_cannot_hold():
    _, references = songs(30)
    found = bootstrap_scores(np.full_like(references, 5.1), references, resamples=50)
    assert found["mean_r"] == found["mean_ccc"] == (0, 0) and found["mean_r2"][1] <= 0
    for predictions, r2 in ((np.full((4, 2), 0.1), 1), (np.full((4, 2), 0.2), 0)):
        found = bootstrap_scores(predictions, np.full((4, 2), 0.1), resamples=50)
        assert found["mean_r2"] == (r2, r2) and found["mean_ccc"] == found["mean_r"] == (0, 0)
    found = bootstrap_scores(references, references, resamples=50)
    assert found["mean_rmse"] == (0, 0) and found["mean_r2"] == (1, 1)
    assert found["mean_r"] == found["mean_ccc"] == pytest.approx((1, 1), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_constant_groups_have_no_correlation(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat([0, 1], [7, 6])
    constant = rng.uniform([[1, 1], [6, 6]], [[4, 4], [9, 9]])[groups]  # a value a group and dimension
    varied = constant + 0.1 * rng.normal(size=(13, 2))
    for predictions, references, metrics in ((varied, constant, ("r2", "r", "ccc")), (constant, varied, ("r", "ccc"))):
        found = bootstrap_scores(predictions, references, groups, resamples=40)
        for dimension in ("valence", "arousal"):
            for metric in metrics:
                low, high = found[f"{dimension}_{metric}"]
                assert low == 0 and high > 0.9


def test_nearly_constant_groups_have_one():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 6)
    references = np.array([2.0, 7.0])[codes][:, None] + 0.001 * rng.normal(size=(12, 2))
    predictions = references + 0.0005 * rng.normal(size=(12, 2))
    low, high = np.quantile(brute_force(predictions, references, codes, 40, seed=0), [0.025, 0.975], axis=0)
    found = bootstrap_scores(predictions, references, codes, resamples=40)
    np.testing.assert_allclose(list(found.values()), np.stack([low, high], axis=1), rtol=0, atol=1e-7)


def test_agrees_with_scipy():
    predictions, references = songs(80)
    found = bootstrap_scores(predictions, references, resamples=6000, level=0.9)

    def rmse(p, r, axis):
        return np.sqrt(np.mean((p - r) ** 2, axis))

    def r2(p, r, axis):
        return 1 - np.mean((p - r) ** 2, axis) / np.var(r, axis)

    def ccc(p, r, axis):
        covariance = np.mean(p * r, axis) - np.mean(p, axis) * np.mean(r, axis)
        bias = np.mean(p, axis) - np.mean(r, axis)
        return 2 * covariance / (np.var(p, axis) + np.var(r, axis) + bias**2)

    for column, dimension in enumerate(("valence", "arousal")):
        pair = predictions[:, column], references[:, column]
        for metric in (rmse, r2, ccc):
            low, high = stats.bootstrap(
                pair,
                metric,
                paired=True,
                vectorized=True,
                n_resamples=6000,
                confidence_level=0.9,
                method="percentile",
                random_state=1,
            ).confidence_interval
            assert found[f"{dimension}_{metric.__name__}"] == pytest.approx((low, high), abs=0.04 * (high - low))


def test_intervals_cover_the_population():
    r, bias = 0.7, 0.3
    truth = {"r": r, "rmse": np.sqrt(2 - 2 * r + bias**2), "ccc": 2 * r / (2 + bias**2)}
    rng = np.random.default_rng(0)
    hits = {metric: [] for metric in truth}
    for seed in range(150):
        references = rng.normal(size=(60, 2))
        predictions = r * references + np.sqrt(1 - r**2) * rng.normal(size=(60, 2)) + bias
        found = bootstrap_scores(predictions, references, resamples=300, seed=seed)
        for metric, value in truth.items():
            for dimension in ("valence", "arousal"):
                low, high = found[f"{dimension}_{metric}"]
                hits[metric].append(low <= value <= high)
    for metric, covered in hits.items():
        assert 0.88 <= np.mean(covered) <= 0.99, metric


def test_clustered_intervals_cover_clustered_songs():
    rng = np.random.default_rng(0)
    artists = np.repeat(np.arange(40), 5)
    hits = []
    for seed in range(100):
        error = rng.normal(size=(40, 2))[artists] + 0.4 * rng.normal(size=(200, 2))
        references = rng.normal(size=(200, 2))
        predictions = references + error
        low_high = [
            bootstrap_scores(predictions, references, groups, resamples=200, seed=seed)["arousal_rmse"]
            for groups in (artists, None)
        ]
        hits.append([low <= np.sqrt(1.16) <= high for low, high in low_high])
    clustered, single = np.mean(hits, axis=0)
    assert 0.85 <= clustered <= 0.99 and single < clustered - 0.2


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch):
    predictions, references = songs(1802)
    bootstrap_scores(predictions, references, resamples=2)
    tracemalloc.start()
    start = time.process_time()
    whole = bootstrap_scores(predictions, references, resamples=3000)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6  # one matrix of counts has 43 MB, and is needed as integers and as floats
    assert seconds < 3  # 0.3 on one core
    monkeypatch.setattr(intervals, "CELLS", 1802 * 700)
    chunked = bootstrap_scores(predictions, references, resamples=3000)
    np.testing.assert_allclose(list(chunked.values()), list(whole.values()), rtol=0, atol=1e-12)
    monkeypatch.setattr(intervals, "CELLS", 1)
    single = bootstrap_scores(predictions[:9], references[:9], resamples=20)
    monkeypatch.undo()
    whole = bootstrap_scores(predictions[:9], references[:9], resamples=20)
    np.testing.assert_allclose(list(single.values()), list(whole.values()), rtol=0, atol=1e-12)


def test_the_seed_decides():
    pair = songs(30)
    assert bootstrap_scores(*pair, resamples=20) == bootstrap_scores(*pair, resamples=20, seed=0)
    assert bootstrap_scores(*pair, resamples=20) != bootstrap_scores(*pair, resamples=20, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictions": np.zeros((5, 2))}, r"two arrays \(songs, 2\), got \(5, 2\) and \(4, 2\)"),
        ({"predictions": np.zeros((4, 3)), "references": np.zeros((4, 3))}, "two arrays"),
        ({"predictions": np.full((4, 2), np.nan)}, "finite"),
        ({"references": np.full((4, 2), np.inf)}, "finite"),
        ({"groups": ["a", "b", "c"]}, r"each of 4 songs, got \(3,\)"),
        ({"groups": ["a"] * 4}, "at least two groups to draw from, got 1 over 4 songs"),
        ({"predictions": np.zeros((1, 2)), "references": np.zeros((1, 2))}, "at least two groups"),
        ({"predictions": np.zeros((0, 2)), "references": np.zeros((0, 2))}, "at least two groups"),
        ({"level": 1.0}, "level"),
        ({"resamples": 0}, "resample"),
    ],
)
def test_unusable_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_scores(**{"predictions": np.zeros((4, 2)), "references": np.ones((4, 2)), **settings})


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
