import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emotion_ft import run_folder
from emotion_ft.config.parser import parse_config
from emotion_ft.gan import trainer as gan_module
from emotion_ft.gan.quality import Judges, QualityMeter
from emotion_ft.gan.regressor import prepare_regressor
from emotion_ft.gan.train_songs import split_reference
from emotion_ft.gan.trainer import EpochSampler, GanError, MelGanTrainer
from emotion_ft.modeling import MelGenerator
from emotion_ft.training.checkpoints import last_checkpoint


@pytest.fixture(scope="module")
def sides(stored_songs):
    return split_reference(stored_songs["train"], 0.2, seed=0)


@pytest.fixture(scope="module")
def meter(sides, tiny_model, tiny_extractor):
    learnt, selecting, _ = sides
    return QualityMeter(Judges(tiny_model, tiny_extractor, learnt, num_windows=4), selecting, seed=0)


@pytest.fixture
def make(sides, meter, tiny_extractor, tmp_path):
    """`make(name, **settings)` -> a trainer on windows of 101 frames, three batches an epoch, in tmp_path/name."""

    def trainer(name="gan", pictures=False, **settings):
        settings = {
            "gan_steps": 7,
            "gan_batch_size": 4,
            "gan_channels": 4,
            "latent_size": 8,
            "regressor_steps": 3,
            "measure_steps": 2,
            "gan_output_dir": tmp_path / name,
            "precision": "fp32",
            "gradient_accumulation_steps": 1,
            **settings,
        }
        config = parse_config([text for key, value in settings.items() for text in (f"--{key}", str(value))])
        regressor = prepare_regressor(config, sides[0], tiny_extractor, resumed=False)
        trainer = MelGanTrainer(config, tiny_extractor, sides[0], regressor, meter)
        if not pictures:
            trainer._draw = lambda: None
        return trainer

    return trainer


def weights(trainer):
    networks = {"g": trainer.bare_generator, "d": trainer.bare_discriminator, "average": trainer.average.module}
    return {
        f"{name}.{key}": value.clone() for name, net in networks.items() for key, value in net.state_dict().items()
    }


def batch(trainer):
    return next(trainer.batches())


class TestOneStep:
    def test_the_discriminators_loss_reaches_it_and_not_the_generator(self, make):
        trainer = make()
        trainer.bare_discriminator.requires_grad_(True)
        first = batch(trainer)
        loss, accuracy = trainer.discriminator_loss(first["input_values"], first["labels"], *trainer.draw(0, 0))
        loss.backward()
        gradients = {name: p.grad for name, p in trainer.bare_discriminator.named_parameters()}
        assert all(grad is not None for grad in gradients.values())
        assert all(grad.abs().sum() > 0 for name, grad in gradients.items() if name.endswith("original"))
        assert all(p.grad is None for p in trainer.bare_generator.parameters())
        assert 0 <= accuracy <= 1

    def test_the_generators_loss_reaches_it_and_not_the_discriminator(self, make):
        trainer = make()
        trainer.bare_discriminator.requires_grad_(False)
        adversarial, emotion = trainer.generator_loss(*trainer.draw(0, 1))
        (adversarial + emotion).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.bare_generator.parameters())
        assert all(p.grad is None for p in trainer.bare_discriminator.parameters())
        assert all(p.grad is None for p in trainer.regressor.parameters())

    @pytest.mark.parametrize("kind", ["hinge", "bce"])
    def test_both_networks_move_and_the_average_follows(self, make, kind):
        trainer = make(adversarial_loss=kind)
        for optimizer in (trainer.generator_optimizer, trainer.discriminator_optimizer):
            optimizer.param_groups[0]["lr"] = 1e-3
        before = weights(trainer)
        trainer.learn([batch(trainer)])
        after = weights(trainer)
        for name in ("g.blocks.0.conv.weight", "g.seed.weight", "d.encoder.join.parametrizations.weight.original"):
            assert not torch.equal(before[name], after[name]), name
        assert torch.equal(after["g.seed.weight"], after["average.seed.weight"])  # the first update copies
        trainer.learn([batch(trainer)])
        newest = weights(trainer)
        expected = 0.99 * after["average.seed.weight"] + 0.01 * newest["g.seed.weight"]
        assert torch.allclose(newest["average.seed.weight"], expected, atol=1e-7)

    def test_the_emotion_term_counts_by_its_weight(self, make):
        gradients = []
        for weight in (0.0, 5.0):
            trainer = make(emotion_weight=weight, max_grad_norm=0.0)
            seen = trainer.bare_generator.seed.weight
            seen.register_hook(lambda grad: gradients.append(grad.clone()))
            trainer.learn([batch(trainer)])
        trainer = make()
        trainer.bare_discriminator.requires_grad_(False)
        _, emotion = trainer.generator_loss(*trainer.draw(0, 1))
        (alone,) = torch.autograd.grad(emotion, trainer.bare_generator.seed.weight)
        assert torch.allclose(gradients[1] - gradients[0], 5 * alone, atol=1e-4 * float(gradients[1].abs().max()))

    def test_clipping_acts_on_unscaled_gradients(self, make, monkeypatch):
        norms = {}
        clip = torch.nn.utils.clip_grad_norm_
        for scaled in (False, True):
            trainer = make()
            if scaled:  # what accelerate sets up for fp16, which it refuses without a GPU
                scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
                trainer.accelerator.scaler, trainer.accelerator.native_amp = scaler, True
                monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")
                monkeypatch.setattr(trainer.accelerator, "autocast", nullcontext)
                for optimizer in (trainer.generator_optimizer, trainer.discriminator_optimizer):
                    optimizer.__setstate__({"scaler": scaler})
            found = norms[scaled] = []
            monkeypatch.setattr(
                gan_module.nn.utils,
                "clip_grad_norm_",
                lambda parameters, bound, found=found: found.append((float(clip(parameters, bound)), bound)),
            )
            for _ in range(2):
                trainer.learn([batch(trainer)])
                trainer.step += 1
        assert [bound for _, bound in norms[True]] == [1.0] * 4
        assert np.allclose([norm for norm, _ in norms[True]], [norm for norm, _ in norms[False]], rtol=1e-3)

    def test_accumulated_micro_batches_are_one_update_each(self, make):
        trainer = make(gradient_accumulation_steps=3, gan_steps=2, measure_steps=2)
        updates = []
        for player in ("generator", "discriminator"):
            optimizer = getattr(trainer, f"{player}_optimizer").optimizer
            optimizer.register_step_pre_hook(lambda *_, player=player: updates.append(player))
        trainer.train()
        assert updates == ["discriminator", "generator"] * 2


