import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from emotion_ft.gan.quality import (
    DRAWS,
    Judges,
    QualityMeter,
    effective_dimension,
    fidelity,
    frechet_distance,
    measure_speed,
    nearest_distance,
    shortfall,
    song_windows,
    spread,
    spread_unexplained,
    spread_within,
)
from emotion_ft.modeling import MelGanConfig, MelGenerator
from emotion_ft.scoring.metrics import score

WINDOWS = 3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def whitened(examples, features, seed=0):
    """(examples, features) with exactly zero mean and the identity as covariance."""
    x = normal(examples, features, seed=seed)
    x -= x.mean(0)
    return np.linalg.qr(x)[0] * np.sqrt(examples - 1)


class TestFrechetDistance:
    def test_of_equal_sets_is_zero(self):
        x = normal(30, 6) @ normal(6, 6, seed=1)
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
        assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)

    def test_of_a_shift_is_its_square(self):
        x, shift = normal(40, 5) @ normal(5, 5, seed=1), np.array([3.0, 0, -4, 0, 1])
        assert frechet_distance(x, x + shift) == pytest.approx(26)

    def test_of_two_samples_is_near_that_of_their_gaussians(self):
        x, y = normal(20000, 3), normal(20000, 3, seed=1)
        assert frechet_distance(x, y) == pytest.approx(0, abs=0.01)
        assert frechet_distance(x, y + np.array([1, 2, 2])) == pytest.approx(9, rel=0.03)

    def test_of_diagonal_covariances(self):
        a, b = np.array([1.0, 4, 9, 0.25]), np.array([4.0, 4, 1, 0])
        x, y = whitened(50, 4) * np.sqrt(a), whitened(60, 4, seed=1) * np.sqrt(b)
        assert frechet_distance(x, y) == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum())

    def test_of_full_covariances_equals_scipy(self):
        x, y = normal(50, 7) @ normal(7, 7, seed=1), normal(80, 7, seed=2) @ normal(7, 7, seed=3) + 0.5
        cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        expected = np.square(x.mean(0) - y.mean(0)).sum()
        expected += np.trace(cov_x + cov_y - 2 * linalg.sqrtm(cov_x @ cov_y).real)
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)

    def test_is_symmetric(self):
        x, y = normal(50, 7) @ normal(7, 7, seed=1), normal(80, 7, seed=2) + 0.5
        assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))

    def test_of_fewer_examples_than_features(self):
        x, y = normal(5, 40), normal(8, 40, seed=1) * 2 + 1
        # The roots of the eigenvalues of C_x C_y are the singular values of the centred sets' product.
        product = (x - x.mean(0)) @ (y - y.mean(0)).T / np.sqrt(4 * 7)
        expected = np.square(x.mean(0) - y.mean(0)).sum() + x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum()
        expected -= 2 * np.linalg.svd(product, compute_uv=False).sum()
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)

    def test_of_one_feature(self):
        assert frechet_distance(whitened(9, 1) * 2, whitened(7, 1) * 5 + 1) == pytest.approx(1 + 9)

    def test_of_single_precision_is_computed_in_double(self):
        x, y = (normal(50, 4, seed=seed).astype(np.float32) for seed in (0, 1))
        assert frechet_distance(x, y) == frechet_distance(x.astype(np.float64), y.astype(np.float64))

    @pytest.mark.parametrize(
        ("x", "y"), [((5,), (5,)), ((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5, 3), (1, 3)), ((2, 5, 3), (5, 3))]
    )
    def test_other_shapes_are_refused(self, x, y):
        with pytest.raises(ValueError, match=r"expected two sets \(examples, features\) of two or more, got"):
            frechet_distance(np.zeros(x), np.zeros(y))


class TestEffectiveDimension:
    @pytest.mark.parametrize("directions", [1, 3, 6])
    def test_counts_directions_of_equal_variance(self, directions):
        x = np.pad(whitened(50, directions) * 7, ((0, 0), (0, 6 - directions)))
        assert effective_dimension(x + 4) == pytest.approx(directions)
        assert effective_dimension(x @ np.linalg.qr(normal(6, 6))[0]) == pytest.approx(directions)

    def test_is_the_participation_ratio_of_the_variances(self):
        variances = np.array([5.0, 2, 1, 0.1])
        expected = variances.sum() ** 2 / np.square(variances).sum()
        assert effective_dimension(whitened(40, 4) * np.sqrt(variances)) == pytest.approx(expected)

    def test_of_one_feature_is_one(self):
        assert effective_dimension(normal(9, 1)) == pytest.approx(1)


