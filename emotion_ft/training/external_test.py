"""A trained model and songs that it has not seen: another collection, and what the model's own folder knows of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig

from .. import run_folder
from ..data.collections.csv_collection import load_collection_file
from ..data.files import first_ids
from ..data.splits import SplitError
from ..scoring.intervals import coverage
from ..scoring.metrics import DIMENSIONS
from ..scoring.scores import predictions_table, read_table, references, system_predictions
from .provenance import same_songs, seen_songs


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
