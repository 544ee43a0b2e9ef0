"""Fine-tune the Audio Spectrogram Transformer to predict how music feels: valence and arousal.

The public names are imported on first use, so that `import emotion_ft` and `--help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WHERE = {
    "ASTEmotionConfig": "modeling",
    "ASTEmotionFeatureExtractor": "modeling",
    "ASTForEmotionRegression": "modeling",
    "EmotionMetric": "training.metrics",
    "EmotionTrainer": "training.trainer",
    "TrainingConfig": "config",
    "load_deam": "data.deam",
    "parse_config": "config_parser",
    "predict_file": "inference",
    "store_log_mels": "data.features",
}

__all__ = ["__version__", *_WHERE]  # noqa: PLE0604

if TYPE_CHECKING:
    from .config import TrainingConfig
    from .config_parser import parse_config
    from .data.deam import load_deam
    from .data.features import store_log_mels
    from .inference import predict_file
    from .modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor, ASTForEmotionRegression
    from .training.metrics import EmotionMetric
    from .training.trainer import EmotionTrainer


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'emotion_ft' has no attribute '{name}'")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
