import itertools
import json
import os
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModel

from emotion_ft.modeling import MelDiscriminator, MelGanConfig, MelGenerator, MelRegressor

FRAMES, MELS, LATENT, SCALES = 37, 20, 8, 3
NETWORKS = [MelGenerator, MelDiscriminator, MelRegressor]


def tiny(frames=FRAMES, mels=MELS, **changes):
    sizes = {"latent_size": LATENT, "channels": 4, "max_channels": 16, "num_scales": SCALES, "condition_size": 16}
    return MelGanConfig(max_length=frames, num_mel_bins=mels, **{**sizes, **changes})


def random_bands(mels=MELS):
    random = torch.Generator().manual_seed(7)
    return torch.randn(mels, generator=random), torch.rand(mels, generator=random) + 0.5


def make(network, config=None):
    """A network in evaluation mode with random weights, the same every time, and bands that are not 0 and 1."""
    config = config or tiny()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(config).eval()
    model.set_bands(*random_bands(config.num_mel_bins))
    return model


def draw(rows, latent_size=LATENT, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, latent_size, generator=random), torch.rand(rows, 2, generator=random) * 2 - 1


def standardised(windows):
    return (windows - windows.mean((1, 2), keepdim=True)) / windows.std((1, 2), correction=0, keepdim=True)


@pytest.fixture(scope="module")
def generator():
    return make(MelGenerator)


@pytest.fixture(scope="module")
def discriminator():
    return make(MelDiscriminator)


