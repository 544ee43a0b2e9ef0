import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    ASTModel,
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
)

from emotion_ft.data.augment import collate
from emotion_ft.modeling import ASTEmotionConfig, ASTForEmotionRegression
from emotion_ft.modeling.modeling_ast_emotion import ccc_loss, emotion_loss, interpolate_position_embeddings

ARCHITECTURE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_mel_bins": 32,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ASTForEmotionRegression(ASTEmotionConfig(**ARCHITECTURE, max_length=101)).eval()


@pytest.fixture(scope="module")
def windows():
    return torch.randn(3, 101, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ast_checkpoint(tmp_path_factory):
    """A random AST classifier whose every tensor, position embeddings too, differs from any initialisation."""
    torch.manual_seed(2)
    classifier = ASTForAudioClassification(ASTConfig(**ARCHITECTURE, max_length=204, num_labels=7))
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_()
    folder = tmp_path_factory.mktemp("ast")
    classifier.save_pretrained(folder)
    return folder, classifier.audio_spectrogram_transformer


def backbone_equals(model, ast, except_for=()):
    ours, theirs = model.backbone.state_dict(), ast.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours if name not in except_for)


def recorded(forward, sizes):
    def run(values, *arguments, **settings):
        sizes.append(len(values))
        return forward(values, *arguments, **settings)

    return run


class TestForward:
    def test_shapes_and_range(self, model, windows):
        logits = model(windows).logits
        assert logits.shape == (3, 2)
        assert logits.abs().max() < 1

    def test_windows_of_a_song_are_averaged(self, model, windows):
        songs = torch.stack([windows, windows.flip(0) * 0.5])  # (songs, windows, frames, mels)
        expected = torch.stack([model(song).logits.mean(0) for song in songs])
        torch.testing.assert_close(model(songs).logits, expected)

    def test_songs_of_different_lengths_share_a_batch(self, model, windows):
        lengths = (1, 3, 2)
        songs = [windows[:length] * (1 + length) for length in lengths]
        batch = collate([{"input_values": song} for song in songs])["input_values"]
        assert batch.shape == (3, 3, *windows.shape[1:])
        expected = torch.stack([model(song).logits.mean(0) for song in songs])
        torch.testing.assert_close(model(batch).logits, expected)
        torch.testing.assert_close(model(embeddings=model.embed(batch)).logits, expected)
        assert model.embed(batch)[:, :, 0].isnan().sum() == 3

    def test_long_songs_are_embedded_in_bounded_batches(self, model, windows, monkeypatch):
        sizes = []
        monkeypatch.setattr(model.backbone, "forward", recorded(model.backbone.forward, sizes))
        song = windows[:1].expand(70, -1, -1)[None]
        with torch.no_grad():
            torch.testing.assert_close(model(song).logits, model(windows[:1]).logits)
        assert sizes == [32, 32, 6, 1]
        sizes.clear()
        model(song).logits.sum().backward()
        assert sizes == [70]

    @pytest.mark.parametrize("shape", [(2, 32, 101), (2, 100, 32), (101, 32), (1, 1, 1, 101, 32)])
    def test_other_shapes_are_refused(self, model, shape):
        with pytest.raises(ValueError, match=r"\(frames, mels\) = \(101, 32\), got"):
            model(torch.zeros(shape))

    def test_starts_at_the_middle_of_the_scale(self, windows):
        torch.manual_seed(0)
        logits = ASTForEmotionRegression(ASTEmotionConfig(**ARCHITECTURE, max_length=101)).eval()(windows).logits
        assert 0 < logits.abs().max() < 0.3

    def test_eager_equals_sdpa(self, model, windows):
        eager = deepcopy(model)
        eager.set_attn_implementation("eager")
        assert model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(eager(windows).logits, model(windows).logits, atol=1e-5, rtol=1e-5)

    def test_hidden_states_and_tuples(self, model, windows):
        output = model(windows, output_hidden_states=True)
        assert len(output.hidden_states) == ARCHITECTURE["num_hidden_layers"] + 1
        assert torch.equal(model(windows, return_dict=False)[0], output.logits)
        assert model(windows).hidden_states is None

    def test_the_configuration_decides_unless_asked(self, windows, ast_checkpoint, tmp_path):
        """Handing None on to the backbone would overrule its configuration."""
        torch.manual_seed(0)
        wishes = {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"}
        model = ASTForEmotionRegression(ASTEmotionConfig(**ARCHITECTURE, max_length=101, **wishes)).eval()
        model.save_pretrained(tmp_path)
        layers = ARCHITECTURE["num_hidden_layers"]
        for loaded in (model, ASTForEmotionRegression.from_pretrained(tmp_path, attn_implementation="eager")):
            output = loaded(windows)
            assert (len(output.hidden_states), len(output.attentions)) == (layers + 1, layers)
            assert loaded(windows, output_hidden_states=False).hidden_states is None
        started = ASTForEmotionRegression.from_ast(ast_checkpoint[0], max_length=101, **wishes)
        assert len(started.eval()(windows).attentions) == layers
        model.config.return_dict = False
        assert isinstance(model(windows), tuple) and model(windows, return_dict=True).logits.shape == (3, 2)
        assert model(windows[None])[0].shape == (1, 2)

    def test_loss_is_not_taken_as_normalised(self, model):
        import inspect

        assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())

    def test_gradient_checkpointing_changes_no_gradient(self, model, windows):
        gradients = []
        for checkpointing in (False, True):
            copy = deepcopy(model).train()
            copy.head.dropout.p = 0.0
            if checkpointing:
                copy.gradient_checkpointing_enable()
            copy(windows, labels=torch.ones(3, 2)).loss.backward()
            gradients.append([p.grad for p in copy.parameters()])
        for plain, checkpointed in zip(*gradients, strict=True):
            torch.testing.assert_close(plain, checkpointed)


