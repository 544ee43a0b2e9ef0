"""A trained model and songs that it has not seen: another collection, and what the model's own folder knows of it."""

from pathlib import Path
from typing import Any, NamedTuple

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
from ..inference.loading import load_model
from ..inference.predict import predict_curves, predict_songs
from ..scoring.curves import annotated_curves, score_curves, with_curves
from ..scoring.curves import flat as flat_curves
from ..scoring.intervals import coverage
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import flat, predictions_table, read_table, references, score_systems, system_predictions
from .inputs import load_side, store_features
from .provenance import same_songs, seen_songs


class Evaluation(NamedTuple):
    """A model on songs that it has not seen.

    Args:
        name: of the side of the split, or of the collection.
        scores: of the model, and of the mean training label where it is known.
        curve_scores: of emotion over time, when asked for.
        coverage: a sentence on the prediction intervals; None where the model has none.
        results: all numbers, `protocol`, and `trained`, the protocol of the model's training.
    """

    name: str
    scores: pd.DataFrame
    curve_scores: pd.DataFrame | None
    coverage: str | None
    results: dict[str, Any]


def run_evaluation(
    model: str | Path,
    data_root: str | None = None,
    collection: str | None = None,
    songs: str = "test",
    labels: str | None = None,
    split: str | None = None,
    curves: bool = False,
    num_proc: int = 1,
    batch_size: int = 16,
) -> Evaluation:
    """Score a trained model on one side of its split, or on another collection.

    Args:
        model: the folder of a run.
        data_root: of the songs; None: as the model was trained.
        collection: the YAML file of another collection, tested on as a whole.
        songs: the side of the split.
        labels: their treatment; None: as the model was trained.
        split: another folder of id lists than the model's own.
        curves: also score emotion over time.
        num_proc: processes that compute log-mels.
        batch_size: windows per forward pass.

    Raises:
        UsageError: for anything that the user can fix; the message says how.
    """
    model_dir = Path(model)
    config = parse_config([str(model_dir / run_folder.CONFIG), "--rendered_songs", "0", "--precision", "fp32"])
    if data_root:
        config.data.data_root, config.data.prepared = data_root, None
    config.data.labels = labels or config.data.labels
    config.data.num_proc = num_proc
    network, extractor = load_model(model_dir)
    if collection:
        found = load_external(collection, data_root, model_dir)
    else:
        found = load_side(config.data, split or str(model_dir / run_folder.SPLITS), songs)
        if split and songs != "train":
            refuse_known(found[songs], model_dir)
    (name,) = found
    stored = store_features(found, extractor, config.data)[0][name]
    annotated = with_curves(stored) if curves else None
    table = predicted(stored, predict_songs(network, extractor, stored, batch_size), model_dir)
    scores, curve_scores = score_systems(table), None
    finished = (model_dir / run_folder.RESULTS).is_file()
    results = {
        "trained": run_folder.read_results(model_dir)["protocol"] if finished else "of an unfinished run",
        "protocol": stored.info.description,
        "collections": collections_of(stored),
        "songs": len(stored),
        **flat(scores),
    }
    if annotated is not None:
        predictions = predict_curves(network, extractor, annotated, batch_size)
        curve_scores = score_curves(predictions, annotated_curves(annotated))
        results |= flat_curves(curve_scores)
    return Evaluation(name, scores, curve_scores, coverage_line(table, network.config), results)


def load_external(collection: str | Path, root: str | None, model_dir: str | Path) -> DatasetDict:
    """The songs of another collection, under its name; its description counts those whose artist the model knows.

    Args:
        collection: a YAML file for `load_collection_file`.
        root: what its paths are relative to.
        model_dir: the model's folder.

    Raises:
        SplitError: when songs of it were trained or selected on.
    """
    songs = load_collection_file(collection, root)
    shared = same_songs(songs, model_dir)
    songs.info.description += (
        f"; all songs, an external test; {shared} of {len(songs)} songs share an artist with the songs trained on"
    )
    return DatasetDict({songs["source"][0]: songs})


def refuse_known(songs: Dataset, model_dir: str | Path) -> None:
    """Raise a `SplitError` if a model was trained or selected on some of these songs."""
    if known := sorted(set(songs["song_id"]) & set(seen_songs(model_dir)["song_id"])):
        raise SplitError(
            f"the model in '{model_dir}' was trained or selected on {len(known)} of these {len(songs)} songs: "
            f"{first_ids(known)}. Leave out --split to use its own, or ask for --songs train."
        )


def predicted(songs: Dataset, predictions: np.ndarray, model_dir: str | Path) -> pd.DataFrame:
    """`scores.predictions_table` of the model (songs, 2), and of the mean training label where its folder knows it."""
    systems = {"model": predictions}
    if Path(model_dir, run_folder.SONGS).is_file():
        labels = read_table(Path(model_dir, run_folder.SONGS)).query("split == 'train'")[list(DIMENSIONS)]
        systems["mean"] = np.tile(labels.mean().to_numpy(), (len(songs), 1))
    return predictions_table(songs, systems)


def coverage_line(table: pd.DataFrame, config: PretrainedConfig) -> str | None:
    """How many of these songs the model's prediction intervals hold; None where it is not calibrated."""
    if config.interval_halfwidths is None:
        return None
    held = coverage(system_predictions(table, "model"), references(table), config.interval_halfwidths)
    parts = zip(DIMENSIONS, config.interval_halfwidths, held, strict=True)
    listed = ", ".join(f"{name} ± {halfwidth:.2f} holds {share:.0%}" for name, halfwidth, share in parts)
    return f"Intervals of level {config.interval_level:g}, from the model's validation songs: {listed}."
