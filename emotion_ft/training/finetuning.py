"""One fine-tuning run: training, calibration, a single evaluation on the test songs, and the files in its folder."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers.trainer_utils import PredictionOutput, TrainOutput

from .. import run_folder
from ..config.settings import Config
from ..data import targets
from ..data.augment import EvaluationTransform, TrainingTransform, with_transform
from ..data.features import BadFile
from ..data.leaks import refuse_leaks
from ..data.scale import from_unit
from ..data.songs import collections_of, labels_of
from ..faults import writing
from ..hub import push, repository
from ..inference.predict import predict_curves
from ..modeling import ASTEmotionFeatureExtractor
from ..reports import cards, environment, page, song_plots, training_plots
from ..scoring import baselines, curves, intervals
from ..scoring import scores as scoring
from ..scoring.metrics import DIMENSIONS
from . import checkpoints, inputs, provenance
from .embeddings import Embedded, embed
from .synthetic_windows import mix_synthetic
from .trainer import EmotionTrainer, check_metric

logger = logging.getLogger(__name__)


class Finished(NamedTuple):
    """The results of a finished run."""

    folder: Path
    predictions: pd.DataFrame  # one row per test song
    scores: pd.DataFrame  # from `scoring.scores.score_systems`
    curve_scores: pd.DataFrame | None  # of emotion over time, if the labels are dynamic
    results: dict[str, Any]  # the contents of `all_results.json`
    address: str | None = None  # on the Hub, if the run was pushed


def run_finetuning(config: Config) -> Finished | None:
    """Fine-tune according to a configuration, from audio files to a finished output folder.

    Returns None on processes other than the first. Raises `UsageError` for whatever the user can fix.
    """
    training = config.training
    check_metric(training)
    send = push.plan_push(training, training.output_dir)
    with writing(training.output_dir, "output_dir"):
        # Before the folder is cleared: an earlier run is not removed for weights that are missing.
        start = inputs.find_checkpoint(config.model)
        checkpoint = checkpoints.prepare_output_dir(training)
        inputs.make_deterministic(training)
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
        config: its output folder was prepared by `checkpoints.prepare_output_dir`.
        extractor: the front end of the songs' log-mels.
        songs, bad_files: from `inputs.store_features`; the test split's description names the protocol.
        checkpoint: to resume from.
        start: the folder of the weights to start from, from `inputs.find_checkpoint`.

    Returns the results, or None on processes other than the first. Raises `SplitError` if a song, an artist or a
    synthetic window crosses into evaluation, directly or through the checkpoint that the run starts or resumes from.
    """
    _refuse_leaks(config, songs, checkpoint)
    selecting, calibrating = inputs.calibration_songs(config, songs["validation"])
    trainer, evaluated, synthetic = make_trainer(config, extractor, songs, selecting, start)
    if trainer.is_world_process_zero():
        inputs.save_inputs(config, songs, bad_files)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    validation = trainer.predict(evaluated, metric_key_prefix="validation")
    if calibrating is None:
        halfwidths = _calibrate(trainer, selecting, validation)
    else:
        apart = with_transform(calibrating, EvaluationTransform(extractor))
        halfwidths = _calibrate(trainer, calibrating, trainer.predict(apart, metric_key_prefix="calibration"))
    trainer.save_model()
    test = with_transform(songs["test"], EvaluationTransform(extractor))
    output = trainer.predict(test, metric_key_prefix="test")
    if not trainer.is_world_process_zero():
        return None
    facts = _facts(config, songs, trainer, trained) | {"synthetic_windows": synthetic, "bad_files": len(bad_files)}
    facts |= {"validation_songs": len(selecting), "calibration_songs": len(calibrating or ())}
    facts["validation_mean_ccc"] = (validation.metrics or {})["validation_mean_ccc"]
    scored = _score(config, extractor, songs, trainer, output, halfwidths)
    finished = scored._replace(results=facts | scored.results)
    folder, table, scores, curve_scores, results, _ = finished
    repository.add_pipeline(folder)
    training_plots.plot_learning_curve(folder, trainer.state, trainer.args.unfreeze_at)
    write_held_out(folder, table, scores, curve_scores, results, songs["test"], extractor)
    cards.write_model_card(folder, results=results)
    page.write_page(folder, results)
    run_folder.write_results(folder, results)  # last, since it marks the run as finished
    return finished


def _refuse_leaks(config: Config, songs: DatasetDict, checkpoint: str | None) -> None:
    refuse_leaks(songs, config.data.group_by_artist)
    if checkpoint:
        provenance.refuse_another_split(Path(checkpoint).parent, songs)
    elif config.model.checkpoint:
        provenance.refuse_seen(config.model.checkpoint, songs, config.data.group_by_artist)


