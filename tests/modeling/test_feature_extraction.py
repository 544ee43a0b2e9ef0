import itertools
import json
import pickle
from fractions import Fraction

import librosa
import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoFeatureExtractor

from emotion_ft.modeling import ASTEmotionFeatureExtractor
from emotion_ft.modeling import feature_extraction_ast_emotion as module

FRONT_ENDS = ["mel", "ast"]


@pytest.fixture(scope="module")
def mel():
    return ASTEmotionFeatureExtractor()


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def sine(frequency, rate, seconds=2.0):
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32)


class TestLogMel:
    @pytest.mark.filterwarnings("ignore:n_fft=1024 is too large")
    @pytest.mark.parametrize("samples", [513, 1024, 16000, 32000 + 319, 48017])
    def test_mel_equals_librosa(self, mel, samples):
        waveform = noise(samples)
        power = librosa.feature.melspectrogram(
            y=waveform, sr=16000, n_fft=1024, hop_length=320, n_mels=128, fmin=50, fmax=8000, pad_mode="reflect"
        )
        log_mel = mel.log_mel(waveform)
        assert log_mel.dtype == np.float32 and log_mel.shape == (1 + samples // 320, 128)
        # both in float32; every frame, the reflected ones at the edges too
        np.testing.assert_allclose(log_mel, np.log(power.T + 1e-14), atol=1e-3)

    @pytest.mark.parametrize("front_end", FRONT_ENDS)
    @pytest.mark.parametrize("seed", range(8))
    def test_pieces_of_any_size_give_the_whole(self, front_end, seed):
        extractor = ASTEmotionFeatureExtractor(front_end=front_end)
        rng = np.random.default_rng(seed)
        waveform = noise(rng.integers(600, 40000), seed)
        cuts = np.sort(rng.integers(0, len(waveform), rng.integers(0, 60)))  # equal cuts make empty pieces
        pieces = list(extractor.iter_log_mel(np.split(waveform, cuts)))
        whole = extractor.log_mel(waveform)
        np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=2e-6)  # rounding of the matmul's blocks

    def test_no_band_is_empty(self, mel):
        # white noise, 300 frames averaged: a filter without an FFT bin would stay at the floor, log(1e-14)
        assert mel.log_mel(noise(96000)).mean(axis=0).min() > -12

    def test_too_short_says_how_much_is_needed(self, mel):
        with pytest.raises(ValueError, match=r"too short: 512 samples, .* needs 513"):
            mel.log_mel(noise(512))

    def test_filters_and_fft_window_are_built_once(self, monkeypatch):
        built = []

        def counting(**settings):
            built.append(settings)
            return original(**settings)

        original = module.MelSpectrogram
        monkeypatch.setattr(module, "MelSpectrogram", counting)
        module._mel_spectrogram.cache_clear()
        for _ in range(3):
            ASTEmotionFeatureExtractor().log_mel(noise(4000))
        assert len(built) == 1


