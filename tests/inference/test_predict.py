import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from commands import in_process
from safetensors.torch import load_file
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    AutoModelForAudioClassification,
    pipeline,
)

from emotion_ft.data.audio import AudioError
from emotion_ft.errors import UsageError
from emotion_ft.inference.loading import load_model
from emotion_ft.inference.predict import (
    EmotionCurve,
    Prediction,
    predict_curves,
    predict_file,
    predict_songs,
    write_predictions,
)
from emotion_ft.modeling import ASTForEmotionRegression
from emotion_ft.modeling.pipeline_ast_emotion import MusicEmotionPipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """3 s of stereo noise at 22.05 kHz, getting louder and darker."""
    samples = np.random.default_rng(0).standard_normal((66150, 2)).cumsum(axis=0)[::-1]
    samples = samples - np.linspace(*samples[[0, -1]], len(samples)) + 30 * np.random.default_rng(1).random((66150, 2))
    path = tmp_path_factory.mktemp("audio") / "song.wav"
    soundfile.write(path, 0.5 * samples / np.abs(samples).max() * np.linspace(0.1, 1, len(samples))[:, None], 22050)
    return path


def log_mel_of(path, extractor):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return extractor.log_mel(soxr.resample(samples.mean(axis=1), rate, 16000))


def by_hand(model, extractor, log_mel, starts):
    """One window after the other through the model, (windows, 2) on 1-9."""
    values = []
    for start in starts:
        cut = log_mel[start : start + 101]
        window = torch.from_numpy((cut - cut.mean()) / cut.std())[None]
        with torch.no_grad():
            values.append(5 + 4 * model(window).logits[0].numpy())
    return np.array(values)


