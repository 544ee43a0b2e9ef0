"""The Hugging Face Trainer, with separate learning rates for backbone and head, and checkpoints that restore fully."""

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from .. import faults, run_folder
from ..config.settings import ConfigError, TrainingConfig
from ..data.augment import collate
from ..data.songs import collections_of
from ..data.synthetic import refuse_synthetic
from ..errors import RESUME_OR_AGAIN, UsageError
from ..hub import push, repository, upload
from ..reports import cards, environment
from ..scoring.metrics import KEYS, compute_metrics
from . import adapters, signals
from .callbacks import (
    EarlyStopping,
    EpochCallback,
    LearningRateProgress,
    StopOnSignal,
    UnfreezeCallback,
    unfreezing_step,
)
from .checkpoints import last_checkpoint

logger = logging.getLogger(__name__)


class TrainingError(UsageError):
    """A training that cannot continue."""


def check_metric(args: TrainingConfig) -> None:
    """Raise a `ConfigError` if `metric_for_best_model` is no validation score of `compute_metrics`."""
    name, known = args.metric_for_best_model, ("loss", *KEYS)
    if name.removeprefix("eval_") not in known:
        raise ConfigError(f"there is no metric_for_best_model '{name}': it is one of {', '.join(known)}.")


def search_space(trial: Any, around: TrainingConfig) -> dict[str, float]:
    """Hyperparameters of an optuna trial: both rates, up to ten times smaller or larger, and the time to unfreeze."""
    rates = {name: getattr(around, name) for name in ("backbone_learning_rate", "head_learning_rate")}
    drawn = {name: trial.suggest_float(name, rate / 10, 10 * rate, log=True) for name, rate in rates.items()}
    return (
        drawn if around.freeze == "always" else drawn | {"unfreeze_at": trial.suggest_float("unfreeze_at", 0.0, 0.5)}
    )


def parameter_groups(
    model: nn.Module, decay_names: set[str], backbone_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """All parameters, frozen ones too, in four groups: backbone and head, with and without weight decay.

    The backbone is the model's submodule of that name; `decay_names` are the parameters with weight decay. Raises
    `ValueError` if a group is empty, so that renaming a module cannot silently change its learning rate.
    """
    backbone = {id(parameter) for parameter in model.get_submodule("backbone").parameters()}
    names = ("backbone_decay", "backbone_no_decay", "head_decay", "head_no_decay")
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in names}
    for name, parameter in model.named_parameters():
        part = "backbone" if id(parameter) in backbone else "head"
        groups[f"{part}_decay" if name in decay_names else f"{part}_no_decay"].append(parameter)
    if empty := [name for name, parameters in groups.items() if not parameters]:
        raise ValueError(f"no parameter of {type(model).__name__} belongs to the optimizer group '{empty[0]}'.")
    settings = [{"lr": lr, "weight_decay": decay} for lr in (backbone_lr, head_lr) for decay in (weight_decay, 0.0)]
    return [{"name": name, "params": groups[name], **own} for name, own in zip(names, settings, strict=True)]


def with_backbone_warmup(schedule: LambdaLR, start: int, steps: int) -> LambdaLR:
    """Multiply the learning rates of the groups named backbone_* by 0 before step `start`, then let them rise.

    The rise is linear, 1 / (steps + 1) at step `start` and 1 from `start + steps`. AdamW's moments are empty when a
    frozen backbone starts to learn, so that its first updates are as large as the rate on every weight.
    """

    def rising(factor: Callable[[int], float], step: int) -> float:
        return factor(step) * min(max(step - start + 1, 0) / (steps + 1), 1.0)

    groups = zip(schedule.lr_lambdas, schedule.optimizer.param_groups, strict=True)
    return LambdaLR(
        schedule.optimizer,
        [partial(rising, f) if group.get("name", "").startswith("backbone") else f for f, group in groups],
    )


