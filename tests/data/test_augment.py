import random

import numpy as np
import pytest
import torch
import torchaudio
from accelerate import skip_first_batches
from datasets import Dataset
from scipy.stats import chisquare, ks_2samp
from torch.utils.data import DataLoader, RandomSampler

from emotion_ft.config.settings import SpecAugmentConfig
from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, spec_augment, with_transform
from emotion_ft.modeling import ASTEmotionFeatureExtractor

MASKS = SpecAugmentConfig()
NO_MASKS = SpecAugmentConfig(time_masks=0, frequency_masks=0)


def training(extractor, masks=MASKS, seed=42):
    return TrainingTransform(extractor, masks, seed)


def epochs(songs, transform, count=2, **options):
    """`input_values` of every song, in order, epoch by epoch."""
    loader = DataLoader(with_transform(songs, transform), batch_size=4, **options)
    result = []
    for epoch in range(count):
        transform.set_epoch(epoch)
        result.append(torch.cat([batch["input_values"] for batch in loader]))
    return result


def noise_song(frames, mels=128, song_id=5):
    log_mel = np.random.default_rng(0).standard_normal((frames, mels)).astype(np.float16)
    return {"song_id": [song_id], "log_mel": [log_mel.tobytes()], "valence": [1.0], "arousal": [7.0]}, log_mel


class TestRandomness:
    def test_workers_see_the_epoch_and_draw_the_same(self, stored_songs, tiny_extractor):
        songs = stored_songs["train"]
        alone = epochs(songs, training(tiny_extractor))
        for options in ({}, {"persistent_workers": True}):
            helped = epochs(songs, training(tiny_extractor), num_workers=2, **options)
            assert torch.equal(alone[0], helped[0]) and torch.equal(alone[1], helped[1])

    def test_epochs_and_seeds_differ(self, stored_songs, tiny_extractor):
        songs = stored_songs["train"]
        first, second = epochs(songs, training(tiny_extractor, NO_MASKS))
        other, _ = epochs(songs, training(tiny_extractor, NO_MASKS, seed=43))
        for changed in (second, other):
            same = [torch.equal(*pair) for pair in zip(first, changed, strict=True)]
            assert sum(same) <= 2  # 50-100 possible starts: rarely the same one

    def test_songs_differ(self, tiny_extractor):
        songs = [noise_song(2000, song_id=song_id)[0] for song_id in range(8)]
        crops = [training(tiny_extractor, NO_MASKS)(rows)["input_values"][0].numpy().tobytes() for rows in songs]
        assert len(set(crops)) == 8

    def test_global_random_states_are_neither_read_nor_changed(self, stored_songs, tiny_extractor):
        view = with_transform(stored_songs["train"], training(tiny_extractor))
        seen = []
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
            seen.append(view[3]["input_values"])
            assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        assert torch.equal(*seen)

    def test_order_and_batch_do_not_matter(self, stored_songs, tiny_extractor):
        view = with_transform(stored_songs["train"], training(tiny_extractor))
        together = view[[7, 2, 11]]["input_values"]
        for crop, index in zip(together, [7, 2, 11], strict=True):
            assert torch.equal(crop, view[index]["input_values"])

    def test_resuming_within_an_epoch_gives_the_same_crops(self, stored_songs, tiny_extractor):
        def loader():
            transform = training(tiny_extractor)
            transform.set_epoch(3)
            view = with_transform(stored_songs["train"], transform)
            sampler = RandomSampler(view, generator=torch.Generator().manual_seed(0))
            return DataLoader(view, batch_size=3, sampler=sampler)

        through = [batch["input_values"] for batch in loader()]
        resumed = [batch["input_values"] for batch in skip_first_batches(loader(), 2)]
        assert len(resumed) == len(through) - 2
        assert all(map(torch.equal, resumed, through[2:]))

    def test_all_starts_are_equally_likely(self, tiny_extractor):
        rows, log_mel = noise_song(tiny_extractor.max_length + 3)
        windows = [tiny_extractor.window(log_mel, start).tobytes() for start in range(4)]
        transform, counts = training(tiny_extractor, NO_MASKS), np.zeros(4)
        for epoch in range(800):
            transform.set_epoch(epoch)
            counts[windows.index(transform(rows)["input_values"][0].numpy().tobytes())] += 1
        assert chisquare(counts).pvalue > 0.01


