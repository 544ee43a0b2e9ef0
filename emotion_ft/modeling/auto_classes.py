"""The public classes of this package, registered with transformers' Auto classes when this module is imported."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_ast_emotion import ASTEmotionConfig
from .feature_extraction_ast_emotion import ASTEmotionFeatureExtractor
from .modeling_ast_emotion import ASTForEmotionRegression
from .modeling_mel_gan import MelDiscriminator, MelGanConfig, MelGenerator, MelRegressor

AutoConfig.register(ASTEmotionConfig.model_type, ASTEmotionConfig)
AutoConfig.register(MelGanConfig.model_type, MelGanConfig)
AutoModel.register(ASTEmotionConfig, ASTForEmotionRegression)
# Of several, AutoModel takes the one that the configuration's `architectures` name.
AutoModel.register(MelGanConfig, (MelGenerator, MelDiscriminator, MelRegressor))
AutoModelForAudioClassification.register(ASTEmotionConfig, ASTForEmotionRegression)
AutoFeatureExtractor.register(ASTEmotionConfig, ASTEmotionFeatureExtractor)

__all__ = [
    "ASTEmotionConfig",
    "ASTEmotionFeatureExtractor",
    "ASTForEmotionRegression",
    "MelDiscriminator",
    "MelGanConfig",
    "MelGenerator",
    "MelRegressor",
]