class TestLoss:
    def test_mse(self, model, windows):
        labels = torch.rand(3, 2) - 0.5
        output = model(windows, labels=labels)
        torch.testing.assert_close(output.loss, F.mse_loss(output.logits, labels))

    def test_ccc_equals_lins_formula(self):
        predictions, labels = np.random.default_rng(0).normal(size=(2, 50, 2))
        expected = []
        for p, r in zip(predictions.T, labels.T, strict=True):
            expected.append(1 - 2 * np.cov(p, r, ddof=0)[0, 1] / (p.var() + r.var() + (p.mean() - r.mean()) ** 2))
        assert ccc_loss(torch.tensor(predictions), torch.tensor(labels)).item() == pytest.approx(
            np.mean(expected), 1e-5
        )

    def test_ccc_of_equal_and_of_opposite(self):
        labels = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        assert ccc_loss(labels, labels).item() == pytest.approx(0, abs=1e-6)
        assert ccc_loss(2 * labels.mean(0) - labels, labels).item() == pytest.approx(2, abs=1e-6)

    def test_mix_is_the_mean(self):
        a, b = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
        parts = emotion_loss(a, b, "mse") + emotion_loss(a, b, "ccc")
        torch.testing.assert_close(emotion_loss(a, b, "mix"), parts / 2)

    def test_weights_weigh_squared_errors(self, model, windows):
        a, b, weights = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.mse_loss(a, b, weight=weights)  # torch's own divides by the weights' sum
        torch.testing.assert_close(emotion_loss(a, b, "mse", weights), expected * weights.sum() / weights.numel())
        torch.testing.assert_close(emotion_loss(a, b, "mse", torch.ones(8, 2)), emotion_loss(a, b, "mse"))
        labels = torch.zeros(len(windows), 2)
        doubled = model(windows, labels, label_weights=torch.full_like(labels, 2)).loss
        torch.testing.assert_close(doubled, 2 * model(windows, labels).loss)


class TestFreezing:
    def test_frozen_backbone_gets_no_gradient(self, model, windows):
        model = deepcopy(model)
        model.freeze_backbone()
        model(windows, labels=torch.ones(3, 2)).loss.backward()
        assert all(p.grad is None for p in model.backbone.parameters())
        assert all(p.grad is not None for p in model.head.parameters())
        model.unfreeze_backbone()
        model(windows, labels=torch.ones(3, 2)).loss.backward()
        assert all(p.grad is not None for p in model.parameters())


