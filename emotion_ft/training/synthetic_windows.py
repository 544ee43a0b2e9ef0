"""Mixing of synthetic windows from a GAN into the training songs; no other code adds any."""

import logging
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError

from .. import run_folder
from ..config.settings import Config
from ..data.augment import with_transform
from ..data.front_end import FrontEnd
from ..data.leaks import refuse_leak
from ..data.scale import HALFWIDTH
from ..data.songs import labels_of
from ..data.splits import SPLIT_NAMES, read_split
from ..data.synthetic import SyntheticTransform, add_synthetic
from ..errors import UsageError
from ..inference.loading import load_model
from ..modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression, MelGenerator
from .provenance import check_front_end, check_labels

logger = logging.getLogger(__name__)


class Confirmation:
    """The error of a model's prediction for synthetic windows, in units of `within` on the 1-9 scale."""

    def __init__(self, model: ASTForEmotionRegression, within: float):
        self.model = model.eval()
        self.within = within

    @torch.no_grad()
    def __call__(self, windows: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """(windows, frames, mels), (windows, 2) in [-1, 1] -> (windows,); at most 1 if the emotion is confirmed."""
        return (self.model(windows).logits - emotion).abs().amax(1) * HALFWIDTH / self.within


def mix_synthetic(config: Config, songs: DatasetDict, extractor: ASTEmotionFeatureExtractor) -> Dataset:
    """The training songs with the synthetic section's share of generated windows, as input for the trainer.

    Raises:
        UsageError: if there is no such GAN, or it was trained with another front end.
        SplitError: if the GAN, or the model that confirms, was trained on a song that is held out here.
    """
    synthetic, gan = config.synthetic, config.synthetic.gan or ""
    try:
        generator = MelGenerator.from_pretrained(gan, dtype=torch.float32).eval()
        theirs = ASTEmotionFeatureExtractor.from_pretrained(gan)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"no GAN in '{gan}': {error}") from error
    splits = {name: songs[name]["song_id"][:] for name in SPLIT_NAMES}
    _check(config, splits, extractor, theirs, gan)
    confirm = None
    if synthetic.confirm_with:
        model, theirs = load_model(synthetic.confirm_with)
        _check(config, splits, extractor, theirs, synthetic.confirm_with)
        confirm = Confirmation(model.cpu(), synthetic.confirm_within)
    labels = labels_of(songs["train"])
    transform = SyntheticTransform(extractor, config.spec_augment, config.training.seed, generator, labels, confirm)
    mixed = add_synthetic(songs["train"], synthetic.synthetic_fraction)
    logger.info("%d of %d training rows are synthetic, made by %s.", len(mixed) - len(labels), len(mixed), gan)
    return with_transform(mixed, transform)


def _check(config: Config, splits: dict[str, list[int]], ours: FrontEnd, theirs: FrontEnd, folder: str) -> None:
    """Check that a run has the same front end and labels, and was not trained on songs that are held out here."""
    check_front_end(ours, theirs, folder)
    for name in (run_folder.SPLITS, run_folder.CONFIG, run_folder.RESULTS):
        if not (Path(folder) / name).exists():
            raise UsageError(f"'{folder}' holds no finished run, or does not say what it was trained on: no {name}.")
    refuse_leak(read_split(Path(folder) / run_folder.SPLITS)["train"], splits, f"'{folder}'")
    check_labels(config, folder)