class TestSpread:
    def test_is_the_root_of_the_total_variance(self):
        x = np.array([[0.0, 1], [2, 1], [4, 7]])
        assert spread(x) == pytest.approx(np.sqrt(4 + 12))
        assert spread(x + 100) == pytest.approx(spread(x))
        assert spread(np.ones((4, 3))) == 0

    def test_within_groups(self):
        x = np.array([[0.0, 0], [2, 0], [10, 5], [10, 9]])  # variances 2 + 0 and 0 + 8
        assert spread_within(x, 2) == pytest.approx(np.sqrt(5))

    def test_within_groups_ignores_what_separates_them(self):
        inside = normal(20, 4, 3)
        shifted = inside + normal(20, 1, 3, seed=1) * 100
        assert spread_within(shifted.reshape(80, 3), 4) == pytest.approx(spread_within(inside.reshape(80, 3), 4))

    def test_within_groups_of_copies_is_zero(self):
        assert spread_within(normal(5, 3).repeat(4, axis=0), 4) == 0

    def test_unexplained_by_a_quadratic_is_zero(self):
        emotion = np.random.default_rng(0).uniform(-1, 1, (50, 2))
        v, a = emotion.T
        x = np.stack([3 + v, a - v**2, v * a, a**2 - 1], axis=1).repeat(2, axis=0)
        assert spread_unexplained(x, emotion, 2) == pytest.approx(0, abs=1e-10)
        assert spread_unexplained(np.stack([v**3], axis=1).repeat(2, axis=0), emotion, 2) > 0.05

    @pytest.mark.parametrize("songs", [8, 40])
    def test_unexplained_recovers_the_spread_between_songs_and_inside_them(self, songs):
        rng = np.random.default_rng(0)
        squares = []
        for _ in range(300):
            emotion = rng.uniform(-1, 1, (songs, 2))
            v, a = emotion.T
            means = np.stack([5 * v * a, v - a**2], axis=1) + rng.normal(size=(songs, 2)) * 0.4
            x = means.repeat(8, axis=0) + rng.normal(size=(songs * 8, 2)) * 0.3
            squares.append(spread_unexplained(x, emotion, 8) ** 2)
        assert np.sqrt(np.mean(squares)) == pytest.approx(np.sqrt(2 * (0.4**2 + 0.3**2)), rel=0.05)

    def test_unexplained_of_few_examples_is_finite(self):
        assert np.isfinite(spread_unexplained(normal(4, 3), normal(2, 2, seed=1), 2))


class TestNearestDistance:
    def test_of_copies_is_zero(self):
        known = normal(30, 5)
        assert nearest_distance(known[[3, 7, 7]], known) == pytest.approx(0, abs=1e-7)

    def test_on_a_grid(self):
        known = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
        x = np.array([[1.0, 1.1], [2.3, 3], [3, 8]])  # 0.1, 0.3 and 5 from the grid
        assert nearest_distance(x, known) == pytest.approx(0.3)
        assert nearest_distance(known, x[2:]) > 5

    def test_equals_all_distances(self):
        x, known = normal(9, 6), normal(20, 6, seed=1)
        expected = np.median([min(np.linalg.norm(row - other) for other in known) for row in x])
        assert nearest_distance(x, known) == pytest.approx(expected)


class TestFidelity:
    def test_equals_the_metrics(self):
        requested = np.random.default_rng(0).uniform(-1, 1, (40, 2))
        predicted = requested * [0.9, 0.5] + normal(40, 2) * 0.2
        expected = score(predicted, requested)
        measured = fidelity(predicted, requested, "_ridge")
        assert measured == pytest.approx({f"{d}_ccc_ridge": expected[f"{d}_ccc"] for d in ("valence", "arousal")})
        assert expected["valence_ccc"] - expected["arousal_ccc"] > 0.1

    def test_of_what_was_requested_is_one(self):
        requested = normal(10, 2)
        assert fidelity(requested, requested) == pytest.approx({"valence_ccc": 1, "arousal_ccc": 1})


REAL = {"valence_ccc": 0.8, "arousal_ccc": 0.6, "valence_ccc_ridge": 0.7, "arousal_ccc_ridge": 0.5, "frechet": 1.0}
UNTRAINED = {"frechet": 40.0}
PERFECT = {**REAL, "frechet": 0.0, "diversity_across": 1.0, "diversity_within": 1.0}


