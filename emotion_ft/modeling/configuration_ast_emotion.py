"""Configuration of `ASTForEmotionRegression`."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import ASTConfig


@strict
class ASTEmotionConfig(ASTConfig):
    """An `ASTConfig` with the settings of the regression head.

    The model predicts `(x - label_center) / label_halfwidth`: with DEAM's nine-point scale, centre 5 and half-width 4,
    labels in [1, 9] become [-1, 1].

    Args:
        head_dropout: dropout before the output layer, in [0, 1).
        loss: "mse", "ccc" (1 - CCC, mean of both dimensions) or "mix" (their mean).
        label_center: centre of the label scale.
        label_halfwidth: half the width of the label scale.
        interval_halfwidths: half-widths of the prediction intervals of valence and arousal, in units of the label
            scale, from split conformal prediction; None: not calibrated.
        interval_level: share of songs, if they are like the calibration songs, whose labels lie in these intervals.
        max_length: frames per window; 501 is 10 s with hop 320 at 16 kHz.
    """

    model_type = "ast-emotion"

    max_length: int = 501
    head_dropout: float = 0.3
    loss: Literal["mse", "ccc", "mix"] = "mse"
    label_center: float = 5.0
    label_halfwidth: float = 4.0
    interval_halfwidths: list[float] | None = None
    interval_level: float = 0.9

    def __post_init__(self, **kwargs):
        if self.id2label is None:
            self.id2label = {0: "valence", 1: "arousal"}
            self.label2id = {"valence": 0, "arousal": 1}
        if self.problem_type is None:
            self.problem_type = "regression"
        if not __name__.startswith("transformers_modules."):
            # The installed pipeline is registered; transformers would still ask to trust the copy beside the weights.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)


ASTEmotionConfig.register_for_auto_class()
