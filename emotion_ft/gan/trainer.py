"""The accelerate loop of the conditional mel GAN."""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    broadcast_object_list,
)
from datasets import Dataset
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import get_scheduler

from .. import faults, run_folder
from ..config.settings import Config
from ..data.augment import TrainingTransform, with_transform
from ..data.front_end import FrontEnd
from ..data.scale import to_unit
from ..data.songs import labels_of
from ..data.synthetic import draw_emotions
from ..errors import UsageError
from ..modeling import MelDiscriminator, MelGenerator, MelRegressor
from ..reports import gan
from ..training import signals
from ..training.checkpoints import checkpoints, last_checkpoint
from . import losses
from .quality import Quality, QualityMeter, song_windows

logger = logging.getLogger(__name__)

WON = 0.95  # share of the discriminator's decisions that are right, smoothed over some fifty steps
SMOOTHING = 0.98
COPIES = 0.5  # of the distance between real windows of different songs
QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)  # of the songs' valence and arousal: where samples are drawn


class GanError(UsageError):
    """A GAN that cannot be trained, or cannot be trained any further."""


def check_batch(config: Config, songs: Dataset) -> None:
    """Raise a `GanError` unless the songs to learn from fill a batch on every process."""
    needed = config.gan.gan_batch_size * PartialState().num_processes
    if len(songs) < needed:
        raise GanError(
            f"{len(songs)} songs to learn from do not fill a batch of {needed}: lower gan_batch_size or "
            "reference_fraction, or train on more songs."
        )