class TestShortfall:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, 0),
            ({"frechet": 10.0}, 0.25),
            ({"frechet": 40.0}, 1),
            ({"valence_ccc": 0.4}, 0.1),
            ({"valence_ccc_ridge": 0.3}, 0.1),
            ({"arousal_ccc": 0.2}, 0.1),
            ({"arousal_ccc": -0.4}, 0.25),
            ({"arousal_ccc_ridge": -0.5}, 0.25),
            ({"valence_ccc": 0.4, "valence_ccc_ridge": 0.3, "arousal_ccc_ridge": 0.1}, 0.3),
            ({"diversity_across": 0.5}, 0.25),
            ({"diversity_within": 0.0}, 0.5),
            ({"frechet": 10.0, "valence_ccc": 0.4, "diversity_across": 0.5}, 0.25 + 0.1 + 0.25),
        ],
    )
    def test_adds_what_is_lacking(self, changes, expected):
        assert shortfall(PERFECT | changes, REAL, UNTRAINED) == pytest.approx(expected)

    def test_no_excess_makes_up_for_a_lack(self):
        excess = {"valence_ccc": 1.0, "arousal_ccc": 0.4, "diversity_across": 3.0, "diversity_within": 0.8}
        excess |= {"arousal_ccc_ridge": 0.9}
        assert shortfall(PERFECT | excess, REAL, UNTRAINED) == pytest.approx(0.05 + 0.1)


class Player:
    """A generator that plays given windows, and notes what it was requested for."""

    def __init__(self, windows):
        self.windows = torch.as_tensor(windows)

    def generate(self, emotion, seed, batch_size=64):
        self.emotion, self.seed = emotion, seed
        return self.windows.clone()


def cut(songs, extractor, count=WINDOWS):
    return np.concatenate(list(song_windows(songs, extractor, count)))


@pytest.fixture(scope="module")
def songs(stored_songs):
    """(learnt, reference), eight songs each."""
    return stored_songs["train"].select(range(8)), stored_songs["train"].select(range(8, 16))


@pytest.fixture(scope="module")
def judges(tiny_model, tiny_extractor, songs):
    return Judges(deepcopy(tiny_model), tiny_extractor, songs[0], num_windows=WINDOWS)


@pytest.fixture(scope="module")
def meter(judges, songs):
    return QualityMeter(judges, songs[1], seed=5)


@pytest.fixture(scope="module")
def learnt(songs, tiny_extractor):
    return cut(songs[0], tiny_extractor)


@pytest.fixture(scope="module")
def reference(songs, tiny_extractor):
    return cut(songs[1], tiny_extractor)


def statistics(windows):
    return np.stack([np.concatenate([w.mean(0), w.std(0), np.abs(w[1:] - w[:-1]).mean(0)]) for w in windows])


@pytest.fixture(scope="module")
def embed(learnt):
    """Windows in the principal components of the learnt windows' mel statistics, as many as songs, whitened."""
    scaler = StandardScaler().fit(statistics(learnt))
    pca = PCA(8, whiten=True, svd_solver="full").fit(scaler.transform(statistics(learnt)))
    return lambda windows: pca.transform(scaler.transform(statistics(windows)))


def labels(songs):
    return (np.stack([songs["valence"], songs["arousal"]], axis=1).repeat(WINDOWS, axis=0) - 5) / 4


class TestSongWindows:
    def test_are_the_extractors(self, songs, tiny_extractor):
        groups = list(song_windows(songs[0], tiny_extractor, 2))
        assert len(groups) == 8
        for row, windows in zip(songs[0], groups, strict=True):
            spectrogram = np.frombuffer(row["log_mel"], np.float16).reshape(-1, 128)
            assert np.array_equal(windows, tiny_extractor.windows(spectrogram, 2))
            assert windows.shape == (2, 101, 128)
            assert windows.mean((1, 2)) == pytest.approx([0, 0], abs=1e-3)