@pytest.fixture(scope="module")
def windows():
    return standardised(torch.randn(4, FRAMES, MELS, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def emotion():
    return draw(4)[1]


class TestGenerator:
    @pytest.mark.parametrize("size", [(37, 20), (50, 32), (101, 64), (251, 128), (8, 8), (64, 9)])
    @pytest.mark.parametrize("scales", [2, 3])
    def test_windows_have_the_configured_size(self, size, scales):
        config = tiny(*size, num_scales=scales)
        with torch.no_grad():
            made = make(MelGenerator, config)(*draw(2))
            assert made.shape == (2, *size)
            assert make(MelDiscriminator, config)(made, draw(2)[1]).shape == (2,)

    def test_default_networks_are_of_at_most_30_million_parameters(self):
        config = MelGanConfig()
        networks = MelGenerator(config), MelDiscriminator(config)
        assert sum(p.numel() for network in networks for p in network.parameters()) <= 30e6
        with torch.no_grad():
            made = networks[0](*draw(1, config.latent_size))
            assert made.shape == (1, 501, 128)
            assert networks[1](made, torch.zeros(1, 2)).shape == (1,)

    def test_windows_are_standardised_each(self, generator):
        with torch.no_grad():
            made = generator(*draw(5)).double()
        torch.testing.assert_close(made.mean((1, 2)), torch.zeros(5, dtype=torch.double), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            made.var((1, 2), correction=0), torch.ones(5, dtype=torch.double), atol=1e-5, rtol=0
        )

    @torch.no_grad()
    def test_without_feature_maps_a_window_is_the_mean_of_the_bands(self, generator):
        generator = deepcopy(generator)
        for parameter in generator.blocks[-1].enlarge.parameters():
            parameter.zero_()
        expected = standardised(random_bands()[0].expand(2, FRAMES, MELS))
        torch.testing.assert_close(generator(*draw(2)), expected)

    @torch.no_grad()
    def test_bands_deviate_as_much_as_they_are_told_to(self, generator):
        plain, told = deepcopy(generator), deepcopy(generator)
        plain.set_bands(torch.zeros(MELS), torch.ones(MELS))
        told.set_bands(torch.zeros(MELS), random_bands()[1])
        ratio = (told(*draw(1)).std(1) / plain(*draw(1)).std(1))[0] / random_bands()[1]  # the same for every band
        torch.testing.assert_close(ratio, ratio.mean().expand(MELS), atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_an_emotion_changes_its_own_window_and_no_other(self, generator):
        latent, emotion = draw(3)
        before = generator(latent, emotion)
        for column in (0, 1):
            other = emotion.clone()
            other[1, column] = -other[1, column]
            change = (generator(latent, other) - before).abs().amax((1, 2))
            assert change[1] > 0.01
            assert change[[0, 2]].max() < 1e-5

    @pytest.mark.parametrize("scale", range(SCALES))
    @torch.no_grad()
    def test_every_scale_responds_to_the_emotion(self, generator, scale):
        generator = deepcopy(generator)
        generator.seed.weight[:, LATENT:] = 0
        for other in {*range(SCALES)} - {scale}:
            generator.blocks[other].film.weight.zero_()
        latent, _ = draw(1)
        sad, happy = (generator(latent, torch.tensor([emotion])) for emotion in ([-0.9, -0.9], [0.9, 0.9]))
        assert (sad - happy).abs().max() > 0.01
        generator.blocks[scale].film.weight.zero_()
        sad, happy = (generator(latent, torch.tensor([emotion])) for emotion in ([-0.9, -0.9], [0.9, 0.9]))
        assert torch.equal(sad, happy)


class TestDiscriminator:
    @pytest.mark.parametrize("network", [MelDiscriminator, MelRegressor])
    @pytest.mark.parametrize("shape", [(2, MELS, FRAMES), (2, FRAMES + 1, MELS), (FRAMES, MELS), (2, 1, FRAMES, MELS)])
    def test_other_shapes_are_refused(self, network, shape):
        arguments = [torch.zeros(shape), torch.zeros(2, 2)][: 2 if network is MelDiscriminator else 1]
        with pytest.raises(ValueError, match=r"\(frames, mels\) = \(37, 20\), got"):
            make(network)(*arguments)

    def test_gradients_stay_finite_in_half_precision_when_all_windows_are_alike(self, emotion):
        network = make(MelDiscriminator).train()
        alike = torch.zeros(len(emotion), FRAMES, MELS, requires_grad=True)
        with torch.autocast("cpu", torch.float16):
            network(alike, emotion).sum().backward()
        assert torch.isfinite(alike.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)

    @torch.no_grad()
    def test_exchanged_labels_change_the_scores(self, discriminator, windows, emotion):
        scores = discriminator(windows, emotion)
        assert ((discriminator(windows, emotion.flip(0)) - scores).abs() > 1e-4).all()
        assert ((discriminator(windows, emotion.flip(1)) - scores).abs() > 1e-4).all()

    @torch.no_grad()
    def test_what_an_emotion_adds_depends_on_the_window(self, discriminator, windows, emotion):
        added = discriminator(windows, emotion[:1].expand(4, 2)) - discriminator(windows, -emotion[:1].expand(4, 2))
        assert added.std() > 1e-4

    @torch.no_grad()
    def test_alike_windows_are_told_from_different_ones(self, discriminator, windows, emotion):
        emotion = emotion[:1].expand(4, 2)
        among_others = discriminator(windows, emotion)[0]
        among_copies = discriminator(windows[:1].expand(4, FRAMES, MELS), emotion)
        torch.testing.assert_close(among_copies, among_copies[:1].expand(4))
        assert (among_copies[0] - among_others).abs() > 1e-4

    @torch.no_grad()
    def test_bands_are_standardised(self, discriminator, windows, emotion):
        plain = deepcopy(discriminator)
        plain.set_bands(torch.zeros(MELS), torch.ones(MELS))
        mean, std = random_bands()
        torch.testing.assert_close(discriminator(windows * std + mean, emotion), plain(windows, emotion))

    def test_largest_singular_values_are_one(self, windows, emotion):
        discriminator = make(MelDiscriminator).train()
        layers = [module for module in discriminator.modules() if parametrize.is_parametrized(module)]
        assert len(layers) == SCALES + 5
        with torch.no_grad():
            for layer in layers:
                layer.parametrizations.weight.original.mul_(7)
            for _ in range(100):
                discriminator(windows, emotion)
        assert not [name for name, _ in discriminator.named_parameters() if name.endswith(".weight")]
        for layer in layers:
            assert torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item() == pytest.approx(1, abs=0.01)

    def test_scoring_in_evaluation_mode_changes_nothing(self, discriminator, windows, emotion):
        state = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
        with torch.no_grad():
            assert torch.equal(discriminator(windows, emotion), discriminator(windows, emotion))
        assert all(torch.equal(tensor, state[name]) for name, tensor in discriminator.state_dict().items())


class TestRegressor:
    @torch.no_grad()
    def test_emotions_lie_inside_the_scale(self, windows):
        regressor = make(MelRegressor)
        regressor.output.weight.mul_(1000)
        predicted = regressor(windows)
        assert predicted.shape == (4, 2)
        assert 0.9 < predicted.abs().max() <= 1

    @torch.no_grad()
    def test_each_window_is_predicted_by_itself(self, windows):
        regressor = make(MelRegressor)
        torch.testing.assert_close(regressor(windows)[:1], regressor(windows[:1]))

    @torch.no_grad()
    def test_dropout_is_for_training_only(self, windows):
        regressor = make(MelRegressor)
        assert torch.equal(regressor(windows), regressor(windows))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not torch.equal(regressor.train()(windows), regressor(windows))


class TestGradients:
    def test_reach_every_parameter_of_both_networks(self):
        generator, discriminator = make(MelGenerator).train(), make(MelDiscriminator).train()
        latent, emotion = draw(4)
        discriminator(generator(latent, emotion), emotion).square().sum().backward()
        for network in (generator, discriminator):
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0, name

    def test_reach_what_every_film_layer_does_with_the_emotion(self):
        generator = make(MelGenerator).train()
        latent, emotion = draw(4)
        (generator(latent, emotion) * torch.linspace(-1, 1, MELS)).square().sum().backward()
        assert len(generator.blocks) == SCALES
        for block in generator.blocks:
            scale, shift = block.film.weight.grad.chunk(2)
            assert scale.abs().max() > 0 and shift.abs().max() > 0

    def test_of_a_regressor_reach_the_generator_and_not_the_bands(self):
        generator, regressor = make(MelGenerator).train(), make(MelRegressor).requires_grad_(False)
        regressor(generator(*draw(2))).square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in generator.parameters())
        assert all(p.grad is None for p in regressor.parameters())
        assert not {"band_mean", "band_std"} & {name for name, _ in generator.named_parameters()}


class TestGenerate:
    def test_a_seed_is_a_set_of_windows(self, generator, emotion):
        made = generator.generate(emotion, seed=3)
        assert torch.equal(generator.generate(emotion, seed=3), made)
        assert (generator.generate(emotion, seed=4) - made).abs().amax((1, 2)).min() > 0.1

    def test_windows_of_one_emotion_differ(self, generator):
        made = generator.generate([[0.5, 0.5], [0.5, 0.5]], seed=3)
        assert (made[0] - made[1]).abs().max() > 0.1

    def test_is_the_forward_pass_of_normal_latents(self, generator, emotion):
        latents = torch.randn(4, LATENT, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            torch.testing.assert_close(generator.generate(emotion, seed=3), generator(latents, emotion))

    def test_one_emotion_makes_one_window(self, generator):
        made = generator.generate([0.2, -0.4], seed=3)
        assert made.shape == (FRAMES, MELS) and not made.requires_grad
        torch.testing.assert_close(made, generator.generate([[0.2, -0.4]], seed=3)[0])

    def test_takes_tensors_arrays_and_lists(self, generator, emotion):
        made = generator.generate(emotion, seed=3)
        for same in (emotion.numpy(), emotion.double().numpy(), emotion.tolist(), emotion.double()):
            assert torch.equal(generator.generate(same, seed=3), made)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
    def test_batch_size_does_not_matter(self, generator, batch_size):
        emotion = draw(5)[1]
        made = generator.generate(emotion, seed=3, batch_size=batch_size)
        torch.testing.assert_close(made, generator.generate(emotion, seed=3, batch_size=4), atol=1e-5, rtol=1e-5)

    def test_global_random_state_is_neither_read_nor_changed(self, generator, emotion):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            before = torch.get_rng_state()
            made = generator.generate(emotion, seed=3)
            assert torch.equal(torch.get_rng_state(), before)
            torch.manual_seed(2)
            assert torch.equal(generator.generate(emotion, seed=3), made)

    @pytest.mark.parametrize("corner", [[1, 1], [-1, 1], [0, 0]])
    def test_the_ends_of_the_scale_belong_to_it(self, generator, corner):
        assert generator.generate(corner, seed=0).isfinite().all()

    @pytest.mark.parametrize("value", [1.001, -1.001, np.nan, np.inf])
    @pytest.mark.parametrize("column", [0, 1])
    def test_emotions_off_the_scale_are_refused(self, generator, value, column):
        emotion = np.zeros((3, 2))
        emotion[1, column] = value
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            generator.generate(emotion, seed=0)
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            generator.generate(emotion[1], seed=0)

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1), (4, 3), (1, 4, 2)])
    def test_other_shapes_are_refused(self, generator, shape):
        with pytest.raises(ValueError, match=r"emotion must be \(batch, 2\)"):
            generator.generate(np.zeros(shape), seed=0)


