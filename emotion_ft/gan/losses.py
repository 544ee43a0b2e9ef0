"""What the two networks of a GAN learn from: pure functions of the discriminator's logits (batch,)."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F
from torch.nn.functional import binary_cross_entropy_with_logits as bce


def hinge_discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Zero once real windows score above 1 and fakes below -1 (Lim & Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Lower the higher fakes score."""
    return -fake.mean()


def bce_discriminator_loss(real: torch.Tensor, fake: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Binary cross-entropy (Goodfellow et al. 2014) with one-sided label smoothing (Salimans et al. 2016).

    Args:
        smoothing: real windows' target is 1 - smoothing, fakes' stays 0; in [0, 1).
    """
    return bce(real, torch.full_like(real, 1 - smoothing)) + bce(fake, torch.zeros_like(fake))


def bce_generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating form: cross-entropy of fakes with the target of real windows, 1."""
    return bce(fake, torch.ones_like(fake))


def adversarial(kind: str, smoothing: float = 0.0) -> tuple[Callable, Callable]:
    """(discriminator's loss of real and fake logits, generator's loss of fake logits) by name: "hinge" or "bce"."""
    if kind == "bce":
        return partial(bce_discriminator_loss, smoothing=smoothing), bce_generator_loss
    return hinge_discriminator_loss, hinge_generator_loss


def emotion_term(heard: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Mean squared error between the emotion (batch, 2) that a regressor hears in fakes and the one asked for."""
    return F.mse_loss(heard.float(), asked)


def discriminator_accuracy(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Share of the logits on the right side of zero, in [0, 1]; 1 when the discriminator has won."""
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