class TestJudges:
    def test_the_embedding_is_white_on_what_was_learnt(self, judges):
        known = judges.known.reshape(-1, judges.known.shape[-1])
        assert judges.known.shape == (8, WINDOWS, 8)
        assert np.cov(known.T) == pytest.approx(np.eye(8), abs=1e-4)
        assert effective_dimension(known) == pytest.approx(8)

    def test_the_embedding_does_not_depend_on_the_model_or_the_labels(
        self, tiny_model, tiny_extractor, songs, judges, reference
    ):
        other = deepcopy(tiny_model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.neg_()
        relabelled = songs[0].map(lambda row: {"valence": 10 - row["arousal"], "arousal": row["valence"]})
        others = Judges(other, tiny_extractor, relabelled, num_windows=WINDOWS)
        ours, theirs = judges([reference]), others([reference])
        assert np.array_equal(ours.embeddings, theirs.embeddings)
        assert not np.allclose(ours.by_ast, theirs.by_ast) and not np.allclose(ours.by_ridge, theirs.by_ridge)

    def test_windows_that_no_emotion_tells_apart_are_told_apart(self, judges, learnt):
        """Noise and a blur along time that a model of emotion need not notice."""
        rng = np.random.default_rng(0)
        noisy = learnt + 0.5 * rng.standard_normal(learnt.shape).astype(np.float32)
        blurred = sum(np.roll(learnt, shift, axis=1) for shift in range(-3, 4)) / 7
        plain = judges([learnt]).embeddings
        halves = plain.reshape(8, WINDOWS, -1)
        apart = frechet_distance(halves[:4].reshape(-1, 8), halves[4:].reshape(-1, 8))
        for windows in (noisy, blurred):
            assert frechet_distance(judges([windows]).embeddings, plain) > apart


class TestQualityMeter:
    def test_real_windows_equal_independent_formulas(self, meter, learnt, reference, embed, songs, tiny_model):
        with torch.no_grad():
            predicted = tiny_model(torch.from_numpy(reference)).logits.double().numpy()
        requested = labels(songs[1])
        means = statistics(learnt).reshape(8, WINDOWS, -1).mean(1)
        scaler = StandardScaler().fit(means)
        ridge = RidgeCV(np.logspace(0, 5, 21)).fit(scaler.transform(means), labels(songs[0])[::WINDOWS])
        by_ridge = ridge.predict(scaler.transform(statistics(reference)))
        expected = {
            "frechet": meter.between_real.mean(),
            "frechet_std": np.std(meter.between_real, ddof=1),
            **{f"{d}_ccc": score(predicted, requested)[f"{d}_ccc"] for d in ("valence", "arousal")},
            **{f"{d}_ccc_ridge": score(by_ridge, requested)[f"{d}_ccc"] for d in ("valence", "arousal")},
            "diversity_across": 1,
            "diversity_within": 1,
            "nearest": 1,
        }
        assert meter.real == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert meter.effective_dimension == pytest.approx(effective_dimension(embed(reference)), rel=1e-3)

    def test_real_distances_are_between_disjoint_halves_of_all_songs(self, meter, learnt, reference, embed):
        """Of sixteen songs in two sets of eight; each drawn distance is that of one such partition."""
        songs = np.concatenate([embed(learnt), embed(reference)]).reshape(16, WINDOWS, -1)
        assert meter.between_real.shape == (DRAWS,) and len(np.unique(meter.between_real.round(9))) > DRAWS / 2
        rng = np.random.default_rng(5)
        for found in meter.between_real[:20]:
            order = rng.permutation(16)
            x, y = (songs[order[half]].reshape(-1, songs.shape[-1]) for half in (slice(0, 8), slice(8, 16)))
            assert found == pytest.approx(frechet_distance(x, y), rel=1e-3)

    def test_real_distances_are_of_as_many_songs_as_the_reference(self, judges, songs):
        few, many = (QualityMeter(judges, songs[1].select(range(count)), seed=5) for count in (2, 8))
        assert few.real["frechet"] > 1.5 * many.real["frechet"]  # a small set is farther from its like

    def test_the_percentile_is_the_share_of_nearer_real_sets(self, meter, reference, learnt):
        quality = meter.measure(Player(reference))
        assert quality["frechet_percentile"] == 0
        noise = normal(*reference.shape).astype(np.float32)
        assert meter.measure(Player(noise))["frechet_percentile"] == 100
        quality = meter.measure(Player(learnt))
        expected = 100 * np.mean([distance < quality["frechet"] for distance in meter.between_real])
        assert quality["frechet_percentile"] == pytest.approx(expected)

    @pytest.mark.parametrize("count", [1, 9])
    def test_too_few_or_too_many_reference_songs_are_refused(self, judges, stored_songs, count):
        with pytest.raises(ValueError, match=f"expected 2 to 8 reference songs, got {count}"):
            QualityMeter(judges, stored_songs["train"].select(range(count)), seed=5)

    def test_is_relative_to_the_untrained_generator(self, meter, learnt, reference):
        untrained = meter.measure(Player(normal(*reference.shape).astype(np.float32)))
        assert untrained["frechet_share"] == 1
        quality = meter.measure(Player(learnt), untrained)
        assert quality["frechet_share"] == pytest.approx(quality["frechet"] / untrained["frechet"])
        assert quality["shortfall"] == pytest.approx(shortfall(quality, meter.real, untrained))
        assert quality["shortfall"] < untrained["shortfall"]

    def test_requests_the_emotions_of_the_reference_songs(self, meter, reference, songs):
        player = Player(reference)
        meter.measure(player)
        assert player.emotion == pytest.approx(labels(songs[1]))
        assert player.seed == 5

    def test_a_generator_of_real_windows_measures_as_real_ones(self, meter, reference):
        quality = meter.measure(Player(reference))
        assert quality["frechet"] == pytest.approx(0, abs=1e-6)
        assert quality["diversity_across"] == pytest.approx(1)
        assert quality["nearest"] == pytest.approx(1)
        for judge in ("valence_ccc", "arousal_ccc", "valence_ccc_ridge", "arousal_ccc_ridge"):
            assert quality[judge] == pytest.approx(meter.real[judge])

    def test_diversity_within_is_a_share_of_what_emotion_leaves(self, meter, reference, embed, songs):
        embeddings = embed(reference)
        expected = spread_within(embeddings, WINDOWS) / spread_unexplained(
            embeddings, labels(songs[1])[::WINDOWS], WINDOWS
        )
        assert meter.measure(Player(reference))["diversity_within"] == pytest.approx(expected, rel=1e-4)

    def test_one_window_for_everything_has_no_diversity(self, meter, reference):
        quality = meter.measure(Player(reference[:1].repeat(len(reference), axis=0)))
        assert quality["diversity_across"] == pytest.approx(0, abs=1e-4)
        assert quality["diversity_within"] == pytest.approx(0, abs=1e-4)
        assert quality["valence_ccc"] == pytest.approx(0, abs=1e-4)
        assert quality["frechet"] > 0

    def test_one_window_an_emotion_has_no_diversity_within(self, meter, reference):
        quality = meter.measure(Player(reference[::WINDOWS].repeat(WINDOWS, axis=0)))
        assert quality["diversity_within"] == pytest.approx(0, abs=1e-4)
        assert quality["diversity_across"] > 0.5

    def test_windows_are_judged_by_the_emotion_at_their_place(self, meter, reference):
        quality = meter.measure(Player(np.roll(reference, WINDOWS, axis=0)))
        assert quality["frechet"] == pytest.approx(0, abs=1e-6)
        assert quality["valence_ccc_ridge"] < meter.real["valence_ccc_ridge"] - 0.1

    def test_copies_of_learnt_windows_are_near(self, meter, learnt):
        quality = meter.measure(Player(learnt))
        assert quality["nearest"] == pytest.approx(0, abs=1e-3)

    def test_leaves_the_model_in_evaluation_mode_and_as_it_was(self, tiny_model, tiny_extractor, songs, reference):
        model = deepcopy(tiny_model).train()
        meter = QualityMeter(Judges(model, tiny_extractor, songs[0], WINDOWS), songs[1], seed=5)
        assert not any(module.training for module in model.modules())
        first = meter.measure(Player(reference))
        assert not any(module.training for module in model.modules())
        assert meter.measure(Player(reference)) == first
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        for name, tensor in tiny_model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name

    def test_touches_no_global_random_state(self, tiny_model, tiny_extractor, songs):
        generator = MelGenerator(tiny_generator())
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        meter = QualityMeter(Judges(deepcopy(tiny_model), tiny_extractor, songs[0], WINDOWS), songs[1], seed=5)
        meter.measure(generator)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]

    def test_measures_a_generator(self, meter):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            generator = MelGenerator(tiny_generator())
        quality = meter.measure(generator)
        assert quality.keys() > meter.real.keys() - {"frechet_std"}
        assert np.isfinite(list(quality.values())).all()
        assert quality == meter.measure(generator)
        assert quality["frechet"] > meter.real["frechet"]
        assert quality["shortfall"] >= 1


def tiny_generator():
    return MelGanConfig(max_length=101, num_mel_bins=128, latent_size=8, channels=4, max_channels=16, num_scales=3)


def test_speed_is_windows_a_second(monkeypatch):
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr("emotion_ft.gan.quality.time.perf_counter", lambda: next(clock))
    player = Player(np.zeros((1, 2, 2)))
    assert measure_speed(player, windows=10) == 5
    assert player.emotion.shape == (10, 2)
