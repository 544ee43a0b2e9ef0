import random
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from emotion_ft.config.settings import SpecAugmentConfig, TrainingConfig
from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, window_rng, with_transform
from emotion_ft.data.collections.deam import load_deam
from emotion_ft.data.songs import labels_of
from emotion_ft.data.synthetic import (
    JITTER,
    KEY,
    TRIES,
    SyntheticDataError,
    SyntheticTransform,
    add_synthetic,
    draw_emotions,
    refuse_synthetic,
)
from emotion_ft.inference.predict import predict_songs
from emotion_ft.modeling import MelGanConfig, MelGenerator
from emotion_ft.training.trainer import EmotionTrainer

MASKS = SpecAugmentConfig()
REAL = 16


class Flat:
    """A generator whose windows contain the first number of the latent, and the emotion in their last two bands."""

    config = SimpleNamespace(latent_size=3)

    def __call__(self, latent, emotion):
        bands = torch.cat([latent[:, :1].repeat(1, 126), emotion], dim=1)
        return bands[:, None].repeat(1, 101, 1)


class Oracle:
    """Predicts a window's valence as the mean of its fourth band; remembers how many windows it was given."""

    def __init__(self, within):
        self.within, self.asked = within, []

    def __call__(self, windows, emotion):
        self.asked.append(len(windows))
        return (windows[:, :, 3].mean(1) - emotion[:, 0]).abs() / self.within


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MelGenerator(MelGanConfig(max_length=101, channels=4, num_scales=2, latent_size=8)).eval()


@pytest.fixture(scope="module")
def labels(stored_songs):
    return labels_of(stored_songs["train"])


@pytest.fixture
def synthetic(tiny_extractor, generator, labels):
    """`synthetic(augmentation, seed, confirm, generator)` -> a `SyntheticTransform`."""

    def make(augmentation=None, seed=42, confirm=None, generator=generator):
        return SyntheticTransform(tiny_extractor, augmentation, seed, generator, labels, confirm)

    return make


@pytest.fixture(scope="module")
def mixed(stored_songs):
    """16 real rows, then 16 synthetic ones."""
    return add_synthetic(stored_songs["train"], 0.5)


@pytest.fixture(scope="module")
def one_in(stored_songs):
    """4 real rows and one synthetic row."""
    return add_synthetic(stored_songs["validation"], 0.2)


def stacked(batch):
    return torch.stack(batch["input_values"]), torch.stack(batch["labels"])


class TestRows:
    @pytest.mark.parametrize(("fraction", "made"), [(0, 0), (0.3, 7), (0.5, 16)])
    def test_synthetic_rows_are_the_requested_share_of_all(self, stored_songs, fraction, made):
        songs = stored_songs["train"]
        joined = add_synthetic(songs, fraction)
        assert joined["synthetic"][:] == [False] * REAL + [True] * made
        assert made / len(joined) == pytest.approx(fraction, abs=0.5 / len(joined))
        assert joined.info.description == songs.info.description != ""

    def test_real_rows_are_kept_to_the_byte(self, stored_songs, mixed):
        for name in ("song_id", "log_mel", "valence", "arousal"):
            assert mixed[name][:REAL] == stored_songs["train"][name][:]

    def test_ids_are_unique_and_those_of_synthetic_rows_negative(self, mixed):
        assert len(set(mixed["song_id"])) == len(mixed)
        assert mixed["song_id"][REAL:] == list(range(-1, -REAL - 1, -1))
        assert np.isnan(labels_of(mixed)[REAL:]).all()

    @pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
    def test_an_impossible_share_raises(self, stored_songs, fraction):
        with pytest.raises(SyntheticDataError, match=r"must lie in \[0, 1\), got"):
            add_synthetic(stored_songs["train"], fraction)

    def test_nothing_is_added_twice(self, mixed):
        with pytest.raises(SyntheticDataError, match="16 of 32 rows are synthetic"):
            add_synthetic(mixed, 0.3)

    def test_loaded_and_stored_songs_are_real(self, songs_root, stored_songs):
        for songs in (load_deam(songs_root), stored_songs):
            for side in songs.values():
                assert side["synthetic"][:] == [False] * len(side)
                refuse_synthetic(side)


