"""One GAN training: from the train split of a fine-tuned run to a finished output folder."""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from datasets import Dataset

from .. import run_folder
from ..config.settings import Config
from ..data.songs import collections_of
from ..faults import writing
from ..hub import push
from ..modeling import MelGenerator
from ..reports import gan as report
from ..reports.cards import write_gan_card
from ..reports.environment import environment
from ..training.checkpoints import prepare_output_dir
from ..training.inputs import build_extractor, make_deterministic
from .quality import Judges, Quality, QualityMeter, fidelity, measure_speed
from .regressor import prepare_regressor, regressor_predictions
from .train_songs import load_train_songs, refuse_changes, split_reference
from .trainer import MelGanTrainer, check_batch

logger = logging.getLogger(__name__)


class FinishedGan(NamedTuple):
    """What a GAN training leaves behind.

    Args:
        folder: of the GAN.
        run: the fine-tuned run whose songs it learnt from.
        table: the quality of real windows, of the untrained generator, of the step that was kept, and of the last one.
        results: what `all_results.json` holds.
        address: on the Hub; None when the GAN was not pushed.
    """

    folder: Path
    run: Path
    table: pd.DataFrame
    results: dict[str, Any]
    address: str | None = None


def run_gan(config: Config) -> FinishedGan | None:
    """Train a GAN as a configuration says, on the training songs of a fine-tuned run.

    Returns:
        The outcome; None on processes other than the first.

    Raises:
        UsageError: for anything that the user can fix; the message says how.
    """
    training, gan = config.training, config.gan
    main_process = not training.process_index
    make_deterministic(training)
    run, folder = Path(gan.finetuned or training.output_dir or ""), Path(gan.gan_output_dir)
    send = push.plan_push(training, folder)
    extractor = build_extractor(config)
    songs, model = load_train_songs(config, run, extractor)
    learnt, selecting, reporting = split_reference(songs, gan.reference_fraction, training.seed)
    check_batch(config, learnt)
    with writing(folder, "gan_output_dir"):
        checkpoint = prepare_output_dir(training, str(folder), run_folder.GAN_STATE)
        if checkpoint:
            refuse_changes(config, run, checkpoint)
        elif main_process:
            config.save(folder)
            extractor.save_pretrained(folder)
            shutil.copytree(run / run_folder.SPLITS, folder / run_folder.SPLITS, dirs_exist_ok=True)
        regressor = prepare_regressor(config, learnt, extractor, resumed=checkpoint is not None)
        selector = reporter = None
        if main_process:
            judges = Judges(model, extractor, learnt, gan.reference_windows)
            selector = QualityMeter(judges, selecting, training.seed)
            reporter = QualityMeter(judges, reporting, training.seed + 1)  # other latents than those that selected
        trainer = MelGanTrainer(config, extractor, learnt, regressor, selector)
        if checkpoint:
            trainer.resume(checkpoint)
        first = trainer.step
        trainer.train()
        if reporter is None:
            return None
        rows = _measure(trainer, reporter)
        results = {**_facts(config, songs, learnt, selecting, reporting), **_numbers(trainer, reporter, rows, first)}
        predicted = regressor_predictions(regressor, reporting, extractor, gan.reference_windows)
        results |= fidelity(*predicted, "_regressor_on_real")
        finished = FinishedGan(folder, run, report.quality_table({"real": reporter.real, **rows}), results)
        report.write_quality(folder, finished.table)
        write_gan_card(folder, results=results)
        run_folder.write_results(folder, results)
        return finished._replace(address=send()) if send else finished


def _facts(config: Config, songs: Dataset, learnt: Dataset, selecting: Dataset, reporting: Dataset) -> dict[str, Any]:
    """Which songs, and which labels."""
    return {
        "protocol": f"{songs.info.description}; the GAN learns from {len(learnt)} of them, {len(selecting)} others "
        f"select the step that is kept, and the last {len(reporting)} measure it with latents of their own, "
        f"{config.gan.reference_windows} windows each, seed {config.training.seed}",
        "collections": collections_of(songs),
        "labels": config.data.labels,
        "train_songs": len(learnt),
        "selecting_songs": len(selecting),
        "reporting_songs": len(reporting),
    }


def _measure(trainer: MelGanTrainer, meter: QualityMeter) -> dict[str, Quality]:
    """The quality of the untrained generator, of the one that was kept, and of the last one, on fresh songs."""
    untrained = meter.measure(trainer.untrained_generator())
    kept = MelGenerator.from_pretrained(trainer.folder, dtype=torch.float32).to(trainer.accelerator.device).eval()
    return {
        "untrained": untrained,
        f"step {trainer.best['step']}, kept": meter.measure(kept, untrained),
        f"step {trainer.step}, last": meter.measure(trainer.averaged_generator, untrained),
    }


def _numbers(trainer: MelGanTrainer, meter: QualityMeter, rows: dict[str, Quality], first: int) -> dict[str, Any]:
    """The quality of the step that was kept and of real windows, alarms, speed and memory."""
    _, kept, _ = rows.values()
    return {
        "step": trainer.best["step"],
        **kept,
        "selecting_shortfall": trainer.best["shortfall"],
        "discriminator_accuracy": trainer.best["discriminator_accuracy"],
        **{f"real_{name}": value for name, value in meter.real.items()},
        "effective_dimension": meter.effective_dimension,
        "alarms": {row["step"]: alarms for row in trainer.history if (alarms := trainer.alarms(row))},
        **environment(trainer.accelerator.device),
        "steps_per_second": (trainer.step - first) / trainer.seconds if trainer.seconds else None,
        "peak_gpu_bytes": trainer.peak_gpu_bytes,
        "windows_per_second": measure_speed(trainer.averaged_generator),
    }
