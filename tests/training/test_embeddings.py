"""Training the head on embeddings: the same as training it on windows, but faster."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from commands import succeed
from safetensors.torch import load_file

from emotion_ft.config.settings import SpecAugmentConfig, TrainingConfig
from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, with_transform
from emotion_ft.data.targets import AgreementTarget
from emotion_ft.training.embeddings import embed
from emotion_ft.training.trainer import EmotionTrainer

EPOCHS = 3


@pytest.fixture
def training(tmp_path):
    def make(**changes):
        settings = {"precision": "fp32", "num_train_epochs": EPOCHS, "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 1, "report_to": "none", "disable_tqdm": True,
                    "head_learning_rate": 1e-3}  # fmt: skip
        return TrainingConfig(output_dir=str(tmp_path / "run"), **(settings | changes))

    (tmp_path / "run").mkdir()
    return make


@pytest.fixture
def train(stored_songs, tiny_extractor):
    return with_transform(stored_songs["train"], TrainingTransform(tiny_extractor, SpecAugmentConfig(), seed=0))


@pytest.fixture
def validation(stored_songs, tiny_extractor):
    return with_transform(stored_songs["validation"], EvaluationTransform(tiny_extractor))


@pytest.fixture
def copied(model):
    """A copy of the model, and the sizes of the batches that its backbone has seen."""
    copy, seen = deepcopy(model), []
    copy.backbone.register_forward_hook(lambda module, inputs, outputs: seen.append(len(inputs[0])))
    return copy, seen


class TestEmbed:
    def test_the_head_makes_of_them_what_the_model_makes_of_windows(self, copied, validation, training):
        model, _ = copied
        embedded = embed(model, validation, training(), "validation")
        assert embedded[0]["embeddings"].shape == (3, 32) and len(embedded) == 4
        for row, song in zip(embedded, validation, strict=True):
            assert torch.equal(row["labels"], song["labels"])
            with torch.no_grad():
                ours = model(embeddings=row["embeddings"][None]).logits
                expected = model(song["input_values"][None]).logits
            torch.testing.assert_close(ours, expected)

    def test_crops_are_those_of_the_first_epochs(self, copied, train, training, tiny_extractor):
        model, _ = copied
        embedded = embed(model, train, training(), "train", crops=2)
        transform = train.format["format_kwargs"]["transform"]
        for epoch in (0, 1, 2, 3):
            transform.set_epoch(epoch % 2)
            embedded.set_epoch(epoch)
            with torch.no_grad():
                expected = model.embed(train[5]["input_values"][None])[0]
            torch.testing.assert_close(embedded[5]["embeddings"], expected)
        embedded.set_epoch(0)
        first = embedded[5]["embeddings"].clone()
        embedded.set_epoch(1)
        assert not torch.allclose(embedded[5]["embeddings"], first)

    def test_label_weights_come_along(self, copied, stored_songs, tiny_extractor, training):
        target = AgreementTarget(stored_songs["train"])
        songs = with_transform(stored_songs["train"], TrainingTransform(tiny_extractor, None, 0, target))
        row = embed(copied[0], songs, training(), "train")[3]
        assert torch.equal(row["label_weights"], songs[3]["label_weights"])

    def test_a_backbone_sees_each_window_once_in_all_runs(self, copied, train, training):
        model, seen = copied
        first = embed(model, train, training(), "train", batch_size=8)
        assert seen == [8, 8]
        again = embed(deepcopy(model), train, training(), "train", batch_size=8)
        assert seen == [8, 8] and all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)

    @pytest.mark.parametrize("change", ["weights", "seed", "masks", "precision", "crops", "songs", "half of the file"])
    def test_what_has_changed_is_embedded_again(self, copied, train, training, stored_songs, tiny_extractor, change):
        model, seen = copied
        embed(model, train, training(), "train")
        seen.clear()
        songs, settings, crops = train, training(), 1
        if change == "weights":
            model.backbone.layernorm.bias.data[0] += 1e-3
        elif change == "seed":
            songs = with_transform(stored_songs["train"], TrainingTransform(tiny_extractor, SpecAugmentConfig(), 1))
        elif change == "masks":
            songs = with_transform(stored_songs["train"], TrainingTransform(tiny_extractor, None, 0))
        elif change == "precision":
            settings = training(precision="bf16")
        elif change == "crops":
            crops = 2
        elif change == "songs":
            songs = train.select(range(8))
        else:
            file = Path(settings.output_dir, "embeddings-train.safetensors")
            file.write_bytes(file.read_bytes()[:300])
        embedded = embed(model, songs, settings, "train", crops)
        assert seen and len(embedded) == len(songs)


class TestTraining:
    def run(self, model, training, train, validation, **changes):
        torch.manual_seed(0)
        model = deepcopy(model)
        if changes.get("freeze") == "always":
            settings = training(**changes)
            train = embed(model, train, settings, "train", settings.frozen_crops)
            validation = embed(model, validation, settings, "validation")
        trainer = EmotionTrainer(model, training(**changes), train_dataset=train, eval_dataset=validation)
        trainer.train()
        return trainer

    def test_equals_training_a_frozen_model_on_the_windows(self, model, training, train, validation):
        frozen = self.run(model, training, train, validation, unfreeze_at=1.0)
        before = model.state_dict()
        ours = self.run(model, training, train, validation, freeze="always", frozen_crops=EPOCHS)
        moved = 0.0
        for name, value in ours.model.state_dict().items():
            torch.testing.assert_close(value, frozen.model.state_dict()[name], atol=1e-5, rtol=1e-4)
            moved = max(moved, (value - before[name]).abs().max().item())
            assert torch.equal(value, before[name]) or name.startswith("head")
        assert moved > 1e-3
        scores = [[entry["eval_mean_ccc"] for entry in run.state.log_history if "eval_mean_ccc" in entry]
                  for run in (ours, frozen)]  # fmt: skip
        assert scores[0] == pytest.approx(scores[1], abs=1e-4) and len(scores[0]) == EPOCHS

    def test_always_means_that_nothing_is_unfrozen(self, training):
        assert training(freeze="always", unfreeze_at=0.25).unfreeze_at == 1.0

    def test_a_killed_run_goes_on_to_the_same_weights(self, model, training, train, validation, tmp_path):
        whole = self.run(model, training, train, validation, freeze="always", frozen_crops=2)
        settings = {"freeze": "always", "frozen_crops": 2}
        trained = deepcopy(model)
        embedded = embed(trained, train, training(**settings), "train", 2)
        evaluated = embed(trained, validation, training(**settings), "validation")
        resumed = EmotionTrainer(trained, training(**settings), train_dataset=embedded, eval_dataset=evaluated)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, whole.model.state_dict()[name]), name


def test_the_command(songs_root, tmp_path):
    data = ("--data_root", songs_root, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path)
    audio = ("--seconds", 2, "--num_windows", 3)
    model = ("--checkpoint", "", "--hidden_size", 32, "--num_hidden_layers", 2, "--num_attention_heads", 2,
             "--intermediate_size", 64, "--time_stride", 16, "--frequency_stride", 16)  # fmt: skip
    training = ("--freeze", "always", "--num_train_epochs", 4, "--per_device_train_batch_size", 4,
                "--gradient_accumulation_steps", 1, "--save_total_limit", 9, "--precision", "fp32")  # fmt: skip
    done = succeed("finetune", *data, *audio, *model, *training)
    assert "held-out songs" in done.stdout and done.stderr.count("Embedding train: 100%") >= 1
    end, start = (load_file(tmp_path / place / "model.safetensors") for place in ("", "checkpoint-4"))
    changed = {name.split(".")[0] for name in end if not torch.equal(end[name], start[name])}
    assert changed <= {"head"}