class TestWindows:
    def test_real_rows_come_out_as_without_synthetic_ones(self, stored_songs, mixed, synthetic, tiny_extractor):
        alone, among = TrainingTransform(tiny_extractor, MASKS, 42), synthetic(MASKS)
        for transform in (alone, among):
            transform.set_epoch(3)
        order = [20, 3, 31, 7, 0, 16, 15]
        rows = with_transform(mixed, among)[order]
        for place, index in enumerate(order):
            if index < REAL:
                expected = with_transform(stored_songs["train"], alone)[index]
                assert torch.equal(rows["input_values"][place], expected["input_values"])
                assert torch.equal(rows["labels"][place], expected["labels"])

    def test_synthetic_rows_come_in_the_order_asked_for(self, mixed, synthetic):
        transform = synthetic(MASKS)
        rows = with_transform(mixed, transform)[[5, 18, 2, 16]]
        for place, number in ((1, 3), (3, 1)):
            window, emotion = stacked(transform.make([number]))
            torch.testing.assert_close(rows["input_values"][place], window[0], atol=1e-5, rtol=0)
            assert torch.equal(rows["labels"][place], emotion[0])
            assert window.dtype == emotion.dtype == torch.float32 and window[0].shape == (101, 128)

    def test_the_generator_makes_them_from_their_labels(self, synthetic, generator):
        windows, emotion = stacked(synthetic().make([4, 9]))
        for window, asked, number in zip(windows, emotion, [4, 9], strict=True):
            rng = window_rng(42, 0, number, KEY)
            rng.integers(REAL), rng.standard_normal(2)  # the song and the jitter of its emotion
            latent = torch.from_numpy(rng.standard_normal((1, 8), dtype=np.float32))
            with torch.no_grad():
                expected = generator(latent, asked[None])[0]
            torch.testing.assert_close(window, expected, atol=1e-5, rtol=0)

    def test_epochs_seeds_and_numbers_differ_and_nothing_else(self, synthetic):
        def made(seed=42, epoch=0, number=1):
            transform = synthetic(MASKS, seed)
            transform.set_epoch(epoch)
            return stacked(transform.make([number]))

        assert all(map(torch.equal, made(), made()))
        seen = [made(), made(epoch=1), made(epoch=2), made(seed=43), made(number=2), made(number=3)]
        assert len({window.numpy().tobytes() for window, _ in seen}) == len(seen)
        assert len({emotion.numpy().tobytes() for _, emotion in seen}) == len(seen)

    def test_a_song_and_a_synthetic_row_of_the_same_number_share_no_randomness(self):
        assert window_rng(42, 0, 5, KEY).random() != window_rng(42, 0, 5).random()

    @pytest.mark.parametrize("confirm", [None, Oracle(0.1)], ids=["unconfirmed", "confirmed"])
    def test_other_windows_in_the_batch_do_not_matter(self, synthetic, confirm):
        transform = synthetic(MASKS, confirm=confirm)
        windows, emotion = stacked(transform.make([3, 8, 1, 12, 5]))
        for place, number in enumerate([3, 8, 1, 12, 5]):
            window, asked = stacked(transform.make([number]))
            torch.testing.assert_close(windows[place], window[0], atol=1e-5, rtol=0)
            assert torch.equal(emotion[place], asked[0])

    def test_global_random_states_are_neither_read_nor_changed(self, mixed, synthetic):
        view = with_transform(mixed, synthetic(MASKS, confirm=Oracle(0.1)))
        seen = []
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
            seen.append(view[[3, 20, 25]]["input_values"])
            assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        assert all(map(torch.equal, *seen))

    def test_masks_fall_on_them_and_leave_the_rest(self, synthetic):
        plain, _ = stacked(synthetic().make([1, 2, 3]))
        masked, _ = stacked(synthetic(MASKS).make([1, 2, 3]))
        for before, after in zip(plain, masked, strict=True):
            changed = before != after
            assert 0 < changed.float().mean() < 0.7 and not after[changed].any()
            assert (changed.all(0) | changed.all(1)[:, None])[changed].all()  # whole frames, or whole bands

    def test_masks_differ_from_window_to_window(self, synthetic):
        masked, _ = stacked(synthetic(MASKS).make([1, 2, 3, 4]))
        assert len({(window == 0).numpy().tobytes() for window in masked}) == 4

    def test_workers_see_the_epoch_and_make_the_same(self, mixed, synthetic):
        def epochs(**options):
            transform, result = synthetic(MASKS), []
            loader = DataLoader(with_transform(mixed, transform), batch_size=8, **options)
            for epoch in range(2):
                transform.set_epoch(epoch)
                batches = list(loader)
                result.append([torch.cat([batch[name] for batch in batches]) for name in ("input_values", "labels")])
            return result

        alone, helped = epochs(), epochs(num_workers=2, persistent_workers=True)
        for (windows, emotion), (others, asked) in zip(alone, helped, strict=True):
            assert torch.equal(windows[:REAL], others[:REAL]) and torch.equal(emotion, asked)
            torch.testing.assert_close(windows, others, atol=1e-5, rtol=0)
        assert not torch.isclose(alone[0][0], alone[1][0], atol=1e-5).flatten(1).all(1)[REAL:].any()

    def test_a_view_holds_the_transform_itself_and_is_fingerprinted_by_it(self, mixed, synthetic, caplog):
        transform = synthetic(MASKS)
        view = with_transform(mixed, transform)
        assert view.format["format_kwargs"]["transform"] is transform
        assert view._fingerprint == with_transform(mixed, transform)._fingerprint
        assert view._fingerprint != with_transform(mixed, synthetic(MASKS, seed=43))._fingerprint
        assert "hashed" not in caplog.text
        before = view[20]["input_values"]
        transform.set_epoch(1)
        assert not torch.equal(view[20]["input_values"], before)


