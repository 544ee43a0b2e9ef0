"""Evaluation of a trained model on songs that it has not seen: a side of its split, or another collection."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig

from .. import run_folder
from ..config.parser import parse_config
from ..data.collections.csv_collection import load_collection_file
from ..data.files import first_ids
from ..data.songs import collections_of
from ..data.splits import SplitError
from ..inference import loading, predict
from ..reports.tables import coverage_text
from ..scoring import curves as curve_scoring
from ..scoring import scores as scoring
from ..scoring.intervals import coverage
from ..scoring.metrics import DIMENSIONS
from . import inputs, provenance


class Evaluation(NamedTuple):
    """The results of a model on songs that it has not seen."""

    name: str  # of the side of the split, or of the collection
    scores: pd.DataFrame  # of the model, and of the mean training label if it is known
    curve_scores: pd.DataFrame | None  # of emotion over time, if requested
    coverage: str | None  # a sentence on the prediction intervals, if the model has any
    results: dict[str, Any]  # all numbers, `protocol`, and `trained`, the protocol of the model's training


def run_evaluation(
    model: str | Path,
    data_root: str | None = None,
    collection: str | None = None,
    songs: str = "test",
    labels: Literal["repaired", "distributed", "dynamic"] | None = None,
    split: str | None = None,
    curves: bool = False,
    num_proc: int = 1,
    batch_size: int = 16,
) -> Evaluation:
    """Score a trained model on one side of its split, or on another collection.

    Args:
        model: the folder of a run.
        data_root: of the songs; None: as in the model's training.
        collection: the YAML file of another collection, all of whose songs are tested on.
        songs: the side of the split.
        labels: their treatment; None: as in the model's training.
        split: a folder of id lists, in place of the model's own.
        curves: whether to score emotion over time too.
        num_proc: processes that compute log-mels.
        batch_size: windows per forward pass.

    Raises `UsageError` for whatever the user can fix.
    """
    model_dir = Path(model)
    network, extractor = loading.load_model(model_dir)
    # Earlier versions wrote label_smoothing beside a hinge loss.
    unused = ("--rendered_songs", "0", "--precision", "fp32", "--adversarial_loss", "bce")
    config = parse_config([str(model_dir / run_folder.CONFIG), *unused])
    if data_root:
        config.data.data_root, config.data.prepared = data_root, None
    config.data.labels, config.data.num_proc = labels or config.data.labels, num_proc
    if collection:
        found = load_external(collection, data_root, model_dir)
    else:
        found = inputs.load_side(config.data, split or str(model_dir / run_folder.SPLITS), songs)
        if split and songs != "train":
            refuse_known(found[songs], model_dir)
    (name,) = found
    stored = inputs.store_features(found, extractor, config.data)[0][name]
    annotated = curve_scoring.with_curves(stored) if curves else None
    table = predicted(stored, predict.predict_songs(network, extractor, stored, batch_size), model_dir)
    scores, curve_scores = scoring.score_systems(table), None
    finished = (model_dir / run_folder.RESULTS).is_file()
    results = {
        "trained": run_folder.read_results(model_dir)["protocol"] if finished else "of an unfinished run",
        "protocol": stored.info.description,
        "collections": collections_of(stored),
        "songs": len(stored),
        **scoring.flat(scores),
    }
    if annotated is not None:
        predictions = predict.predict_curves(network, extractor, annotated, batch_size)
        curve_scores = curve_scoring.score_curves(predictions, curve_scoring.annotated_curves(annotated))
        results |= curve_scoring.flat(curve_scores)
    return Evaluation(name, scores, curve_scores, coverage_line(table, network.config), results)


def load_external(collection: str | Path, root: str | None, model_dir: str | Path) -> DatasetDict:
    """The songs of another collection, by its name; the description counts those whose artist the model has seen.

    `collection` is a YAML file whose paths are relative to `root`. Raises `SplitError` if the model in `model_dir` was
    trained or selected on some of the songs.
    """
    songs = load_collection_file(collection, root)
    shared = provenance.same_songs(songs, model_dir)
    songs.info.description += (
        f"; all songs, an external test; {shared} of {len(songs)} songs share an artist with the songs trained on"
    )
    return DatasetDict({songs["source"][0]: songs})


def refuse_known(songs: Dataset, model_dir: str | Path) -> None:
    """Raise a `SplitError` if a model was trained or selected on some of these songs."""
    if known := sorted(set(songs["song_id"]) & set(provenance.seen_songs(model_dir)["song_id"])):
        raise SplitError(
            f"the model in '{model_dir}' was trained or selected on {len(known)} of these {len(songs)} songs: "
            f"{first_ids(known)}. Leave out --split to use its own, or ask for --songs train."
        )


def predicted(songs: Dataset, predictions: np.ndarray, model_dir: str | Path) -> pd.DataFrame:
    """`scores.predictions_table` of the model (songs, 2), and of the mean training label if its folder lists them."""
    systems = {"model": predictions}
    if Path(model_dir, run_folder.SONGS).is_file():
        labels = scoring.read_table(Path(model_dir, run_folder.SONGS)).query("split == 'train'")[list(DIMENSIONS)]
        systems["mean"] = np.tile(labels.mean().to_numpy(), (len(songs), 1))
    return scoring.predictions_table(songs, systems)


def coverage_line(table: pd.DataFrame, config: PretrainedConfig) -> str | None:
    """How many of these songs the model's prediction intervals cover; None if it has none."""
    if config.interval_halfwidths is None:
        return None
    predictions, labels = scoring.system_predictions(table, "model"), scoring.references(table)
    covered = coverage(predictions, labels, config.interval_halfwidths)
    listed = coverage_text(config.interval_halfwidths, covered.tolist(), len(table))
    return f"Intervals of level {config.interval_level:g}, from the model's validation songs: {listed}."
