"""The songs that a GAN learns from: the train split of a fine-tuned run, and no others."""

import logging
from dataclasses import fields
from pathlib import Path

from datasets import Dataset

from .. import run_folder
from ..config.parser import parse_config
from ..config.settings import Config
from ..data.splits import read_split, split_off
from ..errors import UsageError
from ..inference.loading import load_model
from ..modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression
from ..training import inputs
from ..training.checkpoints import last_checkpoint
from ..training.provenance import check_front_end, check_labels

logger = logging.getLogger(__name__)


def load_train_songs(
    config: Config, run: str | Path, extractor: ASTEmotionFeatureExtractor
) -> tuple[Dataset, ASTForEmotionRegression]:
    """The stored training songs of a fine-tuned run, and its model; no other song is opened.

    Args:
        run: the run's folder, with its model, `config.yaml` and `splits/`.
        extractor: the front end of `config`.

    Raises:
        UsageError: when the folder holds no finished run, or one with another front end or other labels.
        SplitError: when its id lists cannot be read, or a song is both in train and held out.
    """
    for name in (run_folder.CONFIG, run_folder.SPLITS, run_folder.RESULTS):
        if not (Path(run) / name).exists():
            raise UsageError(
                f"'{run}' is not a finished fine-tuning run, {name} is missing: a GAN learns from the train split of "
                "such a run, and is measured by its model. Run `emotion-ft finetune` with this configuration first, "
                "or name a run with --finetuned."
            )
    model, theirs = load_model(run)
    check_front_end(extractor, theirs, str(run))
    trained = check_labels(config, run)
    if trained.synthetic.gan:
        raise UsageError(
            f"'{run}' was fine-tuned with the windows of {trained.synthetic.gan}: the model that measures a GAN must "
            "not have seen synthetic windows. Name a run without --gan."
        )
    songs = inputs.load_side(config.data, Path(run) / run_folder.SPLITS, "train")
    songs, _ = inputs.store_features(songs, extractor, config.data)
    return songs["train"], model


# What a resumed GAN may not change, besides the sections below: its weights would come from two trainings.
RESUMED = {
    "data": ["labels"],
    "training": ["seed", "precision", "gradient_accumulation_steps", "max_grad_norm", "weight_decay"],
}


def refuse_changes(config: Config, run: str | Path, checkpoint: str | Path) -> None:
    """Raise a `UsageError` unless a GAN resumes from its last checkpoint, with the songs and settings of its start."""
    folder = Path(config.gan.gan_output_dir)
    last = last_checkpoint(folder, run_folder.GAN_STATE)
    if last is None or Path(checkpoint).resolve() != last.resolve():
        raise UsageError(
            f"a GAN resumes from the last checkpoint in its gan_output_dir, {last}, not from {checkpoint}."
        )
    theirs = parse_config([str(folder / run_folder.CONFIG)])
    sections = {name: [f.name for f in fields(getattr(config, name))] for name in ("audio", "spec_augment", "gan")}
    sections["gan"] = sorted(set(sections["gan"]) - {"gan_output_dir", "finetuned", "measure_steps"})
    changes = [
        f"{key} is {getattr(getattr(config, section), key)} here and was {getattr(getattr(theirs, section), key)}"
        for section, keys in {**sections, **RESUMED}.items()
        for key in keys
        if getattr(getattr(config, section), key) != getattr(getattr(theirs, section), key)
    ]
    if read_split(Path(run) / run_folder.SPLITS) != read_split(folder / run_folder.SPLITS):
        changes.append(f"the id lists in '{run}' have changed")
    if changes:
        raise UsageError(
            f"'{folder}' cannot be resumed: {'; '.join(changes)}. Resume with the settings in "
            f"{folder / run_folder.CONFIG}, or start again with --overwrite_output_dir."
        )


def split_reference(songs: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """(learnt, selecting, reporting): the songs to learn from, and a share, by other artists, that only measures.

    One half of that share selects the step that is kept; the other, by other artists again, measures what was kept.

    Raises:
        UsageError: when a half has fewer than two songs, or more than there are to learn from.
        SplitError: when there are too few artists.
    """
    artists = {i: artist for i, artist in zip(songs["song_id"], songs["artist"], strict=True) if artist}
    rest, reporting = split_off(songs["song_id"], artists, seed, fraction / 2, "reference_fraction")
    learnt, selecting = split_off(rest, artists, seed, fraction / (2 - fraction), "reference_fraction")
    if not 2 <= min(len(selecting), len(reporting)) <= max(len(selecting), len(reporting)) <= len(learnt):
        raise UsageError(
            f"reference_fraction {fraction:g} leaves {len(learnt)} of {len(songs)} songs to learn from, "
            f"{len(selecting)} to select a step and {len(reporting)} to measure it: those need two songs or more "
            "each, and no more than the GAN learns from. Change reference_fraction, or train on more songs."
        )
    row_of = {song_id: row for row, song_id in enumerate(songs["song_id"])}
    first, second, third = (songs.select([row_of[i] for i in side]) for side in (learnt, selecting, reporting))
    return first, second, third
