import numpy as np
import pytest
from datasets import Dataset

from emotion_ft.data.augment import TrainingTransform
from emotion_ft.data.targets import AgreementTarget, CurveTarget, SongTarget
from emotion_ft.modeling import ASTEmotionFeatureExtractor

# 50 frames per second, windows of 2 s.
EXTRACTOR = ASTEmotionFeatureExtractor(max_length=101, num_windows=3)


def row(start=2.0, values=12, frames=600):
    """A song of 12 s whose curves rise and fall from 0 in steps of 0.01, from `start` seconds on."""
    curve = 0.01 * np.arange(values)
    log_mel = np.random.default_rng(0).standard_normal((frames, 128)).astype(np.float16)
    return {
        "song_id": 7,
        "log_mel": log_mel.tobytes(),
        "valence": 9.0,
        "arousal": 1.0,
        "curve_start": start,
        "curve_valence": curve.tolist(),
        "curve_arousal": (-curve).tolist(),
    }


def test_a_song_has_one_target_everywhere():
    target = SongTarget()
    assert target.starts(row(), 600, EXTRACTOR) == (0, 499) and target.starts(row(), 80, EXTRACTOR) == (0, 0)
    assert target(row(), 123, EXTRACTOR)["labels"].tolist() == [1, -1]


class TestCurveTarget:
    def test_is_the_mean_over_the_window(self):
        labels = CurveTarget()(row(), 150, EXTRACTOR)["labels"]  # 3 s to 5.02 s: values 2 to 6
        assert labels == pytest.approx([0.04, -0.04]) and labels.dtype == np.float32

    def test_windows_are_within_the_annotated_span(self):
        # 2 s to 8 s, so that windows of 2.02 s start between 2 s and 5.98 s.
        assert CurveTarget().starts(row(), 600, EXTRACTOR) == (100, 299)

    def test_and_within_the_excerpt(self):
        assert CurveTarget().starts(row(), 350, EXTRACTOR) == (100, 249)

    def test_a_short_span_is_in_the_middle_of_its_window(self):
        first, last = CurveTarget().starts(row(start=6.0, values=2), 600, EXTRACTOR)  # 6 s to 7 s
        assert first == last and (first + 50.5) / 50 == pytest.approx(6.5, abs=0.02)
        assert CurveTarget()(row(start=6.0, values=2), first, EXTRACTOR)["labels"][0] == pytest.approx(0.005)

    def test_a_window_without_a_value_takes_the_nearest(self):
        assert CurveTarget()(row(), 500, EXTRACTOR)["labels"][0] == pytest.approx(0.11)  # after the end
        assert CurveTarget()(row(start=11.5, values=1), 300, EXTRACTOR)["labels"][0] == 0

    def test_the_transform_crops_and_labels_accordingly(self):
        transform, seen = TrainingTransform(EXTRACTOR, None, 42, CurveTarget()), []
        assert set(transform.columns) == {"song_id", "log_mel", "curve_start", "curve_valence", "curve_arousal"}
        song = row()
        spectrogram = np.frombuffer(song["log_mel"], np.float16).reshape(600, 128)
        for epoch in range(40):
            transform.set_epoch(epoch)
            example = transform.example(song)
            start = next(
                s for s in range(500) if np.array_equal(EXTRACTOR.window(spectrogram, s), example["input_values"])
            )
            times = 2 + 0.5 * np.arange(12)
            inside = (times >= start / 50) & (times < (start + 101) / 50)
            assert example["labels"][0] == pytest.approx(0.01 * np.arange(12)[inside].mean(), abs=1e-6)
            seen.append(start)
        assert min(seen) >= 100 and max(seen) <= 299 and len(set(seen)) > 25


class TestAgreementTarget:
    def songs(self, valence, arousal):
        return Dataset.from_dict({"valence_std": valence, "arousal_std": arousal})

    def test_average_agreement_weighs_one_and_more_agreement_more(self):
        target = AgreementTarget(self.songs([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
        weigh = lambda v, a: target({**row(), "valence_std": v, "arousal_std": a}, 0, EXTRACTOR)["label_weights"]  # noqa: E731
        average = np.sqrt((1 + 4 + 9) / 3)
        assert weigh(1.0, average) == pytest.approx([1, 1])
        assert weigh(0.0, 0.0) == pytest.approx([2, 2])
        assert weigh(1.0, average * np.sqrt(3)) == pytest.approx([1, 0.5])

    def test_weights_are_least_squares_for_that_noise(self):
        # Model error of unit variance and noise of variance s², whose mean is 1: the weights' ratio is that of
        # 1 / (1 + s²), Aitken's.
        target = AgreementTarget(self.songs([0.5, np.sqrt(1.75)], [1.0, 1.0]))
        weights = [
            target({**row(), "valence_std": s, "arousal_std": 1.0}, 0, EXTRACTOR)["label_weights"][0]
            for s in (0.5, np.sqrt(1.75))
        ]
        assert weights[0] / weights[1] == pytest.approx((1 + 1.75) / (1 + 0.25))

    def test_songs_without_deviations_count_as_average(self):
        target = AgreementTarget(self.songs([None, 1.0], [1.0, 1.0]))
        assert target({**row(), "valence_std": None, "arousal_std": 1.0}, 0, EXTRACTOR)["label_weights"].tolist() == [
            1,
            1,
        ]
