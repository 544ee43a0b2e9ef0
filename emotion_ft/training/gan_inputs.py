"""The two doors between fine-tuning and the GAN: the train split goes in, synthetic windows come out."""

import logging
from dataclasses import fields
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import SequenceFeatureExtractor

from .. import run_folder
from ..config.parser import parse_config
from ..config.settings import Config
from ..data.augment import with_transform
from ..data.features import FRONT_END_SETTINGS
from ..data.leaks import refuse_leak
from ..data.songs import labels_of
from ..data.splits import SPLIT_NAMES, read_split, split_off
from ..data.synthetic import SyntheticTransform, add_synthetic
from ..errors import UsageError
from ..inference.loading import load_model
from ..modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression, MelGenerator
from ..scale import HALFWIDTH
from . import inputs

logger = logging.getLogger(__name__)


def check_front_end(ours: SequenceFeatureExtractor, theirs: SequenceFeatureExtractor, name: str) -> None:
    """Raise a `UsageError` that lists the settings in which this configuration's front end differs from `name`'s."""
    settings = (*FRONT_END_SETTINGS, "max_length")
    differences = [
        f"{setting} is {getattr(ours, setting)} here and {getattr(theirs, setting)} there"
        for setting in settings
        if getattr(ours, setting) != getattr(theirs, setting)
    ]
    if differences:
        raise UsageError(
            f"section 'audio' differs from that of '{name}': {'; '.join(differences)}. Their windows do not mix: use "
            f"the settings in {Path(name) / run_folder.CONFIG}."
        )


def check_labels(config: Config, folder: str | Path) -> Config:
    """The configuration of that folder's run; raise a `UsageError` unless it treats labels as `config` does."""
    theirs = parse_config([str(Path(folder) / run_folder.CONFIG), "--precision", "fp32"])
    if theirs.data.labels != config.data.labels:
        raise UsageError(
            f"labels are {config.data.labels} here, but {theirs.data.labels} in '{folder}': use the same."
        )
    return theirs


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
                f"'{run}' is no finished fine-tuning run, {name} is missing: a GAN learns from the train split that "
                "is saved with one, and is measured by its model. Run recipes/finetune.py with this configuration "
                "first, or name a run with --finetuned."
            )
    model, theirs = load_model(run)
    check_front_end(extractor, theirs, str(run))
    trained = check_labels(config, run)
    if trained.synthetic.gan:
        raise UsageError(
            f"'{run}' was fine-tuned with the windows of {trained.synthetic.gan}: what measures a GAN must never have "
            "seen a fake. Name a run without --gan."
        )
    songs = inputs.load_side(config.data, Path(run) / run_folder.SPLITS, "train")
    songs, _ = inputs.store_features(songs, extractor, config.data)
    return songs["train"], model


# What a resumed GAN may not change, beside its whole front end: its weights would be of two trainings.
RESUMED = {
    "data": ["labels"],
    "training": ["seed", "precision", "gradient_accumulation_steps", "max_grad_norm", "weight_decay"],
}


def refuse_changes(config: Config, run: str | Path, checkpoint: str | Path) -> None:
    """Raise a `UsageError` unless a GAN goes on from its last checkpoint, with the songs and settings of its start."""
    folder = Path(config.gan.gan_output_dir)
    last = inputs.last_checkpoint(folder, run_folder.GAN_STATE)
    if last is None or Path(checkpoint).resolve() != last.resolve():
        raise UsageError(
            f"a GAN goes on from the last checkpoint in its gan_output_dir, {last}, not from {checkpoint}."
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
        changes.append(f"the id lists in '{run}' are others")
    if changes:
        raise UsageError(
            f"'{folder}' cannot be resumed: {'; '.join(changes)}. Resume with the settings in "
            f"{folder / run_folder.CONFIG}, or start anew with --overwrite_output_dir."
        )


def split_reference(songs: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(learnt, reference): songs to learn from, and a share of them, artists kept apart, that only measures."""
    artists = {i: artist for i, artist in zip(songs["song_id"], songs["artist"], strict=True) if artist}
    learnt, reference = split_off(songs["song_id"], artists, seed, fraction, "reference_fraction")
    row_of = {song_id: row for row, song_id in enumerate(songs["song_id"])}
    return tuple(songs.select([row_of[song_id] for song_id in side]) for side in (learnt, reference))


class Confirmation:
    """How far off the emotion is that a model hears in windows, in units of `within` on the 1-9 scale."""

    def __init__(self, model: ASTForEmotionRegression, within: float):
        self.model = model.eval()
        self.within = within

    @torch.no_grad()
    def __call__(self, windows: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """(windows, frames, mels), (windows, 2) in [-1, 1] -> (windows,); at most 1 where it is confirmed."""
        return (self.model(windows).logits - emotion).abs().amax(1) * HALFWIDTH / self.within


def mix_synthetic(config: Config, songs: DatasetDict, extractor: ASTEmotionFeatureExtractor) -> Dataset:
    """The training songs with the synthetic section's share of generated windows, as the trainer takes them.

    Raises:
        UsageError: when there is no such GAN, or it was trained with another front end.
        SplitError: when the GAN, or the model that confirms, was trained on a song that is held out here.
    """
    synthetic = config.synthetic
    try:
        generator = MelGenerator.from_pretrained(synthetic.gan, dtype=torch.float32).eval()
        theirs = ASTEmotionFeatureExtractor.from_pretrained(synthetic.gan)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"no GAN in '{synthetic.gan}': {error}") from error
    splits = {name: songs[name]["song_id"][:] for name in SPLIT_NAMES}
    _check(config, splits, extractor, theirs, synthetic.gan)
    confirm = None
    if synthetic.confirm_with:
        model, theirs = load_model(synthetic.confirm_with)
        _check(config, splits, extractor, theirs, synthetic.confirm_with)
        confirm = Confirmation(model.cpu(), synthetic.confirm_within)
    labels = labels_of(songs["train"])
    transform = SyntheticTransform(extractor, config.spec_augment, config.training.seed, generator, labels, confirm)
    mixed = add_synthetic(songs["train"], synthetic.synthetic_fraction)
    logger.info(
        "%d of %d training rows are synthetic, made by %s.", len(mixed) - len(labels), len(mixed), synthetic.gan
    )
    return with_transform(mixed, transform)


def _check(
    config: Config,
    splits: dict[str, list[int]],
    ours: SequenceFeatureExtractor,
    theirs: SequenceFeatureExtractor,
    folder: str,
) -> None:
    """Same front end, same labels, and nothing learnt from what is held out here."""
    check_front_end(ours, theirs, folder)
    for name in (run_folder.SPLITS, run_folder.CONFIG, run_folder.RESULTS):
        if not (Path(folder) / name).exists():
            raise UsageError(f"'{folder}' holds no finished run, or does not say what it learnt from: no {name}.")
    refuse_leak(read_split(Path(folder) / run_folder.SPLITS)["train"], splits, f"'{folder}'")
    check_labels(config, folder)
