"""Synthetic windows: made by a generator, among the training songs and nowhere else.

A row marked `synthetic` contains only its number. Its window is drawn again in every epoch, with random numbers keyed
as those of crops are: an emotion distributed as the training songs' are, and a latent. A generator rounds differently
with another batch size or number of threads, so windows are the same to the last bit only if these are the same.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

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
TRIES = 8  # latents drawn per emotion until a model confirms one
KEY = 2**32  # the first key of synthetic windows' random numbers, beyond those of real songs' windows


class SyntheticDataError(UsageError):
    """Synthetic examples where only real ones belong, or an impossible share of them."""


class Generator(Protocol):
    """What makes windows, such as a `MelGenerator`: called with latents, `config.latent_size` long, and emotions."""

    config: Any

    def __call__(self, latent: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor: ...


Confirm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows, requested emotions) -> how far off each predicted emotion is, at most 1 if confirmed, (windows,)."""


def draw_emotions(labels: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) emotions in [-1, 1]: those of songs drawn from `labels` (songs, 2), slightly displaced."""
    chosen = labels[rng.integers(len(labels), size=count)]
    return np.clip(chosen + JITTER * rng.standard_normal(chosen.shape), -1, 1).astype(np.float32)


def refuse_synthetic(songs: Dataset) -> None:
    """Raise a `SyntheticDataError` if a row is marked `synthetic`: only real songs are scored."""
    if "synthetic" in (getattr(songs, "column_names", None) or ()):
        count = int(np.sum(songs.with_format(None)["synthetic"][:]))
        if count:
            raise SyntheticDataError(
                f"expected real songs only, but {count} of {len(songs)} rows are synthetic: they belong in training "
                "only. Evaluate on real songs."
            )


def add_synthetic(songs: Dataset, fraction: float) -> Dataset:
    """Append rows marked `synthetic`, until they are `fraction` of all rows.

    Args:
        songs: stored training songs.
        fraction: in [0, 1).

    Returns:
        A dataset for `SyntheticTransform`. The new rows have the ids -1, -2, ... and the label NaN, as every epoch
        draws new labels for them.
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
    """`TrainingTransform` for the rows of `add_synthetic`: real ones are cropped, synthetic ones generated.

    Args:
        extractor, augmentation, seed: as for `TrainingTransform`; synthetic windows are masked too.
        generator: makes the windows, on the CPU.
        labels: the training songs', (songs, 2), on 1-9.
        confirm: other latents are tried while it returns more than 1, up to `TRIES` in all; then the best one is kept.
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
        examples: dict[bool, Iterator] = {
            False: zip(*super().__call__(real).values(), strict=True) if real["song_id"] else iter(()),
            True: zip(*self.make(numbers).values(), strict=True) if numbers else iter(()),
        }
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
