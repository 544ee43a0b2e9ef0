"""Stored log-mels to model inputs: cropping, standardising and SpecAugment, on the fly by `Dataset.with_transform`.

Every random number is keyed by (seed, epoch, song, window), so a crop is the same in any process, in any order and
after a resume, and global random state is left alone.
"""

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from ..config.settings import SpecAugmentConfig
from .front_end import FrontEnd
from .targets import SongTarget

COLUMNS = ["song_id", "log_mel", *SongTarget.columns]


def window_rng(seed: int, epoch: int, song_id: int, window: int = 0) -> np.random.Generator:
    """The random numbers of one window of one song in one epoch."""
    return np.random.default_rng([seed, epoch, song_id, window])


def spec_augment(window: np.ndarray, config: SpecAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Mask blocks of frames and of mel bands with zero, the mean of a standardised window, in place.

    Same distribution as `torchaudio.transforms.TimeMasking` and `FrequencyMasking`: a width drawn uniformly from
    [0, bound), a start from [0, size - width), both rounded down.

    Args:
        window: (frames, mels), standardised.
    """
    masks = [(0, config.time_mask_frames)] * config.time_masks
    masks += [(1, config.frequency_mask_bins)] * config.frequency_masks
    for axis, bound in masks:
        width = rng.random() * bound
        start = int(rng.random() * max(window.shape[axis] - width, 0))
        block = slice(start, start + int(width))
        window[(block, slice(None)) if axis == 0 else (slice(None), block)] = 0.0
    return window


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Examples of a transform as a batch; songs with fewer windows get windows of NaN, which do not count."""
    return {
        name: pad_sequence([example[name] for example in examples], batch_first=True, padding_value=torch.nan)
        for name in examples[0]
    }


class EvaluationTransform:
    """Rows -> `input_values` (windows, frames, mels), evenly spaced, and the song's `labels` (2,) in [-1, 1]."""

    columns = tuple(COLUMNS)
    target = SongTarget()

    def __init__(self, extractor: FrontEnd):
        self.extractor = extractor

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        examples = [self.example(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
        return {name: [torch.from_numpy(example[name]) for example in examples] for name in examples[0]}

    def example(self, row: dict) -> dict[str, np.ndarray]:
        """What the model sees of one song."""
        windows = self.extractor.windows(self.decode(row["log_mel"]))
        return {"input_values": windows, **self.target(row, 0, self.extractor)}

    def decode(self, log_mel: bytes) -> np.ndarray:
        """(frames, mels) float16, without a copy."""
        return np.frombuffer(log_mel, np.float16).reshape(-1, self.extractor.num_mel_bins)


class TrainingTransform(EvaluationTransform):
    """Rows -> `input_values` (frames, mels), one random crop per song and epoch, with SpecAugment, and its target.

    Args:
        extractor: the front end.
        augmentation: the masks; None for none.
        seed: of crops and masks.
        target: the target of a crop, and where crops may start; by default, the song's labels, and anywhere.
    """

    def __init__(
        self,
        extractor: FrontEnd,
        augmentation: SpecAugmentConfig | None,
        seed: int,
        target: SongTarget | None = None,
    ):
        super().__init__(extractor)
        self.augmentation = augmentation
        self.seed = seed
        if target is not None:
            self.target = target
            self.columns = ("song_id", "log_mel", *target.columns)
        # In shared memory: data workers are forked before the epoch changes and must see it.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops and masks from now on, also in data workers that are already running."""
        self._epoch[0] = epoch

    def example(self, row: dict) -> dict[str, np.ndarray]:
        rng = window_rng(self.seed, int(self._epoch), row["song_id"])
        spectrogram = self.decode(row["log_mel"])
        first, last = self.target.starts(row, len(spectrogram), self.extractor)
        start = first + int(rng.integers(last - first + 1))
        window = self.extractor.window(spectrogram, start)
        if self.augmentation is not None:
            spec_augment(window, self.augmentation, rng)
        return {"input_values": window, **self.target(row, start, self.extractor)}


def with_transform(songs: Dataset, transform: EvaluationTransform) -> Dataset:
    """A view of stored songs that yields model inputs; only the columns they are made from are read."""
    return songs.with_transform(transform, columns=list(transform.columns))
