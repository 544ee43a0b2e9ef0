"""The Trainer on a tiny AST: every test here fails with the stock Trainer, or without one of our overrides."""

from copy import deepcopy

import numpy as np
import optuna
import pytest
import torch
from small_training import NO_EVALUATION, SONGS, KillAt, Killed, arguments, assert_same_weights, tiny_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from emotion_ft.config.settings import ConfigError
from emotion_ft.data.augment import EvaluationTransform, with_transform
from emotion_ft.modeling import ASTForEmotionRegression
from emotion_ft.training.callbacks import EarlyStopping
from emotion_ft.training.trainer import EmotionTrainer, parameter_groups


class KeepAt(TrainerCallback):
    """Copies of the backbone before and after the update of a step, counted from 0."""

    def __init__(self, step, kept):
        self.step, self.kept = step, kept

    def _keep(self, model):
        self.kept.append([parameter.detach().clone() for parameter in model.backbone.parameters()])

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self._keep(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step + 1:
            self._keep(model)


def largest_change(a, b, part):
    pairs = zip(getattr(a, part).parameters(), getattr(b, part).parameters(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


class TestOptimizer:
    def test_four_groups_hold_every_parameter_even_frozen_ones(self, trainer):
        model = tiny_model()
        model.freeze_backbone()
        groups = trainer(model).create_optimizer().param_groups
        assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
            ("backbone_decay", 1e-3, 1e-4),
            ("backbone_no_decay", 1e-3, 0.0),
            ("head_decay", 3e-3, 1e-4),
            ("head_no_decay", 3e-3, 0.0),
        ]
        held = [id(p) for g in groups for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())

    def test_biases_and_norms_do_not_decay(self, trainer):
        model = tiny_model()
        groups = {g["name"]: g["params"] for g in trainer(model).create_optimizer().param_groups}
        names = {id(p): name for name, p in model.named_parameters()}
        free = {names[id(p)] for group in ("backbone_no_decay", "head_no_decay") for p in groups[group]}
        assert free == {name for name in names.values() if name.endswith("bias") or "layernorm" in name}

    def test_empty_group_raises(self):
        model = tiny_model()
        everything = {name for name, _ in model.named_parameters()}
        with pytest.raises(ValueError, match="backbone_no_decay"):
            parameter_groups(model, everything, 1e-5, 1e-4, 1e-4)

    def test_training_arguments_without_ours_are_refused(self, tmp_path):
        with pytest.raises(TypeError, match="TrainingConfig"):
            EmotionTrainer(model=tiny_model(), args=TrainingArguments(output_dir=str(tmp_path)))


class TestUnfreezing:
    def test_backbone_moves_only_after_its_time(self, trainer, tmp_path):
        run = trainer(unfreeze_at=0.5, save_strategy="steps", save_steps=1, save_total_limit=None,
                      load_best_model_at_end=False, max_steps=12)  # fmt: skip
        start = deepcopy(run.model)
        run.train()
        at = {step: ASTForEmotionRegression.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (6, 7)}
        assert largest_change(start, at[6], "backbone") == 0 and largest_change(start, at[6], "head") > 0
        assert largest_change(start, at[7], "backbone") > 0

    def test_stock_optimizer_would_never_train_it(self, noise, small_extractor, tmp_path):
        model = tiny_model()
        model.freeze_backbone()
        held = Trainer(model=model, args=TrainingArguments(str(tmp_path), use_cpu=True)).create_optimizer()
        assert sum(len(g["params"]) for g in held.param_groups) == len(list(model.head.parameters()))

    def test_never_and_always(self, trainer):
        for unfreeze_at, moved in ((1.0, False), (0.0, True)):
            run = trainer(unfreeze_at=unfreeze_at, max_steps=3, eval_strategy="no", save_strategy="no",
                          load_best_model_at_end=False)  # fmt: skip
            start = deepcopy(run.model)
            run.train()
            assert (largest_change(start, run.model, "backbone") > 0) is moved

    def test_model_is_left_trainable(self, trainer):
        run = trainer(unfreeze_at=1.0, max_steps=1, eval_strategy="no", save_strategy="no",
                      load_best_model_at_end=False)  # fmt: skip
        run.train()
        assert all(p.requires_grad for p in run.model.parameters())

    def test_what_was_frozen_by_hand_stays_frozen(self, trainer):
        model = tiny_model()
        by_hand = [*model.backbone.embeddings.parameters(), *model.backbone.layers[0].parameters()]
        for parameter in by_hand:
            parameter.requires_grad_(False)
        before, free = [p.clone() for p in by_hand], model.backbone.layers[1].mlp.fc1.weight.clone()
        run = trainer(model, unfreeze_at=0.5, max_steps=6, **NO_EVALUATION)
        run.train()
        assert not any(p.requires_grad for p in by_hand)
        assert all(torch.equal(p, q) for p, q in zip(by_hand, before, strict=True))
        assert not torch.equal(model.backbone.layers[1].mlp.fc1.weight, free)

    def test_a_second_training_starts_frozen_again(self, trainer):
        run = trainer(unfreeze_at=0.5, max_steps=4, **NO_EVALUATION)
        run.train()
        start, states = deepcopy(run.model), []

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, model=None, **kwargs):
                states.append(largest_change(start, model, "backbone") > 0)

        run.add_callback(Watch())
        run.train()
        assert states == [False, False, True, True]


class PeaksAt:
    """A metric that is best in its n-th evaluation and falls from there, whatever the model predicts."""

    def __init__(self, best=1):
        self.best, self.calls = best, 0

    def __call__(self, output):
        self.calls += 1
        return {"mean_ccc": -abs(self.calls - self.best)}


class TestPatience:
    def run(self, trainer, epochs=30, best=1, **settings):
        size = {"per_device_train_batch_size": 12}  # two steps per epoch
        run = trainer(num_train_epochs=epochs, early_stopping_patience=7, unfreeze_at=0.25, **size, **settings)
        run.compute_metrics = PeaksAt(best)
        start = deepcopy(run.model)
        run.train()
        return run, start

    def test_counts_from_the_unfreezing_so_that_the_backbone_learns(self, trainer, caplog):
        run, start = self.run(trainer, load_best_model_at_end=False)
        # Unfrozen after 7.5 of 30 epochs; the first evaluation that counts comes after epoch 8.
        assert run.state.epoch == 15
        assert largest_change(start, run.model, "backbone") > 0
        assert run.kept_phase == "unfrozen" and "only the head was trained" not in caplog.text

    def test_weights_kept_from_the_frozen_phase_are_said_to_be(self, trainer, caplog):
        run, start = self.run(trainer)
        assert (run.kept_step, run.kept_phase) == (2, "frozen")
        assert largest_change(start, run.model, "backbone") == 0
        assert "those of step 2: only the head was trained" in caplog.text

    def test_better_evaluations_after_the_unfreezing_are_kept(self, trainer):
        run, start = self.run(trainer, epochs=12, best=10)
        assert (run.kept_step, run.kept_phase) == (20, "unfrozen")
        assert largest_change(start, run.model, "backbone") > 0

    def test_it_counts_from_the_start_where_nothing_is_unfrozen(self, trainer, caplog):
        for unfreeze_at in (0.0, 1.0):
            run = trainer(num_train_epochs=30, early_stopping_patience=2, unfreeze_at=unfreeze_at)
            run.compute_metrics = PeaksAt()
            run.train()
            assert run.state.epoch == 3 and run.kept_phase == ("frozen" if unfreeze_at else "unfrozen")
        assert "only the head was trained" not in caplog.text  # as was asked for


class TestBackboneWarmup:
    def rates(self, run):
        rates = []

        class Rates(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
                rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})

        run.add_callback(Rates())
        run.train()
        return rates

    def test_rises_from_the_unfreezing_and_joins_the_cosine(self, trainer):
        settings = {"unfreeze_at": 0.25, "backbone_warmup": 0.2, "warmup_steps": 0.1, "max_steps": 40}
        rates = self.rates(trainer(**settings, **NO_EVALUATION))
        assert len(rates) == 40
        for step, rate in enumerate(rates):
            cosine = step / 4 if step < 4 else 0.5 * (1 + np.cos(np.pi * (step - 4) / 36))
            risen = 0 if step < 10 else min((step - 9) / 7, 1)  # 6 of the 30 steps that remain
            assert rate["head_decay"] == rate["head_no_decay"] == pytest.approx(3e-3 * cosine, abs=1e-9)
            expected = pytest.approx(1e-3 * cosine * risen, abs=1e-9)
            assert rate["backbone_decay"] == rate["backbone_no_decay"] == expected

    def test_first_updates_are_a_small_share_of_the_rate(self, trainer):
        """Without it, AdamW with empty moments moves nearly every weight by the whole rate at once."""
        moved = {}
        for share in (0.0, 0.5):
            run = trainer(unfreeze_at=0.5, backbone_warmup=share, max_steps=20, **NO_EVALUATION)
            run.add_callback(KeepAt(10, kept := []))
            run.train()
            moved[share] = max((a - b).abs().max().item() for a, b in zip(*kept, strict=True))
        assert moved[0.0] > 4e-4 and moved[0.5] == pytest.approx(moved[0.0] / 6, rel=0.01)

    def test_without_a_frozen_phase_both_parts_share_one_warm_up(self, trainer):
        rates = self.rates(trainer(unfreeze_at=0.0, backbone_warmup=0.5, max_steps=8, **NO_EVALUATION))
        assert all(rate["backbone_decay"] * 3 == pytest.approx(rate["head_decay"]) for rate in rates)

    @pytest.mark.parametrize("killed", [4, 6])
    def test_resumes_to_the_same_weights(self, trainer, tmp_path, killed):
        settings = {"unfreeze_at": 0.5, "backbone_warmup": 0.5, "max_steps": 8}
        whole = trainer(**settings)
        whole.train()
        with pytest.raises(Killed):
            trainer(callbacks=[KillAt(killed)], **settings).train()
        run = trainer(**settings)
        run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{killed}"))
        assert_same_weights(whole.model, run.model)


