"""A conditional GAN that makes standardised log-mel windows with a given valence and arousal, and its regressor."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

EMOTIONS = 2  # valence, arousal


@strict
class MelGanConfig(PreTrainedConfig):
    """Sizes of `MelGenerator`, `MelDiscriminator` and `MelRegressor`.

    Args:
        max_length: frames per window, at least 2**num_scales; 501 is 10 s with hop 320 at 16 kHz.
        num_mel_bins: mel bands, at least 2**num_scales.
        latent_size: random numbers per window, by which windows with the same emotion differ.
        channels: feature maps at the finest scale; every coarser scale has twice as many.
        max_channels: the most feature maps at any scale.
        num_scales: how often the generator doubles the size of its feature maps, and the discriminator halves it.
        condition_size: width of the vector that conditions every scale.
    """

    model_type = "mel-gan"

    max_length: int = 501
    num_mel_bins: int = 128
    latent_size: int = 64
    channels: int = 16
    max_channels: int = 256
    num_scales: int = 4
    condition_size: int = 128
    architectures: list[str] | None = field(default_factory=lambda: ["MelGenerator"])  # what AutoModel makes of it

    def width(self, scale: int) -> int:
        """Feature maps where frames and bands are halved `scale` times."""
        return min(self.channels * 2**scale, self.max_channels)


class _MelGanModel(PreTrainedModel):
    """What the three networks share: mean and deviation of every mel band, measured on real windows, not trained."""

    config_class = MelGanConfig
    config: MelGanConfig
    main_input_name = "input_values"
    band_mean: torch.Tensor
    band_std: torch.Tensor

    def __init__(self, config: MelGanConfig):
        super().__init__(config)
        self.register_buffer("band_mean", torch.zeros(config.num_mel_bins))
        self.register_buffer("band_std", torch.ones(config.num_mel_bins))

    @classmethod
    def from_pretrained(
        cls, *args: Any, output_loading_info: bool = False, use_safetensors: bool | None = True, **kwargs: Any
    ) -> Any:
        """As in every model, but another network's folder is refused: weights it lacks would be uninitialised memory.

        Pickled weights, which may run code, are loaded only on request.
        """
        loaded: Any = super().from_pretrained(
            *args, output_loading_info=True, use_safetensors=use_safetensors, **kwargs
        )
        model, loading = loaded
        absent = sorted(set(loading["missing_keys"]) - {"band_mean", "band_std"})
        saved_as, *_ = model.config.architectures or [cls.__name__]
        if absent and saved_as != cls.__name__:
            raise ValueError(f"expected a {cls.__name__}, got a {saved_as}: load it with {saved_as} or AutoModel.")
        if absent:
            raise ValueError(f"not a complete {cls.__name__}: {len(absent)} tensors are missing, first {absent[0]}.")
        return (model, loading) if output_loading_info else model

    def set_bands(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the mean and deviation (mels,) of every band, measured on standardised real windows."""
        self.band_mean.copy_(mean)
        self.band_std.copy_(std)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, _MelGanModel):  # loading leaves buffers that a file lacks uninitialised
            init.zeros_(module.band_mean)
            init.ones_(module.band_std)

    def _per_band(self, windows: torch.Tensor) -> torch.Tensor:
        expected = (self.config.max_length, self.config.num_mel_bins)
        if windows.dim() != 3 or tuple(windows.shape[1:]) != expected:
            raise ValueError(
                f"input_values must be (batch, frames, mels) with (frames, mels) = {expected}, got "
                f"{tuple(windows.shape)}; make them with the feature extractor that the GAN was trained with."
            )
        bands = (windows - self.band_mean) / self.band_std
        return bands.unsqueeze(1).to(self.dtype)  # (batch, 1, frames, mels)


def check_emotion(emotion: torch.Tensor) -> None:
    """Raise a `ValueError` unless `emotion` is (batch, 2), valence and arousal in [-1, 1]."""
    if emotion.dim() != 2 or emotion.shape[1] != EMOTIONS:
        raise ValueError(
            f"emotion must be (batch, {EMOTIONS}), valence and arousal, got shape {tuple(emotion.shape)}."
        )
    if not bool((emotion.abs() <= 1).all()):  # NaN fails too
        raise ValueError(
            f"valence and arousal must lie in [-1, 1], got values from {float(emotion.min()):g} to "
            f"{float(emotion.max()):g}; from DEAM's scale, (x - 5) / 4."
        )


