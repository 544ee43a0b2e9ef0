import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from emotion_ft.training.baselines import labels_of, mean_baseline, mel_statistics, ridge_baseline
from emotion_ft.training.metrics import score

MELS = 16


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
    assert mean_baseline(train, test) == pytest.approx(np.tile(labels_of(train).mean(0), (7, 1)))


def test_statistics_do_not_hear_the_gain():
    quiet, loud = (mel_statistics(collection(0, songs=3, gain=gain), MELS) for gain in (0.0, 5.0))
    assert quiet.shape == (3, 3 * MELS)
    assert quiet == pytest.approx(loud, abs=0.01)  # float16


def test_ridge_learns_what_the_statistics_tell():
    train, test = collection(0, songs=200), collection(1)
    results = score(ridge_baseline(train, test, MELS), labels_of(test))
    # Valence over arousal, all that standardisation leaves, tells each of them in part.
    assert results["valence_r2"] > 0.3 and results["arousal_r2"] > 0.3


def test_ridge_never_sees_the_test_labels():
    train, test = collection(0), collection(1)
    expected = ridge_baseline(train, test, MELS)
    shuffled = test.remove_columns(["valence", "arousal"])
    shuffled = shuffled.add_column("valence", [5.0] * 60).add_column("arousal", [5.0] * 60)
    assert np.array_equal(ridge_baseline(train, shuffled, MELS), expected)
