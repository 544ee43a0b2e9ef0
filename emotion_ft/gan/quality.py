"""How good generated windows are: as real as real ones, with the emotion asked for, and not all alike.

Everything is measured on reference songs, a part of the training songs that neither the GAN nor its regressor learns
from, in the embedding space of a fine-tuned AST that never saw a fake. The AST itself was trained on these songs, so
its CCC on real windows is higher than on unknown songs, and a harder mark for the generator; the ridge's is not.
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
from transformers import PreTrainedModel

from ..data.augment import EvaluationTransform
from ..data.front_end import FrontEnd
from ..data.scale import to_unit
from ..data.songs import labels_of
from ..scoring.baselines import band_statistics, ridge
from ..scoring.metrics import DIMENSIONS, concordance_correlation

logger = logging.getLogger(__name__)

FEW_SONGS = 12
Quality = dict[str, float]


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between Gaussians with the means and covariances of two sets (Dowson & Landau 1982).

    |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½), as FID (Heusel et al. 2017) and FAD (Kilgour et al. 2019) use it.
    Biased upward for small sets, so only sets of the same sizes compare.

    Args:
        x, y: (examples, features), at least two examples each.
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
    """Root of the total variance inside groups of consecutive rows, (groups * group, features)."""
    grouped = x.reshape(-1, group, x.shape[1])
    return float(np.sqrt(np.var(grouped, axis=1, ddof=1).sum(-1).mean()))


def spread_unexplained(x: np.ndarray, emotion: np.ndarray, group: int) -> float:
    """Root of the total variance of real windows that a quadratic function of their emotion leaves.

    Windows of a song are no independent examples, so what the emotion explains is fitted to the songs' means; the
    variance is that of the residuals between songs plus that inside them.

    Args:
        x: (songs * group, features), the windows of a song in consecutive rows.
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


def fidelity(heard: np.ndarray, asked: np.ndarray, suffix: str = "") -> Quality:
    """CCC between emotions (windows, 2) that a judge hears and those asked for: `valence_ccc`, `arousal_ccc`."""
    return {
        f"{dimension}_ccc{suffix}": concordance_correlation(heard[:, column], asked[:, column])
        for column, dimension in enumerate(DIMENSIONS)
    }


def shortfall(generated: Quality, real: Quality, untrained: Quality) -> float:
    """What model selection minimises; 0 is perfect.

    The Fréchet distance as a share of an untrained generator's, plus what fidelity lacks to the judge's CCC on real
    windows (mean of both dimensions), plus what diversity lacks to the real spread (mean of across and within).
    """
    lacking = [max(0.0, real[f"{d}_ccc"] - generated[f"{d}_ccc"]) for d in DIMENSIONS]
    alike = [max(0.0, 1 - generated[f"diversity_{kind}"]) for kind in ("across", "within")]
    return generated["frechet"] / untrained["frechet"] + float(np.mean(lacking)) + float(np.mean(alike))


def song_windows(songs: Dataset, extractor: FrontEnd, count: int) -> Iterator[np.ndarray]:
    """(count, frames, mels) standardised, evenly spaced windows of one stored song after the other."""
    decode = EvaluationTransform(extractor).decode
    for row in songs.select_columns("log_mel"):
        yield extractor.windows(decode(row["log_mel"]), count)


class QualityMeter:
    """Measures a generator beside real windows.

    Two judges hear the emotion: the fine-tuned AST, whose embeddings also give distances, and a ridge regression on
    mel statistics, which takes part in no selection. Neither ever sees a fake before, or trains the generator.

    Args:
        model: a fine-tuned `ASTForEmotionRegression`, on any device.
        extractor: its front end.
        learnt: stored songs that the GAN learns from.
        reference: stored songs that it does not.
        num_windows: windows of a song, two or more.
        seed: of the latents.

    Attributes:
        real: the same measures of real windows: the floor of the Fréchet distance (as many learnt as reference songs,
            whose emotions differ as those of two draws do), the judges' CCC on reference windows, and 1 for what is
            relative to real windows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
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
            known, _, known_statistics = self._hear(song_windows(learnt, extractor, num_windows), bar)
            embeddings, heard, statistics = self._hear(song_windows(reference, extractor, num_windows), bar)
        # On the songs' means: leave-one-out would choose too small a penalty while a song's other windows are in.
        self.ridge = ridge().fit(known_statistics.reshape(len(learnt), num_windows, -1).mean(1), learnt_labels)
        self.embeddings, self.known = embeddings, known
        self.unexplained = spread_unexplained(embeddings, labels, num_windows)
        some = np.random.default_rng(seed).permutation(len(learnt))[: len(reference)]
        others = known.reshape(len(learnt), num_windows, -1)[some].reshape(-1, known.shape[1])
        labels = self.emotion
        self.real = {
            "frechet": frechet_distance(others, embeddings),
            **fidelity(heard, labels),
            **fidelity(self.ridge.predict(statistics), labels, "_ridge"),
            "diversity_across": 1.0,
            "diversity_within": 1.0,
            "nearest": 1.0,
        }

    @torch.no_grad()
    def _hear(self, groups: Iterable[np.ndarray], bar=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of windows -> embeddings (windows, hidden), emotions heard (windows, 2), mel statistics."""
        embeddings, heard, statistics = [], [], []
        for windows in groups:
            values = torch.as_tensor(windows, dtype=self.model.dtype, device=self.model.device)
            pooled = self.model.backbone(values).pooler_output
            embeddings.append(pooled.double().cpu().numpy())
            heard.append(self.model.head(pooled).double().cpu().numpy())
            statistics += [band_statistics(window) for window in windows]
            if bar is not None:
                bar.update()
        return np.concatenate(embeddings), np.concatenate(heard), np.stack(statistics)

    def measure(self, generator: PreTrainedModel) -> Quality:
        """Measure windows that `generator` makes for the emotions of the reference songs.

        Returns:
            `frechet` to the reference windows; `valence_ccc`, `arousal_ccc` of the AST, `valence_ccc_ridge`,
            `arousal_ccc_ridge` of the ridge; `diversity_across` all emotions and `diversity_within` one, as shares of
            the real spread; `nearest`, how far the nearest learnt window is, as a share of the same for real ones:
            near 0 where windows are copied.
        """
        windows = generator.generate(self.emotion, seed=self.seed).cpu().numpy()
        embeddings, heard, statistics = self._hear(np.split(windows, len(windows) // self.num_windows))
        return {
            "frechet": frechet_distance(embeddings, self.embeddings),
            **fidelity(heard, self.emotion),
            **fidelity(self.ridge.predict(statistics), self.emotion, "_ridge"),
            "diversity_across": spread(embeddings) / spread(self.embeddings),
            "diversity_within": spread_within(embeddings, self.num_windows) / self.unexplained,
            "nearest": nearest_distance(embeddings, self.known) / nearest_distance(self.embeddings, self.known),
        }


def measure_speed(generator: PreTrainedModel, windows: int = 256) -> float:
    """Windows a second that `generate` makes on the generator's device, the best of three times."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        generator.generate(np.zeros((windows, 2)), seed=0).cpu()
        seconds.append(time.perf_counter() - begin)
    return windows / min(seconds)
