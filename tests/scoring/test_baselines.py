import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from sklearn.model_selection import KFold, cross_val_score
from sklearn.svm import SVR

from emotion_ft.data.songs import labels_of
from emotion_ft.modeling import ASTEmotionFeatureExtractor
from emotion_ft.scoring.baselines import baseline_predictions, mel_statistics
from emotion_ft.scoring.metrics import score

MELS = 16
EXTRACTOR = ASTEmotionFeatureExtractor(num_mel_bins=MELS)


def collection(seed, songs=60, gain=0.0):
    """Songs whose valence tilts the spectrum and whose arousal moves it from frame to frame."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform(1, 9, (songs, 2)).astype(np.float32)
    tilt = np.linspace(-1, 1, MELS)
    log_mels = [
        valence * tilt + arousal * rng.normal(size=(rng.integers(80, 120), MELS)) + gain for valence, arousal in labels
    ]
    return Dataset(
        pa.table(
            {
                "song_id": np.arange(songs),
                "log_mel": [x.astype(np.float16).tobytes() for x in log_mels],
                "valence": labels[:, 0],
                "arousal": labels[:, 1],
            }
        )
    )


def test_mean_is_of_the_training_songs():
    train, test = collection(0), collection(1, songs=7)
    assert baseline_predictions(train, test, EXTRACTOR)["mean"] == pytest.approx(
        np.tile(labels_of(train).mean(0), (7, 1))
    )


def test_statistics_do_not_hear_the_gain():
    quiet, loud = (mel_statistics(collection(0, songs=3, gain=gain), EXTRACTOR) for gain in (0.0, 5.0))
    assert quiet.shape == (3, 3 * MELS)
    assert quiet == pytest.approx(loud, abs=0.01)  # float16


@pytest.mark.parametrize("name", ["ridge", "svr"])
def test_regressions_learn_what_the_statistics_tell(name):
    train, test = collection(0, songs=200), collection(1)
    results = score(baseline_predictions(train, test, EXTRACTOR)[name], labels_of(test))
    # Valence over arousal, all that standardisation leaves, tells each of them in part.
    assert results["valence_r2"] > 0.3 and results["arousal_r2"] > 0.3


def test_svr_is_scikit_learns():
    train, test = collection(0), collection(1)
    learnt, asked = (mel_statistics(songs, EXTRACTOR) for songs in (train, test))
    mean, deviation = learnt.mean(0), learnt.std(0)
    expected = [
        max(
            (SVR(C=c, epsilon=0.1) for c in (0.3, 1, 3, 10)),
            key=lambda machine: cross_val_score(
                machine, (learnt - mean) / deviation, labels, cv=KFold(3, shuffle=True, random_state=0)
            ).mean(),
        )
        .fit((learnt - mean) / deviation, labels)
        .predict((asked - mean) / deviation)
        for labels in labels_of(train).T
    ]
    assert baseline_predictions(train, test, EXTRACTOR)["svr"] == pytest.approx(np.stack(expected, 1), abs=1e-6)


def test_no_baseline_sees_the_test_labels():
    train, test = collection(0), collection(1)
    expected = baseline_predictions(train, test, EXTRACTOR)
    shuffled = test.remove_columns(["valence", "arousal"])
    shuffled = shuffled.add_column("valence", [5.0] * 60).add_column("arousal", [5.0] * 60)
    for name, predictions in baseline_predictions(train, shuffled, EXTRACTOR).items():
        assert np.array_equal(predictions, expected[name])
