"""Whole trainings in wall time, data included: ours beside the usual recipe, the head alone, and the GAN."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from datasets import Dataset
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from ..config.parser import parse_config
from ..config.settings import Config, GanConfig, SpecAugmentConfig, TrainingConfig, hardware_precision
from ..data.augment import EvaluationTransform, TrainingTransform, with_transform
from ..gan.regressor import prepare_regressor
from ..gan.trainer import MelGanTrainer
from ..modeling import ASTEmotionConfig, ASTForEmotionRegression
from ..training.embeddings import embed
from ..training.trainer import EmotionTrainer
from .figures import Figure, wall_seconds
from .workbench import RATE, Workbench

QUIET: dict[str, Any] = {"report_to": "none", "logging_strategy": "no", "save_strategy": "no", "eval_strategy": "no"}
QUIET |= {"disable_tqdm": True}
EPOCHS = 5  # of training the head alone


class OnTheFly:
    """Turns files into `input_values`, for `Dataset.set_transform`, as in transformers' audio-classification example.

    Every time a song is seen, its file is decoded and resampled, and a random crop of 10 s goes through
    `ASTFeatureExtractor`, whose output has 1024 frames.

    Args:
        frames: cut the output to so many.
    """

    def __init__(self, frames: int | None = None):
        self.extractor, self.frames, self.rng = ASTFeatureExtractor(), frames, np.random.default_rng(0)

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        crops = []
        for path in rows["path"]:
            waveform = librosa.load(path, sr=RATE)[0]
            start = self.rng.integers(max(len(waveform) - 10 * RATE, 0) + 1)
            crops.append(waveform[start : start + 10 * RATE])
        windows = self.extractor(crops, sampling_rate=RATE, return_tensors="pt")["input_values"]
        return {"input_values": list(windows[:, : self.frames]), "labels": [torch.zeros(2) for _ in crops]}


class Clock(TrainerCallback):
    """How long a training's steps took, and how long it waited for data between them, in seconds."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps, self.waits, self.ended = [], [], None

    def _now(self) -> float:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = self._now()
        if self.ended is not None:
            self.waits.append(self.began - self.ended)

    def on_step_end(self, args, state, control, **kwargs):
        self.ended = self._now()
        self.steps.append(self.ended - self.began)

    @property
    def steps_per_second(self) -> float:
        """Steps per second, data and all, without the first one."""
        return len(self.waits) / (sum(self.steps[1:]) + sum(self.waits))

    @property
    def wait_share(self) -> float:
        """Share of the time that was spent waiting for data, without the first step."""
        return sum(self.waits) / (sum(self.steps[1:]) + sum(self.waits))


