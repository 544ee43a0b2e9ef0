"""The songs of `small_training`, and a trainer on them."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from small_training import FRAMES, SONGS, arguments, tiny_model

from emotion_ft.config.settings import SpecAugmentConfig
from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, with_transform
from emotion_ft.modeling import ASTEmotionFeatureExtractor
from emotion_ft.training.trainer import EmotionTrainer


@pytest.fixture(scope="module")
def small_extractor():
    return ASTEmotionFeatureExtractor(max_length=64, num_mel_bins=32, num_windows=3)


@pytest.fixture(scope="module")
def noise():
    """Noise whose band profile follows the labels: learnable in a few steps."""
    rng = np.random.default_rng(0)
    labels = rng.uniform(2, 8, size=(SONGS, 2)).astype(np.float32)
    profile = rng.normal(size=(2, 32))
    log_mels = rng.normal(size=(SONGS, FRAMES, 32)) + 0.5 * ((labels - 5) @ profile)[:, None]
    return Dataset(
        pa.table(
            {
                "song_id": np.arange(SONGS),
                "log_mel": [x.astype(np.float16).tobytes() for x in log_mels],
                "valence": labels[:, 0],
                "arousal": labels[:, 1],
            }
        )
    )


@pytest.fixture
def trainer(noise, small_extractor, tmp_path):
    def make(model=None, callbacks=None, workers=0, **changes):
        args = arguments(tmp_path, dataloader_num_workers=workers, **changes)
        return EmotionTrainer(
            model=tiny_model() if model is None else model,
            args=args,
            train_dataset=with_transform(noise, TrainingTransform(small_extractor, SpecAugmentConfig(), args.seed)),
            eval_dataset=with_transform(noise.select(range(8)), EvaluationTransform(small_extractor)),
            processing_class=small_extractor,
            callbacks=callbacks,
        )

    return make
