"""The small frozen regressor whose predictions teach a generator its emotions."""

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import run_folder
from ..config.settings import Config, SpecAugmentConfig
from ..data.augment import COLUMNS, TrainingTransform, with_transform
from ..data.front_end import FrontEnd
from ..data.scale import to_unit
from ..data.songs import labels_of
from ..errors import UsageError
from ..modeling import MelGanConfig, MelRegressor
from .quality import song_windows

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2


def fit_regressor(
    regressor: MelRegressor,
    songs: Dataset,
    extractor: FrontEnd,
    augmentation: SpecAugmentConfig,
    steps: int,
    batch_size: int,
    seed: int,
    progress: bool = True,
) -> MelRegressor:
    """Train `regressor` on random crops of stored songs, with SpecAugment, by squared error.

    Args:
        songs: real ones, all of which the generator may learn from.
        steps: updates, each on `batch_size` songs; the learning rate rises and falls once (Smith 2018).
        seed: of crops, masks, order and dropout; the same seed gives the same weights.

    Returns:
        The same regressor, frozen, in evaluation mode.
    """
    transform = TrainingTransform(extractor, augmentation, seed)
    optimizer = torch.optim.AdamW(regressor.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, max(steps, 1))
    regressor.train()
    rows = songs.select_columns(COLUMNS)
    with torch.random.fork_rng(), tqdm(total=steps, desc="Regressor", unit="step", disable=not progress) as bar:
        torch.manual_seed(seed)  # of the dropout
        order, epoch = np.array([], int), 0
        for _ in range(steps):
            while len(order) < batch_size:
                order = np.append(order, np.random.default_rng([seed, epoch]).permutation(len(songs)))
                transform.set_epoch(epoch := epoch + 1)
            batch = transform(rows[order[:batch_size]])
            order = order[batch_size:]
            windows, labels = (torch.stack(batch[name]).to(regressor.device) for name in ("input_values", "labels"))
            loss = F.mse_loss(regressor(windows), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            bar.update()
    return regressor.eval().requires_grad_(False)


def window_bands(songs: Dataset, extractor: FrontEnd) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (mels,) of every band over one random standardised window of each stored song."""
    windows = with_transform(songs, TrainingTransform(extractor, None, seed=0))
    values = torch.stack([windows[i]["input_values"] for i in range(len(windows))])
    return values.mean((0, 1)), values.std((0, 1)).clamp_min(1e-4)


def prepare_regressor(config: Config, songs: Dataset, extractor: FrontEnd, resumed: bool) -> MelRegressor:
    """The regressor in `gan_output_dir`, of the gan section's sizes: trained on `songs`, or loaded if `resumed`.

    Its mean and deviation of every band are those of `songs`; generator and discriminator use them too.

    Raises:
        UsageError: when windows of the audio section's size do not suit the networks.
    """
    gan, folder = config.gan, Path(config.gan.gan_output_dir) / run_folder.REGRESSOR
    with PartialState().main_process_first():
        if PartialState().is_main_process and not resumed:
            torch.manual_seed(config.training.seed)
            sizes = MelGanConfig(
                max_length=extractor.max_length,
                num_mel_bins=extractor.num_mel_bins,
                latent_size=gan.latent_size,
                channels=gan.gan_channels,
            )
            try:
                regressor = MelRegressor(sizes)
            except ValueError as error:
                raise UsageError(f"section 'audio': {error}") from error
            regressor.set_bands(*window_bands(songs, extractor))
            fit_regressor(
                regressor.to(PartialState().device),
                songs,
                extractor,
                config.spec_augment,
                gan.regressor_steps,
                gan.gan_batch_size * PartialState().num_processes,  # as one process with their whole batch
                config.training.seed,
            ).save_pretrained(folder)
        regressor = MelRegressor.from_pretrained(folder, dtype=torch.float32)
    return regressor.eval().requires_grad_(False)


@torch.no_grad()
def regressor_predictions(
    regressor: MelRegressor, songs: Dataset, extractor: FrontEnd, num_windows: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the regressor predicts for real windows, and their songs' labels: (windows, 2) each, in [-1, 1]."""
    predicted = [
        regressor(torch.from_numpy(windows).to(regressor.device)).cpu().numpy()
        for windows in song_windows(songs, extractor, num_windows)
    ]
    return np.concatenate(predicted), to_unit(labels_of(songs)).repeat(num_windows, axis=0)