class TestLoadModel:
    def test_a_stock_ast_is_no_model_of_ours(self, tmp_path):
        stock = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        ASTForAudioClassification(stock).save_pretrained(tmp_path)
        ASTFeatureExtractor().save_pretrained(tmp_path)
        with pytest.raises(UsageError, match="holds no model of emotion_ft"):
            load_model(tmp_path)

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
            (lambda folder: cut(folder / "model.safetensors"), "Error while deserializing header"),
            (lambda folder: pickled(folder), "its weights are a pickle, pytorch_model.bin, which may run code"),
            (lambda folder: (folder / "config.json").unlink(), "no config.json."),
            (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json."),
            (lambda folder: cut(folder / "config.json"), "not a valid JSON file"),
            (lambda folder: (folder / "config.json").write_text("[]"), "no model in"),
            (lambda folder: cut(folder / "preprocessor_config.json"), "not a valid JSON file"),
            (lambda folder: change(folder / "config.json", hidden_size=64), "no model in"),
            (lambda folder: change(folder / "config.json", hidden_size="wide"), "no model in"),
            (lambda folder: change(folder / "config.json", model_type="bert"), "of emotion_ft, but type bert with"),
            (lambda folder: change(folder / "preprocessor_config.json", feature_extractor_type="Other"),
             "but type ast-emotion with front end Other"),
            (lambda folder: change(folder / "preprocessor_config.json", hop_length=-1), "no model in"),
            (lambda folder: shutil.rmtree(folder), "no such folder"),
        ],
    )  # fmt: skip
    def test_what_is_missing_damaged_or_foreign_is_one_sentence(self, model_dir, tmp_path, damage, reason):
        folder = shutil.copytree(model_dir, tmp_path / "copied")
        load_model(folder)
        damage(folder)
        with pytest.raises(UsageError, match=re.escape(reason)) as raised:
            load_model(folder)
        assert "\n" not in str(raised.value) and str(folder) in str(raised.value)

    def test_pickled_weights_are_not_loaded_by_any_door(self, model_dir, tmp_path):
        folder = shutil.copytree(model_dir, tmp_path / "copied")
        pickled(folder)
        doors = (
            ASTForEmotionRegression.from_pretrained,
            AutoModelForAudioClassification.from_pretrained,
            lambda folder: pipeline("music-emotion", model=folder, pipeline_class=MusicEmotionPipeline),
        )
        for load in doors:
            with pytest.raises((OSError, ValueError), match=r"no file named model\.safetensors"):
                load(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def pickled(folder):
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


class TestPredictFile:
    def test_it_is_the_mean_over_evenly_spaced_windows(self, model, tiny_extractor, song):
        windows = by_hand(model, tiny_extractor, log_mel_of(song, tiny_extractor), [0, 25, 50])
        assert windows.std(axis=0).min() > 0.02
        prediction = predict_file(model, tiny_extractor, song)
        assert prediction.curve is None
        # log-mels are stored as float16
        assert prediction[:2] == pytest.approx(windows.mean(axis=0).tolist(), abs=5e-3)

    def test_curves_of_songs_are_those_of_the_windows_around_each_annotated_time(
        self, model, tiny_extractor, stored_songs
    ):
        songs = stored_songs["test"].select(range(2)).remove_columns(["curve_start", "curve_valence", "curve_arousal"])
        lengths = {"curve_start": [0.5, 1.5], "curve_valence": [[0.0] * 5, [0.0] * 2]}
        for name, values in lengths.items():
            songs = songs.add_column(name, values)
        predicted = predict_curves(model, tiny_extractor, songs, batch_size=3)
        assert [curve.shape for curve in predicted] == [(5, 2), (2, 2)]
        for row, curve in zip(songs, predicted, strict=True):
            frames = log_mel_of(row["audio"]["path"], tiny_extractor)
            middles = 50 * (row["curve_start"] + 0.5 * np.arange(len(curve)))  # 50 frames a second
            starts = [int(min(max(middle - 50, 0), len(frames) - 101)) for middle in middles]
            expected = (by_hand(model, tiny_extractor, frames, starts) - 5) / 4
            np.testing.assert_allclose(curve, expected, atol=2e-3)

    def test_songs_and_files_agree(self, model, tiny_extractor, stored_songs):
        songs = stored_songs["test"]
        predictions = predict_songs(model, tiny_extractor, songs, batch_size=4)
        assert predictions.shape == (4, 2) and predictions.std(axis=0).min() > 0.02
        for row, prediction in zip(songs, predictions, strict=True):
            path = row["audio"]["path"]
            assert predict_file(model, tiny_extractor, path)[:2] == pytest.approx(prediction.tolist(), abs=1e-4)
            frames = log_mel_of(path, tiny_extractor)
            starts = [0, round((len(frames) - 101) / 2), len(frames) - 101]
            expected = by_hand(model, tiny_extractor, frames, starts).mean(axis=0)
            np.testing.assert_allclose(prediction, expected, atol=5e-3)

    def test_the_batch_size_does_not_matter(self, model, tiny_extractor, song):
        curves = [predict_file(model, tiny_extractor, song, 0.1, batch_size=size).curve for size in (1, 4, 100)]
        for curve in curves[1:]:
            np.testing.assert_allclose(curve, curves[0], atol=1e-5)

    def test_dropout_is_off(self, model, tiny_extractor, song):
        training = deepcopy(model).train()
        assert predict_file(training, tiny_extractor, song) == predict_file(model, tiny_extractor, song)

    @pytest.mark.parametrize("seconds", [0.01, 0.5])
    def test_a_file_that_cannot_be_used_is_an_audio_error(self, model, tiny_extractor, write_wav, tmp_path, seconds):
        path = write_wav(tmp_path / "short.wav", seconds)
        with pytest.raises(AudioError, match="too short"):
            predict_file(model, tiny_extractor, path)
        if seconds < 0.03:  # less than a frame
            with pytest.raises(AudioError, match="too short"):
                predict_file(model, tiny_extractor, path, min_seconds=0)
        else:
            assert 1 < predict_file(model, tiny_extractor, path, min_seconds=0).valence < 9


class TestCurve:
    def test_times_and_values(self, model, tiny_extractor, song):
        curve = predict_file(model, tiny_extractor, song, curve_step=0.5).curve
        # windows of 2 s start at 0, 0.5 and 1 s: their middles, twice a second
        assert curve.time.tolist() == [1.0, 1.5, 2.0]
        expected = by_hand(model, tiny_extractor, log_mel_of(song, tiny_extractor), [0, 25, 50])
        assert np.ptp(expected, axis=0).min() > 0.02
        np.testing.assert_allclose(np.stack(curve[1:], axis=1), expected, atol=1e-2)

    def test_a_steady_sound_gives_a_steady_curve(self, model, tiny_extractor, write_wav, tmp_path):
        # 500 Hz repeat with every hop of 20 ms; the first and the last window hold reflected edges
        path = write_wav(tmp_path / "steady.wav", 8.0, frequency=500)
        curve = predict_file(model, tiny_extractor, path, curve_step=0.5).curve
        assert curve.time.tolist() == np.arange(1, 7.5, 0.5).tolist()
        assert np.ptp(curve.valence[1:-1]) < 1e-3 and np.ptp(curve.arousal[1:-1]) < 1e-3

    def test_silence_gives_a_flat_one(self, model, tiny_extractor, write_wav, tmp_path):
        path = write_wav(tmp_path / "silence.wav", 5.0, amplitude=0)
        curve = predict_file(model, tiny_extractor, path, curve_step=0.5).curve
        assert np.ptp(curve.valence) < 1e-5 and np.isfinite(curve.valence).all()

    def test_a_short_file_has_one_point_in_its_middle(self, model, tiny_extractor, write_wav, tmp_path):
        path = write_wav(tmp_path / "short.wav", 1.2)
        prediction = predict_file(model, tiny_extractor, path, curve_step=0.5)
        assert prediction.curve.time.tolist() == [0.6]
        assert prediction.curve.valence[0] == pytest.approx(prediction.valence, abs=1e-5)

    @pytest.mark.parametrize("step", [0.03, 0.05, 0.33, 0.001])
    def test_every_window_lies_within_the_file_once(self, model, tiny_extractor, write_wav, tmp_path, step):
        path = write_wav(tmp_path / "song.wav", 2.02)
        curve = predict_file(model, tiny_extractor, path, curve_step=step).curve
        assert curve.time[0] == 1.0 and curve.time[-1] <= 1.02
        assert (np.diff(curve.time) > 0).all()


class TestWritePredictions:
    CURVE = EmotionCurve(np.array([1.0, 1.5]), np.array([4.0, 5.0]), np.array([6.0, 7.0]))
    PREDICTIONS = {"a.mp3": Prediction(4.5, 6.5), "b, c.mp3": Prediction(2.25, 3.0)}  # noqa: RUF012

    def test_csv(self, tmp_path):
        write_predictions(tmp_path / "out.csv", self.PREDICTIONS, {"d.mp3": "empty: no samples"})
        with open(tmp_path / "out.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows == [
            {"file": "a.mp3", "valence": "4.5000", "arousal": "6.5000", "error": ""},
            {"file": "b, c.mp3", "valence": "2.2500", "arousal": "3.0000", "error": ""},
            {"file": "d.mp3", "valence": "", "arousal": "", "error": "empty: no samples"},
        ]

    def test_csv_of_curves_has_a_row_a_window(self, tmp_path):
        write_predictions(tmp_path / "out.csv", {"a.mp3": Prediction(4.5, 6.5, self.CURVE)}, {})
        lines = (tmp_path / "out.csv").read_text().splitlines()
        assert lines == ["file,time,valence,arousal", "a.mp3,1.0000,4.0000,6.0000", "a.mp3,1.5000,5.0000,7.0000"]

    @pytest.mark.parametrize("suffix", [".json", ".jsonl"])
    def test_json(self, tmp_path, suffix):
        path = tmp_path / f"out{suffix}"
        write_predictions(path, {"ä.mp3": Prediction(4.5, 6.5, self.CURVE)}, {"d.mp3": "no such file"})
        text = path.read_text()
        records = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        curve = {"time": [1.0, 1.5], "valence": [4.0, 5.0], "arousal": [6.0, 7.0]}
        assert records == [
            {"file": "ä.mp3", "valence": 4.5, "arousal": 6.5, "curve": curve},
            {"file": "d.mp3", "error": "no such file"},
        ]


class TestRecipe:
    @pytest.fixture
    def predict(self, model_dir, monkeypatch, capsys):
        """recipes/predict.py within this process -> exit status, stdout, stderr."""

        def run(*arguments):
            arguments = ["recipes/predict.py", "--model", model_dir, *arguments]
            monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
            with pytest.raises(SystemExit) as raised:
                runpy.run_path(str(ROOT / "recipes" / "predict.py"), run_name="__main__")
            return raised.value.code, *capsys.readouterr()

        return run

    def test_bad_files_do_not_stop_the_others(self, model, model_dir, tiny_extractor, song, write_wav, tmp_path):
        bad, short = tmp_path / "text.ogg", write_wav(tmp_path / "short.wav", 0.5)
        bad.write_text("no music")
        good, missing, out = write_wav(tmp_path / "good.flac", 4.0), tmp_path / "missing.mp3", tmp_path / "out.csv"
        done = in_process("predict", "--model", model_dir, bad, song, missing, short, good, "--output", out)
        assert done.returncode == 1
        for path, reason in ((bad, "cannot be decoded"), (missing, "no such file"), (short, "too short: 0.50 s")):
            assert f"{path}: {reason}" in done.stderr
        assert "Traceback" not in done.stderr
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows if not row["error"]] == [str(song), str(good)]
        assert {row["file"] for row in rows if row["error"]} == {str(bad), str(missing), str(short)}
        for path, row in zip((song, good), rows, strict=False):
            expected = predict_file(model, tiny_extractor, path)
            assert f"{path}: valence {expected.valence:.2f}, arousal {expected.arousal:.2f}" in done.stdout
            assert float(row["valence"]) == pytest.approx(expected.valence, abs=2e-3)
            assert float(row["arousal"]) == pytest.approx(expected.arousal, abs=2e-3)

    @pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
    def test_curves(self, predict, model, tiny_extractor, song, tmp_path, suffix):
        out = tmp_path / f"out{suffix}"
        status, printed, _ = predict(song, "--curve", "--output", out)
        assert status == 0 and printed.startswith(f"{song}: valence ")
        expected = predict_file(model, tiny_extractor, song, 0.5).curve._asdict()
        if suffix == ".csv":
            with open(out, newline="") as file:
                rows = list(csv.DictReader(file))
            curve = {name: [float(row[name]) for row in rows] for name in expected}
        else:
            records = json.loads(out.read_text() if suffix == ".json" else f"[{out.read_text()}]")
            curve = records[0]["curve"]
        for name, values in expected.items():
            np.testing.assert_allclose(curve[name], values, atol=1e-4)

    def test_a_picture_of_the_curve(self, predict, model_dir, song, tmp_path):
        done = in_process(
            "predict", "--model", model_dir, song, "--curve", "--plot", tmp_path / "plots", pictures=True
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "plots" / f"{song.name}.png").read_bytes().startswith(b"\x89PNG")
        status, _, errors = predict(song, "--plot", tmp_path)
        assert status == 2 and "ask for them with --curve" in errors

    def test_intervals_of_a_calibrated_model(self, predict, model, tiny_extractor, song, tmp_path):
        calibrated = deepcopy(model)
        calibrated.config.interval_halfwidths = [1.25, 0.5]
        for saved in (calibrated, tiny_extractor):
            saved.save_pretrained(tmp_path)
        status, printed, _ = predict(song, "--model", tmp_path, "--output", tmp_path / "out.json")
        (record,) = json.loads((tmp_path / "out.json").read_text())
        assert status == 0 and " ± 1.25, arousal" in printed and printed.rstrip().endswith(" ± 0.50")
        assert record["valence_high"] - record["valence"] == pytest.approx(1.25)
        assert record["arousal"] - record["arousal_low"] == pytest.approx(0.5)

    def test_the_curve_is_printed_without_output(self, predict, song):
        status, printed, _ = predict(song, "--curve", "--step", 1)
        assert status == 0
        assert [line.split()[0] for line in printed.splitlines()[1:]] == ["1.00", "2.00"]

    def test_a_new_folder_for_the_output_is_no_reason_to_lose_predictions(self, predict, song, tmp_path):
        out = tmp_path / "new" / "out.json"
        status, printed, errors = predict(song, "--output", out)
        if status == 0:
            assert out.is_file()
        else:  # refused before any work is done
            assert str(out.parent) in f"{status} {errors}" and not printed

    def test_raw_audio_is_a_bad_file_like_others(self, predict, song, tmp_path):
        raw = tmp_path / "song.raw"
        raw.write_bytes(song.read_bytes())
        status, printed, errors = predict(raw, song)
        assert status == 1 and f"{raw}: " in errors and f"{song}: valence" in printed

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--output", "out.txt"], ".csv, .json or .jsonl, got 'out.txt'"),
            (["--step", "0"], "must be positive"),
            (["--batch_size", "0"], "must be positive"),
        ],
    )
    def test_unusable_options_are_refused(self, predict, song, arguments, reason):
        status, _, errors = predict(song, *arguments)
        assert status == 2 and reason in errors

    @pytest.mark.parametrize("missing", ["nothing_here", "empty"])
    def test_a_missing_model_is_one_clear_sentence(self, predict, song, tmp_path, missing):
        (tmp_path / "empty").mkdir()
        status, printed, errors = predict(song, "--model", tmp_path / missing)
        assert status == 1 and not printed and len(errors.splitlines()) == 1
        assert str(tmp_path / missing) in errors and re.search("no model|not a model|no such", errors)
        assert "Repo id must be" not in errors

    def test_help_needs_no_torch(self):
        code = """
import runpy, sys
sys.argv = ["predict.py", "--help"]
try:
    runpy.run_path("recipes/predict.py", run_name="__main__")
except SystemExit:
    print("torch" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert "--curve" in done.stdout and done.stdout.endswith("False\n")
