"""How good synthetic windows are: whether they look real, have the requested emotion, and differ from each other.

Everything is measured on reference songs, a part of the training songs that neither the GAN nor its regressor learns
from, in the embedding space of a fine-tuned AST that has never seen a synthetic window. The AST itself was trained on
these songs, so its CCC on real windows is higher than on unknown songs, and harder for the generator to reach; the
ridge's is not.
"""

import logging
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from datasets import Dataset
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import PolynomialFeatures
from tqdm.auto import tqdm

from ..data.augment import EvaluationTransform
from ..data.front_end import FrontEnd
from ..data.scale import to_unit
from ..data.songs import labels_of
from ..modeling import ASTForEmotionRegression, MelGenerator
from ..scoring.baselines import band_statistics, ridge
from ..scoring.metrics import DIMENSIONS, concordance_correlation

logger = logging.getLogger(__name__)

FEW_SONGS = 12  # below which the measures are rough
Quality = dict[str, float]


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between Gaussians with the means and covariances of two sets (Dowson & Landau 1982).

    |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½), as FID (Heusel et al. 2017) and FAD (Kilgour et al. 2019) use it.
    Biased upward for small sets, so only sets of the same sizes compare.

    Args:
        x, y: (examples, features), at least two examples in each.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"expected two sets (examples, features) of two or more, got {x.shape} and {y.shape}")
    cov_x, cov_y = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    # C_x C_y has the eigenvalues of the symmetric S C_y S with S² = C_x, whose roots are real.
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_y @ root), 0, None))
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * roots.sum()
    return float(max(distance, 0.0))


def spread(x: np.ndarray) -> float:
    """Root of the total variance of a set (examples, features)."""
    return float(np.sqrt(np.var(x, axis=0, ddof=1).sum()))


def spread_within(x: np.ndarray, group: int) -> float:
    """Root of the total variance within groups of `group` consecutive rows of a set (groups * group, features)."""
    grouped = x.reshape(-1, group, x.shape[1])
    return float(np.sqrt(np.var(grouped, axis=1, ddof=1).sum(-1).mean()))


def spread_unexplained(x: np.ndarray, emotion: np.ndarray, group: int) -> float:
    """Root of the total variance of real windows that a quadratic function of their emotion does not explain.

    Windows of one song are not independent examples, so the function is fitted to the songs' means; the variance is
    that of its residuals between songs plus that within songs.

    Args:
        x: (songs * group, features), the windows of one song in consecutive rows.
        emotion: (songs, 2).
    """
    means = x.reshape(-1, group, x.shape[1]).mean(1)
    terms = PolynomialFeatures(2).fit_transform(emotion)
    coefficients, _, rank, _ = np.linalg.lstsq(terms, means, rcond=None)
    between = np.square(means - terms @ coefficients).sum() / max(len(means) - rank, 1)
    within = spread_within(x, group) ** 2
    return float(np.sqrt(max(between - within / group, 0.0) + within))


def nearest_distance(x: np.ndarray, known: np.ndarray) -> float:
    """Median distance from a row of `x` to the nearest row of `known`; 0 for copies."""
    return float(np.median(NearestNeighbors(n_neighbors=1).fit(known).kneighbors(x)[0]))


def fidelity(predicted: np.ndarray, requested: np.ndarray, suffix: str = "") -> Quality:
    """CCC between predicted and requested emotions (windows, 2): `valence_ccc`, `arousal_ccc`, each with `suffix`."""
    return {
        f"{dimension}_ccc{suffix}": concordance_correlation(predicted[:, column], requested[:, column])
        for column, dimension in enumerate(DIMENSIONS)
    }


def shortfall(generated: Quality, real: Quality, untrained: Quality) -> float:
    """What model selection minimises; 0 is perfect.

    The Fréchet distance as a share of an untrained generator's, plus how far fidelity falls short of the CCC on real
    windows (mean of both dimensions), plus how far diversity falls short of the real spread (mean of across and
    within).
    """
    unfaithful = [max(0.0, real[f"{d}_ccc"] - generated[f"{d}_ccc"]) for d in DIMENSIONS]
    alike = [max(0.0, 1 - generated[f"diversity_{kind}"]) for kind in ("across", "within")]
    return generated["frechet"] / untrained["frechet"] + float(np.mean(unfaithful)) + float(np.mean(alike))


def song_windows(songs: Dataset, extractor: FrontEnd, count: int) -> Iterator[np.ndarray]:
    """For one stored song after the other, its standardised, evenly spaced windows (count, frames, mels)."""
    decode = EvaluationTransform(extractor).decode
    for row in songs.select_columns("log_mel"):
        yield extractor.windows(decode(row["log_mel"]), count)


