"""Training steps of an AST on all cores or the accelerator, in wall time, timed inside the trainer."""

import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback, default_data_collator

from ..config.settings import TrainingConfig, hardware_precision
from ..modeling import ASTForEmotionRegression
from ..training.trainer import EmotionTrainer
from .figures import Figure
from .workbench import Workbench


class StepTimer(TrainerCallback):
    """Wall time of optimizer steps: forward, backward, clipping, update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def _now(self) -> float:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(self._now() - self.started)


class TimedTraining:
    """A trainer on random windows in memory; a run is one step of batch 1, or 20 of batch 16 on an accelerator.

    Args:
        trainer_class: `Trainer` or a class of its kind.
        model: an AST.
        args_class: of the trainer's arguments.
        **settings: of these arguments.
    """

    def __init__(self, trainer_class: type, model: ASTForEmotionRegression, args_class: type, **settings: Any):
        steps, self.batch = (20, 16) if torch.accelerator.is_available() else (1, 1)
        windows = torch.randn(steps * self.batch, model.config.max_length, model.config.num_mel_bins)
        settings |= {"max_steps": steps, "per_device_train_batch_size": self.batch, "gradient_accumulation_steps": 1}
        settings |= {"logging_strategy": "no", "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True}
        self.timer = StepTimer()
        self.trainer = trainer_class(
            model=model,
            args=args_class(report_to="none", **settings),
            train_dataset=[{"input_values": window, "labels": torch.zeros(2)} for window in windows],
            data_collator=default_data_collator,
            callbacks=[self.timer],
        )
        self.trainer.remove_callback(PrinterCallback)

    def run(self) -> float:
        """The run's median of the seconds per step."""
        self.timer.seconds.clear()
        self.trainer.train()
        return statistics.median(self.timer.seconds)


def our_training(bench: Workbench, precision: str, unfreeze_at: float) -> TimedTraining:
    """`EmotionTrainer` on an AST with random weights."""
    model = ASTForEmotionRegression(bench.config)
    settings = {"output_dir": str(bench.folder / "step"), "precision": precision, "unfreeze_at": unfreeze_at}
    return TimedTraining(EmotionTrainer, model, TrainingConfig, load_best_model_at_end=False, **settings)


def step_seconds(repeats: int, *trainings: TimedTraining) -> list[np.ndarray]:
    """Seconds (repeats,) per step of each training; they take turns after a warm-up run each."""
    rounds = [[training.run() for training in trainings] for _ in range(min(repeats, 3) + 1)]
    return list(np.array(rounds[1:]).T)


def step(bench: Workbench) -> list[Figure]:
    """A training step with a frozen backbone beside a full one, AST-base, 501 frames, all cores."""
    figures = []
    for precision in dict.fromkeys(["fp32", hardware_precision()]):
        trainings = [our_training(bench, precision, unfreeze_at) for unfreeze_at in (1.0, 0.0)]
        frozen, full = step_seconds(bench.repeats, *trainings)
        name = f"step in {precision}, batch {trainings[0].batch}"
        figures += [
            Figure("step", f"frozen-backbone {name}", "s", frozen, "full step", full),
            Figure("step", f"share of a full {name}", "", frozen / full, target=0.45),
        ]
    return figures
