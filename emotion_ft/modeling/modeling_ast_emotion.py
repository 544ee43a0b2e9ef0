"""The Audio Spectrogram Transformer with a regression head for valence and arousal."""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ASTConfig, ASTModel, ASTPreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_ast_emotion import ASTEmotionConfig

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 32
"""Windows per forward pass when songs of several windows are evaluated."""
ARCHITECTURE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "qkv_bias",
    "patch_size",
    "time_stride",
    "frequency_stride",
    "num_mel_bins",
    "layer_norm_eps",
    "hidden_act",
)
"""Fields of the configuration that a checkpoint's backbone determines."""


def ccc_loss(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - concordance correlation coefficient (Lin 1989), mean over dimensions.

    Args:
        predictions, labels: (batch, dimensions). CCC is a statistic of the batch, so its gradient depends on the batch
            size, and accumulating small batches is not the same as one large batch.

    Returns:
        Scalar in [0, 2].
    """
    predictions, labels = predictions.float(), labels.float()
    covariance = ((predictions - predictions.mean(0)) * (labels - labels.mean(0))).mean(0)
    spread = predictions.var(0, correction=0) + labels.var(0, correction=0)
    distance = (predictions.mean(0) - labels.mean(0)).square()
    return (1 - 2 * covariance / (spread + distance + 1e-8)).mean()


def emotion_loss(
    predictions: torch.Tensor, labels: torch.Tensor, kind: str, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The training loss on (batch, 2) predictions and labels in [-1, 1]: "mse", "ccc" or "mix", their mean.

    `weights` (batch, 2) weigh the squared errors; 1 is average.
    """
    if kind == "ccc":
        return ccc_loss(predictions, labels)
    errors = F.mse_loss(predictions.float(), labels.float(), reduction="none")
    mse = (errors if weights is None else errors * weights).mean()
    return mse if kind == "mse" else (mse + ccc_loss(predictions, labels)) / 2


def interpolate_position_embeddings(embeddings: torch.Tensor, grid: tuple[int, int], frames: int) -> torch.Tensor:
    """Stretch AST's position embeddings to another number of patches along time, linearly.

    Args:
        embeddings: (1, 2 + bands * frames, hidden), the first two for the class and the distillation token.
        grid: patches along (frequency, time) of `embeddings`; MIT's checkpoints have (12, 101).
        frames: patches along time wanted.

    Returns:
        (1, 2 + bands * `frames`, hidden).
    """
    tokens, patches = embeddings[:, :2], embeddings[:, 2:]
    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (1, hidden, bands, frames)
    patches = F.interpolate(patches, size=(grid[0], frames), mode="bilinear", align_corners=False)
    return torch.cat([tokens, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class EmotionHead(nn.Module):
    """Pooled tokens (batch, hidden) -> valence and arousal (batch, 2) in (-1, 1)."""

    def __init__(self, config: ASTEmotionConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]  # never None here

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.dense(self.layernorm(pooled)))
        return torch.tanh(self.out_proj(self.dropout(hidden)))


class ASTForEmotionRegression(ASTPreTrainedModel):
    """AST backbone, new head: log-mel windows in, valence and arousal in (-1, 1) out.

    The attribute that holds the stock `ASTModel` has its stock name, because transformers renames the tensors of AST
    checkpoints by that class and that name; under another name they would silently stay random.
    """

    config_class = ASTEmotionConfig
    config: ASTEmotionConfig

    def __init__(self, config: ASTEmotionConfig):
        super().__init__(config)
        self.audio_spectrogram_transformer = ASTModel(config)
        self.head = EmotionHead(config)
        self.post_init()
        # transformers starts these from zero; LayerNorm then divides by the root of its epsilon and the first
        # gradients are a million times too large. Pretrained weights replace them.
        embeddings = self.backbone.embeddings
        for parameter in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
            init.trunc_normal_(parameter, std=config.initializer_range)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EmotionHead):
            # Xavier keeps the variance of the pooled tokens; a small output layer starts at the middle of the scale,
            # in tanh's linear part, so that the first gradients come from the labels and not from a random offset.
            init.xavier_uniform_(module.dense.weight)
            init.zeros_(module.dense.bias)
            init.normal_(module.out_proj.weight, std=0.02)
            init.zeros_(module.out_proj.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, use_safetensors: bool | None = True, **kwargs: Any) -> Any:
        """As in every model, but pickled weights, which may run code, are loaded only on request."""
        return super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)

    @property
    def backbone(self) -> ASTModel:
        """The pretrained part; everything else is the head."""
        return self.audio_spectrogram_transformer

    def freeze_backbone(self) -> None:
        """Train the head only: the backbone gets no gradients and costs no backward pass."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train every parameter."""
        self.backbone.requires_grad_(True)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Predict valence and arousal.

        `**kwargs` is left out on purpose: with it, `Trainer` would assume that the loss is already divided by the
        accumulation steps.

        Args:
            input_values: (batch, frames, mels), standardised log-mel windows; or (batch, windows, frames, mels),
                several windows per song, whose predictions are averaged; windows of NaN are padding and do not
                count.
            labels: (batch, 2), valence and arousal in [-1, 1].
            label_weights: (batch, 2), how much each label counts in the squared error; 1 is average.
            embeddings: (batch, hidden) or (batch, windows, hidden), the output of `embed`, in place of windows.
            output_attentions, output_hidden_states: also return those of every layer, of windows (batch, frames,
                mels); by default as the configuration says.
            return_dict: False for a plain tuple; by default as the configuration says.

        Returns:
            `logits` (batch, 2) in (-1, 1), and `loss`, a scalar, when there are labels.

        Raises:
            ValueError: when there are neither windows nor embeddings, or the windows' last two dimensions are not
                `config.max_length` and `config.num_mel_bins`.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs: Any = BaseModelOutputWithPooling()
        if embeddings is None:
            windows = self._check(input_values)
            if windows.dim() == 4:
                embeddings = self.embed(windows)
            else:
                # None would overrule the configuration.
                asked = {name: value for name, value in asked.items() if value is not None}
                outputs = self.backbone(windows, return_dict=True, **asked)
                embeddings = outputs.pooler_output
        logits = self.head(embeddings)
        if logits.dim() == 3:
            logits = logits.nanmean(1)
        return SequenceClassifierOutput(
            loss=None if labels is None else emotion_loss(logits, labels, self.config.loss, label_weights),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def embed(self, input_values: torch.Tensor) -> torch.Tensor:
        """Windows (batch, [windows,] frames, mels) -> the backbone's pooled tokens (batch, [windows,] hidden).

        `model(embeddings=model.embed(windows))` predicts what `model(windows)` predicts. Windows of NaN give NaN.
        """
        if self._check(input_values).dim() == 3:
            return self.backbone(input_values, return_dict=True).pooler_output
        windows = input_values.flatten(0, 1)
        real = ~windows[:, 0, 0].isnan()
        # Songs of any length are embedded in bounded memory; a training needs the whole batch for its gradients.
        parts = windows[real].split(len(windows) if torch.is_grad_enabled() else WINDOWS_AT_ONCE)
        pooled = torch.cat([self.backbone(part, return_dict=True).pooler_output for part in parts])
        embeddings = pooled.new_full((len(windows), pooled.shape[1]), torch.nan)
        embeddings[real] = pooled
        return embeddings.unflatten(0, input_values.shape[:2])

    def _check(self, input_values: torch.Tensor | None) -> torch.Tensor:
        expected = (self.config.max_length, self.config.num_mel_bins)
        if input_values is None or input_values.dim() not in (3, 4) or tuple(input_values.shape[-2:]) != expected:
            raise ValueError(
                f"input_values must be (batch, frames, mels) or (batch, windows, frames, mels) with "
                f"(frames, mels) = {expected}, got {None if input_values is None else tuple(input_values.shape)}; "
                "make them with the model's own ASTEmotionFeatureExtractor."
            )
        return input_values

    @classmethod
    def from_ast(cls, checkpoint: str, revision: str = "main", **config_changes) -> "ASTForEmotionRegression":
        """A new head on the backbone of any AST checkpoint, in transformers' old or new tensor names.

        The position embeddings are interpolated along time from the checkpoint's length to `max_length`.

        Args:
            checkpoint: folder or Hub id of an `ASTModel` or `ASTForAudioClassification`,
                e.g. "MIT/ast-finetuned-audioset-10-10-0.4593".
            revision: branch, tag or commit on the Hub.
            **config_changes: fields of `ASTEmotionConfig`, such as `max_length=501` or `attn_implementation`.

        Raises:
            OSError: when there is no such checkpoint, or no safetensors in it.
            ValueError: when a backbone tensor is missing or of another shape, or when `config_changes` ask for another
                architecture than the checkpoint has.
        """
        source_config = ASTConfig.from_pretrained(checkpoint, revision=revision)
        loaded: Any = ASTModel.from_pretrained(
            checkpoint,
            config=source_config,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
        source, loading = loaded
        absent = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
        if absent:
            raise ValueError(
                f"{checkpoint} is not a complete AST checkpoint: {len(absent)} backbone tensors are missing or of "
                f"another shape, first {', '.join(absent[:3])}."
            )

        kept = {name: getattr(source_config, name) for name in ARCHITECTURE}
        for name in config_changes.keys() & kept.keys():
            if config_changes[name] != kept[name]:
                raise ValueError(f"{checkpoint} has {name}={kept[name]}, so it cannot be {config_changes[name]}.")
        model = cls(ASTEmotionConfig(**{**kept, **config_changes}))

        weights = source.state_dict()
        if model.config.max_length != source_config.max_length:
            bands, old_frames = source.embeddings.get_shape(source_config)
            _, frames = model.backbone.embeddings.get_shape(model.config)
            name = "embeddings.position_embeddings"
            weights[name] = interpolate_position_embeddings(weights[name], (bands, old_frames), frames)
            logger.info(
                f"Position embeddings interpolated along time: {bands} x {old_frames} patches "
                f"({source_config.max_length} frames) -> {bands} x {frames} ({model.config.max_length} frames)."
            )
        model.backbone.load_state_dict(weights, strict=True)
        return model


ASTForEmotionRegression.register_for_auto_class("AutoModelForAudioClassification")