class EpochSampler(Sampler):
    """All rows in random order, keyed by (seed, epoch): a resume needs no state of a random generator."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist())


class MelGanTrainer:
    """Trains `MelGenerator` against `MelDiscriminator`.

    Every random number is keyed by (seed, step), so that a resumed run ends in the same weights. What is kept is the
    moving average of the generator's weights at the measured step with the smallest `quality.shortfall`.

    Args:
        config: its sections `gan` and `training`.
        extractor: the front end.
        songs: the stored songs to learn from; no others are read.
        regressor: frozen, trained on `songs`; teaches the generator its emotions.
        meter: measures the generator; only the first process needs one.

    Raises:
        GanError: when the songs do not fill a batch.
    """

    def __init__(
        self,
        config: Config,
        extractor: FrontEnd,
        songs: Dataset,
        regressor: MelRegressor,
        meter: QualityMeter | None,
    ):
        self.gan, self.training = config.gan, config.training
        self.folder = Path(config.gan.gan_output_dir)
        self.extractor, self.songs, self.labels = extractor, songs, to_unit(labels_of(songs))
        self.meter = meter
        self.accelerator = self._make_accelerator()
        check_batch(config, songs)
        self.regressor = regressor.to(self.accelerator.device)
        self._prepare(*self._make_networks(), self._make_loader())
        # Without DDP's wrapper: its hooks must not see what only passes through a network.
        self.bare_generator = self.accelerator.unwrap_model(self.generator)
        self.bare_discriminator = self.accelerator.unwrap_model(self.discriminator)
        self.average = AveragedModel(self.bare_generator, multi_avg_fn=get_ema_multi_avg_fn(self.gan.ema_decay))
        self.average.eval()
        self.discriminator_criterion, self.generator_criterion = losses.adversarial(
            self.gan.adversarial_loss, self.gan.label_smoothing or 0.0
        )
        self.step = 0
        self.seconds = 0.0  # spent on updates since this process began, without measures
        self.accuracy = 0.5
        self.history: list[Quality] = []

    def _make_accelerator(self) -> Accelerator:
        training = self.training
        return Accelerator(
            mixed_precision="no" if training.precision == "fp32" else training.precision,
            cpu=training.use_cpu,
            log_with=training.report_to or None,
            project_config=ProjectConfiguration(str(self.folder), logging_dir=str(self.folder / run_folder.TRACKING)),
            step_scheduler_with_optimizer=False,  # otherwise every process would step the schedule
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                training.gradient_accumulation_steps, sync_with_dataloader=False
            ),
            # The discriminator runs twice before a backward pass; its buffers are the same everywhere anyway.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )

    def _make_networks(self) -> tuple[MelGenerator, MelDiscriminator]:
        """Generator and discriminator with random weights, of the regressor's sizes and with its bands."""
        torch.manual_seed(self.training.seed)
        networks = MelGenerator(self.regressor.config), MelDiscriminator(self.regressor.config)
        for network in networks:
            network.set_bands(self.regressor.band_mean.cpu(), self.regressor.band_std.cpu())
        return networks

    def untrained_generator(self) -> MelGenerator:
        """The generator as it was before the first step."""
        return self._make_networks()[0].to(self.accelerator.device).eval()

    def _make_loader(self) -> DataLoader:
        """Batches of one random window per song; `sampler` and `transform` follow the epoch."""
        self.transform = TrainingTransform(self.extractor, None, self.training.seed)
        self.sampler = EpochSampler(len(self.songs), self.training.seed)
        return DataLoader(
            with_transform(self.songs, self.transform),
            batch_size=self.gan.gan_batch_size,
            sampler=self.sampler,
            drop_last=True,
            num_workers=self.training.dataloader_num_workers,
        )

    def _prepare(self, generator: MelGenerator, discriminator: MelDiscriminator, loader: DataLoader) -> None:
        """Hand networks, their optimizers and schedules, and the loader to accelerate."""
        gan = self.gan
        optimizers = [
            self._optimizer(generator, gan.generator_learning_rate),
            self._optimizer(discriminator, gan.discriminator_learning_rate),
        ]
        warmup, kind = math.ceil(gan.gan_warmup * gan.gan_steps), self.training.lr_scheduler_type
        schedules = [get_scheduler(kind, optimizer, warmup, gan.gan_steps) for optimizer in optimizers]
        (
            self.generator,
            self.discriminator,
            self.generator_optimizer,
            self.discriminator_optimizer,
            self.generator_schedule,
            self.discriminator_schedule,
            self.loader,
        ) = self.accelerator.prepare(generator, discriminator, *optimizers, *schedules, loader)

    @property
    def averaged_generator(self) -> MelGenerator:
        """The generator with the moving average of its weights."""
        return cast(MelGenerator, self.average.module)

    def _optimizer(self, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        betas = (self.gan.gan_beta1, self.gan.gan_beta2)
        return torch.optim.AdamW(network.parameters(), rate, betas, weight_decay=self.training.weight_decay)

    # One step

    def draw(self, micro: int, player: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and emotions for this process's rows of a batch of synthetic windows.

        Drawn for the batch of all processes together, keyed by step, micro-batch and the network that learns from
        them: two processes use the same ones as a single process with twice the batch.

        Args:
            micro: the micro-batch of the step, from 0.
            player: 0 for the discriminator's update, 1 for the generator's.

        Returns:
            (gan_batch_size, latent_size) and (gan_batch_size, 2), in [-1, 1].
        """
        size, processes = self.gan.gan_batch_size, self.accelerator.num_processes
        rng = np.random.default_rng([self.training.seed, self.step, micro, 0, player])
        latents = rng.standard_normal((size * processes, self.gan.latent_size), dtype=np.float32)
        emotions = draw_emotions(self.labels, rng, size * processes)
        rows = slice(size * self.accelerator.process_index, size * (self.accelerator.process_index + 1))
        latent, emotion = (torch.from_numpy(drawn[rows]).to(self.accelerator.device) for drawn in (latents, emotions))
        return latent, emotion

    def discriminator_loss(
        self, windows: torch.Tensor, labels: torch.Tensor, latent: torch.Tensor, emotion: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The discriminator's loss and its accuracy; no gradient reaches the generator."""
        with self.accelerator.autocast():
            with torch.no_grad():
                synthetic = self.bare_generator(latent, emotion)
            of_real = self.discriminator(windows, labels).float()
            of_synthetic = self.discriminator(synthetic, emotion).float()
        loss = self.discriminator_criterion(of_real, of_synthetic)
        return loss, losses.discriminator_accuracy(of_real, of_synthetic)

    def generator_loss(self, latent: torch.Tensor, emotion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator's adversarial loss and its emotion term."""
        with self.accelerator.autocast():
            synthetic = self.generator(latent, emotion)
            logits = self.bare_discriminator(synthetic, emotion).float()
            predicted = self.regressor(synthetic)
        return self.generator_criterion(logits), losses.emotion_term(predicted, emotion)

    def learn(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One update of the discriminator, then one of the generator, each over all micro-batches.

        The networks do not take turns within the micro-batches: loss scaling may change at an update, and gradients
        that are still being accumulated would then have two scales.

        Returns:
            The mean losses and the discriminator's accuracy, and the norms of both gradients before clipping.
        """
        values: dict[str, list[torch.Tensor]] = {
            name: [] for name in ("discriminator_loss", "discriminator_accuracy", "generator_loss", "emotion_loss")
        }
        norms: dict[str, torch.Tensor] = {}
        self.bare_discriminator.requires_grad_(True)
        for micro, batch in enumerate(batches):
            with self.accelerator.accumulate(self.discriminator):
                drawn = self.draw(micro, player=0)
                loss, accuracy = self.discriminator_loss(batch["input_values"], batch["labels"], *drawn)
                self.accelerator.backward(loss)
                norm = self._update(self.discriminator, self.discriminator_optimizer, self.discriminator_schedule)
                norms["discriminator_norm"] = norm
            values["discriminator_loss"].append(loss.detach())
            values["discriminator_accuracy"].append(accuracy)
        self.bare_discriminator.requires_grad_(False)
        for micro in range(len(batches)):
            with self.accelerator.accumulate(self.generator):
                adversarial, emotion = self.generator_loss(*self.draw(micro, player=1))
                self.accelerator.backward(adversarial + self.gan.emotion_weight * emotion)
                norm = self._update(self.generator, self.generator_optimizer, self.generator_schedule)
                norms["generator_norm"] = norm
            values["generator_loss"].append(adversarial.detach())
            values["emotion_loss"].append(emotion.detach())
        self.average.update_parameters(self.bare_generator)
        return {name: torch.stack(value).mean() for name, value in values.items()} | norms

    def _update(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> torch.Tensor:
        """Clip and update once the gradients are complete; their norm before clipping, 0 until then."""
        if not self.accelerator.sync_gradients:
            return torch.tensor(0.0)
        # accelerate's own clip_grad_norm_ would unscale the other network's optimizer too.
        self.accelerator.unscale_gradients(optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.training.max_grad_norm or math.inf)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return norm

    # The whole training

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of real windows without end, from the current step on."""
        done = self.step * self.training.gradient_accumulation_steps
        while True:
            self.sampler.epoch, skipped = divmod(done, len(self.loader))
            self.transform.set_epoch(self.sampler.epoch)
            for batch in self.accelerator.skip_first_batches(self.loader, skipped):
                yield batch
                done += 1

    def train(self) -> Quality:
        """Train up to `gan_steps`; every `measure_steps`, measure, draw samples and save.

        Returns:
            The quality of the generator that was kept, with its `step`.

        Raises:
            GanError: when a loss or a gradient is not finite; the message names the last checkpoint.
            OutOfMemory: the message names the flag to lower.
            Terminated: after SIGTERM, once the step is finished and saved.
        """
        self.accelerator.init_trackers("gan")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if not self.history:
            self._measure()
        hidden = self.training.disable_tqdm or not self.accelerator.is_main_process
        bar = tqdm(total=self.gan.gan_steps, initial=self.step, desc="GAN", unit="step", disable=hidden)
        batches = self.batches()
        with signals.deferred(), faults.loading():
            while self.step < self.gan.gan_steps:
                begin = time.perf_counter()
                with faults.memory(self._advice):
                    values = self.learn(list(islice(batches, self.training.gradient_accumulation_steps)))
                self.step += 1
                self._log(values, bar)  # waits for the device
                self.seconds += time.perf_counter() - begin
                stopping = signals.stopping()
                due = self.step % self.gan.measure_steps == 0 or self.step == self.gan.gan_steps
                if due:
                    self._measure()
                if due or stopping:
                    saved = self.save()
                if stopping:
                    raise signals.Terminated(self.step, saved)
        bar.close()
        self.accelerator.end_training()
        return self.best

    @property
    def _advice(self) -> str:
        accumulated = self.training.gradient_accumulation_steps
        return (
            f"lower gan_batch_size ({self.gan.gan_batch_size}) and raise gradient_accumulation_steps ({accumulated}) "
            "by as much, in a new training."
        )

    def _log(self, values: dict[str, torch.Tensor], bar: tqdm) -> None:
        stacked = self.accelerator.reduce(torch.stack(list(values.values())), "mean")
        means = dict(zip(values, stacked.tolist(), strict=True))
        # With loss scaling, gradients overflow occasionally, and the step is skipped.
        scaled = self.training.precision == "fp16"
        watched = [value for name, value in means.items() if not (scaled and name.endswith("norm"))]
        if not all(math.isfinite(value) for value in watched):
            last = last_checkpoint(self.folder, run_folder.GAN_STATE)
            kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
            shown = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in means.items())
            raise GanError(
                f"step {self.step}: a loss or gradient is not finite ({shown}); {kept}. "
                "Resuming from it would end here again: train again with lower learning rates, or in fp32."
            )
        self.accuracy = SMOOTHING * self.accuracy + (1 - SMOOTHING) * means["discriminator_accuracy"]
        means["generator_lr"], means["discriminator_lr"] = (
            schedule.get_last_lr()[0] for schedule in (self.generator_schedule, self.discriminator_schedule)
        )
        bar.set_postfix(
            {
                "D": f"{means['discriminator_loss']:.2f}",
                "G": f"{means['generator_loss']:.2f}",
                "emotion": f"{means['emotion_loss']:.3f}",
                "lr D": f"{means['discriminator_lr']:.1e}",
                "lr G": f"{means['generator_lr']:.1e}",
                "FD": f"{self.history[-1]['frechet']:.3g}",
            }
        )
        bar.update()
        pace = self.training.logging_steps  # as in Trainer, below 1 a share of all steps
        if self.step % math.ceil(pace if pace >= 1 else pace * self.gan.gan_steps) == 0:
            self.accelerator.log(means, step=self.step)

    @property
    def peak_gpu_bytes(self) -> int | None:
        """The most GPU memory that this process's tensors have used since `train` began; None without a GPU."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

    @property
    def best(self) -> Quality:
        """The measured step with the smallest shortfall; the untrained generator only if nothing else was measured."""
        return min(self.history[1:] or self.history, key=lambda quality: quality["shortfall"])

    def _measure(self) -> None:
        """Measure the averaged generator; save it if it is the best so far."""
        measured: list[Quality | None] = [None]
        if self.accelerator.is_main_process and self.meter:
            quality = self.meter.measure(self.averaged_generator, self.history[0] if self.history else None)
            measured[0] = quality | {"step": self.step, "discriminator_accuracy": self.accuracy}
        self.history += broadcast_object_list(measured)
        self.accelerator.log({f"quality/{name}": value for name, value in self.history[-1].items()}, step=self.step)
        if not self.accelerator.is_main_process:
            return
        for alarm in self.alarms(self.history[-1]):
            logger.warning("Step %d: %s.", self.step, alarm)
        self._draw()
        if self.step and self.best is self.history[-1]:
            self.averaged_generator.save_pretrained(self.folder)
            self.bare_discriminator.save_pretrained(self.folder / run_folder.DISCRIMINATOR)

    @staticmethod
    def alarms(quality: Quality) -> list[str]:
        """Warnings about a measured step."""
        alarms = []
        if quality["discriminator_accuracy"] > WON:
            alarms.append(
                f"the discriminator wins, {quality['discriminator_accuracy']:.0%} of its decisions are right, and the "
                "generator learns little: lower discriminator_learning_rate"
            )
        if quality["nearest"] < COPIES:
            alarms.append(
                f"windows are copies: the nearest learnt one is {quality['nearest']:.2f} times as far away as from a "
                "real window"
            )
        return alarms

    def _draw(self) -> None:
        """Plot the measures so far, and a grid of synthetic windows beside those of real songs of similar emotion."""
        gan.plot_quality(self.folder, self.history, self.meter.real if self.meter else {})
        axes = [np.quantile(self.labels[:, column], QUANTILES) for column in (0, 1)]
        requested = np.stack(np.meshgrid(*axes), axis=-1)  # (arousals, valences, 2)
        cells = requested.reshape(-1, 2)
        nearest = [int(np.square(self.labels - emotion).sum(1).argmin()) for emotion in cells]
        real = np.concatenate(list(song_windows(self.songs.select(nearest), self.extractor, 1)))
        made = self.averaged_generator.generate(cells, seed=self.training.seed).cpu().numpy()
        made, real = (windows.reshape(*requested.shape[:2], *windows.shape[1:]) for windows in (made, real))
        gan.plot_samples(self.folder, self.step, made, real, axes)

    # Stopping and resuming

    def save(self) -> Path:
        """Write `checkpoint-<step>`, for `resume`; only the last `save_total_limit` ones are kept."""
        folder = self.folder / f"checkpoint-{self.step}"
        part = folder.with_suffix(".part")
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(part)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.averaged_generator.save_pretrained(part / "average")
            state = {"step": self.step, "accuracy": self.accuracy, "history": self.history}
            (part / run_folder.GAN_STATE).write_text(json.dumps(state, indent=2) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            if self.training.save_total_limit:
                for old in checkpoints(self.folder, run_folder.GAN_STATE)[: -self.training.save_total_limit]:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return folder

    def resume(self, checkpoint: str | Path) -> None:
        """Resume from the folder that `save` wrote last, with the settings that the run was started with."""
        self.accelerator.load_state(str(checkpoint))
        state = json.loads((Path(checkpoint) / run_folder.GAN_STATE).read_text())
        self.step, self.accuracy, self.history = state["step"], state["accuracy"], state["history"]
        average = MelGenerator.from_pretrained(Path(checkpoint) / "average", dtype=torch.float32)
        self.averaged_generator.load_state_dict(average.state_dict(), strict=True)
        self.average.n_averaged.fill_(self.step)
