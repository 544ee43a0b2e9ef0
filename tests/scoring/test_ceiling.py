import numpy as np
import pytest

from emotion_ft.scoring.ceiling import RATERS, noise_ceiling
from emotion_ft.scoring.metrics import score


def test_by_hand():
    references = np.array([[2, 1], [4, 3], [6, 5], [8, 9]], float)  # variances 5 and 8.75
    deviations = np.array([[2, 1], [2, 3], [2, 1], [2, 3]], float)  # mean squares 4 and 5, means 2 and 2
    found = noise_ceiling(references, deviations, raters=4)
    assert list(found) == list(score(references, references))
    assert found["valence_rmse"] == 1 and found["arousal_rmse"] == pytest.approx(np.sqrt(1.25))
    assert [found["valence_mae"], found["arousal_mae"]] == pytest.approx([0.7978846] * 2)
    assert found["valence_r2"] == pytest.approx(0.8) and found["arousal_r2"] == pytest.approx(6 / 7)
    assert found["valence_r"] == pytest.approx(0.8944272) and found["arousal_r"] == pytest.approx(0.9258201)
    assert found["valence_ccc"] == pytest.approx(8 / 9) and found["arousal_ccc"] == pytest.approx(12 / 13)
    for metric in ("rmse", "mae", "r2", "r", "ccc"):
        assert found[f"mean_{metric}"] == pytest.approx((found[f"valence_{metric}"] + found[f"arousal_{metric}"]) / 2)


@pytest.fixture(scope="module")
def rated():
    """True emotions, labels and deviations of 40,000 songs, each rated by ten people, and their true deviations."""
    rng = np.random.default_rng(0)
    truth = 5 + rng.normal(size=(40000, 2)) * [1.0, 1.3]
    spread = rng.uniform(0.8, 2.2, size=truth.shape)
    ratings = truth + spread * rng.normal(size=(RATERS, *truth.shape))
    return truth, ratings, spread


def test_equals_the_score_of_the_truth(rated):
    truth, ratings, spread = rated
    labels = ratings.mean(0)
    expected = score(truth, labels)
    assert 0.75 < expected["valence_r2"] < expected["arousal_r2"] < 0.9
    assert noise_ceiling(labels, spread) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("ddof", [0, 1])
def test_equals_the_score_of_the_truth_from_estimated_deviations(rated, ddof):
    truth, ratings, _ = rated
    labels = ratings.mean(0)
    expected = score(truth, labels)
    found = noise_ceiling(labels, ratings.std(0, ddof=ddof), ddof=ddof)
    assert found == pytest.approx(expected, abs=0.012)  # MAE: a root of a variance estimate is 3 % low on average
    for metric in ("rmse", "r2", "r", "ccc"):
        assert found[f"mean_{metric}"] == pytest.approx(expected[f"mean_{metric}"], abs=0.005)


def test_songs_may_have_different_numbers_of_raters(rated):
    truth, ratings, spread = rated
    few = np.arange(len(truth)) % 2 == 0
    labels = np.where(few[:, None], ratings[:5].mean(0), ratings.mean(0))
    found = noise_ceiling(labels, spread, raters=np.where(few, 5, 10)[:, None])
    assert found == pytest.approx(score(truth, labels), abs=0.006)


def test_songs_without_deviations_count_for_the_variance_only():
    references = np.array([[2, 1], [4, 3], [6, 5], [8, 9]], float)
    deviations = np.array([[1, np.nan], [np.nan, 2], [3, 2], [np.nan, np.nan]])
    found = noise_ceiling(references, deviations, raters=10)
    assert found["valence_rmse"] == pytest.approx(np.sqrt(0.5)) and found["valence_r2"] == pytest.approx(0.9)
    assert found["valence_mae"] == pytest.approx(np.sqrt(2 / np.pi / 10) * 2)
    assert found["arousal_rmse"] == pytest.approx(np.sqrt(0.4))
    assert found["arousal_r2"] == pytest.approx(1 - 0.4 / 8.75)


def test_labels_of_noise_alone():
    found = noise_ceiling(np.array([[5.0, 5.0], [5.2, 5.1]]), np.full((2, 2), 2.0))
    assert found["valence_r2"] == pytest.approx(1 - 0.4 / 0.01)
    assert found["mean_r"] == found["mean_ccc"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deviations": np.ones((5, 2))}, r"two arrays \(songs, 2\), got \(4, 2\) and \(5, 2\)"),
        ({"references": np.arange(4.0), "deviations": np.ones(4)}, "two arrays"),
        ({"references": np.full((4, 2), np.nan)}, "finite labels"),
        ({"deviations": np.full((4, 2), -1.0)}, "not negative"),
        ({"deviations": np.full((4, 2), np.inf)}, "infinite"),
        ({"deviations": np.array([[1, np.nan]] * 4)}, "no song has a standard deviation"),
        ({"references": np.zeros((0, 2)), "deviations": np.zeros((0, 2))}, "no song has"),
        ({"references": np.array([[1, 5], [2, 5], [3, 5], [4, 5]])}, "labels of all 4 songs are equal"),
        ({"raters": np.array([[4], [3], [2], [1]]), "ddof": 0}, "ddof 0 need at least 2 raters per song, got 1"),
    ],
)
def test_unusable_input_is_refused(settings, message):
    usable = {"references": np.arange(8.0).reshape(4, 2), "deviations": np.ones((4, 2))}
    with pytest.raises(ValueError, match=message):
        noise_ceiling(**{**usable, **settings})
