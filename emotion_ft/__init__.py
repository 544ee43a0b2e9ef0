"""Fine-tune the Audio Spectrogram Transformer to predict how music feels: valence and arousal.

The public names are imported on first use, so that `import emotion_ft` and `--help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config.parser import parse_config
    from .config.settings import Config, TrainingConfig
    from .data.collections.csv_collection import load_collection_file, load_csv
    from .data.collections.deam import load_deam
    from .data.features import store_log_mels
    from .inference.predict import predict_file
    from .modeling import (
        ASTEmotionConfig,
        ASTEmotionFeatureExtractor,
        ASTForEmotionRegression,
        MelDiscriminator,
        MelGanConfig,
        MelGenerator,
    )
    from .modeling.pipeline_ast_emotion import MusicEmotionPipeline
    from .scoring.metrics import EmotionMetric
    from .training.trainer import EmotionTrainer

__version__ = "0.1.0"

__all__ = [
    "ASTEmotionConfig",
    "ASTEmotionFeatureExtractor",
    "ASTForEmotionRegression",
    "Config",
    "EmotionMetric",
    "EmotionTrainer",
    "MelDiscriminator",
    "MelGanConfig",
    "MelGenerator",
    "MusicEmotionPipeline",
    "TrainingConfig",
    "load_collection_file",
    "load_csv",
    "load_deam",
    "parse_config",
    "predict_file",
    "store_log_mels",
]

_MODULES = {
    "Config": "config.settings",
    "EmotionMetric": "scoring.metrics",
    "EmotionTrainer": "training.trainer",
    "MusicEmotionPipeline": "modeling.pipeline_ast_emotion",
    "TrainingConfig": "config.settings",
    "load_collection_file": "data.collections.csv_collection",
    "load_csv": "data.collections.csv_collection",
    "load_deam": "data.collections.deam",
    "parse_config": "config.parser",
    "predict_file": "inference.predict",
    "store_log_mels": "data.features",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f".{_MODULES.get(name, 'modeling')}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