class TestOwnChoices:
    """What people bring along themselves: an optimizer, a metric, stock arguments."""

    def test_own_optimizer(self, trainer):
        run = trainer(max_steps=3, **NO_EVALUATION)
        run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=2e-3)
        run.train()
        logs = [entry for entry in run.state.log_history if "loss" in entry]
        assert [entry["learning_rate"] for entry in logs] == pytest.approx([2e-3 * k / 3 for k in (2, 1, 0)], abs=1e-3)

    @pytest.mark.parametrize(
        ("metric", "greater"),
        [("loss", False), ("eval_loss", False), ("valence_rmse", False), ("eval_arousal_mae", False),
         ("mean_ccc", True), ("eval_valence_r2", True), ("arousal_r", True)],
    )  # fmt: skip
    def test_direction_follows_from_the_metric(self, tmp_path, metric, greater):
        assert arguments(tmp_path, metric_for_best_model=metric).greater_is_better is greater
        assert (
            arguments(tmp_path, metric_for_best_model=metric, greater_is_better=not greater).greater_is_better
            is not greater
        )

    def test_keeps_the_checkpoint_of_the_lowest_loss(self, trainer):
        run = trainer(metric_for_best_model="eval_loss", head_learning_rate=0.05, num_train_epochs=6)
        run.train()
        losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
        assert run.kept_step == min(losses, key=losses.get) and len(set(losses.values())) > 1

    @pytest.mark.parametrize("metric", ["mean_cc", "accuracy", "eval_valence"])
    def test_unknown_metric(self, trainer, metric):
        with pytest.raises(ConfigError, match=f"no metric_for_best_model '{metric}'"):
            trainer(metric_for_best_model=metric)


