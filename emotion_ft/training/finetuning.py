"""One fine-tuning run: training, calibration, the single look at the test songs, and what it leaves in its folder."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers.trainer_utils import PredictionOutput, TrainOutput

from .. import run_folder
from ..config.settings import Config
from ..data.augment import EvaluationTransform, TrainingTransform, with_transform
from ..data.features import BadFile
from ..data.leaks import refuse_leaks
from ..data.scale import from_unit
from ..data.songs import collections_of, labels_of
from ..data.targets import AgreementTarget, CurveTarget, SongTarget
from ..faults import writing
from ..hub import push
from ..hub.repository import add_pipeline
from ..inference.predict import predict_curves
from ..modeling import ASTEmotionFeatureExtractor
from ..reports.cards import write_model_card
from ..reports.environment import environment
from ..reports.page import write_page
from ..reports.song_plots import plot_held_out
from ..reports.training_plots import plot_learning_curve
from ..scoring import curves
from ..scoring.baselines import baseline_predictions
from ..scoring.intervals import conformal_halfwidths, coverage, songs_needed
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import flat, predictions_table, score_systems, system_predictions
from . import checkpoints, inputs, provenance
from .embeddings import embed
from .synthetic_windows import mix_synthetic
from .trainer import EmotionTrainer

logger = logging.getLogger(__name__)


class Finished(NamedTuple):
    """What a run leaves behind.

    Args:
        folder: of the run.
        predictions: one row per test song.
        scores: of every system, under every treatment of the labels (`scoring.scores.score_systems`).
        curve_scores: of emotion over time; None unless the labels are dynamic.
        results: what `all_results.json` holds.
        address: on the Hub; None when the run was not pushed.
    """

    folder: Path
    predictions: pd.DataFrame
    scores: pd.DataFrame
    curve_scores: pd.DataFrame | None
    results: dict[str, Any]
    address: str | None = None


def run_finetuning(config: Config) -> Finished | None:
    """Fine-tune as a configuration says, from audio files to a finished output folder.

    Returns:
        The outcome; None on processes other than the first.

    Raises:
        UsageError: for anything that the user can fix; the message says how.
    """
    training = config.training
    send = push.plan_push(training, training.output_dir)
    with writing(training.output_dir, "output_dir"):
        checkpoint = checkpoints.prepare_output_dir(training)
        inputs.make_deterministic(training)
        start = inputs.find_checkpoint(config.model)
        extractor = inputs.build_extractor(config)
        songs = inputs.load_collection(config.data, training.seed)
        songs, bad_files = inputs.store_features(songs, extractor, config.data)
        inputs.write_audit(training.output_dir, config.data)
        finished = finetune(config, extractor, songs, bad_files, checkpoint, start)
        return finished._replace(address=send()) if finished and send else finished


def finetune(
    config: Config,
    extractor: ASTEmotionFeatureExtractor,
    songs: DatasetDict,
    bad_files: list[BadFile],
    checkpoint: str | None = None,
    start: Path | None = None,
) -> Finished | None:
    """Fine-tune on `songs["train"]`, select on `songs["validation"]`, score `songs["test"]` once.

    Args:
        config: with the output folder, which `checkpoints.prepare_output_dir` has prepared.
        extractor: the front end of the songs' log-mels.
        songs: as `inputs.store_features` returns them; the test split's description names the protocol.
        bad_files: what was left out.
        checkpoint: to resume from.
        start: the folder of the weights to start from, of `inputs.find_checkpoint`.

    Returns:
        The outcome; its folder is finished. None on processes other than the first.

    Raises:
        SplitError: when a song, an artist or a synthetic window crosses into evaluation, also by way of the checkpoint
            that the run starts or resumes from.
    """
    _refuse_leaks(config, songs, checkpoint)
    trainer, synthetic = _make_trainer(config, extractor, songs, start)
    if trainer.is_world_process_zero():
        inputs.save_inputs(config, songs, bad_files)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    validation = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    halfwidths = _calibrate(trainer, songs["validation"], validation)
    trainer.save_model()
    test = with_transform(songs["test"], EvaluationTransform(extractor))
    output = trainer.predict(test, metric_key_prefix="test")
    if not trainer.is_world_process_zero():
        return None
    finished = _score(config, extractor, songs, trainer, output, halfwidths)
    finished.results.update(_facts(config, songs, trainer, trained))
    finished.results["synthetic_windows"] = synthetic
    finished.results["bad_files"] = len(bad_files)
    finished.results["validation_mean_ccc"] = validation.metrics["validation_mean_ccc"]
    _write(finished, trainer, songs["test"], extractor)
    return finished


def _refuse_leaks(config: Config, songs: DatasetDict, checkpoint: str | None) -> None:
    refuse_leaks(songs, config.data.group_by_artist)
    if checkpoint:
        provenance.refuse_another_split(Path(checkpoint).parent, songs)
    elif config.model.checkpoint:
        provenance.refuse_seen(config.model.checkpoint, songs, config.data.group_by_artist)


def _make_trainer(
    config: Config, extractor: ASTEmotionFeatureExtractor, songs: DatasetDict, start: Path | None
) -> tuple[EmotionTrainer, int]:
    """The trainer, and how many of its training windows are synthetic."""
    training = config.training
    train = training_windows(config, extractor, songs)
    validation = with_transform(songs["validation"], EvaluationTransform(extractor))
    model = inputs.build_model(config, extractor, start)
    if training.freeze == "always":
        train = embed(model, train, training, "train", training.frozen_crops, training.per_device_train_batch_size)
        validation = embed(model, validation, training, "validation", batch_size=training.per_device_eval_batch_size)
    trainer = EmotionTrainer(
        model=model, args=training, train_dataset=train, eval_dataset=validation, processing_class=extractor
    )
    return trainer, len(train) - len(songs["train"])


def training_windows(config: Config, extractor: ASTEmotionFeatureExtractor, songs: DatasetDict) -> Dataset:
    """The training songs as the trainer takes them."""
    if config.synthetic.gan:
        return mix_synthetic(config, songs, extractor)
    target = SongTarget()
    if config.data.labels == "dynamic":
        target = CurveTarget()
    elif config.data.label_weights == "agreement":
        target = AgreementTarget(songs["train"])
    transform = TrainingTransform(extractor, config.spec_augment, config.training.seed, target)
    return with_transform(songs["train"], transform)


def _calibrate(trainer: EmotionTrainer, songs: Dataset, output: PredictionOutput) -> np.ndarray | None:
    """Half-widths (2,) of the prediction intervals, from the validation songs; kept in the model's configuration."""
    level, halfwidths = trainer.args.interval_level, None
    if len(songs) >= (least := songs_needed(level)):
        halfwidths = conformal_halfwidths(from_unit(output.predictions), labels_of(songs), level)
    else:
        logger.warning("no prediction intervals: level %g needs %d validation songs", level, least)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    model.config.interval_halfwidths = None if halfwidths is None else halfwidths.tolist()
    model.config.interval_level = level
    return halfwidths