class TestTraining:
    def test_same_seed_same_weights_other_seed_others(self, make):
        runs = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            trainer = make(name, gan_steps=2, seed=seed)
            trainer.train()
            runs.append(weights(trainer))
        assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
        assert not torch.equal(runs[0]["g.seed.weight"], runs[2]["g.seed.weight"])

    def test_workers_change_nothing(self, make):
        runs = []
        for workers in (0, 2):
            trainer = make(f"workers-{workers}", gan_steps=4, measure_steps=4, dataloader_num_workers=workers)
            trainer.train()
            runs.append(weights(trainer))
        assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])

    def test_rates_warm_up_and_fall_as_a_cosine(self, make):
        trainer = make(gan_steps=12, gan_warmup=0.25, generator_learning_rate=2e-3, measure_steps=12)
        rates = []
        log = trainer.accelerator.log
        trainer.accelerator.log = lambda values, step: (rates.append(values.get("generator_lr")), log(values, step))
        trainer.training.logging_steps = 1
        trainer.train()
        found = [rate for rate in rates if rate is not None]
        expected = [2e-3 * (s / 3 if s < 3 else (1 + math.cos(math.pi * (s - 3) / 9)) / 2) for s in range(1, 13)]
        assert np.allclose(found, expected)

    def test_the_average_with_the_smallest_shortfall_is_what_is_kept(self, make):
        trainer = make(gan_steps=6)
        kept = {}
        measure = trainer._measure

        def spy():
            measure()
            kept[trainer.step] = {k: v.clone() for k, v in trainer.average.module.state_dict().items()}

        trainer._measure = spy
        best = trainer.train()
        assert [row["step"] for row in trainer.history] == [0, 2, 4, 6]
        assert best["shortfall"] == min(row["shortfall"] for row in trainer.history[1:])
        saved = MelGenerator.from_pretrained(trainer.folder).state_dict()
        assert all(torch.equal(saved[name], kept[best["step"]][name]) for name in saved)
        assert not torch.equal(saved["seed.weight"], trainer.bare_generator.seed.weight)

    def test_leaves_grids_plots_and_safetensors(self, make):
        trainer = make(gan_steps=1, measure_steps=1, pictures=True)
        trainer.train()
        for name in ("samples-000000.png", "samples-000001.png", "quality.png"):
            assert (trainer.folder / "plots" / name).read_bytes().startswith(b"\x89PNG"), name
        assert load_file(trainer.folder / "discriminator" / "model.safetensors")
        assert not list(trainer.folder.glob("*.bin"))

    def test_says_when_the_discriminator_wins(self, make, caplog):
        trainer = make()
        trainer._measure()
        assert "discriminator wins" not in caplog.text
        trainer.accuracy = 0.99
        trainer._measure()
        assert "discriminator wins, 99% of its decisions" in caplog.text

    def test_says_when_windows_are_copies(self, make):
        healthy = {"discriminator_accuracy": 0.7, "nearest": 1.1}
        assert make().alarms(healthy) == []
        (alarm,) = make().alarms({**healthy, "nearest": 0.1})
        assert "copies" in alarm

    def test_the_untrained_generator_is_that_of_the_first_step(self, make, meter):
        trainer = make(gan_steps=2)
        trainer.train()
        untrained = meter.measure(trainer.untrained_generator())
        assert {name: trainer.history[0][name] for name in untrained} == untrained
        assert trainer.history[0]["frechet_share"] == 1 and trainer.history[1]["frechet_share"] != 1

    def test_measuring_leaves_no_trace_in_the_training(self, make):
        often, rarely = make("often", gan_steps=4, measure_steps=1), make("rarely", gan_steps=4, measure_steps=4)
        often.train()
        rarely.train()
        assert all(torch.equal(value, weights(rarely)[key]) for key, value in weights(often).items())


