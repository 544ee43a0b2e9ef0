"""The losses of the two networks of a GAN: pure functions of the discriminator's logits (batch,)."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F
from torch.nn.functional import binary_cross_entropy_with_logits as bce


def hinge_discriminator_loss(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Zero once real windows score above 1 and synthetic ones below -1 (Lim & Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + synthetic).mean()


def hinge_generator_loss(synthetic: torch.Tensor) -> torch.Tensor:
    """The lower, the higher synthetic windows score."""
    return -synthetic.mean()


def bce_discriminator_loss(real: torch.Tensor, synthetic: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Binary cross-entropy (Goodfellow et al. 2014) with one-sided label smoothing (Salimans et al. 2016).

    Args:
        smoothing: in [0, 1); the target of real windows is 1 - smoothing, that of synthetic ones stays 0.
    """
    return bce(real, torch.full_like(real, 1 - smoothing)) + bce(synthetic, torch.zeros_like(synthetic))


def bce_generator_loss(synthetic: torch.Tensor) -> torch.Tensor:
    """The non-saturating form: cross-entropy of synthetic windows with the target of real ones, 1."""
    return bce(synthetic, torch.ones_like(synthetic))


def adversarial(kind: str, smoothing: float = 0.0) -> tuple[Callable, Callable]:
    """The losses called "hinge" or "bce".

    Returns:
        The discriminator's loss of real and synthetic logits, and the generator's of synthetic logits.
    """
    if kind == "bce":
        return partial(bce_discriminator_loss, smoothing=smoothing), bce_generator_loss
    return hinge_discriminator_loss, hinge_generator_loss


def emotion_term(predicted: torch.Tensor, requested: torch.Tensor) -> torch.Tensor:
    """Mean squared error between the emotions (batch, 2) that a regressor predicts and those requested."""
    return F.mse_loss(predicted.float(), requested)


def discriminator_accuracy(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Share of the logits on the right side of zero, in [0, 1]; 1 when the discriminator has won."""
    return ((real > 0).float().mean() + (synthetic < 0).float().mean()) / 2