class ConditionedBlock(nn.Module):
    """Convolve, scale and shift every feature map by the condition (FiLM, Perez et al. 2018), enlarge.

    Enlarges by sub-pixel convolution (Shi et al. 2016): four feature maps become one of twice the frames and bands.
    """

    def __init__(self, inputs: int, outputs: int, condition_size: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.norm = nn.GroupNorm(1, inputs, affine=False)
        self.film = nn.Linear(condition_size, 2 * inputs)
        self.enlarge = nn.Conv2d(inputs, 4 * outputs, 3, padding=1)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(batch, inputs, frames, bands), (batch, condition) -> (batch, outputs, 2 * frames, 2 * bands)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = F.leaky_relu(self.norm(self.conv(hidden)) * (1 + scale) + shift, 0.2)
        return F.pixel_shuffle(self.enlarge(hidden), 2)


class MelGenerator(_MelGanModel):
    """(latent, emotion) -> standardised log-mel windows (batch, frames, mels), as the AST sees them.

    The coarsest map has `frames / 2**num_scales` by `mels / 2**num_scales` cells, rounded up; what exceeds the
    configured size is cut off.
    """

    main_input_name = "latent"

    def __init__(self, config: MelGanConfig):
        super().__init__(config)
        factor = 2**config.num_scales
        self.grid = (math.ceil(config.max_length / factor), math.ceil(config.num_mel_bins / factor))
        top = config.width(config.num_scales)
        self.condition = nn.Sequential(
            nn.Linear(config.latent_size + EMOTIONS, config.condition_size),
            nn.LeakyReLU(0.2),
            nn.Linear(config.condition_size, config.condition_size),
            nn.LeakyReLU(0.2),
        )
        self.seed = nn.Linear(config.latent_size + EMOTIONS, top * self.grid[0] * self.grid[1])
        widths = [*(config.width(scale) for scale in range(config.num_scales, 0, -1)), 1]
        self.blocks = nn.ModuleList(
            ConditionedBlock(inputs, outputs, config.condition_size) for inputs, outputs in itertools.pairwise(widths)
        )
        self.post_init()

    def forward(self, latent: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """Generate one window per row.

        Args:
            latent: (batch, latent_size), standard normal.
            emotion: (batch, 2), valence and arousal in [-1, 1].

        Returns:
            (batch, frames, mels) in float32 whatever the weights' type, zero mean and unit variance over each window.
        """
        joint = torch.cat([latent, emotion], dim=1).to(self.dtype)
        condition = self.condition(joint)
        hidden = self.seed(joint).unflatten(1, (-1, *self.grid)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            hidden = block(hidden, condition)
        bands = hidden.float()[:, 0, : self.config.max_length, : self.config.num_mel_bins]
        windows = self.band_mean + self.band_std * bands
        windows = windows - windows.mean((1, 2), keepdim=True)
        return windows / (windows.square().mean((1, 2), keepdim=True).sqrt() + 1e-8)

    @torch.no_grad()
    def generate(
        self, emotion: torch.Tensor | np.ndarray | Sequence[float], seed: int, batch_size: int = 64
    ) -> torch.Tensor:
        """Windows with given emotions; the same seed gives the same windows.

        Args:
            emotion: (windows, 2), or (2,) for one window: valence and arousal in [-1, 1].
            seed: of the latents.
            batch_size: windows per forward pass.

        Returns:
            (windows, frames, mels), or (frames, mels) for one, on the model's device.

        Raises:
            ValueError: for another shape, or values outside [-1, 1].
        """
        if not isinstance(emotion, torch.Tensor):
            emotion = torch.from_numpy(np.asarray(emotion, np.float32))
        emotion = emotion.to("cpu", torch.float32)
        rows = emotion[None] if emotion.dim() == 1 else emotion
        check_emotion(rows)
        random = torch.Generator().manual_seed(seed)  # on the CPU: the same latents on every device
        latents = torch.randn(len(rows), self.config.latent_size, generator=random)
        made = [
            self(latent.to(self.device), wanted.to(self.device))
            for latent, wanted in zip(latents.split(batch_size), rows.split(batch_size), strict=True)
        ]
        return made[0][0] if emotion.dim() == 1 else torch.cat(made)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, as every process's loss depends on it."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return SumOverProcesses.apply(gradient)


def batch_variance(values: torch.Tensor, everywhere: bool) -> torch.Tensor:
    """(batch, ...) -> (...): the variance over the batch.

    Args:
        everywhere: over the batches of all processes, which must have the same size; every process must call it then.
    """
    if not (everywhere and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values.var(0, correction=0)
    mean = SumOverProcesses.apply(values.mean(0)) / dist.get_world_size()
    return SumOverProcesses.apply((values - mean).square().mean(0)) / dist.get_world_size()


class MelEncoder(nn.Module):
    """(batch, 1, frames, mels) -> (batch, width): strided convolutions, then the mean over time of every band.

    Args:
        wrap: applied to every layer with weights.
        deviation: append the deviation over the batch as one more feature map (Karras et al. 2018), so that a
            discriminator sees when all windows are alike; in training, over the batch of all processes together.
    """

    def __init__(self, config: MelGanConfig, wrap: Callable[[nn.Module], nn.Module], deviation: bool):
        super().__init__()
        if min(config.max_length, config.num_mel_bins) < 2**config.num_scales:
            raise ValueError(
                f"{config.num_scales} scales halve windows of {2**config.num_scales} or more frames and bands, got "
                f"{config.max_length} x {config.num_mel_bins}."
            )
        self.deviation = deviation
        widths = [1, *(config.width(scale) for scale in range(config.num_scales))]
        self.convs = nn.ModuleList(
            wrap(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)) for inputs, outputs in itertools.pairwise(widths)
        )
        self.width = config.width(config.num_scales)
        bands = config.num_mel_bins // 2**config.num_scales
        self.last = wrap(nn.Conv2d(widths[-1] + deviation, self.width, 3, padding=1))
        self.join = wrap(nn.Linear(self.width * bands, self.width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            hidden = F.leaky_relu(conv(hidden), 0.2).contiguous(memory_format=torch.channels_last)
        if self.deviation:
            variance = batch_variance(hidden.float(), everywhere=self.training)
            spread = variance.add(1e-8).sqrt().mean()  # 1e-8 is zero in half precision
            hidden = torch.cat([hidden, spread.to(hidden.dtype).expand_as(hidden[:, :1])], dim=1)
        hidden = F.leaky_relu(self.last(hidden), 0.2).mean(2)  # (batch, width, bands)
        return F.leaky_relu(self.join(hidden.flatten(1)), 0.2)


class MelDiscriminator(_MelGanModel):
    """(windows, emotion) -> one score per window, higher for windows that look real and match their emotion.

    A projection discriminator (Miyato & Koyama 2018) with spectral normalisation (Miyato et al. 2018): the score is a
    linear map of the features plus their inner product with an embedding of the emotion.
    """

    def __init__(self, config: MelGanConfig):
        super().__init__(config)
        self.encoder = MelEncoder(config, spectral_norm, deviation=True)
        self.realism = spectral_norm(nn.Linear(self.encoder.width, 1))
        self.match = nn.Sequential(
            spectral_norm(nn.Linear(EMOTIONS, self.encoder.width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(self.encoder.width, self.encoder.width)),
        )
        self.post_init()

    def forward(self, input_values: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """Score windows.

        Args:
            input_values: (batch, frames, mels), standardised log-mel windows, real or generated.
            emotion: (batch, 2), the valence and arousal in [-1, 1] that they are said to have.

        Returns:
            (batch,) logits, higher for real windows with their own emotion.
        """
        features = self.encoder(self._per_band(input_values))
        return self.realism(features).squeeze(1) + (self.match(emotion.to(self.dtype)) * features).sum(1)


class MelRegressor(_MelGanModel):
    """(batch, frames, mels) -> valence and arousal (batch, 2) in (-1, 1); it teaches a generator its emotions.

    Small and quick, and trained on real windows only; `ASTForEmotionRegression` is the model to predict with.
    """

    def __init__(self, config: MelGanConfig):
        super().__init__(config)
        self.encoder = MelEncoder(config, lambda layer: layer, deviation=False)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(self.encoder.width, EMOTIONS)
        self.post_init()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.output(self.dropout(self.encoder(self._per_band(input_values)))))


for model in (MelGenerator, MelDiscriminator, MelRegressor):
    model.register_for_auto_class("AutoModel")
MelGanConfig.register_for_auto_class()
