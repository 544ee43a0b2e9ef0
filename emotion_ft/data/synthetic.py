"""Windows that a generator makes, among the training songs and nowhere else.

A row marked `synthetic` holds nothing but its number. What stands in for it is drawn anew in every epoch, keyed as
crops are: an emotion as the training songs have them, and a latent. A generator rounds differently in batches of other
sizes and with other numbers of threads, so windows are the same to the last bit only where these are.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets

from ..config.settings import SpecAugmentConfig
from ..errors import UsageError
from .augment import COLUMNS, TrainingTransform, spec_augment, window_rng
from .front_end import FrontEnd
from .scale import to_unit

JITTER = 0.05  # on [-1, 1]: 0.2 on the 1-9 scale, below the standard error of DEAM's means of ten raters
TRIES = 8  # latents drawn for one emotion until a model confirms it
KEY = 2**32  # where the random numbers of synthetic windows start, after those of real songs' windows


class SyntheticDataError(UsageError):
    """Synthetic examples where only real ones belong, or a share of them that cannot be made."""


class Generator(Protocol):
    """What makes windows: a `MelGenerator`, called with latents and emotions."""

    config: object

    def __call__(self, latent: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor: ...


Confirm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows, asked emotions) -> how far off what is heard is, at most 1 where it is confirmed, (windows,)."""


def draw_emotions(labels: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) emotions in [-1, 1]: those of songs drawn from `labels` (songs, 2), a little displaced."""
    chosen = labels[rng.integers(len(labels), size=count)]
    return np.clip(chosen + JITTER * rng.standard_normal(chosen.shape), -1, 1).astype(np.float32)


def refuse_synthetic(songs: Dataset) -> None:
    """Raise a `SyntheticDataError` if a row is marked `synthetic`: scores are of real songs."""
    if "synthetic" in (getattr(songs, "column_names", None) or ()):
        count = int(np.sum(songs.with_format(None)["synthetic"][:]))
        if count:
            raise SyntheticDataError(
                f"expected real songs only, but {count} of {len(songs)} rows are synthetic: they belong into "
                "training. Evaluate on songs that no generator made."
            )


def add_synthetic(songs: Dataset, fraction: float) -> Dataset:
    """Append rows marked `synthetic`, so that they are `fraction` of all rows.

    Args:
        songs: stored training songs.
        fraction: in [0, 1).

    Returns:
        A dataset for `SyntheticTransform`. The ids of the new rows are -1, -2, ...; their labels are NaN, since every
        epoch draws others.
    """
    if not 0 <= fraction < 1:
        raise SyntheticDataError(f"the synthetic share must lie in [0, 1), got {fraction:g}.")
    refuse_synthetic(songs)
    songs = songs.select_columns([*COLUMNS, "synthetic"])
    count = round(len(songs) * fraction / (1 - fraction))
    columns = {
        "song_id": range(-1, -count - 1, -1),
        "log_mel": [b""] * count,
        "valence": [float("nan")] * count,
        "arousal": [float("nan")] * count,
        "synthetic": [True] * count,
    }
    columns = {name: list(columns[name]) for name in songs.column_names}
    rows = Dataset(pa.Table.from_pydict(columns, schema=songs.features.arrow_schema))
    return concatenate_datasets([songs, rows]) if count else songs


class SyntheticTransform(TrainingTransform):
    """`TrainingTransform` for rows of `add_synthetic`: real ones are cropped, synthetic ones generated.

    Args:
        extractor, augmentation, seed: as for `TrainingTransform`; masks fall on synthetic windows too.
        generator: makes the windows, on the CPU.
        labels: (songs, 2), on 1-9, of the training songs.
        confirm: asks for another latent while what it returns is above 1, up to `TRIES` times; then the best is kept.
    """

    columns = (*COLUMNS, "synthetic")

    def __init__(
        self,
        extractor: FrontEnd,
        augmentation: SpecAugmentConfig | None,
        seed: int,
        generator: Generator,
        labels: np.ndarray,
        confirm: Confirm | None = None,
    ):
        super().__init__(extractor, augmentation, seed)
        self.generator = generator
        self.labels = to_unit(labels)
        self.confirm = confirm

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        marks = rows["synthetic"]
        real = {name: [value for value, mark in zip(rows[name], marks, strict=True) if not mark] for name in COLUMNS}
        numbers = [-song_id for song_id, mark in zip(rows["song_id"], marks, strict=True) if mark]
        batches = {
            False: super().__call__(real) if real["song_id"] else {},
            True: self.make(numbers) if numbers else {},
        }
        examples = {mark: zip(*batch.values(), strict=True) for mark, batch in batches.items()}
        windows, labels = zip(*(next(examples[mark]) for mark in marks), strict=True)
        return {"input_values": list(windows), "labels": list(labels)}

    @torch.no_grad()
    def make(self, numbers: list[int]) -> dict[str, list[torch.Tensor]]:
        """The synthetic windows with these numbers, in this epoch."""
        rngs = [window_rng(self.seed, int(self._epoch), number, KEY) for number in numbers]
        emotion = torch.from_numpy(np.concatenate([draw_emotions(self.labels, rng, 1) for rng in rngs]))
        windows = self._generate(rngs, emotion)
        if self.confirm is not None:
            miss = self.confirm(windows, emotion)
            for _ in range(TRIES - 1):
                again = torch.nonzero(miss > 1).flatten()
                if not len(again):
                    break
                others = self._generate([rngs[i] for i in again], emotion[again])
                others_miss = self.confirm(others, emotion[again])
                better = others_miss < miss[again]
                windows[again[better]], miss[again[better]] = others[better], others_miss[better]
        if self.augmentation is not None:
            for window, rng in zip(windows, rngs, strict=True):
                spec_augment(window.numpy(), self.augmentation, rng)
        return {"input_values": list(windows), "labels": list(emotion)}

    def _generate(self, rngs: list[np.random.Generator], emotion: torch.Tensor) -> torch.Tensor:
        size = self.generator.config.latent_size
        latents = np.stack([rng.standard_normal(size, dtype=np.float32) for rng in rngs])
        return self.generator(torch.from_numpy(latents), emotion)
