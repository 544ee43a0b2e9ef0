import gc
import json
import os
import subprocess
import sys
import tracemalloc
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import pipeline

from emotion_ft.inference.predict import predict_file
from emotion_ft.modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression
from emotion_ft.modeling.pipeline_ast_emotion import MusicEmotionPipeline

MUSIC = Path(__file__).resolve().parents[3] / "shared" / "audio"


@pytest.fixture(scope="module")
def pipe(model_dir):
    return pipeline("music-emotion", model=model_dir, device="cpu")


def noise(seed, seconds, rate, channels=2):
    """Brown noise (samples, channels), float32, whose tone and loudness change over time and with the seed."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((round(seconds * rate), channels))
    brown = white.cumsum(axis=0)
    brown = brown - np.linspace(*brown[[0, -1]], len(brown))
    mixed = brown / np.abs(brown).max() + 0.1 * (seed + 1) * white * np.linspace(0, 1, len(white))[:, None] ** 2
    return (0.5 * mixed / np.abs(mixed).max()).astype(np.float32)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Three stereo files of different rates, formats and lengths."""
    folder = tmp_path_factory.mktemp("audio")
    paths = []
    for seed, (name, seconds, rate) in enumerate(
        [("a.wav", 3.0, 22050), ("b.flac", 5.5, 44100), ("c.wav", 23.0, 16000)]
    ):
        soundfile.write(folder / name, noise(seed, seconds, rate), rate)
        paths.append(folder / name)
    return paths


@pytest.fixture(scope="module")
def expected(model, tiny_extractor, songs):
    """`predict_file` of every song; no two predictions are alike."""
    predictions = [predict_file(model, tiny_extractor, path) for path in songs]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(np.subtract(predictions[first][:2], predictions[second][:2])).max() > 0.02
    return predictions


def assert_close(result, prediction, atol=1e-4):
    assert result["valence"] == pytest.approx(prediction.valence, abs=atol)
    assert result["arousal"] == pytest.approx(prediction.arousal, abs=atol)


