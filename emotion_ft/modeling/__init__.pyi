from .auto_classes import (
    ASTEmotionConfig as ASTEmotionConfig,
)
from .auto_classes import (
    ASTEmotionFeatureExtractor as ASTEmotionFeatureExtractor,
)
from .auto_classes import (
    ASTForEmotionRegression as ASTForEmotionRegression,
)
from .auto_classes import (
    MelDiscriminator as MelDiscriminator,
)
from .auto_classes import (
    MelGanConfig as MelGanConfig,
)
from .auto_classes import (
    MelGenerator as MelGenerator,
)
from .auto_classes import (
    MelRegressor as MelRegressor,
)
