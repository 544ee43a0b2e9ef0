"""The accelerate loop of the conditional mel GAN."""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

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
from .quality import Quality, QualityMeter, shortfall, song_windows

logger = logging.getLogger(__name__)

WON = 0.95  # of the discriminator's decisions right, smoothed over some fifty steps
SMOOTHING = 0.98
COPIES = 0.5  # of the distance between real windows of different songs
QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)  # of the songs' valence and arousal, where samples are drawn


class GanError(UsageError):
    """A GAN that cannot be trained, or not any further."""


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

    Every random number is keyed by (seed, step), so that a resumed run ends in the same weights. The generator that is
    kept is a moving average over steps, the one with the smallest `quality.shortfall`.

    Args:
        config: its sections `gan` and `training`.
        extractor: the front end.
        songs: the stored songs to learn from; nothing else is ever read.
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
        gan, training = config.gan, config.training
        self.gan, self.training = gan, training
        self.folder = Path(gan.gan_output_dir)
        self.extractor, self.meter = extractor, meter
        self.songs, self.labels = songs, to_unit(labels_of(songs))
        self.accelerator = Accelerator(
            mixed_precision="no" if training.precision == "fp32" else training.precision,
            cpu=training.use_cpu,
            log_with=training.report_to or None,
            project_config=ProjectConfiguration(self.folder, logging_dir=self.folder / run_folder.TRACKING),
            step_scheduler_with_optimizer=False,  # else every process would step the schedule
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                training.gradient_accumulation_steps, sync_with_dataloader=False
            ),
            # The discriminator runs twice before a backward pass; its buffers are the same everywhere as it is.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        check_batch(config, songs)
        torch.manual_seed(training.seed)
        networks = MelGenerator(regressor.config), MelDiscriminator(regressor.config)
        for network in networks:
            network.set_bands(regressor.band_mean.cpu(), regressor.band_std.cpu())
        rates = gan.generator_learning_rate, gan.discriminator_learning_rate
        optimizers = [self._optimizer(network, rate) for network, rate in zip(networks, rates, strict=True)]
        warmup = math.ceil(gan.gan_warmup * gan.gan_steps)
        schedules = [get_scheduler(training.lr_scheduler_type, o, warmup, gan.gan_steps) for o in optimizers]
        self.transform = TrainingTransform(extractor, None, training.seed)
        self.sampler = EpochSampler(len(songs), training.seed)
        loader = DataLoader(
            with_transform(songs, self.transform),
            batch_size=gan.gan_batch_size,
            sampler=self.sampler,
            drop_last=True,
            num_workers=training.dataloader_num_workers,
        )
        (
            self.generator,
            self.discriminator,
            self.generator_optimizer,
            self.discriminator_optimizer,
            self.generator_schedule,
            self.discriminator_schedule,
            self.loader,
        ) = self.accelerator.prepare(*networks, *optimizers, *schedules, loader)
        self.regressor = regressor.to(self.accelerator.device)
        # Without DDP's wrapper: its hooks must not see what only passes through a network.
        self.bare_generator = self.accelerator.unwrap_model(self.generator)
        self.bare_discriminator = self.accelerator.unwrap_model(self.discriminator)
        self.average = AveragedModel(self.bare_generator, multi_avg_fn=get_ema_multi_avg_fn(gan.ema_decay))
        self.average.eval()
        self.discriminator_criterion, self.generator_criterion = losses.adversarial(
            gan.adversarial_loss, gan.label_smoothing
        )
        self.step = 0
        self.seconds = 0.0  # spent learning since this process began, measures apart
        self.accuracy = 0.5
        self.history: list[Quality] = []

    def _optimizer(self, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        betas = (self.gan.gan_beta1, self.gan.gan_beta2)
        return torch.optim.AdamW(network.parameters(), rate, betas, weight_decay=self.training.weight_decay)

    # One step

    def draw(self, micro: int, player: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and emotions of this process's rows of a batch of fakes.

        Drawn for the batch of all processes together, keyed by step, micro-batch and who learns from them: two
        processes learn from the fakes that one would learn from with twice the batch.
        """
        size, processes = self.gan.gan_batch_size, self.accelerator.num_processes
        rng = np.random.default_rng([self.training.seed, self.step, micro, 0, player])
        latent = rng.standard_normal((size * processes, self.gan.latent_size), dtype=np.float32)
        emotion = draw_emotions(self.labels, rng, size * processes)
        rows = slice(size * self.accelerator.process_index, size * (self.accelerator.process_index + 1))
        latent, emotion = torch.from_numpy(latent[rows]), torch.from_numpy(emotion[rows])
        return latent.to(self.accelerator.device), emotion.to(self.accelerator.device)

    def discriminator_loss(
        self, windows: torch.Tensor, labels: torch.Tensor, latent: torch.Tensor, emotion: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The discriminator's loss and its accuracy; no gradient reaches the generator."""
        with self.accelerator.autocast():
            with torch.no_grad():
                fakes = self.bare_generator(latent, emotion)
            real, fake = self.discriminator(windows, labels).float(), self.discriminator(fakes, emotion).float()
        return self.discriminator_criterion(real, fake), losses.discriminator_accuracy(real, fake)

    def generator_loss(self, latent: torch.Tensor, emotion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator's adversarial loss and its emotion term."""
        with self.accelerator.autocast():
            fakes = self.generator(latent, emotion)
            fake = self.bare_discriminator(fakes, emotion).float()
            heard = self.regressor(fakes)
        return self.generator_criterion(fake), losses.emotion_term(heard, emotion)

    def learn(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One update of the discriminator, then one of the generator, each over all micro-batches.

        One after the other and not in turns: loss scaling may change at an update, and gradients that are still being
        accumulated would then be of two scales.
        """
        values = {"discriminator_loss": [], "discriminator_accuracy": [], "generator_loss": [], "emotion_loss": []}
        norms = {}
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

    def _update(self, network: nn.Module, optimizer, schedule) -> torch.Tensor | None:
        """The norm of the gradients before clipping, once they are complete."""
        if not self.accelerator.sync_gradients:
            return None
        # accelerate's own clip_grad_norm_ would unscale the other network's optimizer too.
        self.accelerator.unscale_gradients(optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.training.max_grad_norm or math.inf)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return norm

    # The whole training

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of real windows without end, from where the run stands."""
        done = self.step * self.training.gradient_accumulation_steps
        while True:
            self.sampler.epoch, skipped = divmod(done, len(self.loader))
            self.transform.set_epoch(self.sampler.epoch)
            for batch in self.accelerator.skip_first_batches(self.loader, skipped):
                yield batch
                done += 1

    def train(self) -> Quality:
        """Train up to `gan_steps`, measuring, drawing and saving on the way.

        Returns:
            The quality of the generator that was kept, with its `step`.

        Raises:
            GanError: when a loss is not finite; the message names the last checkpoint.
            OutOfMemory: naming the flag to lower.
            Terminated: when SIGTERM has come; the step is finished and saved.
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
            "by as much, in a training anew."
        )

    def _log(self, values: dict[str, torch.Tensor], bar: tqdm) -> None:
        stacked = self.accelerator.reduce(torch.stack(list(values.values())), "mean")
        means = dict(zip(values, stacked.tolist(), strict=True))
        # With loss scaling, gradients overflow now and then, and the step is skipped.
        watched = [v for name, v in means.items() if self.training.precision != "fp16" or not name.endswith("norm")]
        if not all(math.isfinite(value) for value in watched):
            last = last_checkpoint(self.folder, run_folder.GAN_STATE)
            kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
            shown = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in means.items())
            raise GanError(
                f"step {self.step}: a loss or gradient is not finite ({shown}); {kept}. "
                "Going on from it would end here again: train anew with lower learning rates, or in fp32."
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
        pace = self.training.logging_steps  # below 1, as in Trainer, a share of all steps
        if self.step % math.ceil(pace if pace >= 1 else pace * self.gan.gan_steps) == 0:
            self.accelerator.log(means, step=self.step)

    @property
    def peak_gpu_bytes(self) -> int | None:
        """The most memory that this process's tensors took on a GPU since `train` began; None without one."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

    @property
    def best(self) -> Quality:
        """The measured step with the smallest shortfall; the untrained generator only when there is no other."""
        return min(self.history[1:] or self.history, key=lambda quality: quality["shortfall"])

    def _measure(self) -> None:
        """Measure the averaged generator; keep it when it is the best so far."""
        quality = None
        if self.accelerator.is_main_process:
            quality = self.meter.measure(self.average.module)
            untrained = self.history[0] if self.history else quality
            quality |= {
                "step": self.step,
                "frechet_share": quality["frechet"] / untrained["frechet"],
                "shortfall": shortfall(quality, self.meter.real, untrained),
                "discriminator_accuracy": self.accuracy,
            }
        self.history += broadcast_object_list([quality])
        self.accelerator.log({f"quality/{name}": value for name, value in self.history[-1].items()}, step=self.step)
        if not self.accelerator.is_main_process:
            return
        for alarm in self.alarms(self.history[-1]):
            logger.warning("Step %d: %s.", self.step, alarm)
        self._draw()
        if self.step and self.best is self.history[-1]:
            self.average.module.save_pretrained(self.folder)
            self.bare_discriminator.save_pretrained(self.folder / run_folder.DISCRIMINATOR)

    @staticmethod
    def alarms(quality: Quality) -> list[str]:
        """What is wrong with a measured step beyond what its numbers say."""
        alarms = []
        if quality["discriminator_accuracy"] > WON:
            alarms.append(
                f"the discriminator wins, {quality['discriminator_accuracy']:.0%} of its decisions are right, and the "
                "generator learns little: lower discriminator_learning_rate"
            )
        if quality["nearest"] < COPIES:
            alarms.append(
                f"windows lie at {quality['nearest']:.2f} of real windows' distance to the nearest learnt one: copies"
            )
        return alarms

    def _draw(self) -> None:
        """The measures so far, and a grid over the plane: generated windows beside real ones of the nearest songs."""
        gan.plot_quality(self.folder, self.history, self.meter.real)
        axes = [np.quantile(self.labels[:, column], QUANTILES) for column in (0, 1)]
        asked = np.stack(np.meshgrid(*axes), axis=-1)  # (arousals, valences, 2)
        cells = asked.reshape(-1, 2)
        nearest = [int(np.square(self.labels - emotion).sum(1).argmin()) for emotion in cells]
        real = np.concatenate(list(song_windows(self.songs.select(nearest), self.extractor, 1)))
        made = self.average.module.generate(cells, seed=self.training.seed).cpu().numpy()
        grids = (windows.reshape(*asked.shape[:2], *windows.shape[1:]) for windows in (made, real))
        gan.plot_samples(self.folder, self.step, *grids, axes)

    # Stopping and going on

    def save(self) -> Path:
        """Write `checkpoint-<step>`, from which `resume` goes on; the last ones are kept."""
        folder = self.folder / f"checkpoint-{self.step}"
        part = folder.with_suffix(".part")
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(part)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.average.module.save_pretrained(part / "average")
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
        """Go on from the folder that `save` wrote last, with the settings that the run was started with."""
        self.accelerator.load_state(str(checkpoint))
        state = json.loads((Path(checkpoint) / run_folder.GAN_STATE).read_text())
        self.step, self.accuracy, self.history = state["step"], state["accuracy"], state["history"]
        average = MelGenerator.from_pretrained(Path(checkpoint) / "average", dtype=torch.float32)
        self.average.module.load_state_dict(average.state_dict(), strict=True)
        self.average.n_averaged.fill_(self.step)
