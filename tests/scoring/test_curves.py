import numpy as np
import pytest
from datasets import Dataset

from emotion_ft import run_folder
from emotion_ft.errors import UsageError
from emotion_ft.reports.tables import curve_table, read_curve_scores
from emotion_ft.scoring.curves import annotated_curves, flat, score_curves, with_curves


@pytest.fixture(scope="module")
def curves():
    """Twelve annotated curves of different lengths, and predictions that miss them by noise."""
    rng = np.random.default_rng(0)
    truth = [np.cumsum(rng.normal(size=(length, 2)), axis=0) / 20 for length in rng.integers(20, 60, 12)]
    return truth, [curve + rng.normal(size=curve.shape) * 0.1 for curve in truth]


def ccc(p, r):
    return 2 * np.cov(p, r, ddof=0)[0, 1] / (p.var() + r.var() + (p.mean() - r.mean()) ** 2)


def test_each_song_counts_once_as_in_mediaeval(curves):
    truth, predicted = curves
    row = score_curves(predicted, truth).loc["windows by song"]
    for column, name in enumerate(("valence", "arousal")):
        pairs = [(p[:, column], r[:, column]) for p, r in zip(predicted, truth, strict=True)]
        assert row[f"{name}_rmse"] == pytest.approx(np.mean([np.sqrt(np.mean((p - r) ** 2)) for p, r in pairs]))
        assert row[f"{name}_r"] == pytest.approx(np.mean([np.corrcoef(p, r)[0, 1] for p, r in pairs]))
        assert row[f"{name}_ccc"] == pytest.approx(np.mean([ccc(p, r) for p, r in pairs]))


def test_all_windows_together_and_songs(curves):
    truth, predicted = curves
    scores = score_curves(predicted, truth)
    p, r = np.concatenate(predicted)[:, 1], np.concatenate(truth)[:, 1]
    assert scores.loc["windows", "arousal_r"] == pytest.approx(np.corrcoef(p, r)[0, 1])
    p, r = (np.array([curve[:, 0].mean() for curve in side]) for side in curves[::-1])
    assert scores.loc["songs", "valence_ccc"] == pytest.approx(ccc(p, r))
    assert scores.loc["windows", "arousal_r"] != scores.loc["windows by song", "arousal_r"]


def test_constant_and_single_values_correlate_with_nothing():
    scores = score_curves([np.zeros((5, 2)), np.ones((1, 2))], [np.ones((5, 2)), np.zeros((1, 2))])
    assert scores.loc["windows by song", "valence_r"] == 0 and scores.loc["windows by song", "valence_rmse"] == 1


def test_curves_of_other_lengths_are_refused(curves):
    truth, predicted = curves
    for wrong in (predicted[:-1], [predicted[0][:-1], *predicted[1:]]):
        with pytest.raises(ValueError, match="as long as the annotated one"):
            score_curves(wrong, truth)
    with pytest.raises(ValueError):
        score_curves([], [])


def test_written_read_and_named(curves, tmp_path):
    scores = score_curves(*curves[::-1])
    run_folder.write_table(tmp_path, run_folder.CURVE_SCORES, scores.reset_index())
    again = read_curve_scores(tmp_path)
    assert again.to_numpy() == pytest.approx(scores.to_numpy(), abs=1e-4) and list(again.index) == list(scores.index)
    assert read_curve_scores(tmp_path / "elsewhere") is None
    assert flat(scores)["test_windows_by_song_valence_rmse"] == scores.loc["windows by song", "valence_rmse"]
    assert "MediaEval 2015" in curve_table(scores) and "[-1, 1]" in curve_table(scores)


def test_songs_with_curves():
    songs = Dataset.from_dict(
        {
            "curve_start": [15.0, None],
            "curve_valence": [[0.1, 0.2, 0.3], None],
            "curve_arousal": [[-0.1, -0.2, -0.3], None],
        }
    )
    (curve,) = annotated_curves(with_curves(songs))
    assert curve == pytest.approx(np.array([[0.1, -0.1], [0.2, -0.2], [0.3, -0.3]]))
    with pytest.raises(UsageError, match="none of 1 songs has an annotated curve"):
        with_curves(songs.select([1]))
