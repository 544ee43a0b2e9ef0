import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emotion_ft.gan.losses import (
    adversarial,
    bce_discriminator_loss,
    bce_generator_loss,
    discriminator_accuracy,
    emotion_term,
    hinge_discriminator_loss,
    hinge_generator_loss,
)


@pytest.fixture
def logits():
    """Logits (50,) of real and of synthetic windows, many of them on the wrong side."""
    return torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 2


def gradients(loss, *logits):
    logits = [values.clone().requires_grad_() for values in logits]
    return torch.autograd.grad(loss(*logits), logits)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class TestHinge:
    def test_by_hand(self):
        real, synthetic = torch.tensor([2.0, 1.0, 0.5, -1.0]), torch.tensor([-3.0, -1.0, 0.0, 2.0])
        assert hinge_discriminator_loss(real, synthetic).item() == pytest.approx((0.5 + 2) / 4 + (1 + 3) / 4)
        assert hinge_generator_loss(synthetic).item() == pytest.approx(0.5)

    def test_equals_numpy(self, logits):
        real, synthetic = (x.numpy() for x in logits)
        expected = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + synthetic).mean()
        assert hinge_discriminator_loss(*logits).item() == pytest.approx(expected)

    def test_is_zero_beyond_the_margins(self):
        assert hinge_discriminator_loss(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -7.0])) == 0

    def test_pushes_real_logits_up_and_synthetic_ones_down_within_the_margins(self, logits):
        real, synthetic = gradients(hinge_discriminator_loss, *logits)
        torch.testing.assert_close(real, torch.where(logits[0] < 1, -1 / 50, 0.0).double())
        torch.testing.assert_close(synthetic, torch.where(logits[1] > -1, 1 / 50, 0.0).double())

    def test_generator_pushes_all_logits_up_alike(self, logits):
        (synthetic,) = gradients(hinge_generator_loss, logits[1])
        torch.testing.assert_close(synthetic, torch.full_like(synthetic, -1 / 50))


class TestCrossEntropy:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
    def test_equals_logarithms(self, logits, smoothing):
        real, synthetic = (sigmoid(x.numpy()) for x in logits)
        target = 1 - smoothing
        expected = -(target * np.log(real) + (1 - target) * np.log(1 - real)).mean() - np.log(1 - synthetic).mean()
        assert bce_discriminator_loss(*logits, smoothing).item() == pytest.approx(expected)

    def test_equals_torch_on_probabilities(self, logits):
        real, synthetic = logits.sigmoid()
        expected = F.binary_cross_entropy(real, torch.full_like(real, 0.9))
        expected = expected + F.binary_cross_entropy(synthetic, torch.zeros_like(synthetic))
        torch.testing.assert_close(bce_discriminator_loss(*logits, smoothing=0.1), expected)

    def test_nothing_is_smoothed_unless_asked(self, logits):
        assert torch.equal(bce_discriminator_loss(*logits), bce_discriminator_loss(*logits, smoothing=0.0))
        assert bce_discriminator_loss(torch.full((3,), 40.0), torch.full((3,), -40.0)).item() < 1e-15

    def test_smoothing_is_one_sided(self, logits):
        plain, smooth = (
            gradients(lambda real, synthetic, s=s: bce_discriminator_loss(real, synthetic, s), *logits)
            for s in (0.0, 0.2)
        )
        assert torch.equal(plain[1], smooth[1])
        torch.testing.assert_close(smooth[0] - plain[0], torch.full_like(logits[0], 0.2 / 50))
        torch.testing.assert_close(plain[1], logits[1].sigmoid() / 50)

    def test_smoothed_real_logits_settle_at_the_target(self):
        settled = torch.full((1,), float(np.log(0.9 / 0.1)), dtype=torch.double)
        real, _ = gradients(lambda real, synthetic: bce_discriminator_loss(real, synthetic, 0.1), settled, settled)
        assert real.item() == pytest.approx(0, abs=1e-12)

    def test_pushes_real_logits_up_and_synthetic_ones_down(self, logits):
        real, synthetic = gradients(bce_discriminator_loss, *logits)
        assert (real < 0).all() and (synthetic > 0).all()

    def test_generator_equals_logarithms(self, logits):
        assert bce_generator_loss(logits[1]).item() == pytest.approx(-np.log(sigmoid(logits[1].numpy())).mean())

    def test_generator_learns_most_from_windows_that_are_recognised(self, logits):
        (synthetic,) = gradients(bce_generator_loss, logits[1])
        torch.testing.assert_close(synthetic, (logits[1].sigmoid() - 1) / 50)
        (recognised,) = gradients(bce_generator_loss, torch.tensor([-10.0, -100.0, 30.0]))
        torch.testing.assert_close(recognised, torch.tensor([-1.0, -1.0, 0.0]) / 3, atol=1e-4, rtol=0)

    def test_extreme_logits_are_finite(self):
        far = torch.tensor([1e4, -1e4])
        assert bce_discriminator_loss(far, far, 0.1).isfinite() and bce_generator_loss(far).isfinite()


class TestEmotionTerm:
    def test_is_the_mean_squared_error(self):
        predicted, requested = np.random.default_rng(0).uniform(-1, 1, (2, 6, 2)).astype(np.float32)
        loss = emotion_term(torch.from_numpy(predicted), torch.from_numpy(requested))
        assert loss.item() == pytest.approx(np.square(predicted - requested).mean(), rel=1e-5)

    def test_pulls_predictions_towards_what_was_requested(self):
        predicted, requested = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.1, 0.3]])
        (gradient,) = gradients(lambda values: emotion_term(values, requested), predicted)
        torch.testing.assert_close(gradient, predicted - requested)

    def test_is_computed_in_single_precision(self):
        loss = emotion_term(torch.full((1, 2), 0.5, dtype=torch.bfloat16), torch.full((1, 2), 0.4997))
        assert loss.dtype is torch.float32
        assert loss.item() == pytest.approx(9e-8, rel=1e-3)


@pytest.mark.parametrize(
    ("real", "synthetic", "expected"),
    [
        ([1, 2], [-1, -2], 1),
        ([-1, -2], [1, 2], 0),
        ([1, 2], [1, 2], 0.5),
        ([1, 1, 1, -1], [-1, 1, 1, 1], 0.5),
        ([1, 1, 1, -1], [-1, -1, 1, 1], 0.625),
        ([0, 0], [0, 0], 0),
        ([1], [-1, 1, 1, 1], 0.625),
    ],
)
def test_accuracy_is_the_share_on_the_right_side(real, synthetic, expected):
    accuracy = discriminator_accuracy(
        torch.tensor(real, dtype=torch.float), torch.tensor(synthetic, dtype=torch.float)
    )
    assert accuracy.item() == expected


def test_losses_come_by_name():
    real, synthetic = torch.tensor([0.3, -2.0]), torch.tensor([0.5, 1.5])
    discriminator, generator = adversarial("bce", 0.2)
    assert discriminator(real, synthetic) == bce_discriminator_loss(real, synthetic, 0.2)
    assert generator(synthetic) == bce_generator_loss(synthetic)
    discriminator, generator = adversarial("hinge", 0.2)
    assert discriminator(real, synthetic) == hinge_discriminator_loss(real, synthetic)
    assert generator(synthetic) == hinge_generator_loss(synthetic)