class TestLearningRates:
    def test_warm_up_then_cosine_with_their_ratio_kept(self, trainer):
        run = trainer(warmup_steps=0.25, unfreeze_at=0.0, max_steps=24, eval_strategy="no", save_strategy="no",
                      load_best_model_at_end=False)  # fmt: skip
        run.train()
        logs = [entry for entry in run.state.log_history if "head_lr" in entry]
        assert "learning_rate" not in logs[0] and len(logs) == 24
        for entry in logs:
            step = entry["step"]
            factor = step / 6 if step < 6 else 0.5 * (1 + np.cos(np.pi * (step - 6) / 18))
            assert entry["head_lr"] == pytest.approx(3e-3 * factor, abs=1e-9)
            assert entry["backbone_lr"] == pytest.approx(1e-3 * factor, abs=1e-9)

    def test_gradients_are_clipped(self, trainer):
        norms = []

        class Norms(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])).item())

        run = trainer(callbacks=[Norms()], max_grad_norm=0.01, max_steps=4, eval_strategy="no", save_strategy="no",
                      load_best_model_at_end=False)  # fmt: skip
        run.train()
        assert len(norms) == 4 and max(norms) == pytest.approx(0.01, rel=1e-3)


class TestAccumulation:
    def test_four_times_two_equals_one_times_eight(self, trainer, noise, small_extractor):
        results = []
        for batch, accumulate in ((2, 4), (8, 1)):
            # Plain SGD would show a loss that is four times too large; so does Adam through the clipping.
            run = trainer(tiny_model(head_dropout=0.0), per_device_train_batch_size=batch, optim="sgd",
                          gradient_accumulation_steps=accumulate, max_steps=3, eval_strategy="no",
                          save_strategy="no", load_best_model_at_end=False, max_grad_norm=0.0)  # fmt: skip
            run.train()
            losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
            results.append((run.model, losses))
        (accumulated, losses), (whole, expected) = results
        assert losses == pytest.approx(expected, rel=1e-5)
        for x, y in zip(accumulated.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)


