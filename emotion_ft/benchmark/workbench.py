"""What the sections work on: rendered songs, and their log-mels stored in our way and in the usual one."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value
from torch.utils.data import DataLoader
from transformers import default_data_collator

from ..data.features import store_log_mels
from ..data.rendering.songs import AUDIO, render_deam
from ..modeling import ASTEmotionConfig, ASTEmotionFeatureExtractor

RATE = 16000  # hertz, of both front ends
BATCH = 16  # windows read at once


@dataclass
class Workbench:
    """Rendered songs, and their log-mels stored in our way and in the usual one, each made on first use.

    Args:
        folder: an empty one that everything is written to.
        songs: how many are stored for reading; at most 8 different ones are rendered.
        seconds: the length of a song, at least 10.
        repeats: of every comparison; of training steps at most 3.
        predict: the recipe whose start-up is timed.
        extractor: the front end; the default has windows of 10 s.
        config: of the model that predicts songs, for the extractor's windows; the default is an AST-base.
    """

    folder: Path
    songs: int
    seconds: float
    repeats: int
    predict: Path
    extractor: ASTEmotionFeatureExtractor = field(default_factory=ASTEmotionFeatureExtractor)
    config: ASTEmotionConfig = field(default_factory=ASTEmotionConfig)

    @cached_property
    def files(self) -> list[Path]:
        """Stereo MP3s at 44.1 kHz."""
        root = render_deam(self.folder / "rendered", min(self.songs, 8), self.seconds)
        return sorted((root / AUDIO).glob("*.mp3"))

    @cached_property
    def stored(self) -> Dataset:
        """`songs` log-mels as `store_log_mels` stores them."""
        return stored_songs(self.files, self.songs, self.folder / "stored", self.extractor)

    @cached_property
    def clips(self) -> Dataset:
        """Log-mels of up to 16 songs as nested lists of float32, 10 s per row; the last row of a song is shorter."""
        features = Features({"input_values": List(List(Value("float32"))), "frames": Value("int32")})
        return self.stored.select(range(min(self.songs, BATCH))).map(
            self._cut, batched=True, batch_size=4, features=features, remove_columns=self.stored.column_names
        )

    def _cut(self, rows: dict) -> dict:
        length, mels = self.extractor.max_length, self.extractor.num_mel_bins
        songs = [np.frombuffer(log_mel, np.float16).reshape(-1, mels) for log_mel in rows["log_mel"]]
        clips = [song[i : i + length].astype(np.float32) for song in songs for i in range(0, len(song), length)]
        return {"input_values": clips, "frames": [len(clip) for clip in clips]}


def stored_songs(
    files: list[Path], count: int, folder: Path, extractor: ASTEmotionFeatureExtractor, num_proc: int = 1
) -> Dataset:
    """Store the log-mels of `count` songs; files are used again, under new ids."""
    audio = [{"path": str(files[i % len(files)])} for i in range(count)]
    rows = {"song_id": list(range(count)), "audio": audio, "valence": [5.0] * count, "arousal": [5.0] * count}
    return store_log_mels(DatasetDict(train=Dataset.from_dict(rows)), extractor, folder, num_proc)[0]["train"]


def exhaust(iterables: Iterable[Iterable]) -> None:
    """Iterate over each to its end."""
    for iterable in iterables:
        for _ in iterable:
            pass


def batches(rows: Dataset) -> DataLoader:
    """Batches of 16 in random order, read as `Trainer` reads them."""
    return DataLoader(rows, BATCH, shuffle=True, collate_fn=default_data_collator)