class TestSpecAugment:
    DRAWS, FRAMES, MELS = 6000, 101, 40

    @staticmethod
    def block(masked):
        """(start, width) of the zeros in a vector of ones."""
        zeros = np.flatnonzero(masked == 0)
        assert len(zeros) == 0 or np.array_equal(zeros, np.arange(zeros[0], zeros[-1] + 1))
        return (int(zeros[0]) if len(zeros) else -1, len(zeros))

    @pytest.mark.parametrize(("axis", "bound"), [("time", 30), ("frequency", 15)])
    def test_masks_have_the_distribution_of_torchaudios(self, axis, bound):
        if axis == "time":
            config, reference = SpecAugmentConfig(1, bound, 0, 0), torchaudio.transforms.TimeMasking(bound)
        else:
            config, reference = SpecAugmentConfig(0, 0, 1, bound), torchaudio.transforms.FrequencyMasking(bound)
        rng, ours, theirs = np.random.default_rng(0), [], []
        torch.manual_seed(0)
        for _ in range(self.DRAWS):
            window = spec_augment(np.ones((self.FRAMES, self.MELS), np.float32), config, rng)
            other = reference(torch.ones(1, self.MELS, self.FRAMES))[0].T.numpy()
            for masked, blocks in ((window, ours), (other, theirs)):
                along, across = (masked, masked.T) if axis == "time" else (masked.T, masked)
                assert not np.ptp(along, axis=1).any()  # a mask spans all bands, or all frames
                blocks.append(self.block(across[0]))
        ours, theirs = np.array(ours), np.array(theirs)
        assert ours[:, 1].min() == 0 and ours[:, 1].max() == bound - 1
        for mine, reference in ((ours[:, 1], theirs[:, 1]), (ours[:, 0], theirs[:, 0])):
            assert ks_2samp(mine, reference).pvalue > 0.01
            assert mine.mean() == pytest.approx(reference.mean(), abs=4 * reference.std() * (2 / self.DRAWS) ** 0.5)

    def test_as_many_masks_as_configured(self):
        config = SpecAugmentConfig(time_masks=2, time_mask_frames=6, frequency_masks=3, frequency_mask_bins=4)
        most = np.zeros(2, int)
        for seed in range(300):
            window = spec_augment(np.ones((400, 300), np.float32), config, np.random.default_rng(seed))
            masked = [np.flatnonzero((window == 0).all(axis=axis)) for axis in (1, 0)]
            most = np.maximum(most, [np.sum(np.diff(m) > 1) + (len(m) > 0) for m in masked])
        assert most.tolist() == [2, 3]

    def test_masks_are_zeros_in_an_otherwise_untouched_window(self, tiny_extractor):
        rows, _ = noise_song(400)
        plain = training(tiny_extractor, NO_MASKS)(rows)["input_values"][0]
        masked = training(tiny_extractor)(rows)["input_values"][0]
        changed = plain != masked
        assert 0 < changed.float().mean() < 0.7
        assert not masked[changed].any()

    def test_masks_wider_than_the_window_are_no_error(self):
        config = SpecAugmentConfig(time_masks=1, time_mask_frames=500, frequency_masks=1, frequency_mask_bins=500)
        for seed in range(50):
            spec_augment(np.ones((20, 10), np.float32), config, np.random.default_rng(seed))


class TestRows:
    def test_evaluation_gives_the_extractors_windows_unmasked(self, stored_songs, tiny_extractor):
        songs = stored_songs["test"]
        view = with_transform(songs, EvaluationTransform(tiny_extractor))
        for row, seen in zip(songs, view, strict=True):
            log_mel = np.frombuffer(row["log_mel"], np.float16).reshape(row["frames"], 128)
            assert seen["input_values"].shape == (3, 101, 128)
            np.testing.assert_array_equal(seen["input_values"], tiny_extractor.windows(log_mel))

    @pytest.mark.parametrize("kind", ["training", "evaluation"])
    def test_labels_are_valence_then_arousal_in_minus_one_to_one(self, stored_songs, tiny_extractor, kind):
        transform = training(tiny_extractor) if kind == "training" else EvaluationTransform(tiny_extractor)
        songs = stored_songs["train"]
        view = with_transform(songs, transform)[:]
        assert view.keys() == {"input_values", "labels"}
        expected = np.stack([(np.array(songs[name]) - 5) / 4 for name in ("valence", "arousal")], axis=1)
        labels = torch.stack(view["labels"])
        assert labels.dtype == torch.float32 and np.abs(expected).max() < 1
        np.testing.assert_allclose(labels, expected, atol=1e-6)
        edges = {**noise_song(300)[0], "valence": [1.0], "arousal": [9.0]}
        assert transform(edges)["labels"][0].tolist() == [-1, 1]

    def test_short_songs_are_repeated(self, tiny_extractor):
        rows, _ = noise_song(60)
        crop = training(tiny_extractor, NO_MASKS)(rows)["input_values"][0]
        assert crop.shape == (101, 128) and crop.dtype == torch.float32
        assert torch.equal(crop[60:], crop[: len(crop) - 60])
        windows = EvaluationTransform(tiny_extractor)(rows)["input_values"][0]
        assert all(torch.equal(window, crop) for window in windows)
        assert torch.equal(TrainingTransform(tiny_extractor, None, 0)(rows)["input_values"][0], crop)

    def test_the_stored_song_is_never_written_to(self, tiny_extractor):
        rows, log_mel = noise_song(300)
        songs = Dataset.from_dict(rows)
        view = with_transform(songs, training(tiny_extractor))
        for _ in range(3):
            view[0]
        assert songs[0]["log_mel"] == log_mel.tobytes()

    def test_another_number_of_bands(self):
        extractor = ASTEmotionFeatureExtractor(num_mel_bins=64, max_length=50)
        assert training(extractor)(noise_song(90, 64)[0])["input_values"][0].shape == (50, 64)
