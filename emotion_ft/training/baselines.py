"""What a model has to beat: the mean of the training labels, and a ridge regression on mel statistics."""

import numpy as np
from datasets import Dataset
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def labels_of(songs: Dataset) -> np.ndarray:
    """(songs, 2) valence and arousal, on 1-9."""
    return np.stack([songs["valence"], songs["arousal"]], axis=1).astype(np.float64)


def mel_statistics(songs: Dataset, num_mel_bins: int) -> np.ndarray:
    """Per-band mean, deviation and mean absolute frame difference of the whole stored excerpt, (songs, 3 * mels).

    The excerpt is standardised as a whole first, so that, as for the model, its gain does not tell.
    """
    statistics = []
    for row in songs.select_columns("log_mel"):
        x = np.frombuffer(row["log_mel"], np.float16).reshape(-1, num_mel_bins).astype(np.float32)
        statistics.append(band_statistics((x - x.mean()) / (x.std() + 1e-8)))
    return np.stack(statistics)


def band_statistics(spectrogram: np.ndarray) -> np.ndarray:
    """Per-band mean, deviation and mean absolute frame difference of (frames, mels): (3 * mels,)."""
    differences = np.abs(np.diff(spectrogram, axis=0))
    return np.concatenate([spectrogram.mean(0), spectrogram.std(0), differences.mean(0)])


def ridge() -> Pipeline:
    """Standardise, then ridge regression, its penalty chosen by leave-one-out."""
    return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 21)))


def mean_baseline(train: Dataset, test: Dataset) -> np.ndarray:
    """The mean training label for every test song, (songs, 2)."""
    return np.repeat(labels_of(train).mean(0, keepdims=True), len(test), axis=0)


def ridge_baseline(train: Dataset, test: Dataset, num_mel_bins: int) -> np.ndarray:
    """Ridge regression on mel statistics, (songs, 2); its penalty is chosen by leave-one-out on the training songs."""
    model = ridge().fit(mel_statistics(train, num_mel_bins), labels_of(train))
    return model.predict(mel_statistics(test, num_mel_bins))