class TestAgreement:
    """With `emotion_ft.inference.predict_file`."""

    def test_path_and_bytes(self, pipe, songs, expected):
        for path, prediction in zip(songs, expected, strict=True):
            for audio in (path, str(path), path.read_bytes()):
                result = pipe(audio)
                assert list(result) == ["valence", "arousal"] and type(result["valence"]) is float
                assert_close(result, prediction)

    def test_several_kinds_in_one_call(self, pipe, songs, expected):
        first, rate = soundfile.read(songs[0], dtype="float64")
        third, _ = soundfile.read(songs[2], dtype="float32")  # at the front end's rate
        inputs = [
            songs[1],
            {"raw": first.mean(axis=1), "sampling_rate": rate},
            third.mean(axis=1),
            songs[0].read_bytes(),
            torch.from_numpy(third.mean(axis=1)),
            {"array": torch.from_numpy(first.mean(axis=1)), "sampling_rate": rate, "path": None},
        ]
        results = pipe(inputs)
        assert len(results) == 6
        for result, song in zip(results, (1, 0, 2, 0, 2, 0), strict=True):
            assert_close(result, expected[song])
        assert pipe(tuple(inputs[:2])) == results[:2]
        assert list(pipe(audio for audio in inputs[:2])) == results[:2]

    def test_the_rate_of_an_array_hardly_matters(self, pipe, model, tiny_extractor, tmp_path):
        rng = np.random.default_rng(0)
        frequencies, phases = rng.uniform(60, 7000, 40), rng.uniform(0, 2 * np.pi, 40)

        def chord(rate):  # the same sound at any rate: sines that swell one after the other
            time = np.arange(4 * rate)[:, None] / rate
            return (np.sin(2 * np.pi * frequencies * time + phases) * np.sin(time + phases) / 40).sum(axis=1)

        soundfile.write(tmp_path / "chord.wav", chord(16000), 16000, subtype="FLOAT")
        prediction = predict_file(model, tiny_extractor, tmp_path / "chord.wav")
        for rate in (32000, 22050, 44100, 96000.0):
            assert_close(pipe({"raw": chord(int(rate)), "sampling_rate": rate}), prediction, atol=0.02)
        wrong = pipe({"raw": chord(22050), "sampling_rate": 16000})
        assert abs(wrong["valence"] - prediction.valence) + abs(wrong["arousal"] - prediction.arousal) > 0.1

    def test_pieces_join_without_a_seam(self, pipe, model, tiny_extractor, tmp_path):
        samples = noise(5, 45.0, 22050, channels=1)
        soundfile.write(tmp_path / "long.wav", samples, 22050, subtype="FLOAT")
        whole = tiny_extractor.log_mel(soxr.resample(samples[:, 0], 22050, 16000))
        with torch.no_grad():
            values = 5 + 4 * model(torch.from_numpy(tiny_extractor.windows(whole))).logits.mean(0)
        result = pipe(tmp_path / "long.wav")
        # log-mels are held as float16
        assert [result["valence"], result["arousal"]] == pytest.approx(values.tolist(), abs=5e-3)

    def test_a_long_song_is_heard_all_over(self, pipe, model, tiny_extractor, tmp_path):
        """What happens between five windows counts too."""
        samples = np.concatenate([noise(seed, 10.0, 16000, channels=1) * (seed % 3) for seed in range(12)])
        soundfile.write(tmp_path / "long.wav", samples, 16000, subtype="FLOAT")
        prediction, result = predict_file(model, tiny_extractor, tmp_path / "long.wav"), pipe(tmp_path / "long.wav")
        assert_close(result, prediction)
        log_mel = tiny_extractor.log_mel(samples[:, 0])
        with torch.no_grad():
            starts = np.linspace(0, len(log_mel) - 101, 8).round().astype(int)  # 120 s, one every 15
            windows = np.stack([tiny_extractor.window(log_mel, start) for start in starts])
            values = 5 + 4 * model(torch.from_numpy(windows)).logits.mean(0)
        assert [prediction.valence, prediction.arousal] == pytest.approx(values.tolist(), abs=5e-3)

    @pytest.mark.parametrize("gain", [-40, -20, 6])
    def test_gain_changes_nothing(self, pipe, tmp_path, gain):
        paths = sorted(path for path in MUSIC.glob("*") if path.suffix in (".mp3", ".ogg"))
        waveforms = [soundfile.read(path, frames=20 * 48000, dtype="float32") for path in paths]
        waveforms.append((noise(0, 8.0, 22050, channels=2) * np.geomspace(1, 1e-3, 8 * 22050)[:, None], 22050))
        for waveform, rate in waveforms:
            quiet = waveform.mean(axis=1) * 10 ** (gain / 20)
            plain, changed = (pipe({"raw": raw, "sampling_rate": rate}) for raw in (waveform.mean(axis=1), quiet))
            for dimension in ("valence", "arousal"):
                assert abs(plain[dimension] - changed[dimension]) < 0.02

    @pytest.mark.parametrize("step", [0.5, 0.13])
    def test_curve(self, pipe, model, tiny_extractor, songs, step):
        results = pipe(songs, curve=True, step=step)
        for path, result in zip(songs, results, strict=True):
            prediction = predict_file(model, tiny_extractor, path, curve_step=step)
            assert_close(result, prediction)
            curve = result["curve"]
            assert list(curve) == ["time", "valence", "arousal"]
            assert curve["time"] == pytest.approx(prediction.curve.time.tolist())
            assert np.ptp(prediction.curve.valence) > 0.02
            assert result["valence"] == pytest.approx(np.mean(curve["valence"]), abs=1e-4)
            np.testing.assert_allclose(curve["valence"], prediction.curve.valence, atol=1e-4)
            np.testing.assert_allclose(curve["arousal"], prediction.curve.arousal, atol=1e-4)
            json.dumps(result)

    def test_the_step_of_a_curve_is_half_a_second_unless_said(self, pipe, songs, model_dir):
        assert pipe(songs[0], curve=True)["curve"]["time"] == [1.0, 1.5, 2.0]
        default = pipeline("music-emotion", model=model_dir, device="cpu", curve=True, step=1.0)
        assert default(songs[0])["curve"]["time"] == [1.0, 2.0]
        assert "curve" not in default(songs[0], curve=False)

    def test_a_short_song_has_one_point_in_its_middle(self, pipe, model, tiny_extractor, write_wav, tmp_path):
        path = write_wav(tmp_path / "short.wav", 1.2)
        result = pipe(path, curve=True)
        assert_close(result, predict_file(model, tiny_extractor, path))
        assert result["curve"]["time"] == [0.6]
        assert result["curve"]["valence"] == pytest.approx([result["valence"]], abs=1e-5)

    def test_the_ast_front_end(self, tiny_config, songs):
        torch.manual_seed(0)
        model = ASTForEmotionRegression(tiny_config(max_length=1024)).eval()
        extractor = ASTEmotionFeatureExtractor("ast", num_windows=2)
        with torch.no_grad():
            model.head.out_proj.weight *= 30
        result = MusicEmotionPipeline(model, feature_extractor=extractor, device="cpu")(songs[2], curve=True, step=4)
        prediction = predict_file(model, extractor, songs[2], curve_step=4)
        assert_close(result, prediction)
        assert result["curve"]["time"] == pytest.approx(prediction.curve.time.tolist())

    def test_another_label_scale_and_intervals(self, model, tiny_extractor, songs, expected):
        changed = deepcopy(model)
        changed.config.label_center, changed.config.label_halfwidth = 0.5, 0.5
        changed.config.interval_halfwidths = [0.25, 0.125]
        result = MusicEmotionPipeline(changed, feature_extractor=tiny_extractor, device="cpu")(songs[0])
        valence, arousal = ((value - 5) / 8 + 0.5 for value in expected[0][:2])
        assert result == {
            "valence": pytest.approx(valence, abs=1e-4),
            "arousal": pytest.approx(arousal, abs=1e-4),
            "valence_interval": pytest.approx([valence - 0.25, valence + 0.25], abs=1e-4),
            "arousal_interval": pytest.approx([arousal - 0.125, arousal + 0.125], abs=1e-4),
        }

    def test_dropout_is_off(self, model, tiny_extractor, songs, expected):
        training = deepcopy(model)
        pipe = MusicEmotionPipeline(training, feature_extractor=tiny_extractor, device="cpu")
        training.train()
        assert_close(pipe(songs[0]), expected[0])