class TestHalfPrecision:
    """Weights in half precision, loaded or converted, give what those in single precision do, up to their rounding."""

    @pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    def dtype(self, request):
        return request.param

    @pytest.fixture(params=[False, True], ids=["converted", "loaded"])
    def half(self, request, dtype, tmp_path):
        def convert(model):
            if not request.param:
                return deepcopy(model).to(dtype)
            model.save_pretrained(tmp_path)
            return type(model).from_pretrained(tmp_path, dtype=dtype).eval()

        return convert

    def test_generates(self, generator, emotion, half, dtype):
        made = half(generator).generate(emotion, seed=3)
        assert half(generator).dtype is dtype and made.dtype is torch.float32
        torch.testing.assert_close(made, generator.generate(emotion, seed=3), atol=0.1, rtol=0)
        torch.testing.assert_close(made.var((1, 2), correction=0), torch.ones(4), atol=1e-4, rtol=0)

    def test_is_called_with_latents_in_single_precision(self, generator, half):
        with torch.no_grad():
            torch.testing.assert_close(half(generator)(*draw(2)), generator(*draw(2)), atol=0.1, rtol=0)

    @torch.no_grad()
    def test_scores_and_predicts(self, discriminator, windows, emotion, half, dtype):
        scores = half(discriminator)(windows, emotion)
        assert scores.dtype is dtype
        torch.testing.assert_close(scores.float(), discriminator(windows, emotion), atol=0.02, rtol=0.02)
        regressor = make(MelRegressor)
        torch.testing.assert_close(half(regressor)(windows).float(), regressor(windows), atol=0.02, rtol=0.02)


