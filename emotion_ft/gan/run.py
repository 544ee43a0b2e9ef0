"""One GAN training: from the train split of a fine-tuned run to a finished output folder."""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset

from .. import run_folder
from ..config.settings import Config
from ..data.songs import collections_of
from ..faults import writing
from ..hub import push
from ..reports import gan as report
from ..reports.cards import write_gan_card
from ..reports.environment import environment
from ..training.checkpoints import prepare_output_dir
from ..training.inputs import build_extractor, make_deterministic
from .quality import QualityMeter, fidelity, measure_speed
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
    learnt, reference = split_reference(songs, gan.reference_fraction, training.seed)
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
        meter = None
        if main_process:
            meter = QualityMeter(model, extractor, learnt, reference, gan.reference_windows, training.seed)
        trainer = MelGanTrainer(config, extractor, learnt, regressor, meter)
        if checkpoint:
            trainer.resume(checkpoint)
        first = trainer.step
        trainer.train()
        if meter is None:
            return None
        results = {**_facts(config, songs, learnt, reference), **_numbers(trainer, meter, first)}
        predicted = regressor_predictions(regressor, reference, extractor, gan.reference_windows)
        results |= fidelity(*predicted, "_regressor_on_real")
        finished = FinishedGan(folder, run, _table(trainer, meter), results)
        report.write_quality(folder, finished.table)
        write_gan_card(folder, results=results)
        run_folder.write_results(folder, results)
        return finished._replace(address=send()) if send else finished


def _facts(config: Config, songs: Dataset, learnt: Dataset, reference: Dataset) -> dict[str, Any]:
    """Which songs, and which labels."""
    return {
        "protocol": f"{songs.info.description}; the GAN learns from {len(learnt)} of them and is measured on the "
        f"other {len(reference)}, {config.gan.reference_windows} windows each, seed {config.training.seed}",
        "collections": collections_of(songs),
        "labels": config.data.labels,
        "train_songs": len(learnt),
        "reference_songs": len(reference),
    }


def _numbers(trainer: MelGanTrainer, meter: QualityMeter, first: int) -> dict[str, Any]:
    """The quality of the step that was kept and of real windows, alarms, speed and memory."""
    return {
        **trainer.best,
        **environment(trainer.accelerator.device),
        "alarms": {row["step"]: alarms for row in trainer.history if (alarms := trainer.alarms(row))},
        **{f"real_{name}": value for name, value in meter.real.items()},
        "steps_per_second": (trainer.step - first) / trainer.seconds if trainer.seconds else None,
        "peak_gpu_bytes": trainer.peak_gpu_bytes,
        "windows_per_second": measure_speed(trainer.averaged_generator),
    }


def _table(trainer: MelGanTrainer, meter: QualityMeter) -> pd.DataFrame:
    return report.quality_table(
        {
            "real": meter.real,
            "untrained": trainer.history[0],
            f"step {trainer.best['step']}, kept": trainer.best,
            f"step {trainer.step}, last": trainer.history[-1],
        }
    )
