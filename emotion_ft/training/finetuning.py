"""One fine-tuning run: training, the single look at the test songs, tables and plots."""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import TrainerState

from .. import run_folder
from ..config.settings import Config
from ..data.augment import EvaluationTransform, TrainingTransform, with_transform
from ..data.features import BadFile
from ..data.leaks import refuse_leaks
from ..data.scale import from_unit
from ..data.songs import labels_of
from ..data.targets import AgreementTarget, CurveTarget, SongTarget
from ..inference.predict import predict_curves
from ..modeling import ASTEmotionFeatureExtractor
from ..reports import song_plots
from ..reports.environment import environment
from ..reports.training_plots import plot_learning_curve
from ..scoring import curves
from ..scoring.baselines import baseline_predictions
from ..scoring.intervals import conformal_halfwidths, coverage, songs_needed
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import flat, predictions_table, score_systems, system_predictions
from . import inputs, provenance
from .embeddings import embed
from .synthetic_windows import mix_synthetic
from .trainer import EmotionTrainer

logger = logging.getLogger(__name__)


class Finished(NamedTuple):
    """What a run says of its test songs: a row a song, the scores, the scores of its curves, and all results."""

    predictions: pd.DataFrame
    scores: pd.DataFrame
    curve_scores: pd.DataFrame | None
    results: dict


def finetune(
    config: Config,
    extractor: ASTEmotionFeatureExtractor,
    songs: DatasetDict,
    bad_files: list[BadFile],
    checkpoint: str | None = None,
) -> Finished | None:
    """Fine-tune on `songs["train"]`, select on `songs["validation"]`, score `songs["test"]` once.

    Args:
        config: with the output folder, which `inputs.prepare_output_dir` has prepared.
        extractor: the front end of the songs' log-mels.
        songs: as `inputs.store_features` returns them; the test split's description names the protocol.
        bad_files: what was left out.
        checkpoint: to resume from.

    Returns:
        The outcome, for the card and for `all_results.json`, which marks the run as finished; None on processes other
        than the first.

    Raises:
        SplitError: when a song, an artist or a synthetic window crosses into evaluation, also by way of the checkpoint
            that the run starts or goes on from.
    """
    training, folder = config.training, config.training.output_dir
    refuse_leaks(songs, config.data.group_by_artist)
    if checkpoint:
        provenance.refuse_another_split(Path(checkpoint).parent, songs)
    elif config.model.checkpoint:
        provenance.refuse_seen(config.model.checkpoint, songs, config.data.group_by_artist)
    train = training_windows(config, extractor, songs)
    validation_set = with_transform(songs["validation"], EvaluationTransform(extractor))
    model = inputs.build_model(config, extractor)
    if training.freeze == "always":
        train = embed(model, train, training, "train", training.frozen_crops, training.per_device_train_batch_size)
        validation_set = embed(
            model, validation_set, training, "validation", batch_size=training.per_device_eval_batch_size
        )
    trainer = EmotionTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=validation_set,
        processing_class=extractor,
    )
    if trainer.is_world_process_zero():
        inputs.save_inputs(config, songs, bad_files)
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    validation = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
    halfwidths = None
    if len(songs["validation"]) >= (least := songs_needed(training.interval_level)):
        halfwidths = conformal_halfwidths(
            from_unit(validation.predictions), labels_of(songs["validation"]), training.interval_level
        )
    else:
        logger.warning("no prediction intervals: level %g needs %d validation songs", training.interval_level, least)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    model.config.interval_halfwidths = None if halfwidths is None else halfwidths.tolist()
    model.config.interval_level = training.interval_level
    trainer.save_model()
    output = trainer.predict(with_transform(songs["test"], EvaluationTransform(extractor)), metric_key_prefix="test")
    if not trainer.is_world_process_zero():
        return None

    systems = {"model": from_unit(output.predictions)}
    systems |= baseline_predictions(songs["train"], songs["test"], extractor.num_mel_bins)
    table = predictions_table(songs["test"], systems)
    scores = score_systems(table)
    curve_scores = None
    if config.data.labels == "dynamic":
        predicted = predict_curves(model, extractor, songs["test"], training.per_device_eval_batch_size * 4)
        curve_scores = curves.score_curves(predicted, curves.annotated_curves(songs["test"]))
    results = {
        "protocol": songs["test"].info.description,
        "labels": scores.index[0][0],
        "label_weights": config.data.label_weights,
        **{f"{name}_songs": len(split) for name, split in songs.items()},
        "synthetic_windows": len(train) - len(songs["train"]),
        "bad_files": len(bad_files),
        "epochs": trainer.state.epoch,
        "train_runtime": outcome.metrics["train_runtime"],
        "train_loss": outcome.training_loss,
        "base_model": hub_checkpoint(config),
        **environment(training.device),
        "validation_mean_ccc": validation.metrics["validation_mean_ccc"],
        **flat(scores),
    }
    if halfwidths is not None:
        held = coverage(system_predictions(table, "model"), labels_of(songs["test"]), halfwidths)
        results["interval_level"] = training.interval_level
        for dimension, halfwidth, share in zip(DIMENSIONS, halfwidths, held, strict=True):
            results |= {f"interval_{dimension}": float(halfwidth), f"test_{dimension}_coverage": float(share)}
    if curve_scores is not None:
        results |= curves.flat(curve_scores)
    finished = Finished(table, scores, curve_scores, results)
    _write(folder, finished, trainer.state, songs["test"], extractor, config)
    return finished


def hub_checkpoint(config: Config) -> str | None:
    """The repository of the Hub whose weights a run starts from; None for a folder, or random weights."""
    checkpoint = config.model.checkpoint
    return checkpoint if checkpoint and not Path(checkpoint).exists() else None


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


def _write(
    folder: str | Path,
    finished: Finished,
    state: TrainerState,
    test: Dataset,
    extractor: ASTEmotionFeatureExtractor,
    config: Config,
) -> None:
    """Tables and plots beside the model."""
    table, scores, curve_scores, results = finished
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    if curve_scores is not None:
        run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
    plot_learning_curve(folder, state, config.training.unfreeze_at)
    song_plots.plot_held_out(folder, table, scores, results["protocol"], test, extractor)