class TestWindow:
    def test_zero_mean_unit_variance(self, mel):
        window = mel.window(mel.log_mel(noise(16000 * 12)), 60)
        assert window.shape == (501, 128) and window.dtype == np.float32
        assert abs(window.mean(dtype=np.float64)) < 1e-5
        assert window.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)

    def test_it_is_the_frames_asked_for(self, mel):
        log_mel = mel.log_mel(noise(16000 * 12))
        cut = log_mel[60:561].astype(np.float64)
        np.testing.assert_allclose(mel.window(log_mel, 60), (cut - cut.mean()) / (cut.std() + 1e-8), atol=1e-5)

    def test_the_log_mel_is_left_alone(self, mel):
        log_mel = mel.log_mel(noise(16000 * 11))
        before = log_mel.copy()
        mel.window(log_mel, 0)[:] = 7
        np.testing.assert_array_equal(log_mel, before)

    @pytest.mark.parametrize("value", [0.0, -13.8155, 3.3333, -1e4])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_a_constant_spectrogram_becomes_zeros(self, mel, value, dtype):
        assert not mel.window(np.full((501, 128), value, dtype), 0).any()

    @pytest.mark.parametrize("front_end", FRONT_ENDS)
    def test_silence_is_finite(self, front_end):
        extractor = ASTEmotionFeatureExtractor(front_end=front_end)
        values = extractor(np.zeros(16000 * 11), 16000, return_tensors="np")["input_values"]
        assert np.isfinite(values).all()
        assert front_end == "ast" or not values.any()

    @pytest.mark.parametrize(("frames", "start"), [(1, 0), (101, 0), (300, 0), (700, 650)])
    def test_short_excerpts_are_repeated_until_the_window_is_full(self, mel, frames, start):
        log_mel = mel.log_mel(noise(16000 * 15))[:frames]
        rest = log_mel[start:]
        assert len(rest) < 501
        window = mel.window(log_mel, start)
        assert np.array_equal(window, mel.window(np.concatenate([rest] * 501)[:501], 0))
        assert abs(window.mean(dtype=np.float64)) < 1e-5 and np.isfinite(window).all()

    @pytest.mark.parametrize("gain", [-40, -20, -6, 6])
    def test_gain_changes_nothing(self, mel, gain):
        """Music with quiet passages, which an absolute floor would cut off when it is quieter still."""
        waveform = noise(160000) * np.geomspace(1, 1e-4, 160000, dtype=np.float32)
        plain, changed = (mel.window(mel.log_mel(scale * waveform), 0) for scale in (1, 10 ** (gain / 20)))
        np.testing.assert_allclose(plain, changed, atol=1e-3)
        old = ASTEmotionFeatureExtractor(**module.ABSOLUTE_FLOOR)
        plain, changed = (old.window(old.log_mel(scale * waveform), 0) for scale in (1, 10 ** (gain / 20)))
        assert np.abs(plain - changed).max() > 0.05

    def test_floor_is_that_of_librosa(self, mel):
        waveform = noise(160000) * np.geomspace(1, 1e-7, 160000, dtype=np.float32)
        log_mel = mel.log_mel(waveform)
        expected = librosa.power_to_db(np.exp(log_mel.astype(np.float64)), amin=1e-30, top_db=80.0)
        expected = (expected - expected.mean()) / expected.std()
        np.testing.assert_allclose(mel.window(log_mel, 0), expected, atol=1e-4)
        assert (expected == expected.min()).mean() > 0.1

    def test_settings_of_the_first_version_keep_their_floor(self, mel, tmp_path):
        mel.save_pretrained(tmp_path)
        path = tmp_path / "preprocessor_config.json"
        saved = json.loads(path.read_text())
        assert (saved["top_db"], saved["log_floor"]) == (80.0, 1e-14)
        path.write_text(json.dumps({name: saved[name] for name in saved.keys() - {"top_db", "log_floor"}}))
        old = ASTEmotionFeatureExtractor.from_pretrained(tmp_path)
        assert (old.top_db, old.log_floor) == (None, 1e-6)
        old.save_pretrained(tmp_path)
        assert ASTEmotionFeatureExtractor.from_pretrained(tmp_path).to_dict() == old.to_dict()
        window = old.window(log_mel := old.log_mel(noise(160000)), 0)
        np.testing.assert_allclose(window, (log_mel - log_mel.mean()) / log_mel.std(), atol=1e-4)

    def test_starts_are_evenly_spaced_from_the_first_to_the_last_frame(self, mel):
        starts = mel.window_starts(2251)
        assert starts.tolist() == [0, 438, 875, 1312, 1750]  # halves are rounded to even

    def test_one_window_is_centred_and_short_excerpts_have_one_place(self, mel):
        assert mel.window_starts(701, 1).tolist() == [100]
        assert mel.window_starts(501).tolist() == mel.window_starts(20).tolist() == [0] * 5
        assert mel.window_starts(503, 3).tolist() == [0, 1, 2]

    @pytest.mark.parametrize(
        ("seconds", "count"), [(45, 5), (89, 5), (90, 6), (240, 16), (840, 56), (960, 64), (7200, 64)]
    )
    def test_long_songs_have_a_window_every_15_seconds(self, mel, seconds, count):
        frames = seconds * 50
        starts = mel.window_starts(frames)
        assert len(starts) == count
        assert (starts[0], starts[-1]) == (0, frames - 501) and np.ptp(np.diff(starts)) <= 1
        assert len(ASTEmotionFeatureExtractor(num_windows=100).window_starts(frames)) == 100
        assert len(ASTEmotionFeatureExtractor("ast").window_starts(2 * frames)) == count

    @pytest.mark.parametrize("step", [0.5, 0.33, 0.05, 0.02, 1e-9, 7.0, 1e300])
    @pytest.mark.parametrize("frames", [20, 501, 502, 640, 1751])
    def test_curve_starts_follow_the_step_as_far_as_windows_fit(self, mel, frames, step):
        step_frames = max(Fraction(str(step)) * 50, 1)  # 50 frames per second
        expected, position = [], Fraction(0)
        while round(position) <= max(frames - 501, 0):
            expected.append(round(position))
            position += step_frames
        starts = mel.curve_starts(frames, step).tolist()
        assert starts == expected
        assert all(later > earlier for earlier, later in itertools.pairwise(starts))

    def test_frame_rate(self, mel):
        assert mel.frame_rate == 50
        assert ASTEmotionFeatureExtractor(front_end="ast").frame_rate == 100

    def test_windows_are_the_windows_at_these_starts(self, mel):
        log_mel = mel.log_mel(noise(16000 * 12))
        windows = mel.windows(log_mel, 3)
        assert windows.shape == (3, 501, 128)
        for window, start in zip(windows, [0, 50, 100], strict=True):
            np.testing.assert_array_equal(window, mel.window(log_mel, start))


