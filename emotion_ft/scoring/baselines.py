"""Baselines that a model has to beat: the mean training label, and regressions on mel statistics."""

import numpy as np
from datasets import Dataset
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from ..data.front_end import FrontEnd
from ..data.songs import labels_of


def mel_statistics(songs: Dataset, extractor: FrontEnd) -> np.ndarray:
    """`band_statistics` of each song's whole stored excerpt, standardised first so that gain gives nothing away.

    `extractor` is the front end of the stored log-mels.

    Returns:
        (songs, 3 * mels).
    """
    log_mels = (np.frombuffer(row["log_mel"], np.float16) for row in songs.select_columns("log_mel"))
    shaped = (log_mel.reshape(-1, extractor.num_mel_bins) for log_mel in log_mels)
    return np.stack([band_statistics(extractor.standardise(log_mel)) for log_mel in shaped])


def band_statistics(spectrogram: np.ndarray) -> np.ndarray:
    """Per-band mean, deviation and mean absolute frame difference of (frames, mels): (3 * mels,)."""
    differences = np.abs(np.diff(spectrogram, axis=0))
    return np.concatenate([spectrogram.mean(0), spectrogram.std(0), differences.mean(0)])


def ridge() -> Pipeline:
    """Standardisation and ridge regression, with the penalty chosen by leave-one-out validation."""
    return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 21)))


def svr() -> Pipeline:
    """Standardisation and support vector regression (RBF), one per label, with C chosen by 3-fold validation."""
    search = GridSearchCV(SVR(epsilon=0.1), {"C": [0.3, 1, 3, 10]}, cv=KFold(3, shuffle=True, random_state=0))
    return make_pipeline(StandardScaler(), MultiOutputRegressor(search))


def baseline_predictions(train: Dataset, test: Dataset, extractor: FrontEnd) -> dict[str, np.ndarray]:
    """Predictions for the test songs by baselines fitted to the training songs alone: (songs, 2) each, on 1-9.

    `mean` is the mean training label; `ridge` and `svr` are fitted to mel statistics.
    """
    labels = labels_of(train)
    train_statistics, test_statistics = mel_statistics(train, extractor), mel_statistics(test, extractor)
    predictions = {"mean": np.repeat(labels.mean(0, keepdims=True), len(test), axis=0)}
    for name, model in (("ridge", ridge()), ("svr", svr())):
        predictions[name] = model.fit(train_statistics, labels).predict(test_statistics)
    return predictions
