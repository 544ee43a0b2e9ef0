"""What travels to the Hub with a model: the networks, the feature extractor, the pipeline and the audio reader.

The public classes are imported on first use, all of them at once, as `auto_classes` registers them with transformers;
until then, importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auto_classes import (
        ASTEmotionConfig,
        ASTEmotionFeatureExtractor,
        ASTForEmotionRegression,
        MelDiscriminator,
        MelGanConfig,
        MelGenerator,
        MelRegressor,
    )

__all__ = [
    "ASTEmotionConfig",
    "ASTEmotionFeatureExtractor",
    "ASTForEmotionRegression",
    "MelDiscriminator",
    "MelGanConfig",
    "MelGenerator",
    "MelRegressor",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(".auto_classes", __name__), name)