def _score(
    config: Config,
    extractor: ASTEmotionFeatureExtractor,
    songs: DatasetDict,
    trainer: EmotionTrainer,
    output: PredictionOutput,
    halfwidths: np.ndarray | None,
) -> Finished:
    """The model and the baselines on the test songs."""
    test, level = songs["test"], config.training.interval_level
    systems = {"model": from_unit(output.predictions)}
    systems |= baseline_predictions(songs["train"], test, extractor.num_mel_bins)
    table = predictions_table(test, systems)
    scores, curve_scores = score_systems(table), None
    results = {"labels": scores.index[0][0], **flat(scores)}
    if halfwidths is not None:
        held = coverage(system_predictions(table, "model"), labels_of(test), halfwidths)
        results["interval_level"] = level
        for dimension, halfwidth, share in zip(DIMENSIONS, halfwidths, held, strict=True):
            results |= {f"interval_{dimension}": float(halfwidth), f"test_{dimension}_coverage": float(share)}
    if config.data.labels == "dynamic":
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        predicted = predict_curves(model, extractor, test, config.training.per_device_eval_batch_size * 4)
        curve_scores = curves.score_curves(predicted, curves.annotated_curves(test))
        results |= curves.flat(curve_scores)
    return Finished(Path(config.training.output_dir), table, scores, curve_scores, results)


def _facts(config: Config, songs: DatasetDict, trainer: EmotionTrainer, trained: TrainOutput) -> dict[str, Any]:
    """Which songs, which labels, which split, and how the training went."""
    return {
        "protocol": songs["test"].info.description,
        "collections": collections_of(*songs.values()),
        "split": inputs.split_facts(config),
        "label_weights": config.data.label_weights,
        **{f"{name}_songs": len(side) for name, side in songs.items()},
        "epochs": trainer.state.epoch,
        "train_runtime": trained.metrics["train_runtime"],
        "train_loss": trained.training_loss,
        "base_model": hub_checkpoint(config),
        **environment(config.training.device),
    }


def hub_checkpoint(config: Config) -> str | None:
    """The repository on the Hub whose weights a run starts from; None for a folder, or random weights."""
    checkpoint = config.model.checkpoint
    return checkpoint if checkpoint and not Path(checkpoint).exists() else None


def _write(finished: Finished, trainer: EmotionTrainer, test: Dataset, extractor: ASTEmotionFeatureExtractor) -> None:
    """Everything beside the model; the results come last, since they mark the run as finished."""
    folder, table, scores, curve_scores, results, _ = finished
    add_pipeline(folder)
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    if curve_scores is not None:
        run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
    plot_learning_curve(folder, trainer.state, trainer.args.unfreeze_at)
    plot_held_out(folder, table, scores, results["protocol"], test, extractor)
    write_model_card(folder, results=results)
    write_page(folder, results)
    run_folder.write_results(folder, results)
