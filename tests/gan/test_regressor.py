import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from emotion_ft.config.parser import parse_config
from emotion_ft.config.settings import SpecAugmentConfig
from emotion_ft.data.augment import TrainingTransform, with_transform
from emotion_ft.gan.regressor import fit_regressor, prepare_regressor, regressor_predictions, window_bands
from emotion_ft.modeling import MelGanConfig, MelRegressor

MASKS = SpecAugmentConfig()


@pytest.fixture(scope="module")
def songs(stored_songs):
    return stored_songs["train"]


@pytest.fixture(scope="module")
def untrained(songs, tiny_extractor):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        regressor = MelRegressor(MelGanConfig(max_length=101, channels=4, num_scales=2))
    regressor.set_bands(*window_bands(songs, tiny_extractor))
    return regressor.eval()


@pytest.fixture(scope="module")
def fit(untrained, songs, tiny_extractor):
    """`fit(steps, seed, masks, batch_size)` -> a copy of `untrained`, trained."""

    def train(steps=4, seed=1, masks=MASKS, batch_size=6):
        return fit_regressor(deepcopy(untrained), songs, tiny_extractor, masks, steps, batch_size, seed, False)

    return train


@pytest.fixture
def configure(tmp_path):
    def make(**changes):
        settings = {"gan_channels": 2, "latent_size": 8, "regressor_steps": 3, "gan_batch_size": 4, **changes}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return parse_config(["--gan_output_dir", str(tmp_path), "--precision", "fp32", *flags])

    return make


def same_weights(a, b):
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


class TestFitting:
    def test_learns_what_the_songs_feel_like(self, untrained, fit, songs, tiny_extractor):
        def loss(regressor):
            predicted, labels = regressor_predictions(regressor, songs, tiny_extractor, 3)
            assert predicted.shape == labels.shape == (48, 2)
            return np.square(predicted - labels).mean()

        spread = (np.stack([songs["valence"], songs["arousal"]]) / 4).var(1).mean()
        assert loss(untrained) > 0.9 * spread
        assert loss(fit(steps=100, batch_size=8)) < 0.4 * spread

    def test_the_same_seed_gives_the_same_weights_to_the_bit(self, fit, untrained):
        first = fit()
        assert same_weights(first, fit()) and not same_weights(first, untrained)
        assert not same_weights(first, fit(seed=2))

    def test_masks_take_part(self, fit):
        assert not same_weights(fit(), fit(masks=SpecAugmentConfig(time_masks=0, frequency_masks=0)))

    def test_global_random_states_are_neither_read_nor_changed(self, fit):
        trained = []
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            before = random_states()
            trained.append(fit())
            assert random_states() == before
        assert same_weights(*trained)

    @pytest.mark.parametrize("steps", [0, 2])
    def test_is_handed_back_frozen_and_in_evaluation_mode(self, fit, untrained, steps):
        trained = fit(steps=steps)
        assert not any(module.training for module in trained.modules())
        assert not any(parameter.requires_grad for parameter in trained.parameters())
        assert same_weights(trained, untrained) is (steps == 0)

    def test_the_bands_are_not_trained(self, fit, untrained):
        trained = fit()
        assert torch.equal(trained.band_mean, untrained.band_mean)
        assert torch.equal(trained.band_std, untrained.band_std)

    def test_every_epoch_takes_every_song_once_in_another_order(self, fit, songs, monkeypatch):
        seen, epochs, example = [], [], TrainingTransform.example

        def watched(transform, row):
            seen.append(row["song_id"]), epochs.append(int(transform._epoch))
            return example(transform, row)

        monkeypatch.setattr(TrainingTransform, "example", watched)
        fit(steps=6, batch_size=8)
        orders = [seen[start : start + 16] for start in (0, 16, 32)]
        assert [sorted(order) for order in orders] == [sorted(songs["song_id"])] * 3
        assert orders[0] != orders[1] != orders[2] and len(set(epochs)) == 3