class TestCall:
    @pytest.mark.parametrize("seconds", [0.025, 3, 10.2375, 10.24, 12.5])
    def test_ast_equals_transformers(self, seconds):
        ours, stock = ASTEmotionFeatureExtractor(front_end="ast"), ASTFeatureExtractor()
        waveform = noise(int(seconds * 16000))
        expected = stock(waveform, sampling_rate=16000, return_tensors="np")["input_values"]
        values = ours(waveform, 16000, return_tensors="np")["input_values"]
        assert values.shape == (1, 1024, 128)
        np.testing.assert_allclose(values, expected, atol=1e-5)

    def test_axes_are_batch_frames_mels(self, mel):
        # a click in the third second, then a steady 2 kHz: one stands out along time, the other along the bands
        click = 0.001 * noise(160000)
        click[16000 * 3] = 1
        values = mel([click, sine(2000, 16000, 10.0)], 16000, return_tensors="np")["input_values"]
        assert values.shape == (2, 501, 128)
        assert abs(values[0].mean(axis=1).argmax() - 150) <= 2
        band = np.abs(librosa.mel_frequencies(130, fmin=50, fmax=8000)[1:-1] - 2000).argmin()
        assert set(values[1][5:-5].argmax(axis=1)) == {band}

    def test_list_batch_and_single_waveforms_agree(self, mel):
        waveforms = np.stack([noise(20000, 1), noise(20000, 2)])
        batch = mel(waveforms, 16000, return_tensors="np")["input_values"]
        for other in (list(waveforms), waveforms.tolist(), torch.from_numpy(waveforms), tuple(waveforms)):
            np.testing.assert_array_equal(mel(other, 16000, return_tensors="np")["input_values"], batch)
        for row, waveform in zip(batch, waveforms, strict=True):
            for single in (waveform, waveform.tolist(), torch.from_numpy(waveform), waveform.astype(np.float64)):
                np.testing.assert_array_equal(mel(single, 16000, return_tensors="np")["input_values"], row[None])

    def test_waveforms_of_different_lengths(self, mel):
        long, short = noise(16000 * 12), noise(16000)
        values = mel([long, short], 16000, return_tensors="np")["input_values"]
        np.testing.assert_array_equal(values[0], mel.window(mel.log_mel(long), 0))
        np.testing.assert_array_equal(values[1], mel.window(mel.log_mel(short), 0))

    def test_outputs(self, mel):
        values = mel(noise(16000), 16000, return_tensors="pt")["input_values"]
        assert isinstance(values, torch.Tensor) and values.dtype == torch.float32 and values.shape == (1, 501, 128)
        assert mel(noise(16000), 16000, return_tensors="np")["input_values"].dtype == np.float32

    @pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
    @pytest.mark.parametrize("frequency", [300, 2500])
    def test_other_rates_are_resampled(self, mel, rate, frequency):
        expected = mel(sine(frequency, 16000), 16000, return_tensors="np")["input_values"][0, 50]
        values = mel(sine(frequency, rate), rate, return_tensors="np")["input_values"][0, 50]
        assert values.argmax() == expected.argmax()

    def test_resampling_agrees_with_the_one_of_files(self, mel):
        """A pipeline that is handed 44.1 kHz must see what training saw, also in the highest bands."""
        soxr = pytest.importorskip("soxr")
        waveform = noise(44100 * 10)
        trained_on = mel.window(mel.log_mel(soxr.resample(waveform, 44100, 16000, quality="HQ")), 0)
        deviation = np.abs(mel(waveform, 44100, return_tensors="np")["input_values"][0] - trained_on)
        # in standard deviations of the window; torchaudio's default resampling is 4 off near 8 kHz
        assert deviation.mean(axis=0).max() < 0.6 and deviation.mean() < 0.03

    def test_nan_and_infinite_samples_are_refused(self, mel):
        for value in (np.nan, np.inf):
            waveform = noise(16000)
            waveform[100] = value
            with pytest.raises(ValueError, match="waveform 1 holds NaN or infinite"):
                mel([noise(16000), waveform], 16000)

    @pytest.mark.parametrize("shape", [(1, 2, 16000), (2, 16000, 1)])
    def test_stereo_is_refused(self, mel, shape):
        with pytest.raises(ValueError, match=r"must be mono, \(samples,\), got shape"):
            mel(np.zeros(shape), 16000)
        with pytest.raises(ValueError, match="must be mono"):
            mel([np.zeros(shape[1:])], 16000)

    @pytest.mark.parametrize("nothing", [[], np.empty(0), np.empty((0, 16000))], ids=["list", "waveform", "batch"])
    def test_nothing_is_refused_in_words(self, mel, nothing):
        with pytest.raises(ValueError, match=r"too short|empty|no waveform"):
            mel(nothing, 16000)