class TestEmotions:
    DRAWS = 20000

    def test_they_follow_the_training_labels(self):
        rng = np.random.default_rng(0)
        valence = rng.uniform(-0.7, 0.5, 40)
        labels = np.stack([valence, 0.6 * valence + rng.uniform(-0.1, 0.2, 40)], axis=1)
        drawn = draw_emotions(labels, np.random.default_rng(1), self.DRAWS)
        sd = np.sqrt(labels.var(0) + JITTER**2)
        assert drawn.shape == (self.DRAWS, 2) and drawn.dtype == np.float32
        np.testing.assert_allclose(drawn.mean(0), labels.mean(0), atol=4 * sd.max() / self.DRAWS**0.5)
        np.testing.assert_allclose(drawn.std(0), sd, rtol=4 / (2 * self.DRAWS) ** 0.5)
        expected = np.cov(labels.T, ddof=0)[0, 1] / sd.prod()
        assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(expected, abs=0.03)

    def test_each_is_near_a_song_but_equal_to_none(self):
        labels = np.array([[-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
        drawn = draw_emotions(labels, np.random.default_rng(0), 3000)
        away = drawn[:, None] - labels
        nearest = np.abs(away).max(2).argmin(1)
        assert np.bincount(nearest) == pytest.approx([1000] * 3, abs=110)
        offsets = away[np.arange(3000), nearest]
        assert np.abs(offsets).min() > 0 and np.abs(offsets).max() < 5 * JITTER
        assert offsets.std(0) == pytest.approx([JITTER] * 2, rel=0.06)

    def test_they_stay_on_the_scale(self):
        drawn = draw_emotions(np.array([[-1.0, 1.0]]), np.random.default_rng(0), 500)
        assert np.abs(drawn).max() == 1 and np.abs(drawn).min() < 1

    def test_windows_labels_follow_the_training_labels(self, synthetic, labels):
        transform, drawn = synthetic(generator=Flat()), []
        for epoch in range(15):
            transform.set_epoch(epoch)
            drawn.append(stacked(transform.make(list(range(1, 101))))[1])
        drawn, unit = torch.cat(drawn).numpy(), (labels - 5) / 4
        assert np.abs(drawn).max() <= 1
        np.testing.assert_allclose(drawn.mean(0), unit.mean(0), atol=4 * unit.std(0).max() / 1500**0.5)
        np.testing.assert_allclose(drawn.std(0), np.sqrt(unit.var(0) + JITTER**2), rtol=0.06)


class TestConfirm:
    NUMBERS = tuple(range(1, 33))

    def test_confirmed_windows_are_nearer_to_the_request(self, synthetic, generator):
        for made_by, within, share in ((Flat(), 0.2, 0.5), (generator, 0.02, 0.9)):  # random weights: similar windows
            plain = synthetic(generator=made_by).make(self.NUMBERS)
            chosen = synthetic(generator=made_by, confirm=Oracle(within)).make(self.NUMBERS)
            assert torch.equal(stacked(plain)[1], stacked(chosen)[1])
            before, after = (Oracle(within)(*stacked(batch)) for batch in (plain, chosen))
            assert (after <= before + 1e-4).all() and after.mean() < share * before.mean()

    def test_confirmed_windows_are_kept_and_only_the_others_tried_again(self, synthetic):
        oracle = Oracle(0.5)
        plain, emotion = stacked(synthetic(generator=Flat()).make(self.NUMBERS))
        chosen, _ = stacked(synthetic(generator=Flat(), confirm=oracle).make(self.NUMBERS))
        confirmed = Oracle(0.5)(plain, emotion) <= 1
        assert 0 < confirmed.sum() < len(confirmed)
        assert torch.equal(chosen[confirmed], plain[confirmed])
        assert torch.equal(chosen[:, 0, 126:], emotion)
        assert (Oracle(0.5)(chosen, emotion) <= 1).float().mean() > 0.9
        assert oracle.asked[:2] == [len(confirmed), int((~confirmed).sum())]
        assert oracle.asked == sorted(oracle.asked, reverse=True) and oracle.asked[2] < oracle.asked[1]

    @pytest.mark.parametrize("miss", [0.0, 1.0])
    def test_one_that_always_accepts_changes_nothing(self, synthetic, miss):
        plain = stacked(synthetic(MASKS).make(self.NUMBERS[:6]))
        accepted = stacked(synthetic(MASKS, confirm=lambda w, e: torch.full((len(w),), miss)).make(self.NUMBERS[:6]))
        assert all(map(torch.equal, plain, accepted))

    def test_one_that_never_accepts_ends_and_keeps_the_closest(self, synthetic):
        oracle = Oracle(1e-9)
        windows, emotion = stacked(synthetic(generator=Flat(), confirm=oracle).make(self.NUMBERS))
        assert oracle.asked == [len(self.NUMBERS)] * TRIES
        firsts = 0
        for window, asked, number in zip(windows, emotion, self.NUMBERS, strict=True):
            rng = window_rng(42, 0, number, KEY)
            rng.integers(REAL), rng.standard_normal(2)
            predicted = np.array([rng.standard_normal(3, dtype=np.float32)[0] for _ in range(TRIES)])
            best = np.abs(predicted - asked[0].item()).argmin()
            assert (window[:, :126] == predicted[best].item()).all() and (window[:, 126:] == asked).all()
            firsts += best == 0
        assert firsts < len(self.NUMBERS) / 2


class TestRefusal:
    @pytest.fixture
    def trainer(self, tiny_model, tiny_extractor, stored_songs, mixed, synthetic, tmp_path):
        def make(evaluated=stored_songs["validation"]):
            args = TrainingConfig(
                output_dir=str(tmp_path),
                num_train_epochs=2,
                per_device_train_batch_size=8,
                gradient_accumulation_steps=1,
                backbone_learning_rate=1e-3,
                head_learning_rate=1e-3,
                precision="fp32",
                disable_tqdm=True,
                logging_steps=1,
                report_to=[],
            )
            return EmotionTrainer(
                model=deepcopy(tiny_model),
                args=args,
                train_dataset=with_transform(mixed, synthetic(MASKS)),
                eval_dataset=with_transform(evaluated, EvaluationTransform(tiny_extractor)),
            )

        return make

    def test_says_how_many_and_accepts_real_songs(self, stored_songs, one_in):
        assert len(one_in) == 5
        with pytest.raises(SyntheticDataError, match="1 of 5 rows are synthetic"):
            refuse_synthetic(one_in)
        refuse_synthetic(one_in.select(range(4)))
        refuse_synthetic(stored_songs["test"])
        refuse_synthetic(Dataset.from_dict({"song_id": [1]}))

    def test_a_view_cannot_hide_them(self, one_in, tiny_extractor, synthetic):
        for transform in (EvaluationTransform(tiny_extractor), synthetic()):
            with pytest.raises(SyntheticDataError):
                refuse_synthetic(with_transform(one_in, transform))

    def test_no_score_and_no_prediction_of_them(self, trainer, one_in, tiny_extractor, synthetic):
        run = trainer()
        for transform in (EvaluationTransform(tiny_extractor), synthetic()):
            view = with_transform(one_in, transform)
            for ask in (run.evaluate, run.predict):
                with pytest.raises(SyntheticDataError, match="1 of 5"):
                    ask(view)
            with pytest.raises(SyntheticDataError, match="1 of 5"):
                run.evaluate({"songs": view})

    def test_no_model_is_selected_on_them(self, trainer, one_in):
        with pytest.raises(SyntheticDataError, match="1 of 5"):
            trainer(one_in).train()

    def test_stored_songs_are_predicted_only_without_them(self, tiny_model, tiny_extractor, one_in):
        with pytest.raises(SyntheticDataError, match="1 of 5"):
            predict_songs(tiny_model, tiny_extractor, one_in)
        assert predict_songs(tiny_model, tiny_extractor, one_in.select(range(4))).shape == (4, 2)

    def test_training_uses_them(self, trainer, tiny_model):
        run = trainer()
        outcome = run.train()
        transform = run.train_dataset.format["format_kwargs"]["transform"]
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        assert outcome.global_step == len(losses) == 2 * 32 / 8 and int(transform._epoch) == 1
        assert np.isfinite(losses).all() and np.isfinite(run.evaluate()["eval_loss"])
        pairs = zip(run.model.parameters(), tiny_model.parameters(), strict=True)
        assert all(torch.isfinite(now).all() and not torch.equal(now, before) for now, before in pairs)
