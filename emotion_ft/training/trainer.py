"""The Hugging Face Trainer, with two learning rates and checkpoints that restore every weight."""

import logging
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import ProgressCallback, Trainer, default_data_collator
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from .. import faults, run_folder
from ..config.settings import TrainingConfig
from ..data.songs import collections_of
from ..data.synthetic import refuse_synthetic
from ..errors import RESUME_OR_AGAIN, UsageError
from ..hub.push import push
from ..hub.repository import add_pipeline
from ..hub.upload import create_repository
from ..reports import cards
from ..reports.environment import environment
from ..scoring.metrics import compute_metrics
from . import signals
from .callbacks import EarlyStopping, EpochCallback, LearningRateProgress, StopOnSignal, UnfreezeCallback
from .checkpoints import last_checkpoint

logger = logging.getLogger(__name__)


class TrainingError(UsageError):
    """A training that cannot go on."""


def parameter_groups(
    model: nn.Module, decay_names: set[str], backbone_lr: float, head_lr: float, weight_decay: float
) -> list[dict]:
    """Backbone and head, with and without weight decay: four groups that hold every parameter, frozen or not.

    Args:
        model: with its pretrained part under `backbone`.
        decay_names: parameters that weight decay applies to.
        backbone_lr, head_lr: peak learning rates.
        weight_decay: of the decayed groups.

    Raises:
        ValueError: when a group is empty, so that a renamed module cannot silently change which rate it trains at.
    """
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups = {}
    for part, lr in (("backbone", backbone_lr), ("head", head_lr)):
        for decayed in (True, False):
            groups[f"{part}{'' if decayed else '_no'}_decay"] = {
                "params": [
                    parameter
                    for name, parameter in model.named_parameters()
                    if (id(parameter) in backbone) == (part == "backbone") and (name in decay_names) == decayed
                ],
                "lr": lr,
                "weight_decay": weight_decay if decayed else 0.0,
            }
    for name, group in groups.items():
        if not group["params"]:
            raise ValueError(f"no parameter of {type(model).__name__} belongs to the optimizer group '{name}'.")
    return [{"name": name, **group} for name, group in groups.items()]


