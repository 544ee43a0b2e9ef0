"""What happens at certain moments of a training: functions of the training state, so that a resume repeats nothing."""

import logging

from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.augment import TrainingTransform
from . import signals

logger = logging.getLogger(__name__)


class UnfreezeCallback(TrainerCallback):
    """Keep the backbone frozen for the first share of the training.

    Freezing waits for `on_train_begin`: by then the optimizer and, with several processes, DDP have registered all
    parameters, which they would not do for frozen ones.

    Args:
        unfreeze_at: share of all optimizer steps, in [0, 1]; 0 never freezes, 1 never unfreezes.
    """

    def __init__(self, unfreeze_at: float):
        self.unfreeze_at = unfreeze_at
        self._frozen = None

    def _set(self, state, model) -> None:
        model = getattr(model, "module", model)
        frozen = state.global_step < self.unfreeze_at * state.max_steps
        if frozen != self._frozen:
            model.freeze_backbone() if frozen else model.unfreeze_backbone()
            if frozen or self._frozen is not None:
                logger.info("Step %d: backbone %s.", state.global_step, "frozen" if frozen else "unfrozen")
            self._frozen = frozen

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._frozen = None
        self._set(state, model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self._set(state, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        getattr(model, "module", model).unfreeze_backbone()


class EpochCallback(TrainerCallback):
    """Tell the training transform which epoch it draws crops and masks for."""

    def __init__(self, transform: TrainingTransform):
        self.transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A resumed state may stand at 1.9999... of an epoch that has ended.
        self.transform.set_epoch(int(state.epoch + 1e-6))


class LearningRateProgress(ProgressCallback):
    """The stock progress bar, with the loss, both learning rates and the last validation score beside it."""

    def __init__(self):
        super().__init__()
        self._shown = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        names = {"loss": "loss", "backbone_lr": "backbone lr", "head_lr": "head lr", "eval_mean_ccc": "val CCC"}
        self._shown |= {names[key]: f"{logs[key]:.3g}" for key in names if key in logs}
        self.training_bar.set_postfix(self._shown)


class EarlyStopping(TrainerCallback):
    """Stop after `patience` evaluations in a row without a better score.

    A function of the log, which checkpoints keep, so that a resumed run counts on where it was; transformers'
    callback begins to count anew.

    Args:
        patience: evaluations.
        metric: as the log calls it, `eval_mean_ccc`.
        greater_is_better: whether a larger one is.
    """

    def __init__(self, patience: int, metric: str, greater_is_better: bool):
        self.patience = patience
        self.metric = metric
        self.sign = 1 if greater_is_better else -1

    def exhausted(self, log_history: list[dict]) -> bool:
        """Whether the last `patience` evaluations in the log are all no better than the best one before them."""
        scores = [self.sign * entry[self.metric] for entry in log_history if self.metric in entry]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.patience

    def on_train_begin(self, args, state, control, **kwargs):
        control.should_training_stop = self.exhausted(state.log_history)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.exhausted(state.log_history):
            control.should_training_stop = True


class StopOnSignal(TrainerCallback):
    """On SIGTERM, save a checkpoint after the step and leave.

    After the last step of an epoch it waits for the epoch's evaluation, which a resumed run would not do again.

    Raises:
        Terminated: when the checkpoint is saved.
    """

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= signals.stopping() and not float(state.epoch).is_integer()

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save |= signals.stopping()

    def on_save(self, args, state, control, **kwargs):
        if signals.stopping():
            raise signals.Terminated(state.global_step, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
