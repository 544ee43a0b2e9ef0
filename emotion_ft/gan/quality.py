"""How good synthetic windows are: whether they look real, have the requested emotion, and differ from each other.

Everything is measured on reference songs, a part of the training songs that neither the GAN nor its regressor learns
from. Distances are taken between mel statistics, which know nothing of emotion: in the embedding of a model that was
trained on emotion alone, whatever has the right emotion looks real. The fine-tuned AST, one of the two judges of
emotion, was itself trained on the reference songs, so its CCC on real windows is higher than on unknown songs, and
harder for the generator to reach; the ridge's is not.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
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
COMPONENTS = 16  # of the embedding; on rendered songs they hold four fifths of the variance of the mel statistics
DRAWS = 200  # of two disjoint sets of real songs
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


def effective_dimension(x: np.ndarray) -> float:
    """Along how many directions a set (examples, features) varies: the participation ratio of its covariance.

    (sum of the eigenvalues)² / sum of their squares; d where d directions have the same variance and the others none.
    """
    covariance = np.atleast_2d(np.cov(np.asarray(x, np.float64).T))
    return float(np.trace(covariance) ** 2 / np.square(covariance).sum())


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


def frechet_share(generated: Quality, untrained: Quality) -> float:
    """The Fréchet distance as a share of an untrained generator's; 0 where both are 0."""
    return generated["frechet"] / max(untrained["frechet"], np.finfo(float).tiny)


def shortfall(generated: Quality, real: Quality, untrained: Quality) -> float:
    """What model selection minimises; 0 is perfect.

    The Fréchet distance as a share of an untrained generator's, plus how far fidelity falls short of the CCC on real
    windows (mean of both dimensions and both judges), plus how far diversity falls short of the real spread (mean of
    across and within).
    """
    names = [f"{dimension}_ccc{judge}" for dimension in DIMENSIONS for judge in ("", "_ridge")]
    unfaithful = [max(0.0, real[name] - generated[name]) for name in names]
    alike = [max(0.0, 1 - generated[f"diversity_{kind}"]) for kind in ("across", "within")]
    return frechet_share(generated, untrained) + float(np.mean(unfaithful)) + float(np.mean(alike))


def song_windows(songs: Dataset, extractor: FrontEnd, count: int) -> Iterator[np.ndarray]:
    """For one stored song after the other, its standardised, evenly spaced windows (count, frames, mels)."""
    decode = EvaluationTransform(extractor).decode
    for row in songs.select_columns("log_mel"):
        yield extractor.windows(decode(row["log_mel"]), count)


class Seen(NamedTuple):
    """What `Judges` make of windows.

    Args:
        embeddings: (windows, components).
        by_ast, by_ridge: the emotions (windows, 2) that the judges predict, on the scale of [-1, 1].
    """

    embeddings: np.ndarray
    by_ast: np.ndarray
    by_ridge: np.ndarray

    def fidelity(self, requested: np.ndarray) -> Quality:
        """The CCC of both judges with the requested emotions (windows, 2)."""
        return {**fidelity(self.by_ast, requested), **fidelity(self.by_ridge, requested, "_ridge")}


class Judges:
    """Two judges of emotion, and an embedding that knows nothing of it.

    The judges are the fine-tuned AST and a ridge regression on mel statistics. The embedding is the leading principal
    components of the same statistics, whitened. Nothing here is fitted to synthetic windows, nor is the generator
    trained with any of it.

    Args:
        model: fine-tuned, on any device.
        extractor: its front end.
        learnt: stored songs that the GAN learns from; ridge and embedding are fitted to them.
        num_windows: windows per song, two or more.

    Attributes:
        known: (songs, num_windows, components), the embeddings of the learnt songs' windows.
    """

    def __init__(
        self,
        model: ASTForEmotionRegression,
        extractor: FrontEnd,
        learnt: Dataset,
        num_windows: int,
        progress: bool = True,
    ):
        self.model, self.extractor, self.num_windows = model.eval(), extractor, num_windows
        songs = tqdm(
            song_windows(learnt, extractor, num_windows),
            total=len(learnt),
            desc="Measuring real windows",
            unit="song",
            disable=not progress,
        )
        statistics = np.stack([[band_statistics(window) for window in windows] for windows in songs])
        # On the songs' means: with a song's other windows in, leave-one-out would choose too small a penalty.
        self.ridge = ridge().fit(statistics.mean(1), to_unit(labels_of(learnt)))
        components = PCA(min(COMPONENTS, len(learnt)), whiten=True, svd_solver="full")
        self.embedding = make_pipeline(StandardScaler(), components)
        known = self.embedding.fit_transform(statistics.reshape(-1, statistics.shape[-1]))
        self.known = known.reshape(len(learnt), num_windows, -1)

    @torch.no_grad()
    def __call__(self, groups: Iterable[np.ndarray]) -> Seen:
        """Look at groups of windows, (count, frames, mels) each."""
        by_ast, statistics = [], []
        for windows in groups:
            values = torch.as_tensor(windows, dtype=self.model.dtype, device=self.model.device)
            by_ast.append(self.model(values).logits.double().cpu().numpy())
            statistics += [band_statistics(window) for window in windows]
        stacked = np.stack(statistics)
        return Seen(self.embedding.transform(stacked), np.concatenate(by_ast), self.ridge.predict(stacked))