def make_trainer(
    config: Config, extractor: ASTEmotionFeatureExtractor, songs: DatasetDict, selecting: Dataset, start: Path | None
) -> tuple[EmotionTrainer, Any, int]:
    """The trainer, the songs that select its weights, and the number of synthetic windows among its training songs."""
    training = config.training
    train: Dataset | Embedded = training_windows(config, extractor, songs)
    validation: Dataset | Embedded = with_transform(selecting, EvaluationTransform(extractor))
    model = inputs.build_model(config, extractor, start)
    if training.freeze == "always":
        sizes = (training.per_device_train_batch_size, training.per_device_eval_batch_size)
        train = embed(model, train, training, "train", training.frozen_crops, sizes[0])
        validation = embed(model, validation, training, "validation", batch_size=sizes[1])
    trainer = EmotionTrainer(
        model=model, args=training, train_dataset=train, eval_dataset=validation, processing_class=extractor
    )
    return trainer, validation, len(train) - len(songs["train"])


def training_windows(config: Config, extractor: ASTEmotionFeatureExtractor, songs: DatasetDict) -> Dataset:
    """The training songs as input for the trainer."""
    if config.synthetic.gan:
        return mix_synthetic(config, songs, extractor)
    target = targets.SongTarget()
    if config.data.labels == "dynamic":
        target = targets.CurveTarget()
    elif config.data.label_weights == "agreement":
        target = targets.AgreementTarget(songs["train"])
    transform = TrainingTransform(extractor, config.spec_augment, config.training.seed, target)
    return with_transform(songs["train"], transform)


def _calibrate(trainer: EmotionTrainer, songs: Dataset, output: PredictionOutput) -> np.ndarray | None:
    """Half-widths (2,) of prediction intervals from held-out songs; stored in the model's configuration."""
    level, halfwidths = trainer.args.interval_level, None
    if len(songs) >= (least := intervals.songs_needed(level)):
        halfwidths = intervals.conformal_halfwidths(from_unit(output.predictions), labels_of(songs), level)
    else:
        logger.warning("no prediction intervals: level %g needs %d songs to calibrate", level, least)
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
    """Score the model and the baselines on the test songs."""
    test, systems = songs["test"], {"model": from_unit(output.predictions)}
    systems |= baselines.baseline_predictions(songs["train"], test, extractor)
    table = scoring.predictions_table(test, systems)
    scores, curve_scores = scoring.score_systems(table), None
    results: dict[str, Any] = {"labels": scores.index[0][0], **scoring.flat(scores)}
    if halfwidths is not None:
        covered = intervals.coverage(scoring.system_predictions(table, "model"), labels_of(test), halfwidths)
        results["interval_level"] = config.training.interval_level
        for dimension, halfwidth, share in zip(DIMENSIONS, halfwidths, covered, strict=True):
            results |= {f"interval_{dimension}": float(halfwidth), f"test_{dimension}_coverage": float(share)}
    if config.data.labels == "dynamic":
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        predicted = predict_curves(model, extractor, test, config.training.per_device_eval_batch_size * 4)
        curve_scores = curves.score_curves(predicted, curves.annotated_curves(test))
        results |= curves.flat(curve_scores)
    return Finished(Path(config.training.output_dir), table, scores, curve_scores, results)


def _facts(config: Config, songs: DatasetDict, trainer: EmotionTrainer, trained: TrainOutput) -> dict[str, Any]:
    """Facts about songs, labels, split, training and machine, for `all_results.json`."""
    checkpoint = config.model.checkpoint
    return {
        "protocol": songs["test"].info.description,
        "collections": collections_of(*songs.values()),
        "split": inputs.split_facts(config),
        "label_weights": config.data.label_weights,
        **{f"{name}_songs": len(side) for name, side in songs.items()},
        "epochs": trainer.state.epoch,
        "train_runtime": trained.metrics["train_runtime"],
        "train_loss": trained.training_loss,
        "kept_step": trainer.kept_step,
        "kept_phase": trainer.kept_phase,
        "base_model": checkpoint if checkpoint and not Path(checkpoint).exists() else None,  # on the Hub
        **environment.environment(config.training.device),
    }


def write_held_out(
    folder: Path,
    table: pd.DataFrame,
    scores: pd.DataFrame,
    curve_scores: pd.DataFrame | None,
    results: dict[str, Any],
    songs: Dataset,
    extractor: ASTEmotionFeatureExtractor,
) -> None:
    """Write predictions and scores of held-out songs, and their plots, into `folder`."""
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    if curve_scores is not None:
        run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
    song_plots.plot_held_out(folder, table, scores, results["protocol"], songs, extractor)