class EmotionTrainer(Trainer):
    """`Trainer` for `ASTForEmotionRegression` and similar models.

    One override per concern: `create_optimizer` gives backbone and head their own learning rates, `log` shows both;
    `_load_from_checkpoint` and `_load_best_model` restore the encoder; `create_model_card` writes our card, and
    `push_to_hub` uploads only what belongs in a repository; `_maybe_log_save_evaluate` stops if something is not
    finite; `_run_epoch` and `evaluation_loop` say which flag to lower when memory runs out. Freezing, epochs of the
    training transform, early stopping, stopping on SIGTERM and metrics on the 1-9 scale are built in. Checkpoints are
    not pushed to the Hub, whatever `hub_strategy` is.

    Args:
        model: an `ASTForEmotionRegression`, or another model with a `backbone`; `peft.get_peft_model` may have wrapped
            it. In its place, `model_init` may make one, for each `train` and each trial of a search.
        args: a `TrainingConfig`.
        **kwargs: as for `Trainer`; `train_dataset` and `eval_dataset` come from `emotion_ft.data.augment`.
    """

    args: TrainingConfig
    hub_model_id: Any  # str | None, but declared as None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(args, TrainingConfig):
            raise TypeError(
                f"args must be an emotion_ft.TrainingConfig, got {type(args).__name__}: it takes all of "
                "TrainingArguments' settings, and backbone_learning_rate and head_learning_rate for learning_rate."
            )
        if (model is None) == (kwargs.get("model_init") is None):
            raise TypeError("give either a model or model_init, a function that makes one.")
        adapters.check_adapted(model)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        args.logging_nan_inf_filter = False  # it would hide losses that are not finite
        ours: list[TrainerCallback] = [UnfreezeCallback(), StopOnSignal()]
        if args.early_stopping_patience and args.eval_strategy != "no":
            metric = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
            ours.append(EarlyStopping(args.early_stopping_patience, metric, bool(args.greater_is_better)))
        train = kwargs.get("train_dataset")
        if hasattr(data := _transform(train) or train, "set_epoch"):
            ours.append(EpochCallback(data))
        if kwargs.setdefault("compute_metrics", compute_metrics) is compute_metrics:
            check_metric(args)
        kwargs.setdefault("data_collator", collate)
        super().__init__(model=model, args=args, callbacks=[*ours, *(callbacks or [])], **kwargs)
        if self.pop_callback(ProgressCallback):
            self.add_callback(LearningRateProgress)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            cls, settings = self.get_optimizer_cls_and_kwargs(args, model)
            decayed = set(self.get_decay_parameter_names(model))
            rates = (args.backbone_learning_rate, args.head_learning_rate)
            self.optimizer = cls(parameter_groups(model, decayed, *rates, args.weight_decay), **settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            schedule = super().create_scheduler(num_training_steps, optimizer)
            start = unfreezing_step(self.args, num_training_steps)
            if start and isinstance(schedule, LambdaLR):
                steps = math.ceil(self.args.backbone_warmup * (num_training_steps - start))
                self.lr_scheduler = with_backbone_warmup(schedule, start, steps)
            elif start:
                logger.warning("no backbone_warmup: the schedule %s has rates of its own", self.args.lr_scheduler_type)
        return self.lr_scheduler

    def hyperparameter_search(  # type: ignore[override]
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in `Trainer`, with defaults that fit: `search_space`, and the best `metric_for_best_model` of a trial.

        Needs `model_init` and, for these defaults, optuna.
        """
        metric = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        best, around = max if self.args.greater_is_better else min, copy(self.args)
        return super().hyperparameter_search(
            hp_space or (lambda trial: search_space(trial, around)),
            compute_objective or (lambda _: best(e[metric] for e in self.state.log_history if metric in e)),
            n_trials,
            direction or ("maximize" if self.args.greater_is_better else "minimize"),
            **kwargs,
        )

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        with signals.deferred():  # to `StopOnSignal`
            output = super().train(*args, **kwargs)
        if self.kept_phase == "frozen" and self.args.unfreeze_at < 1 and self.is_world_process_zero():
            logger.warning("The weights kept are those of step %d: only the head was trained.", self.kept_step)
        return output

    @property
    def kept_step(self) -> int:
        """The optimizer step after which the weights were kept: the best one, or the last."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return self.state.global_step if best is None else best

    @property
    def kept_phase(self) -> str:
        """Whether the backbone was "frozen" up to `kept_step`, or "unfrozen" by then."""
        return "frozen" if self.kept_step <= unfreezing_step(self.args, self.state.max_steps) else "unfrozen"

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise a run that was killed after early stopping would be trained until the next evaluation when resumed.
        if self.control.should_training_stop:
            return
        size, accumulated = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        advice = (
            f"lower per_device_train_batch_size ({size}) and raise gradient_accumulation_steps ({accumulated}) by as "
            f"much; {RESUME_OR_AGAIN}."
        )
        # Trainer's own search for a batch size needs the original error.
        memory = nullcontext() if self.args.auto_find_batch_size else faults.memory(advice)
        with faults.loading(), memory:
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._refuse_not_finite(tr_loss)
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _refuse_not_finite(self, loss: torch.Tensor) -> None:
        """Raise a `TrainingError` if a loss since the last log, or a weight, is not finite."""
        model: Any = self.model
        norm = nn.utils.get_total_norm([weight.detach() for weight in model.parameters()])
        norm = norm.full_tensor() if self.is_fsdp_enabled and hasattr(norm, "full_tensor") else norm
        if not self.accelerator.gather(loss.detach() + norm).isfinite().all():
            last = last_checkpoint(self.args.output_dir)
            kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
            raise TrainingError(
                f"step {self.state.global_step}: a loss since the last log, or a weight, is not finite; {kept}. "
                "Resuming from it would end here again: start again with a lower backbone_learning_rate and "
                "head_learning_rate, or with precision fp32."
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if logs.pop("learning_rate", None) is not None and self.optimizer is not None:
            # This is after the scheduler's step, so these are the rates of the next update. An optimizer of the
            # user's own has groups without names.
            groups = self.optimizer.param_groups
            names = [f"{group['name'].split('_')[0]}_lr" if "name" in group else "learning_rate" for group in groups]
            logs |= {name: float(group["lr"]) for name, group in zip(names, groups, strict=True)}
        super().log(logs, *args, **kwargs)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        is_training = kwargs.get("is_training", False)
        if not is_training:
            refuse_synthetic(getattr(dataset, "songs", dataset))
        # Stock Trainer applies dataloader_drop_last in evaluation too, which would leave songs out of the scores.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, *args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        # A data loader draws a seed from the global generator. Its state is restored, so that evaluations do not
        # affect the training, and a run killed between a checkpoint and its evaluation resumes to the same weights.
        state = torch.get_rng_state()
        advice = f"lower per_device_eval_batch_size ({self.args.per_device_eval_batch_size}); {RESUME_OR_AGAIN}."
        try:
            with faults.loading(), faults.memory(advice):
                return super().evaluation_loop(*args, **kwargs)
        finally:
            torch.set_rng_state(state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._restore(model or self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            logger.info("Best checkpoint: %s", self.state.best_model_checkpoint)
            self._restore(self.model, self.state.best_model_checkpoint)

    def _restore(self, model: Any, folder: str | None) -> None:
        # Stock Trainer passes the file's tensors to load_state_dict(strict=False). transformers stores AST's encoder
        # under older names, so that would leave it unchanged; from_pretrained converts them.
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if adapters.is_adapted(model):
            adapters.load_adapter(model, Path(str(folder)))
            return
        source = type(model).from_pretrained(folder, dtype=torch.float32)
        model.load_state_dict(source.state_dict(), strict=True)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # The state is written last and marks a checkpoint as complete, so an older one must not be left there.
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Every process has to be done before the first one writes the state that marks the checkpoint as complete.
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder, model = Path(output_dir or self.args.output_dir), self.model
        adapted = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if adapters.is_adapted(adapted) and self.args.should_save:
            adapters.save_adapter(adapted, folder)
            self.model = adapters.merged(adapted)
        super()._save(str(folder), state_dict if self.model is model else None)
        self.model = model
        # A pickle; config.yaml has the same settings.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: stock Trainer would upload its arguments as a pickle, with `hub_token` in them."""

    def create_model_card(self, *args: Any, finetuned_from: str | None = None, **kwargs: Any) -> None:
        """Write the card of a finished run, or else one that has validation scores only and says so.

        Of the stock arguments, only `finetuned_from` is used: the repository of the weights to start from.
        Raises `UsageError` if the output folder has no front end, or holds the results of another training.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        model_id = self.hub_model_id or self.args.hub_model_id
        if not (folder / run_folder.FRONT_END).is_file():
            raise UsageError(f"no front end in '{folder}': give the trainer processing_class, a feature extractor.")
        ended = next((entry for entry in reversed(self.state.log_history) if "train_loss" in entry), None)
        if run_folder.is_scored(folder):
            theirs = run_folder.read_results(folder)
            if ended and ended["train_loss"] != theirs.get("train_loss"):
                raise UsageError(f"'{folder}' holds the results of another training: choose another output_dir.")
            cards.write_model_card(folder, model_id)
            return
        results = self._validation_results(ended) | {"base_model": finetuned_from}
        cards.write_validation_card(folder, results, {"training": self.args.to_dict()}, model_id)

    def _validation_results(self, ended: dict[str, Any] | None) -> dict[str, Any]:
        """Results for a card without test scores; `ended` is the last entry of the log by the training itself."""
        history, train, validation = self.state.log_history, self.train_dataset, self.eval_dataset
        # Evaluations after the training may be of other songs.
        scored = [entry for entry in history[: history.index(ended) if ended else None] if "eval_loss" in entry]
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        kept = next((entry for entry in scored if entry["step"] == best), scored[-1] if scored else {})
        results: dict[str, Any] = {name: value for name, value in kept.items() if name.startswith("eval_")}
        results |= {"protocol": getattr(getattr(train, "info", None), "description", "")}
        results |= {"epochs": self.state.epoch, "train_runtime": ended and ended["train_runtime"]}
        results |= {"train_songs": _count(train), "validation_songs": _count(validation)}
        return results | {"collections": _collections(train, validation), **environment.environment(self.args.device)}

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | Future[str] | None:
        """As in `Trainer`, but only what belongs in a repository is uploaded, as by `hub.push.push`.

        Returns the address of the repository, or its future if not `blocking`; None on processes other than the first.
        Raises `UsageError` as `create_model_card` and `hub.push.push` do.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        args, folder = self.args, Path(self.args.output_dir)
        token = args.hub_token if token is None else token
        private = bool(args.hub_private_repo) if private is None else private
        wanted = self.hub_model_id or args.hub_model_id or folder.resolve().name
        self.hub_model_id = repo_id = upload.create_repository(wanted, private, token).repo_id
        self.create_model_card(**kwargs)
        repository.add_pipeline(folder)
        revision = args.hub_revision if revision is None else revision
        finished = run_folder.is_scored(folder)
        settings = (folder, repo_id, private, revision, token, commit_message, finished)
        return push.push(*settings) if blocking else HfApi().run_as_future(push.push, *settings)


def _collections(*sides: Any) -> list[dict[str, Any]]:
    """`collections_of` those data sets that are collections of ours."""
    songs = [getattr(side, "songs", side) for side in sides if side is not None]
    known = [side for side in songs if "rendered" in (getattr(side, "column_names", None) or ())]
    return collections_of(*(side.with_format(None) for side in known))


def _count(dataset: Any) -> int:
    return 0 if dataset is None else len(dataset)


def _transform(dataset: Any) -> Any:
    return getattr(dataset, "format", {}).get("format_kwargs", {}).get("transform")