class TestSettings:
    @pytest.mark.parametrize(
        "settings",
        [
            {"n_fft": 512, "hop_length": 160, "num_mel_bins": 64, "f_min": 20.0, "f_max": 7000.0, "max_length": 77},
            {"sampling_rate": 22050, "f_max": 11025.0, "num_windows": 2},
            {"front_end": "ast", "num_windows": 7},
        ],
    )
    def test_they_travel_with_the_model(self, tmp_path, settings):
        extractor = ASTEmotionFeatureExtractor(**settings)
        extractor.save_pretrained(tmp_path)
        for cls in (ASTEmotionFeatureExtractor, AutoFeatureExtractor):
            loaded = cls.from_pretrained(tmp_path)
            assert type(loaded) is ASTEmotionFeatureExtractor
            assert loaded.to_dict() == extractor.to_dict()
            assert {name: getattr(loaded, name) for name in settings} == settings
            values = [e(noise(30000), 16000, return_tensors="np")["input_values"] for e in (loaded, extractor)]
            np.testing.assert_array_equal(*values)

    def test_they_are_pickled(self):
        extractor = ASTEmotionFeatureExtractor(num_mel_bins=64, max_length=50)
        copy = pickle.loads(pickle.dumps(extractor))
        np.testing.assert_array_equal(copy.log_mel(noise(20000)), extractor.log_mel(noise(20000)))
        assert copy.to_dict() == extractor.to_dict()

    @pytest.mark.parametrize(
        "settings",
        [
            {"front_end": "mfcc"},
            {"f_max": 8001.0},
            {"f_min": 8000.0},
            {"hop_length": 1025},
            {"hop_length": 0},
            {"num_windows": 0},
            {"max_length": 0},
        ],
    )
    def test_impossible_ones_are_refused(self, settings):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ASTEmotionFeatureExtractor(**settings)
