import numpy as np
import pytest
from scipy import stats

from emotion_ft.scoring.metrics import EmotionMetric, compute_metrics, concordance_correlation, score


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    references = rng.uniform(1, 9, size=(40, 2))
    return references * 0.6 + 1.5 + rng.normal(size=(40, 2)), references


def test_equal_independent_formulas(pair):
    results = EmotionMetric().compute(predictions=pair[0], references=pair[1])
    for column, dimension in enumerate(("valence", "arousal")):
        p, r = pair[0][:, column], pair[1][:, column]
        assert results[f"{dimension}_rmse"] == pytest.approx(np.sqrt(((p - r) ** 2).mean()))
        assert results[f"{dimension}_mae"] == pytest.approx(np.abs(p - r).mean())
        assert results[f"{dimension}_r2"] == pytest.approx(1 - ((p - r) ** 2).sum() / ((r - r.mean()) ** 2).sum())
        assert results[f"{dimension}_r"] == pytest.approx(np.corrcoef(p, r)[0, 1])
        # Lin's CCC from r, the scale shift and the location shift (Lin 1989, eq. 2).
        v, u = p.std() / r.std(), (p.mean() - r.mean()) / np.sqrt(p.std() * r.std())
        bias_correction = 2 / (v + 1 / v + u**2)
        assert results[f"{dimension}_ccc"] == pytest.approx(stats.pearsonr(p, r).statistic * bias_correction)
    for metric in ("rmse", "mae", "r2", "r", "ccc"):
        assert results[f"mean_{metric}"] == pytest.approx(
            (results[f"valence_{metric}"] + results[f"arousal_{metric}"]) / 2
        )
    assert len(results) == 15


def test_perfect_and_shifted(pair):
    references = pair[1]
    perfect = score(references, references)
    assert perfect["mean_r2"] == perfect["mean_ccc"] == pytest.approx(1) and perfect["mean_rmse"] == 0
    shifted = score(references + 2, references)
    assert shifted["mean_r"] == pytest.approx(1) and shifted["mean_mae"] == pytest.approx(2)
    assert shifted["mean_ccc"] < 0.8


def test_columns_are_not_mixed_up(pair):
    predictions = pair[1].copy()
    predictions[:, 0] += 1
    results = score(predictions, pair[1])
    assert results["valence_mae"] == pytest.approx(1) and results["arousal_mae"] == 0


def test_constant_predictions_score_zero_correlation(pair):
    results = score(np.full_like(pair[1], 5.0), pair[1])
    assert results["mean_r"] == results["mean_ccc"] == 0
    assert np.isfinite(list(results.values())).all()
    assert concordance_correlation(np.ones(3), np.ones(3)) == 0


def test_trainer_hook_reports_on_the_nine_point_scale(pair):
    class Prediction:
        predictions, label_ids = ((x - 5) / 4 for x in pair)

    assert compute_metrics(Prediction) == pytest.approx(score(*pair))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (np.zeros((4, 2)), np.zeros((5, 2)), "expected two arrays"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "expected two arrays"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "at least two songs"),
        (np.full((4, 2), np.nan), np.zeros((4, 2)), "finite"),
    ],
)
def test_unusable_input_is_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score(predictions, references)