class QualityMeter:
    """Compares a generator's windows with real ones.

    Args:
        judges: fitted to the songs that the GAN learns from.
        reference: stored songs that it does not learn from; two or more, and no more than it learns from.
        seed: of the latents, and of the draws of real songs.

    Attributes:
        real: the same measures of real windows: the mean, `frechet`, and standard deviation, `frechet_std`, of the
            Fréchet distances `between_real`; the judges' CCC on reference windows; and 1 for what is relative to real
            windows.
        between_real: the Fréchet distances between the windows of two disjoint sets of real songs, each as large as
            the reference, in `DRAWS` random draws. Their emotions differ as two draws do; generated windows have those
            of the reference songs.
        effective_dimension: of the reference windows' embeddings.
    """

    def __init__(self, judges: Judges, reference: Dataset, seed: int):
        if not 2 <= len(reference) <= len(judges.known):
            raise ValueError(f"expected 2 to {len(judges.known)} reference songs, got {len(reference)}")
        if len(reference) < FEW_SONGS:
            logger.warning("Only %d reference songs: the measures will be rough.", len(reference))
        self.judges, self.seed = judges, seed
        labels, group = to_unit(labels_of(reference)), judges.num_windows
        self.emotion = labels.repeat(group, axis=0)  # (windows, 2) in [-1, 1]
        seen = judges(song_windows(reference, judges.extractor, group))
        self.embeddings, self.known = seen.embeddings, judges.known.reshape(-1, judges.known.shape[-1])
        self.unexplained = spread_unexplained(self.embeddings, labels, group)
        self.effective_dimension = effective_dimension(self.embeddings)
        self.between_real = self._between_real()
        self.real = {
            "frechet": float(self.between_real.mean()),
            "frechet_std": float(self.between_real.std(ddof=1)),
            **seen.fidelity(self.emotion),
            "diversity_across": 1.0,
            "diversity_within": 1.0,
            "nearest": 1.0,
        }

    def _between_real(self) -> np.ndarray:
        """(DRAWS,) Fréchet distances between sets of songs, learnt and reference ones alike."""
        own = self.embeddings.reshape(-1, *self.judges.known.shape[1:])
        songs, size = np.concatenate([self.judges.known, own]), len(own)
        rng = np.random.default_rng(self.seed)
        distances = []
        for _ in range(DRAWS):
            x, y = np.split(songs[rng.permutation(len(songs))[: 2 * size]], 2)
            distances.append(frechet_distance(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])))
        return np.array(distances)

    def measure(self, generator: MelGenerator, untrained: Quality | None = None) -> Quality:
        """Measure the windows that `generator` makes for the emotions of the reference songs.

        Args:
            untrained: what `measure` returned for the generator before training; None: `generator` is that one.

        Returns:
            `frechet` to the reference windows, `frechet_percentile`, the share of `between_real` that is smaller, in
            percent, and `frechet_share` of the untrained generator's; `valence_ccc`, `arousal_ccc` of the AST,
            `valence_ccc_ridge`, `arousal_ccc_ridge` of the ridge; `diversity_across` all emotions and
            `diversity_within` one, as shares of the real spread; `nearest`, the distance to the nearest learnt window,
            as a share of that of real windows: near 0 for copies; and the `shortfall`.
        """
        windows = generator.generate(self.emotion, seed=self.seed).float().cpu().numpy()
        seen = self.judges(np.split(windows, len(windows) // self.judges.num_windows))
        frechet = frechet_distance(seen.embeddings, self.embeddings)
        quality = {
            "frechet": frechet,
            "frechet_percentile": 100 * float(np.mean(self.between_real < frechet)),
            **seen.fidelity(self.emotion),
            "diversity_across": spread(seen.embeddings) / spread(self.embeddings),
            "diversity_within": spread_within(seen.embeddings, self.judges.num_windows) / self.unexplained,
            "nearest": nearest_distance(seen.embeddings, self.known) / nearest_distance(self.embeddings, self.known),
        }
        untrained = untrained or quality
        return {
            **quality,
            "frechet_share": frechet_share(quality, untrained),
            "shortfall": shortfall(quality, self.real, untrained),
        }


def measure_speed(generator: MelGenerator, windows: int = 256) -> float:
    """Windows per second that `generate` makes on the generator's device, the best of three runs."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        generator.generate(np.zeros((windows, 2)), seed=0).cpu()
        seconds.append(time.perf_counter() - begin)
    return windows / min(seconds)