class TestSaveAndLoad:
    @pytest.mark.parametrize("network", NETWORKS)
    def test_loads_bit_by_bit(self, network, windows, emotion, tmp_path):
        model = make(network)
        inputs = {MelGenerator: draw(4), MelDiscriminator: (windows, emotion), MelRegressor: (windows,)}[network]
        model.save_pretrained(tmp_path)
        loaded, info = network.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert loaded.state_dict().keys() == model.state_dict().keys() > {"band_mean", "band_std"}
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval()(*inputs), model(*inputs))

    def test_bands_that_a_file_lacks_change_nothing(self, generator, tmp_path):
        generator.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("band_")}
        save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
        loaded = MelGenerator.from_pretrained(tmp_path)
        assert torch.equal(loaded.band_mean, torch.zeros(MELS)) and torch.equal(loaded.band_std, torch.ones(MELS))

    def test_networks_with_one_configuration_are_saved_as_what_they_are(self, tmp_path):
        config = tiny()
        models = [network(config) for network in NETWORKS]
        for model in models:
            folder = tmp_path / type(model).__name__
            model.save_pretrained(folder)
            saved = json.loads((folder / "config.json").read_text())
            assert saved["architectures"] == [type(model).__name__]
            assert saved["auto_map"] == {
                "AutoConfig": "modeling_mel_gan.MelGanConfig",
                "AutoModel": f"modeling_mel_gan.{type(model).__name__}",
            }
            files = {path.name for path in folder.iterdir()}
            assert files == {"config.json", "model.safetensors", "modeling_mel_gan.py"}

    def test_auto_classes(self, generator, emotion, tmp_path):
        generator.save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert type(config) is MelGanConfig
        assert (config.max_length, config.num_mel_bins, config.num_scales) == (FRAMES, MELS, SCALES)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is MelGenerator
        torch.testing.assert_close(loaded.generate(emotion, seed=3), generator.generate(emotion, seed=3))

    @pytest.mark.parametrize("network", NETWORKS)
    def test_auto_model_is_what_a_folder_holds(self, network, tmp_path):
        model = make(network)
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is network
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())

    def test_auto_model_of_a_configuration_is_a_generator(self):
        assert type(AutoModel.from_config(tiny())) is MelGenerator

    def test_another_networks_folder_says_what_it_is_and_what_loads_it(self, tmp_path):
        for network in NETWORKS:
            make(network).save_pretrained(tmp_path / network.__name__)
        for ours, theirs in itertools.permutations(NETWORKS, 2):
            name = theirs.__name__
            with pytest.raises(ValueError, match=f"expected a {ours.__name__}, got a {name}: load it with {name}"):
                ours.from_pretrained(tmp_path / name)

    def test_an_incomplete_file_of_its_own_is_refused(self, generator, tmp_path):
        generator.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["seed.bias"]
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"not a complete MelGenerator: 1 tensors are missing, first seed\.bias"):
            MelGenerator.from_pretrained(tmp_path)

    def test_loads_where_emotion_ft_is_not_installed(self, generator, emotion, windows, tmp_path):
        models = [generator, make(MelDiscriminator), make(MelRegressor)]
        for model in models:
            model.save_pretrained(tmp_path / type(model).__name__)
        save_file({"emotion": emotion, "windows": windows}, tmp_path / "inputs.safetensors")
        code = """
import sys
sys.modules["emotion_ft"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
torch.set_num_threads(1)
inputs = load_file("inputs.safetensors")
emotion, windows = inputs["emotion"], inputs["windows"]
generator, discriminator, regressor = (
    AutoModel.from_pretrained(f"./{name}", trust_remote_code=True).eval()
    for name in ("MelGenerator", "MelDiscriminator", "MelRegressor")
)
with torch.no_grad():
    made = generator.generate(emotion, seed=3)
    outputs = {"made": made, "scores": discriminator(windows, emotion), "predicted": regressor(windows)}
    save_file(outputs, "outputs.safetensors")
print(*(type(model).__module__.split(".")[0] for model in (generator, discriminator, regressor)))
print(*(type(model).__name__ for model in (generator, discriminator, regressor)))
"""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        modules, names = done.stdout.splitlines()[-2:]
        assert modules.split() == ["transformers_modules"] * 3
        assert names.split() == [network.__name__ for network in NETWORKS]
        outputs = load_file(tmp_path / "outputs.safetensors")
        with torch.no_grad():
            torch.testing.assert_close(outputs["made"], generator.generate(emotion, seed=3))
            torch.testing.assert_close(outputs["scores"], models[1](windows, emotion))
            torch.testing.assert_close(outputs["predicted"], models[2](windows))