class TestCheckpoints:
    def test_loading_a_checkpoint_restores_the_encoder(self, trainer, tmp_path):
        saved, fresh = tiny_model(seed=1), tiny_model(seed=2)
        saved.save_pretrained(tmp_path / "checkpoint-1")
        trainer(fresh)._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
        assert_same_weights(fresh, saved)

    def test_stock_trainer_does_not(self, trainer, tmp_path):
        saved, fresh = tiny_model(seed=1), tiny_model(seed=2)
        saved.save_pretrained(tmp_path / "checkpoint-1")
        Trainer._load_from_checkpoint(trainer(fresh), str(tmp_path / "checkpoint-1"))
        assert largest_change(fresh, saved, "backbone") > 0, "cured upstream: our override can go"

    def test_best_model_is_restored_whole(self, trainer, tmp_path):
        run = trainer(num_train_epochs=6, save_total_limit=None, head_learning_rate=0.1, backbone_learning_rate=0.1)
        run.train()
        best = run.state.best_model_checkpoint
        assert best != str(tmp_path / "checkpoint-36"), "the last checkpoint must not be the best for this test"
        assert_same_weights(run.model, ASTForEmotionRegression.from_pretrained(best))
        assert run.state.best_metric == max(e["eval_mean_ccc"] for e in run.state.log_history if "eval_loss" in e)
        assert run.evaluate()["eval_mean_ccc"] == pytest.approx(run.state.best_metric, abs=1e-6)

    def test_resume_ends_with_the_same_weights(self, trainer, tmp_path):
        """Before, at, and in the middle of an epoch past the unfreezing; there are 6 steps per epoch."""
        whole = trainer(unfreeze_at=0.25, output_dir=str(tmp_path / "whole"))
        whole.train()
        for stop, workers in ((3, 0), (6, 0), (8, 0), (8, 2)):
            settings = {"unfreeze_at": 0.25, "workers": workers, "output_dir": str(tmp_path / f"{stop}-{workers}")}
            with pytest.raises(Killed):
                trainer(callbacks=[KillAt(stop)], **settings).train()
            resumed = trainer(tiny_model(seed=9), **settings)
            resumed.train(resume_from_checkpoint=f"{settings['output_dir']}/checkpoint-{stop}")
            assert resumed.state.global_step == whole.state.global_step == 24
            assert_same_weights(resumed.model, whole.model)

    def test_no_pickle_of_the_arguments(self, trainer, tmp_path):
        run = trainer(
            max_steps=2, eval_strategy="no", save_strategy="steps", save_steps=2, load_best_model_at_end=False
        )
        run.train()
        run.save_model()
        assert not list(tmp_path.rglob("training_args.bin"))
        assert (tmp_path / "preprocessor_config.json").is_file()


