"""A trained model and songs that it has not seen: another collection, and what the model's own folder knows of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig

from ..data.csv_collection import load_collection_file
from ..data.leaks import refuse_same_songs
from ..data.songs import artists_of
from ..data.splits import artist_key
from ..errors import UsageError
from .experiment import SONGS_NAME
from .intervals import coverage
from .metrics import DIMENSIONS
from .scores import predictions_table, references, system_predictions


def seen_songs(model_dir: str | Path) -> pd.DataFrame:
    """The songs that a model was trained and selected on: the rows of its `songs.csv` but for the test songs.

    Raises:
        UsageError: when the model's folder does not say.
    """
    path = Path(model_dir, SONGS_NAME)
    if not path.is_file():
        raise UsageError(f"'{model_dir}' does not say which songs it was trained on: no {SONGS_NAME}.")
    songs = pd.read_csv(path)
    return songs[songs["split"] != "test"].reset_index(drop=True)


def load_external(collection: str | Path, root: str | None, model_dir: str | Path) -> DatasetDict:
    """The songs of another collection, under its name; its description counts those whose artist the model knows.

    Args:
        collection: a YAML file for `load_collection_file`.
        root: what its paths are relative to.
        model_dir: the model's folder.

    Raises:
        SplitError: when songs of it were trained or selected on.
    """
    songs, seen = load_collection_file(collection, root), seen_songs(model_dir)
    rows = Dataset.from_pandas(seen[["song_id", "source", *DIMENSIONS]], preserve_index=False)
    refuse_same_songs(songs, rows, f"tested with the model in '{model_dir}'")
    known = {artist_key(artist) for artist in seen["artist"].dropna()}
    shared = sum(artist_key(artist) in known for artist in artists_of(songs).values())
    songs.info.description += (
        f"; all songs, an external test; {shared} of {len(songs)} songs share an artist with the songs trained on"
    )
    return DatasetDict({songs["source"][0]: songs})


def predicted(songs: Dataset, predictions: np.ndarray, model_dir: str | Path) -> pd.DataFrame:
    """`scores.predictions_table` of the model (songs, 2), and of the mean training label where its folder knows it."""
    systems = {"model": predictions}
    if Path(model_dir, SONGS_NAME).is_file():
        labels = pd.read_csv(Path(model_dir, SONGS_NAME)).query("split == 'train'")[list(DIMENSIONS)]
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