class TestBands:
    def test_windows_have_zero_mean_and_unit_deviation_per_band(self, songs, tiny_extractor, untrained):
        mean, deviation = window_bands(songs, tiny_extractor)
        assert mean.shape == deviation.shape == (128,) and deviation.min() > 0
        view = with_transform(songs, TrainingTransform(tiny_extractor, None, seed=0))
        windows = torch.stack(view[:]["input_values"])
        normalised = untrained._per_band(windows)[:, 0]
        torch.testing.assert_close(normalised.mean((0, 1)), torch.zeros(128), atol=1e-4, rtol=0)
        torch.testing.assert_close(normalised.std((0, 1)), torch.ones(128), atol=1e-3, rtol=0)
        assert mean.std() > 0.1  # bands differ: one mean and deviation for all would not do

    def test_other_windows_come_close(self, songs, tiny_extractor):
        mean, deviation = window_bands(songs, tiny_extractor)
        view = with_transform(songs, TrainingTransform(tiny_extractor, None, seed=1))
        normalised = (torch.stack(view[:]["input_values"]) - mean) / deviation
        assert normalised.mean((0, 1)).abs().max() < 0.2 and (normalised.std((0, 1)) - 1).abs().max() < 0.2

    def test_a_silent_band_is_no_division_by_zero(self, songs, tiny_extractor):
        silent = np.tile(np.linspace(-1, 1, 128, dtype=np.float16), (150, 1)).tobytes()
        columns = {"song_id": [1, 2], "log_mel": [silent] * 2, "valence": [5.0] * 2, "arousal": [5.0] * 2}
        mean, deviation = window_bands(Dataset.from_dict(columns), tiny_extractor)
        assert torch.isfinite(mean).all() and (deviation > 0).all()


class TestPreparing:
    def test_leaves_and_returns_a_trained_one(self, configure, songs, tiny_extractor, tmp_path):
        regressor = prepare_regressor(configure(), songs, tiny_extractor, resumed=False)
        assert same_weights(regressor, MelRegressor.from_pretrained(tmp_path / "regressor"))
        sizes = regressor.config
        assert (sizes.max_length, sizes.num_mel_bins, sizes.channels, sizes.latent_size) == (101, 128, 2, 8)
        for ours, expected in zip(
            (regressor.band_mean, regressor.band_std), window_bands(songs, tiny_extractor), strict=True
        ):
            assert torch.equal(ours, expected)
        assert not regressor.training and not any(p.requires_grad for p in regressor.parameters())

    def test_the_steps_and_the_seed_are_those_of_the_configuration(self, configure, songs, tiny_extractor):
        first = prepare_regressor(configure(), songs, tiny_extractor, resumed=False)
        torch.manual_seed(5)
        assert same_weights(first, prepare_regressor(configure(), songs, tiny_extractor, resumed=False))
        for changes in ({"seed": 43}, {"regressor_steps": 4}, {"time_masks": 3}, {"gan_batch_size": 5}):
            other = prepare_regressor(configure(**changes), songs, tiny_extractor, resumed=False)
            assert not same_weights(first, other), changes

    def test_a_resumed_one_is_loaded_and_no_song_is_touched(self, configure, songs, tiny_extractor, tmp_path):
        prepare_regressor(configure(), songs, tiny_extractor, resumed=False)
        weights = tmp_path / "regressor" / "model.safetensors"
        changed = {name: tensor + 0.5 for name, tensor in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
        resumed = prepare_regressor(configure(), None, tiny_extractor, resumed=True)
        assert all(torch.equal(resumed.state_dict()[name], tensor) for name, tensor in changed.items())
        assert not resumed.training and not any(p.requires_grad for p in resumed.parameters())

    def test_one_that_is_not_resumed_is_trained_again(self, configure, songs, tiny_extractor):
        first = prepare_regressor(configure(), songs, tiny_extractor, resumed=False)
        second = prepare_regressor(configure(seed=43), songs, tiny_extractor, resumed=False)
        again = prepare_regressor(configure(), None, tiny_extractor, resumed=True)
        assert same_weights(second, again) and not same_weights(first, again)