class QualityMeter:
    """Compares a generator's windows with real ones.

    Two judges predict the emotion: the fine-tuned AST, whose embeddings also give the distances, and a ridge
    regression on mel statistics, which takes no part in model selection. Neither is trained on synthetic windows, nor
    is the generator trained with them.

    Args:
        model: fine-tuned, on any device.
        extractor: its front end.
        learnt: stored songs that the GAN learns from.
        reference: stored songs that it does not.
        num_windows: windows per song, two or more.
        seed: of the latents.

    Attributes:
        real: the same measures of real windows: the Fréchet distance between the reference songs and as many learnt
            ones, whose emotions differ as two draws do, which is the least that can be reached; the judges' CCC on
            reference windows; and 1 for what is relative to real windows.
    """

    def __init__(
        self,
        model: ASTForEmotionRegression,
        extractor: FrontEnd,
        learnt: Dataset,
        reference: Dataset,
        num_windows: int,
        seed: int,
        progress: bool = True,
    ):
        if min(len(learnt), len(reference)) < 2:
            raise ValueError(f"measures need two songs on each side, got {len(learnt)} and {len(reference)}")
        if len(reference) < FEW_SONGS:
            logger.warning("Only %d reference songs: the measures will be rough.", len(reference))
        self.model = model.eval()
        self.num_windows = num_windows
        self.seed = seed
        labels, learnt_labels = (to_unit(labels_of(songs)) for songs in (reference, learnt))
        self.emotion = labels.repeat(num_windows, axis=0)  # (windows, 2) in [-1, 1]
        total = len(learnt) + len(reference)
        with tqdm(total=total, desc="Measuring real windows", unit="song", disable=not progress) as bar:
            known, _, known_statistics = self._predict(song_windows(learnt, extractor, num_windows), bar)
            embeddings, predicted, statistics = self._predict(song_windows(reference, extractor, num_windows), bar)
        # On the songs' means: with a song's other windows in, leave-one-out would choose too small a penalty.
        self.ridge = ridge().fit(known_statistics.reshape(len(learnt), num_windows, -1).mean(1), learnt_labels)
        self.embeddings, self.known = embeddings, known
        self.unexplained = spread_unexplained(embeddings, labels, num_windows)
        some = np.random.default_rng(seed).permutation(len(learnt))[: len(reference)]
        others = known.reshape(len(learnt), num_windows, -1)[some].reshape(-1, known.shape[1])
        labels = self.emotion
        self.real = {
            "frechet": frechet_distance(others, embeddings),
            **fidelity(predicted, labels),
            **fidelity(self.ridge.predict(statistics), labels, "_ridge"),
            "diversity_across": 1.0,
            "diversity_within": 1.0,
            "nearest": 1.0,
        }

    @torch.no_grad()
    def _predict(
        self, groups: Iterable[np.ndarray], bar: tqdm | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of windows -> embeddings (windows, hidden), emotions (windows, 2), mel statistics (windows, ...)."""
        embeddings, predicted, statistics = [], [], []
        for windows in groups:
            values = torch.as_tensor(windows, dtype=self.model.dtype, device=self.model.device)
            pooled = self.model.backbone(values).pooler_output
            embeddings.append(pooled.double().cpu().numpy())
            predicted.append(self.model.head(pooled).double().cpu().numpy())
            statistics += [band_statistics(window) for window in windows]
            if bar is not None:
                bar.update()
        return np.concatenate(embeddings), np.concatenate(predicted), np.stack(statistics)

    def measure(self, generator: MelGenerator) -> Quality:
        """Measure the windows that `generator` makes for the emotions of the reference songs.

        Returns:
            `frechet` to the reference windows; `valence_ccc`, `arousal_ccc` of the AST, `valence_ccc_ridge`,
            `arousal_ccc_ridge` of the ridge; `diversity_across` all emotions and `diversity_within` one, as shares of
            the real spread; `nearest`, the distance to the nearest learnt window, as a share of that of real
            windows: near 0 for copies.
        """
        windows = generator.generate(self.emotion, seed=self.seed).cpu().numpy()
        embeddings, predicted, statistics = self._predict(np.split(windows, len(windows) // self.num_windows))
        return {
            "frechet": frechet_distance(embeddings, self.embeddings),
            **fidelity(predicted, self.emotion),
            **fidelity(self.ridge.predict(statistics), self.emotion, "_ridge"),
            "diversity_across": spread(embeddings) / spread(self.embeddings),
            "diversity_within": spread_within(embeddings, self.num_windows) / self.unexplained,
            "nearest": nearest_distance(embeddings, self.known) / nearest_distance(self.embeddings, self.known),
        }


def measure_speed(generator: MelGenerator, windows: int = 256) -> float:
    """Windows per second that `generate` makes on the generator's device, the best of three runs."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        generator.generate(np.zeros((windows, 2)), seed=0).cpu()
        seconds.append(time.perf_counter() - begin)
    return windows / min(seconds)