class TestDeterminism:
    def test_same_seed_same_weights_whatever_the_workers(self, trainer):
        models = []
        for workers in (0, 0, 2):
            run = trainer(workers=workers, max_steps=9)
            run.train()
            models.append(run.model)
        assert_same_weights(models[0], models[1])
        assert_same_weights(models[0], models[2])

    def test_another_seed_other_weights(self, trainer):
        models = []
        for seed in (1, 2):
            run = trainer(seed=seed, max_steps=3, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
            run.train()
            models.append(run.model)
        assert largest_change(*models, "head") > 0

    def test_cudnn_is_deterministic(self, trainer):
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        trainer()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark

    def test_crops_change_with_the_epoch(self, trainer):
        epochs = []

        class Epochs(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                epochs.append(int(transform._epoch))

        run = trainer(callbacks=[Epochs()], num_train_epochs=3)
        transform = run.train_dataset.format["format_kwargs"]["transform"]
        run.train()
        assert epochs == [0] * 6 + [1] * 6 + [2] * 6


class TestLearning:
    def test_learns_and_reports_on_the_nine_point_scale(self, trainer):
        run = trainer(num_train_epochs=30, backbone_learning_rate=3e-3)
        before = run.evaluate()
        run.train()
        after = run.evaluate()
        assert after["eval_mean_ccc"] > 0.6 > before["eval_mean_ccc"]
        assert after["eval_valence_rmse"] < before["eval_valence_rmse"]
        assert 0.5 < before["eval_arousal_rmse"] < 3

    def test_early_stopping(self, trainer):
        run = trainer(
            num_train_epochs=50,
            early_stopping_patience=2,
            head_learning_rate=0.0,
            backbone_learning_rate=0.0,
            unfreeze_at=0.0,
        )
        run.train()
        assert run.state.epoch == 3

    def test_early_stopping_continues_to_count_after_a_resume(self, trainer, tmp_path):
        settings = {"num_train_epochs": 50, "early_stopping_patience": 2, "save_total_limit": None}
        settings |= {"head_learning_rate": 0.0, "backbone_learning_rate": 0.0, "unfreeze_at": 0.0}
        trainer(**settings).train()
        steps = sorted(int(path.name[11:]) for path in tmp_path.glob("checkpoint-*"))
        assert len(steps) == 3
        for step in reversed(steps):
            run = trainer(**settings)
            run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
            assert run.state.epoch == 3 and run.state.global_step == steps[-1]

    @pytest.mark.parametrize(
        ("scores", "patience", "expected"),
        [
            ([], 1, False),
            ([0.5], 1, False),
            ([0.5, 0.5], 1, True),
            ([0.5, 0.4, 0.6], 2, False),
            ([0.5, 0.4, 0.6, 0.6, 0.1], 2, True),
            ([0.1, 0.2, 0.3, 0.4], 1, False),
        ],
    )
    def test_early_stopping_is_a_function_of_the_log(self, scores, patience, expected):
        for greater_is_better, sign in ((True, 1), (False, -1)):
            log = [{"loss": 1.0, "step": 1}, {"epoch": 3}]
            log += [{"eval_x": sign * score, "step": step} for step, score in enumerate(scores, start=1)]
            stopping = EarlyStopping(patience, "eval_x", greater_is_better)
            assert stopping.exhausted(log) is expected
            earlier = [{"eval_x": sign * 9.0, "step": step} for step in range(1, 5)]
            later = [entry | {"step": entry["step"] + 4} for entry in log if "eval_x" in entry]
            assert stopping.exhausted([*earlier, *later], after=4) is expected

    def test_no_song_is_dropped_from_an_evaluation(self, trainer, noise, small_extractor):
        run = trainer(dataloader_drop_last=True, per_device_eval_batch_size=5)
        evaluation = with_transform(noise, EvaluationTransform(small_extractor))
        assert len(run.predict(evaluation).predictions) == SONGS == 24
        assert run.args.dataloader_drop_last and len(run.get_train_dataloader()) == 6

    @pytest.mark.parametrize("precision", ["bf16", "fp32"])
    def test_precisions(self, trainer, precision):
        run = trainer(precision=precision, max_steps=2, eval_strategy="no", save_strategy="no",
                      load_best_model_at_end=False)  # fmt: skip
        run.train()
        assert run.accelerator.mixed_precision == {"bf16": "bf16", "fp32": "no"}[precision]
        assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in run.model.parameters())


def test_trainers_own_search_has_defaults_that_fit(trainer, tmp_path):
    run = trainer(num_train_epochs=3, save_strategy="no", load_best_model_at_end=False)
    with pytest.raises(TypeError, match="either a model or model_init"):
        EmotionTrainer(args=run.args)
    searching = EmotionTrainer(
        args=run.args,
        model_init=lambda: tiny_model(),
        train_dataset=run.train_dataset,
        eval_dataset=run.eval_dataset,
        processing_class=run.processing_class,
    )
    best = searching.hyperparameter_search(
        n_trials=2, study_name="x", storage=(storage := optuna.storages.InMemoryStorage())
    )
    study = optuna.load_study(study_name="x", storage=storage)
    assert study.direction.name == "MAXIMIZE" and len(study.trials) == 2
    assert best.objective == max(trial.value for trial in study.trials)
    assert set(best.hyperparameters) == {"backbone_learning_rate", "head_learning_rate", "unfreeze_at"}
    scores = [entry["eval_mean_ccc"] for entry in searching.state.log_history if "eval_mean_ccc" in entry]
    assert study.trials[-1].value == max(scores) and len(scores) == 3