class TimedRun:
    """A trainer on real data; a run is a few steps: 3 of batch 1, or 30 of batch 32 on an accelerator."""

    def __init__(self, trainer_class: type, model: torch.nn.Module, data: Dataset, args: TrainingArguments):
        self.clock = Clock()
        self.batch = args.per_device_train_batch_size
        self.trainer = trainer_class(
            model=model, args=args, train_dataset=data, data_collator=default_data_collator, callbacks=[self.clock]
        )
        self.trainer.remove_callback(PrinterCallback)

    def run(self) -> float:
        """Samples per second."""
        self.trainer.train()
        return self.clock.steps_per_second * self.batch


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Training arguments that ours and the peer share, with `changes`."""
    steps, batch, workers = (30, 32, 8) if torch.accelerator.is_available() else (3, 1, 0)
    shared: dict[str, Any] = {"output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": batch}
    shared |= {"gradient_accumulation_steps": 1, "dataloader_num_workers": workers, **QUIET}
    return {**shared, "remove_unused_columns": False, "label_names": ["labels"], **changes}


def our_run(bench: Workbench, precision: str, attention: str = "sdpa", **changes: Any) -> TimedRun:
    """`EmotionTrainer` on the stored log-mels, with SpecAugment."""
    songs = with_transform(bench.stored, TrainingTransform(bench.extractor, SpecAugmentConfig(), seed=0))
    args = TrainingConfig(
        **settings(
            bench.folder / "ours", load_best_model_at_end=False, precision=precision, unfreeze_at=0.0, **changes
        )
    )
    architecture: dict[str, Any] = bench.config.to_diff_dict() | {"attn_implementation": attention}
    return TimedRun(EmotionTrainer, ASTForEmotionRegression(ASTEmotionConfig(**architecture)), songs, args)


def stock_run(bench: Workbench, frames: int, precision: str) -> TimedRun:
    """Stock `Trainer` and AST on files, with features computed on the fly."""
    paths = [str(bench.files[row % len(bench.files)]) for row in range(bench.songs)]
    songs = Dataset.from_dict({"path": paths})
    songs.set_transform(OnTheFly(frames))
    names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    names += ["time_stride", "frequency_stride"]
    sizes: dict[str, Any] = {name: getattr(bench.config, name) for name in names}
    sizes |= {"max_length": frames, "num_labels": 2, "problem_type": "regression"}
    model = ASTForAudioClassification(ASTConfig(**sizes))
    on_cpu = not torch.accelerator.is_available()
    args = settings(bench.folder / "stock", use_cpu=on_cpu, bf16=precision == "bf16", fp16=precision == "fp16")
    return TimedRun(Trainer, model, songs, TrainingArguments(**args))


def training(bench: Workbench) -> list[Figure]:
    """Training an AST, data and all: ours from stored log-mels, the peer from files, as shipped and on equal terms."""
    precision, frames = hardware_precision(), bench.extractor.max_length
    ours = our_run(bench, precision)
    shipped, equal = stock_run(bench, 1024, "fp32"), stock_run(bench, frames, precision)
    rounds = [[run.run() for run in (ours, shipped, equal)] for _ in range(min(bench.repeats, 3) + 1)]
    rates = np.array(rounds[1:]).T  # (runs, repeats)
    ratios = {"shipped": rates[0] / rates[1], "equal": rates[0] / rates[2]}
    target = 5.0 if torch.accelerator.is_available() else 3.5
    usual = "stock Trainer and AST, features on the fly"
    name = f"EmotionTrainer, {frames} frames, {precision}"
    return [
        Figure("training", name, "samples/s", rates[0], f"{usual}, 1024 frames, fp32", rates[1], None, True),
        Figure("training", "times the peer as shipped", "x", ratios["shipped"], target=target, higher_is_better=True),
        Figure(
            "training", name, "samples/s", rates[0], f"{usual}, {frames} frames, {precision}", rates[2], None, True
        ),
        Figure("training", "times the peer on equal terms", "x", ratios["equal"], target=1.0, higher_is_better=True),
        Figure(
            "training", "waiting for data", "%", [100 * ours.clock.wait_share], usual, [100 * shipped.clock.wait_share]
        ),
    ]


def head(bench: Workbench) -> list[Figure]:
    """The head alone over 5 epochs: on embeddings made once, beside a pass of the frozen backbone per epoch."""
    rows = min(bench.songs, 16)
    train = bench.stored.select(range(rows))
    folder = bench.folder / "head"

    def run(freeze: str) -> Callable[[], None]:
        def whole() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            set_seed(0)
            changes = {"freeze": freeze, "unfreeze_at": 1.0, "num_train_epochs": EPOCHS, "max_steps": -1}
            changes |= {"eval_strategy": "epoch", "load_best_model_at_end": False, "early_stopping_patience": 0}
            batch = {"per_device_train_batch_size": min(rows, 8), "precision": hardware_precision()}
            args = TrainingConfig(**settings(folder, **changes, **batch))
            songs = with_transform(train, TrainingTransform(bench.extractor, SpecAugmentConfig(), seed=0))
            held = with_transform(train.select(range(max(rows // 4, 2))), EvaluationTransform(bench.extractor))
            model = ASTForEmotionRegression(bench.config)
            if freeze == "always":
                songs = embed(model, songs, args, "train", batch_size=8)
                held = embed(model, held, args, "validation", batch_size=2)
            trainer = EmotionTrainer(model, args, train_dataset=songs, eval_dataset=held)
            trainer.remove_callback(PrinterCallback)
            trainer.train()

        return whole

    once, passes = wall_seconds(min(bench.repeats, 3), once=run("always"), passes=run("first"))
    name = f"{EPOCHS} epochs of the head, {rows} songs"
    return [
        Figure("head", name, "s", once, "one pass of the frozen backbone per epoch", passes),
        Figure(
            "head",
            f"times faster over {EPOCHS} epochs",
            "x",
            passes / once,
            target=0.8 * EPOCHS,
            higher_is_better=True,
        ),
    ]


def gan(bench: Workbench) -> list[Figure]:
    """Steps of the GAN of deam.yaml, both networks."""
    config = gan_config(bench)
    songs = bench.stored
    regressor = prepare_regressor(config, songs, bench.extractor, resumed=False)
    trainer = MelGanTrainer(config, bench.extractor, songs, regressor, meter=None)
    batches, seconds = trainer.batches(), []
    for _ in range(min(bench.repeats, 3) + 1):
        began = time.perf_counter()
        values = trainer.learn([next(batches)])
        float(values["generator_loss"])  # waits for the device
        seconds.append(time.perf_counter() - began)
        trainer.step += 1
    size = config.gan.gan_batch_size
    return [Figure("gan", f"GAN step, batch {size}, {config.training.precision}", "s", seconds[1:])]


def gan_config(bench: Workbench) -> Config:
    """The defaults, with a batch that the songs can fill."""
    folder = bench.folder / "gan"
    batch = min(GanConfig().gan_batch_size, bench.songs)
    flags: dict[str, Any] = {
        "gan_output_dir": folder,
        "gan_batch_size": batch,
        "regressor_steps": 1,
        "report_to": "none",
    }
    flags |= {"gradient_accumulation_steps": 1, "disable_tqdm": True}
    return parse_config([f"--{name}={value}" for name, value in flags.items()])