class TestBatches:
    def test_their_size_does_not_matter(self, pipe, songs):
        results = [pipe(songs, curve=True, batch_size=size) for size in (1, 4, 16, 1000)]
        for other in results[1:]:
            for first, second in zip(results[0], other, strict=True):
                assert second["valence"] == pytest.approx(first["valence"], abs=1e-5)
                assert second["curve"]["time"] == first["curve"]["time"]
                np.testing.assert_allclose(second["curve"]["arousal"], first["curve"]["arousal"], atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "sizes"), [({}, [3, 3, 3]), ({"batch_size": 9}, [9]), ({"batch_size": 4}, [4, 4, 1])]
    )
    def test_windows_of_several_songs_share_a_forward_pass_when_asked(
        self, model, tiny_extractor, songs, options, sizes
    ):
        counted, seen = deepcopy(model), []
        counted.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        MusicEmotionPipeline(counted, feature_extractor=tiny_extractor, device="cpu", **options)(songs)
        assert seen == sizes  # three windows per song

    def test_a_long_file_is_never_held_whole(self, pipe, tmp_path):
        seconds = 300
        one = noise(3, 10.0, 16000, channels=1)
        with soundfile.SoundFile(tmp_path / "long.wav", "w", 16000, 1) as file:
            for _ in range(seconds // 10):
                file.write(one)
        pipe(tmp_path / "long.wav")  # whatever is made once
        gc.collect()
        tracemalloc.start()
        try:
            result = pipe(tmp_path / "long.wav", curve=True, step=0.25, batch_size=8)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # log-mel: 3.8 MB as float16, twice while its parts are joined; waveform: 19 MB; all windows: 62 MB
        assert len(result["curve"]["time"]) == 1193
        assert peak < 12e6


class TestDtype:
    @pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
    def test_bf16_is_close_to_fp32(self, model_dir, songs, expected, option):
        pipe = pipeline("music-emotion", model=model_dir, device="cpu", **{option: torch.bfloat16})
        assert pipe.model.dtype == torch.bfloat16
        results = pipe(songs)
        for result, prediction in zip(results, expected, strict=True):
            assert_close(result, prediction, atol=0.05)
        assert abs(results[0]["valence"] - expected[0].valence) > 1e-5  # not fp32 after all


class TestErrors:
    SECOND = np.zeros(16000, np.float32)

    def test_files(self, pipe, write_wav, tmp_path):
        (tmp_path / "empty.wav").touch()
        (tmp_path / "text.ogg").write_text("no music")
        (tmp_path / "song.raw").write_bytes(b"1234")
        soundfile.write(tmp_path / "none.wav", np.empty(0), 16000)
        soundfile.write(tmp_path / "nan.wav", np.full(32000, np.nan, np.float32), 16000, subtype="FLOAT")
        write_wav(tmp_path / "short.wav", 0.5)
        reasons = {
            "empty.wav": "empty: zero bytes",
            "text.ogg": "cannot be decoded: ",
            "song.raw": "cannot be decoded: raw samples without a header",
            "none.wav": "empty: no samples",
            "nan.wav": "holds NaN or infinite samples",
            "short.wav": "too short: 0.50 s, at least 1 s are needed",
            "missing.mp3": "no such file",
            ".": "not a file",
        }
        for name, reason in reasons.items():
            with pytest.raises(ValueError) as raised:
                pipe([tmp_path / name])
            assert str(raised.value).startswith(f"{tmp_path / name}: {reason}")
            assert str(raised.value).endswith(".")
            if (tmp_path / name).is_file() and name != "song.raw":
                with pytest.raises(ValueError, match=f"^{reason}"):
                    pipe((tmp_path / name).read_bytes())

    def test_the_shortest_length_can_be_set(self, pipe, write_wav, tmp_path):
        assert 1 < pipe(write_wav(tmp_path / "short.wav", 0.5), min_seconds=0.4)["valence"] < 9
        with pytest.raises(ValueError, match="too short"):  # less than a frame
            pipe(write_wav(tmp_path / "frame.wav", 0.01), min_seconds=0)

    @pytest.mark.parametrize(
        ("audio", "reason"),
        [
            (np.empty(0, np.float32), "empty: no samples"),
            (SECOND[:15999], "too short: 1.00 s, at least 1 s"),
            ({"raw": SECOND, "sampling_rate": 32000}, "too short: 0.50 s"),
            (np.r_[SECOND, np.inf], "holds NaN or infinite"),
            (torch.full((16000,), torch.nan), "holds NaN or infinite"),
            (np.zeros((16000, 2), np.float32), r"must be mono, \(samples,\), got shape \(16000, 2\)"),
            (torch.zeros(1, 16000), r"got shape \(1, 16000\)"),
            (np.zeros(16000, np.int16), "must hold floats in .*, got int16"),
            (torch.zeros(16000, dtype=torch.int16), "must hold floats in .*, got int16"),
            ({"raw": SECOND}, r'a dict must have .*"sampling_rate", got \[\'raw\'\]'),
            ({"sampling_rate": 16000}, "a dict must have"),
            ({"raw": SECOND, "sampling_rate": 0}, "sampling_rate must be a positive number of Hz, got 0"),
            ({"raw": SECOND, "sampling_rate": "16000"}, "sampling_rate must be a positive number"),
            ({"raw": [0.0] * 16000, "sampling_rate": 16000}, "must be a numpy array or a torch tensor, got list"),
            ([0.0, 0.1], "an input must be a path, .* got float"),
            (None, "got NoneType"),
            ([], "no input: got an empty list"),
        ],
    )
    def test_waveforms(self, pipe, audio, reason):
        with pytest.raises(ValueError, match=reason):
            pipe(audio)

    @pytest.mark.parametrize(
        ("options", "reason"), [({"step": 0}, "step must be"), ({"batch_size": 0}, "batch_size must be")]
    )
    def test_options(self, pipe, model, tiny_extractor, songs, options, reason):
        with pytest.raises(ValueError, match=reason):
            pipe(songs[0], **options)
        with pytest.raises(ValueError, match=reason):
            MusicEmotionPipeline(model, feature_extractor=tiny_extractor, device="cpu", **options)

    def test_a_misspelt_option_is_refused(self, pipe, songs):
        with pytest.raises(TypeError, match="curves"):
            pipe(songs[0], curves=True)

    def test_no_feature_extractor(self, model):
        with pytest.raises(ValueError, match="a feature_extractor is needed"):
            MusicEmotionPipeline(model)


class TestSaveAndLoad:
    @pytest.fixture(scope="class")
    def saved(self, pipe, tmp_path_factory):
        """A folder that the pipeline has saved, not the model."""
        folder = tmp_path_factory.mktemp("saved") / "emotion"
        model = deepcopy(pipe.model)  # `save_pretrained` writes into its configuration
        MusicEmotionPipeline(model, feature_extractor=pipe.feature_extractor, device="cpu").save_pretrained(folder)
        return folder

    def test_it_is_registered(self, pipe, model_dir):
        assert type(pipe) is MusicEmotionPipeline and pipe.task == "music-emotion"
        assert type(pipe.model) is ASTForEmotionRegression
        assert type(pipe.feature_extractor) is ASTEmotionFeatureExtractor
        assert pipe.feature_extractor.max_length == 101
        # only what the pipeline saves asks for remote code
        assert "custom_pipelines" not in json.loads((model_dir / "config.json").read_text())

    def test_files(self, saved):
        config = json.loads((saved / "config.json").read_text())
        assert config["custom_pipelines"] == {
            "music-emotion": {
                "impl": "pipeline_ast_emotion.MusicEmotionPipeline",
                "pt": ["AutoModelForAudioClassification"],
                "type": "audio",
            }
        }
        assert {path.name for path in saved.iterdir()} == {
            "audio_ast_emotion.py",
            "config.json",
            "configuration_ast_emotion.py",
            "feature_extraction_ast_emotion.py",
            "model.safetensors",
            "modeling_ast_emotion.py",
            "pipeline_ast_emotion.py",
            "preprocessor_config.json",
        }

    @pytest.mark.parametrize("trust", [False, True])
    def test_with_emotion_ft_nobody_has_to_be_trusted(self, saved, songs, expected, trust):
        pipe = pipeline("music-emotion", model=saved, trust_remote_code=trust, device="cpu")
        assert type(pipe) is MusicEmotionPipeline and type(pipe.model) is ASTForEmotionRegression
        assert_close(pipe(songs[0]), expected[0])

    def test_where_emotion_ft_is_not_installed(self, saved, songs, expected, model, tiny_extractor):
        code = """
import json, sys
sys.modules["emotion_ft"] = None
import torch
from transformers import pipeline
torch.set_num_threads(1)
pipe = pipeline("music-emotion", model="./emotion", trust_remote_code=True, device="cpu")
pipe.save_pretrained("again")
again = pipeline(model="./again", trust_remote_code=True, device="cpu")  # the task is in config.json
parts = (pipe, pipe.model, pipe.feature_extractor, again)
print(json.dumps([type(part).__module__.split(".")[0] for part in parts]))
print(json.dumps([pipe(sys.argv[1:]), again(sys.argv[1:]), pipe(sys.argv[1:], curve=True)]))
"""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, songs)],
            cwd=saved.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        modules, results = map(json.loads, done.stdout.splitlines()[-2:])
        assert modules == ["transformers_modules"] * 4
        for first, second, curve, prediction, path in zip(*results, expected, songs, strict=True):
            assert_close(first, prediction)
            assert_close(second, prediction)
            over_time = predict_file(model, tiny_extractor, path, curve_step=0.5)
            assert_close(curve, over_time)
            np.testing.assert_allclose(curve["curve"]["valence"], over_time.curve.valence, atol=1e-4)
