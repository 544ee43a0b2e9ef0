"""Callbacks of the trainer; each is a function of the training state, so that a resumed run behaves the same."""

import logging
import math
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from . import signals

logger = logging.getLogger(__name__)

SHOWN = {
    "loss": "loss",
    "learning_rate": "lr",
    "backbone_lr": "backbone lr",
    "head_lr": "head lr",
    "eval_mean_ccc": "val CCC",
}


def unfreezing_step(args: Any, max_steps: int) -> int:
    """The first of `max_steps` optimizer steps, counted from 0, in which the backbone learns."""
    return math.ceil(args.unfreeze_at * max_steps)


class UnfreezeCallback(TrainerCallback):
    """Keep the backbone frozen until `unfreezing_step`. Weights that were frozen before the training stay frozen.

    Freezing waits for `on_train_begin`: by then the optimizer and, with several processes, DDP have registered all
    parameters, which they would not do for frozen ones.
    """

    def __init__(self) -> None:
        self._trained: list[torch.nn.Parameter] = []
        self._frozen: bool | None = None

    def _set(self, frozen: bool, state: TrainerState) -> None:
        if frozen != self._frozen:
            for parameter in self._trained:
                parameter.requires_grad_(not frozen)
            if frozen or self._frozen is not None:
                logger.info("Step %d: backbone %s.", state.global_step, "frozen" if frozen else "unfrozen")
            self._frozen = frozen

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        backbone = getattr(kwargs["model"], "module", kwargs["model"]).backbone
        self._trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        self._frozen = None
        self._set(state.global_step < unfreezing_step(args, state.max_steps), state)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._set(state.global_step < unfreezing_step(args, state.max_steps), state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for parameter in self._trained:
            parameter.requires_grad_(True)


class EpochCallback(TrainerCallback):
    """Pass the epoch on to the training data's `set_epoch`, which draws crops and masks for it."""

    def __init__(self, data: Any):
        self.data = data

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A resumed state may be at 1.9999... after two epochs.
        self.data.set_epoch(int((state.epoch or 0.0) + 1e-6))


class LearningRateProgress(ProgressCallback):
    """The stock progress bar, with the loss, both learning rates and the last validation score."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs is not None:
            self._shown |= {name: f"{logs[key]:.3g}" for key, name in SHOWN.items() if key in logs}
            self.training_bar.set_postfix(self._shown)


class EarlyStopping(TrainerCallback):
    """Stop after `patience` evaluations in a row without a better `metric`, such as `eval_mean_ccc`.

    Only evaluations after the backbone was unfrozen count, or all of them if it never is: a head that has learnt all
    it can would otherwise end the training before the backbone has learnt anything. The count is taken from the log,
    which checkpoints keep, so that a resumed run continues it; transformers' callback starts again from zero.
    """

    def __init__(self, patience: int, metric: str, greater_is_better: bool):
        self.patience, self.metric, self.sign = patience, metric, 1 if greater_is_better else -1

    def exhausted(self, log_history: list[dict[str, float]], after: int = 0) -> bool:
        """Whether the last `patience` evaluations after step `after` are all no better than the best one before."""
        counted = (entry for entry in log_history if self.metric in entry and entry["step"] > after)
        scores = [self.sign * entry[self.metric] for entry in counted]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.patience

    def _exhausted(self, args: Any, state: TrainerState) -> bool:
        unfrozen = unfreezing_step(args, state.max_steps)
        return self.exhausted(state.log_history, unfrozen if unfrozen < state.max_steps else 0)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop = self._exhausted(args, state)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop |= self._exhausted(args, state)


class StopOnSignal(TrainerCallback):
    """On SIGTERM, save a checkpoint after the current step and raise `signals.Terminated`.

    After the last step of an epoch it waits for the epoch's evaluation, which a resumed run would not repeat.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_save |= signals.stopping() and not float(state.epoch or 0.0).is_integer()

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_save |= signals.stopping()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if signals.stopping():
            raise signals.Terminated(state.global_step, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