class EmotionTrainer(Trainer):
    """`Trainer` for `ASTForEmotionRegression` and its like.

    One override a concern: `create_optimizer` gives backbone and head their own learning rates,
    `_load_from_checkpoint` and `_load_best_model` restore the encoder, `log` shows both rates, `create_model_card`
    writes our card and `push_to_hub` sends only what belongs into a repository; `_maybe_log_save_evaluate` stops where
    something is not finite, `_run_epoch` and `evaluation_loop` say which flag to lower when memory runs out. Freezing,
    epochs of the training transform, early stopping, leaving on SIGTERM and metrics on the 1-9 scale come along.
    Checkpoints are not pushed to the Hub, whatever `hub_strategy` says.

    Args:
        model: an `ASTForEmotionRegression`, or a model with `backbone`, `freeze_backbone` and `unfreeze_backbone`.
        args: a `TrainingConfig`.
        **kwargs: as for `Trainer`; `train_dataset` and `eval_dataset` come from `emotion_ft.data.augment`.
    """

    args: TrainingConfig

    def __init__(self, model: nn.Module, args: TrainingConfig, callbacks: list | None = None, **kwargs):
        if not isinstance(args, TrainingConfig):
            raise TypeError(f"args must be an emotion_ft.TrainingConfig, got {type(args).__name__}.")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        args.logging_nan_inf_filter = False  # it would hide losses that are not finite
        ours = [UnfreezeCallback(args.unfreeze_at), StopOnSignal()]
        if args.early_stopping_patience and args.eval_strategy != "no":
            metric = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
            ours.append(EarlyStopping(args.early_stopping_patience, metric, args.greater_is_better))
        train = kwargs.get("train_dataset")
        if hasattr(drawn := _transform(train) or train, "set_epoch"):
            ours.append(EpochCallback(drawn))
        kwargs.setdefault("compute_metrics", compute_metrics)
        # With a feature extractor at hand, Trainer's own choice would pad windows, which are all of one length.
        kwargs.setdefault("data_collator", default_data_collator)
        super().__init__(model=model, args=args, callbacks=[*ours, *(callbacks or [])], **kwargs)
        if self.pop_callback(ProgressCallback):
            self.add_callback(LearningRateProgress)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            cls, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(
                model,
                set(self.get_decay_parameter_names(model)),
                self.args.backbone_learning_rate,
                self.args.head_learning_rate,
                self.args.weight_decay,
            )
            self.optimizer = cls(groups, **settings)
        return self.optimizer

    def train(self, *args, **kwargs) -> TrainOutput:
        with signals.deferred():  # to `StopOnSignal`
            return super().train(*args, **kwargs)

    def _run_epoch(self, *args, **kwargs) -> None:
        # A run that was killed after early stopping had ended it would otherwise train on until the next evaluation.
        if self.control.should_training_stop:
            return
        size, accumulated = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        advice = (
            f"lower per_device_train_batch_size ({size}) and raise gradient_accumulation_steps ({accumulated}) by as "
            f"much; {RESUME_OR_AGAIN}."
        )
        # Trainer's own search for a batch size needs the original error.
        room = nullcontext() if self.args.auto_find_batch_size else faults.memory(advice)
        with faults.loading(), room:
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args, **kwargs) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._refuse_not_finite(tr_loss)
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _refuse_not_finite(self, loss: torch.Tensor) -> None:
        """Raise a `TrainingError` when a loss since the last log, or a weight, is not finite."""
        norm = nn.utils.get_total_norm([weight.detach() for weight in self.model.parameters()])
        norm = norm.full_tensor() if self.is_fsdp_enabled and hasattr(norm, "full_tensor") else norm
        if not self.accelerator.gather(loss.detach() + norm).isfinite().all():
            last = last_checkpoint(self.args.output_dir)
            kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
            raise TrainingError(
                f"step {self.state.global_step}: a loss since the last log, or a weight, is not finite; {kept}. Going "
                "on from it would end here again: train anew with a lower backbone_learning_rate and "
                "head_learning_rate, or with precision fp32."
            )

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if logs.pop("learning_rate", None) is not None:
            # After the scheduler's step: the rates of the coming update.
            rates = {group["name"].split("_")[0]: group["lr"] for group in self.optimizer.param_groups}
            logs |= {f"{part}_lr": float(rate) for part, rate in rates.items()}
        super().log(logs, *args, **kwargs)

    def _get_dataloader(self, dataset, *args, is_training: bool = False, **kwargs):
        if not is_training:
            refuse_synthetic(getattr(dataset, "songs", dataset))
        # Stock Trainer heeds dataloader_drop_last in evaluation too, and would leave songs out of the scores.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(self, *args, **kwargs):
        # A data loader draws a seed from the global generator. Put back, evaluations leave no trace in the training,
        # and a run killed between a checkpoint and the evaluation after it resumes to the same weights.
        state = torch.get_rng_state()
        size = self.args.per_device_eval_batch_size
        try:
            with (
                faults.loading(),
                faults.memory(f"lower per_device_eval_batch_size ({size}); {RESUME_OR_AGAIN}."),
            ):
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

    def _restore(self, model: nn.Module, folder: str) -> None:
        # Stock Trainer hands the file's tensors to load_state_dict(strict=False). transformers stores AST's encoder
        # under older names, so that would leave it as it is; from_pretrained converts them.
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        source = type(model).from_pretrained(folder, dtype=torch.float32)
        model.load_state_dict(source.state_dict(), strict=True)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        # What is written last is what makes a checkpoint whole, so an older one must not stand there first.
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Of every process, before the first one writes the state that makes the checkpoint whole.
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle; the same settings stand in config.yaml.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: stock Trainer would upload its arguments as a pickle, `hub_token` among them."""

    def create_model_card(self, *args, finetuned_from: str | None = None, **kwargs) -> None:
        """Write the card of a finished run, or else one with validation scores alone, which says so.

        Of the stock arguments, `finetuned_from` names the repository that the weights started from; the others have no
        effect.

        Raises:
            UsageError: when the output folder has no front end, or holds the results of another training.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        model_id = self.hub_model_id or self.args.hub_model_id
        if not (folder / run_folder.FRONT_END).is_file():
            raise UsageError(f"no front end in '{folder}': give the trainer processing_class, a feature extractor.")
        history = self.state.log_history
        ended = next((entry for entry in reversed(history) if "train_loss" in entry), None)
        if run_folder.is_scored(folder):
            theirs = run_folder.read_results(folder)
            if ended and ended["train_loss"] != theirs.get("train_loss"):
                raise UsageError(f"'{folder}' holds the results of another training: take another output_dir.")
            cards.write_model_card(folder, model_id)
            return
        # What is evaluated after the training may be other songs.
        scored = [entry for entry in history[: history.index(ended) if ended else None] if "eval_loss" in entry]
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        kept = next((entry for entry in scored if entry["step"] == best), scored[-1] if scored else {})
        results = {
            "protocol": getattr(getattr(self.train_dataset, "info", None), "description", ""),
            "collections": _collections(self.train_dataset, self.eval_dataset),
            "train_songs": _count(self.train_dataset),
            "validation_songs": _count(self.eval_dataset),
            "epochs": self.state.epoch,
            "train_runtime": ended and ended["train_runtime"],
            "base_model": finetuned_from,
            **environment(self.args.device),
            **{name: value for name, value in kept.items() if name.startswith("eval_")},
        }
        cards.write_validation_card(folder, results, {"training": self.args.to_dict()}, model_id)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> str | Future | None:
        """As in `Trainer`, but through the same door as `emotion-ft push`: only what belongs in a repository is sent.

        Returns:
            The address of the repository, or its future when not `blocking`; None on processes other than the first.

        Raises:
            UsageError: as `create_model_card` and `hub.push.push`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        args, folder = self.args, Path(self.args.output_dir)
        token = args.hub_token if token is None else token
        private = bool(args.hub_private_repo) if private is None else private
        wanted = self.hub_model_id or args.hub_model_id or folder.resolve().name
        self.hub_model_id = create_repository(wanted, private, token).repo_id
        self.create_model_card(**kwargs)
        add_pipeline(folder)
        revision = args.hub_revision if revision is None else revision
        finished = run_folder.is_scored(folder)
        settings = (folder, self.hub_model_id, private, revision, token, commit_message, finished)
        return push(*settings) if blocking else HfApi().run_as_future(push, *settings)


def _collections(*sides) -> list[dict]:
    """Where the songs come from, as far as these data sets are collections of ours."""
    songs = [getattr(side, "songs", side) for side in sides if side is not None]
    known = [side for side in songs if "rendered" in (getattr(side, "column_names", None) or ())]
    return collections_of(*(side.with_format(None) for side in known))


def _count(dataset) -> int:
    return 0 if dataset is None else len(dataset)


def _transform(dataset):
    return getattr(dataset, "format", {}).get("format_kwargs", {}).get("transform")