class TestStoppingAndResuming:
    @pytest.mark.parametrize(
        ("killed_at", "accumulation", "precision"), [(1, 1, "fp32"), (2, 2, "fp32"), (3, 1, "bf16")]
    )
    def test_a_killed_run_ends_in_the_same_weights(self, make, killed_at, accumulation, precision):
        """In the first epoch; at the end of one, of two micro-batches a step; and in bf16."""
        settings = {"gan_steps": 4, "gradient_accumulation_steps": accumulation, "measure_steps": 1}
        settings["precision"] = precision
        whole = make("whole", **settings)
        whole.train()

        killed = make("killed", **settings)
        save = killed.save

        def save_and_die():
            save()
            if killed.step == killed_at:
                raise KeyboardInterrupt

        killed.save = save_and_die
        with pytest.raises(KeyboardInterrupt):
            killed.train()
        resumed = make("killed", **settings)
        resumed.resume(last_checkpoint(resumed.folder, run_folder.GAN_STATE))
        assert resumed.step == killed_at
        resumed.train()

        first, second = weights(whole), weights(resumed)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert resumed.history == whole.history
        for ours, theirs in zip(
            resumed.generator_optimizer.state_dict()["state"].values(),
            whole.generator_optimizer.state_dict()["state"].values(),
            strict=True,
        ):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_only_the_last_checkpoints_are_kept_and_half_ones_passed_over(self, make):
        trainer = make(save_total_limit=2)
        trainer.train()
        assert sorted(path.name for path in trainer.folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]
        (trainer.folder / "checkpoint-9.part").mkdir()
        (trainer.folder / "checkpoint-9.part" / run_folder.GAN_STATE).write_text("{}")
        assert last_checkpoint(trainer.folder, run_folder.GAN_STATE).name == "checkpoint-7"

    def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(self, make):
        trainer = make()
        draw = trainer.draw

        def poisoned(micro, player):
            latent, emotion = draw(micro, player)
            return (latent * float("nan") if trainer.step == 4 else latent), emotion

        trainer.draw = poisoned
        with pytest.raises(
            GanError, match=r"step 5: a loss or gradient is not finite .*the last good checkpoint is .*checkpoint-4"
        ):
            trainer.train()
        kept = load_file(trainer.folder / "checkpoint-4" / "model.safetensors")
        assert all(torch.isfinite(value).all() for value in kept.values())

    def test_a_gradient_that_is_not_finite_stops_before_it_is_measured(self, make):
        trainer = make()
        trainer.bare_generator.seed.weight.register_hook(
            lambda gradient: gradient * float("inf") if trainer.step == 3 else gradient
        )
        with pytest.raises(GanError, match=r"step 4: .*generator norm (inf|nan).*checkpoint is .*checkpoint-2"):
            trainer.train()

    def test_too_few_songs_for_a_batch_is_said_before_any_training(self, sides, make):
        with pytest.raises(GanError, match=f"{len(sides[0])} songs to learn from do not fill a batch of 64"):
            make(gan_batch_size=64)


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert first == list(sampler) and sorted(first) == list(range(10))
    sampler.epoch = 1
    assert list(sampler) != first