class TestPositionEmbeddings:
    def test_equals_torch_along_time(self):
        embeddings = torch.randn(1, 2 + 3 * 7, 5, generator=torch.Generator().manual_seed(0))
        result = interpolate_position_embeddings(embeddings, (3, 7), 4)
        assert result.shape == (1, 2 + 3 * 4, 5)
        assert torch.equal(result[:, :2], embeddings[:, :2])
        for band in range(3):
            row = embeddings[0, 2 + band * 7 : 2 + (band + 1) * 7]  # (frames, hidden)
            expected = F.interpolate(row.T[None], size=4, mode="linear", align_corners=False)[0].T
            torch.testing.assert_close(result[0, 2 + band * 4 : 2 + (band + 1) * 4], expected)


class TestFromAst:
    def test_file_has_the_old_names(self, ast_checkpoint):
        names = load_file(ast_checkpoint[0] / "model.safetensors")
        assert "audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight" in names

    def test_old_names_load_whole(self, ast_checkpoint):
        folder, ast = ast_checkpoint
        model = ASTForEmotionRegression.from_ast(folder, max_length=204)
        assert backbone_equals(model, ast)

    def test_new_names_load_whole(self, ast_checkpoint, tmp_path):
        _, ast = ast_checkpoint
        ast.config.save_pretrained(tmp_path)
        save_file(ast.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert "layers.0.attention.q_proj.weight" in load_file(tmp_path / "model.safetensors")
        assert backbone_equals(ASTForEmotionRegression.from_ast(tmp_path, max_length=204), ast)

    def test_interpolates_to_the_configured_length(self, ast_checkpoint, caplog):
        folder, ast = ast_checkpoint
        with caplog.at_level("INFO"):
            model = ASTForEmotionRegression.from_ast(folder, max_length=101, head_dropout=0.1)
        assert "2 x 19 patches (204 frames) -> 2 x 9 (101 frames)" in caplog.text
        name = "embeddings.position_embeddings"
        assert backbone_equals(model, ast, except_for=[name])
        expected = interpolate_position_embeddings(ast.state_dict()[name], (2, 19), 9)
        assert torch.equal(model.backbone.state_dict()[name], expected)
        assert (model.config.max_length, model.config.head_dropout) == (101, 0.1)
        assert model(torch.zeros(1, 101, 32)).logits.shape == (1, 2)

    @pytest.mark.parametrize("ending", ["attention.query.weight", "position_embeddings", "cls_token"])
    def test_missing_tensor_is_named(self, ast_checkpoint, tmp_path, ending):
        folder, _ = ast_checkpoint
        tensors = load_file(folder / "model.safetensors")
        dropped = next(name for name in tensors if name.endswith(ending))
        save_file({k: v for k, v in tensors.items() if k != dropped}, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        with pytest.raises(ValueError, match="1 backbone tensors are missing"):
            ASTForEmotionRegression.from_ast(tmp_path)

    def test_other_architecture_is_refused(self, ast_checkpoint):
        with pytest.raises(ValueError, match="has hidden_size=32, so it cannot be 48"):
            ASTForEmotionRegression.from_ast(ast_checkpoint[0], hidden_size=48)


class TestSaveAndLoad:
    def test_auto_classes(self, model, windows, tmp_path):
        model.save_pretrained(tmp_path)
        assert isinstance(AutoConfig.from_pretrained(tmp_path), ASTEmotionConfig)
        for auto in (AutoModel, AutoModelForAudioClassification):
            loaded = auto.from_pretrained(tmp_path)
            assert type(loaded) is ASTForEmotionRegression
            assert torch.equal(loaded.eval()(windows).logits, model(windows).logits)

    def test_loads_completely(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, info = ASTForEmotionRegression.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name

    def test_folder_is_a_repository(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["id2label"] == {"0": "valence", "1": "arousal"}
        assert config["auto_map"]["AutoModelForAudioClassification"].startswith("modeling_ast_emotion.")
        files = {path.name for path in tmp_path.iterdir()}
        assert {"model.safetensors", "modeling_ast_emotion.py", "configuration_ast_emotion.py"} <= files
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]

    def test_backbone_is_the_stock_class_under_its_stock_name(self, model):
        # transformers converts AST checkpoints by this class and this attribute only.
        assert type(model.audio_spectrogram_transformer) is ASTModel
        assert model.backbone is model.audio_spectrogram_transformer
