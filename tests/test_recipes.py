"""The commands, run as a user runs them, on rendered songs: some as processes, most in this one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import leave
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import ASTConfig, ASTModel

from emotion_ft.data.collections.annotations import read_static
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.data.splits import SPLIT_NAMES
from emotion_ft.hub.repository import shared_files
from emotion_ft.modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression, MelGenerator
from emotion_ft.training.trainer import EmotionTrainer

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def start(*command, **kwargs):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def run(*command, code=0):
    process = start(*command)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"{command}\n{out}\n{err}"
    return out, err


def command(name, *flags, code=0, **settings):
    """What it printed, carried out in this process: on stdout and on stderr."""
    return leave(code, name, *flags, **settings)[1:]


def finetune(*flags, code=0, **settings):
    return command("finetune", *flags, code=code, **settings)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return render_deam(tmp_path_factory.mktemp("deam"), songs=40, seconds=6.0, num_proc=2)


@pytest.fixture(scope="module")
def config(root, tmp_path_factory):
    """A configuration file for a tiny AST on the rendered songs."""
    folder = tmp_path_factory.mktemp("config")
    sections = {
        "data": {"data_root": str(root), "cache_dir": str(folder / "cache"), "split": "random"},
        "audio": {"seconds": 3.0, "num_windows": 3},
        "model": {
            "checkpoint": None,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "time_stride": 16,
            "frequency_stride": 16,
        },
        "training": {
            "num_train_epochs": 30,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "backbone_learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "precision": "fp32",
            "logging_steps": 5,
            "interval_level": 0.5,  # of a handful of validation songs
            "early_stopping_patience": 0,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    accelerate = Path(sys.executable).with_name("accelerate")
    out, err = run(accelerate, "launch", "recipes/finetune.py", config, "--output_dir", folder, "--report_to",
                   "tensorboard")  # fmt: skip
    return folder, out, err


class TestFinetune:
    def test_leaves_a_loadable_model_that_saw_the_right_settings(self, finished):
        folder = finished[0]
        model, info = ASTForEmotionRegression.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        extractor = ASTEmotionFeatureExtractor.from_pretrained(folder)
        assert (extractor.max_length, model.config.max_length, extractor.num_windows) == (151, 151, 3)

    def test_leaves_everything_it_promised(self, finished):
        folder = finished[0]
        for name in ("config.yaml", "all_results.json", "predictions.csv", "model.safetensors", "config.json"):
            assert (folder / name).stat().st_size > 0, name
        for name in ("scores.csv", "songs.csv", "audit/audit.md", "audit/audit.csv", "report.html"):
            assert (folder / name).stat().st_size > 0, name
        for name in ("learning_curve.png", "valence_arousal.png", "residuals.png", "worst_songs.png"):
            assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG")
        assert list((folder / "runs").rglob("events.out.tfevents*"))
        assert not list(folder.rglob("training_args.bin"))

    def test_numbers_follow_from_the_predictions(self, finished, root):
        folder = finished[0]
        results = json.loads((folder / "all_results.json").read_text())
        table = pd.read_csv(folder / "predictions.csv")
        labels = read_static(root)
        for dimension in ("valence", "arousal"):
            r, p = table[dimension], table[f"predicted_{dimension}"]
            assert np.allclose(r, labels.loc[table["song_id"], dimension], atol=1e-3)
            expected = 1 - ((r - p) ** 2).sum() / ((r - r.mean()) ** 2).sum()
            assert results[f"test_{dimension}_r2"] == pytest.approx(expected, abs=1e-3)
            assert results[f"test_{dimension}_rmse"] == pytest.approx(np.sqrt(((r - p) ** 2).mean()), abs=1e-3)
            train = pd.read_csv(folder / "songs.csv").query("split == 'train'")[dimension]
            assert np.allclose(table[f"mean_{dimension}"], train.mean(), atol=1e-3)
            for baseline in ("mean", "ridge", "svr"):
                p = table[f"{baseline}_{dimension}"]
                expected = 1 - ((r - p) ** 2).sum() / ((r - r.mean()) ** 2).sum()
                assert results[f"baseline_{baseline}_{dimension}_r2"] == pytest.approx(expected, abs=1e-3)
            low, high = results[f"test_{dimension}_rmse_interval"]
            assert low < results[f"test_{dimension}_rmse"] < high
            error = (table[f"predicted_{dimension}"] - r).abs()
            within = (error <= results[f"interval_{dimension}"] + 1e-4).mean()
            assert results[f"test_{dimension}_coverage"] == pytest.approx(within, abs=1e-6)
            assert 0 < results[f"ceiling_{dimension}_r2"] < 1
        assert "seed 42" in results["protocol"] and "labels" in results["protocol"]

    def test_card_holds_the_numbers_and_its_examples_run(self, finished, root, capsys):
        folder = finished[0]
        card = ModelCard.load(folder / "README.md")
        results = json.loads((folder / "all_results.json").read_text())
        values = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert len(values) == 10 and results["protocol"] in card.text
        for said in ("(audit/audit.md)", "(report.html)", "Intervals of level 0.5"):
            assert said in card.text
        assert re.search(r"\| model +\| \d\.\d{3}<br>\[", card.text)
        assert all(value == pytest.approx(results[f"test_{name}"], abs=1e-4) for name, value in values.items())
        song = next(root.rglob("*.mp3"))
        first, second = re.findall(r"```python\n(.*?)```", card.text, re.S)
        for example, printed in ((first, r"'valence': \d\.\d"), (second, r"Prediction\(valence=\d.*halfwidths=\(\d")):
            exec(example.replace("song.mp3", str(song)), {})
            assert re.search(printed, capsys.readouterr().out)

    def test_no_song_and_no_artist_on_two_sides(self, finished):
        splits = [
            (finished[0] / "splits" / f"{name}.txt").read_text().split() for name in ("train", "validation", "test")
        ]
        ids = [song_id for split in splits for song_id in split]
        assert len(ids) == len(set(ids)) == 40
        assert pd.read_csv(finished[0] / "predictions.csv")["song_id"].astype(str).tolist() == splits[2]

    def test_prints_the_table_and_the_protocol(self, finished):
        out = finished[1]
        assert (
            re.search(r"^model +\d", out, re.M)
            and re.search(r"^mean +\d", out, re.M)
            and re.search(r"^ridge", out, re.M)
        )
        assert "held-out songs" in out and "seed 42" in out

    def test_progress_shows_both_learning_rates(self, finished):
        assert re.search(r"loss=.*backbone lr=.*head lr=", finished[2])

    def test_a_finished_folder_is_not_overwritten(self, finished, config):
        before = (finished[0] / "model.safetensors").stat().st_mtime_ns
        _, err = finetune(config, "--output_dir", finished[0], code=1)
        assert "already holds a finished run" in err and "--overwrite_output_dir" in err
        assert (finished[0] / "model.safetensors").stat().st_mtime_ns == before

    def test_same_command_same_weights(self, finished, config, tmp_path):
        finetune(config, "--output_dir", tmp_path / "again")
        first, again = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "again"))
        assert all(torch.equal(first[name], again[name]) for name in first)

    @pytest.mark.stress
    def test_killed_run_resumes_to_the_same_weights(self, finished, config, tmp_path):
        folder = tmp_path / "killed"
        process = start(sys.executable, "recipes/finetune.py", config, "--output_dir", folder)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint-16" / "trainer_state.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (folder / "checkpoint-9999").mkdir()  # as if killed while saving
        (folder / "checkpoint-9999" / "model.safetensors").write_bytes(b"half of it")
        assert process.returncode == -signal.SIGKILL and not (folder / "all_results.json").exists()

        _, err = finetune(config, "--output_dir", folder, code=1)
        assert "unfinished run" in err and "--resume_from_checkpoint" in err
        finetune(config, "--output_dir", folder, "--resume_from_checkpoint")
        first, resumed = (load_file(path / "model.safetensors") for path in (finished[0], folder))
        assert all(torch.equal(first[name], resumed[name]) for name in first)

    def test_interrupting_leaves_the_last_checkpoint_loadable(self, config, tmp_path, monkeypatch):
        step = EmotionTrainer.training_step

        def interrupted(self, *args):
            if self.state.global_step == 6:
                signal.raise_signal(signal.SIGINT)
            return step(self, *args)

        monkeypatch.setattr(EmotionTrainer, "training_step", interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            _, err = finetune(config, "--output_dir", tmp_path, code=130)
        finally:
            signal.signal(signal.SIGINT, before)
        assert err.splitlines()[-1].startswith("finetune: interrupted; go on with --resume_from_checkpoint")
        (whole,) = tmp_path.glob("checkpoint-*/trainer_state.json")
        assert ASTForEmotionRegression.from_pretrained(whole.parent)

    @pytest.fixture(scope="class")
    def song(self, root):
        return next(root.rglob("*.mp3"))

    def test_the_recipe_as_a_script_predicts_what_the_command_does(self, finished, song):
        out, _ = run(sys.executable, "recipes/predict.py", "--model", finished[0], song)
        assert re.fullmatch(rf"{song}: valence \d\.\d\d ± \d\.\d\d, arousal \d\.\d\d ± \d\.\d\d\n", out)
        assert command("predict", "--model", finished[0], song)[0] == out

    def test_pretrained_weights_with_either_front_end(self, config, songs_root, tmp_path):
        torch.manual_seed(0)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        ASTModel(ASTConfig(**small)).save_pretrained(tmp_path / "ast")
        for front_end, frames in (("mel", 151), ("ast", 1024)):
            folder = tmp_path / front_end
            finetune(config, "--output_dir", folder, "--checkpoint", tmp_path / "ast", "--front_end", front_end,
                     "--data_root", songs_root, "--num_windows", "1",
                     "--max_steps", "1", "--no_load_best_model_at_end", "--eval_strategy", "no")  # fmt: skip
            assert ASTForEmotionRegression.from_pretrained(folder).config.max_length == frames

    def test_a_run_goes_on_with_its_own_split_alone(self, finished, config, tmp_path):
        shutil.copytree(finished[0], tmp_path / "copy")
        (tmp_path / "copy" / "all_results.json").unlink()
        flags = ("--output_dir", tmp_path / "copy", "--resume_from_checkpoint", "--seed", "9")
        _, err = finetune(config, *flags, code=1)
        assert "was begun with other songs or labels" in err
        assert (tmp_path / "copy" / "splits" / "test.txt").read_text() == (
            finished[0] / "splits" / "test.txt"
        ).read_text()

    def test_dynamic_labels_are_measured_over_time(self, config, tmp_path):
        out, _ = finetune(config, "--output_dir", tmp_path, "--labels", "dynamic", "--num_train_epochs", "2")
        results = json.loads((tmp_path / "all_results.json").read_text())
        table = pd.read_csv(tmp_path / "curve_scores.csv", index_col="scored")
        assert results["test_windows_by_song_arousal_rmse"] == pytest.approx(
            table.loc["windows by song", "arousal_rmse"], abs=1e-3
        )
        assert "labels dynamic" in results["protocol"] and "as MediaEval 2015" in out
        assert "MediaEval 2015" in (tmp_path / "README.md").read_text()


def test_seeds_are_trained_on_one_split_and_compared_with_another_run(finished, config, tmp_path):
    place = tmp_path / "seeds"
    out, _ = finetune(config, "--output_dir", place, "--num_train_epochs", "3", "--seeds", "2")
    assert "seed 42" in out and f"{place} (2 seeds), sd" in out and (place / "seed-43" / "report.html").is_file()
    out, _ = command("compare", finished[0], place, "--output", tmp_path / "comparison")
    results = json.loads((finished[0] / "all_results.json").read_text())
    assert re.search(rf"^{finished[0]} +{results['test_valence_rmse']:.3f}", out, re.M)
    assert f"Mean CCC, {place} (2 seeds) - {finished[0]}: " in out
    assert {path.name for path in (tmp_path / "comparison").iterdir()} == {"compare.csv", "compare.md"}
    _, err = command("compare", finished[0], tmp_path, code=1)
    assert "holds no finished run or seeds of one" in err


def cross_validate(*flags, code=0):
    return command("cross_validate", *flags, code=code)


class TestCrossValidate:
    @pytest.fixture(scope="class")
    def folds(self, config, tmp_path_factory):
        """A finished cross-validation: its folder, what it printed, its flags."""
        folder = tmp_path_factory.mktemp("cv") / "whole"
        flags = (config, "--folds", "3", "--num_train_epochs", "3")
        out, _ = cross_validate(*flags, "--output", folder)
        return folder, out, flags

    def test_every_song_is_held_out_once_and_no_artist_crosses(self, folds, root):
        table = pd.read_csv(folds[0] / "predictions.csv")
        assert table["song_id"].tolist() == sorted(read_static(root).index) and set(table["fold"]) == {0, 1, 2}
        for fold, rows in table.groupby("fold"):
            lists = folds[0] / f"fold-{fold}" / "splits"
            sides = {name: set(map(int, (lists / f"{name}.txt").read_text().split())) for name in SPLIT_NAMES}
            assert sides["test"] == set(rows["song_id"]) and sum(map(len, sides.values())) == len(table)
            artists = [set(table[table["song_id"].isin(ids)]["artist"].dropna()) for ids in sides.values()]
            assert not artists[0] & artists[1] and not (artists[0] | artists[1]) & artists[2]

    def test_a_fold_is_a_whole_repository_whose_card_loads_it(self, folds):
        for fold in range(3):
            folder = folds[0] / f"fold-{fold}"
            files = shared_files(folder)
            assert {"README.md", "report.html", "pipeline_ast_emotion.py", "audio_ast_emotion.py"} <= set(files)
            assert f'model="{folder}", trust_remote_code=True' in files["README.md"].read_text()
            config = json.loads(files["config.json"].read_text())
            assert config["custom_pipelines"]["music-emotion"]["impl"].startswith("pipeline_ast_emotion.")

    def test_numbers_follow_from_the_pooled_predictions(self, folds):
        table = pd.read_csv(folds[0] / "predictions.csv")
        results = json.loads((folds[0] / "all_results.json").read_text())
        r, p = table["valence"], table["predicted_valence"]
        assert results["test_valence_r2"] == pytest.approx(
            1 - ((r - p) ** 2).sum() / ((r - r.mean()) ** 2).sum(), abs=1e-3
        )
        low, high = results["test_valence_r2_interval"]
        assert low < results["test_valence_r2"] < high
        assert "artist-grouped 3-fold cross-validation" in results["protocol"] and results["test_songs"] == 40
        out = folds[1]
        assert re.search(rf"^model, pooled +.*{results['test_valence_r2']:.3f}", out, re.M)
        for row in ("fold 0", "fold 2", "ridge", "svr", "mean", "ceiling", "model - ridge", "model - mean"):
            assert re.search(rf"^{row} +-?\d", out, re.M), row

    @pytest.mark.stress
    def test_side_by_side_killed_and_resumed_gives_the_same(self, folds, tmp_path):
        flags = (*folds[2], "--output", tmp_path / "cv")
        out, _ = cross_validate(*flags, "--fold", "1")
        assert "folds 0, 2 of 3 are still to come" in out and not (tmp_path / "cv" / "all_results.json").exists()
        before = (tmp_path / "cv" / "fold-1" / "model.safetensors").stat().st_mtime_ns
        process = start(sys.executable, "recipes/cross_validate.py", *flags)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "cv" / "fold-2").glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _, err = cross_validate(*flags, "--head_learning_rate", "0.1", code=1)
        assert "other settings" in err and "head_learning_rate is 0.1 here" in err
        cross_validate(*flags)
        assert (tmp_path / "cv" / "fold-1" / "model.safetensors").stat().st_mtime_ns == before
        for name in ("predictions.csv", "scores.csv", "fold_scores.csv"):
            assert (tmp_path / "cv" / name).read_bytes() == (folds[0] / name).read_bytes(), name

    def test_a_fold_is_a_run_that_finetune_repeats(self, folds, tmp_path):
        folder = folds[0] / "fold-0"
        finetune(folder / "config.yaml", "--output_dir", tmp_path)
        first, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
        assert all(torch.equal(first[name], again[name]) for name in first)


class TestExternal:
    """A collection in CSV files, and a model of other songs."""

    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory):
        """Twelve rendered songs, their labels on 0..1 in a CSV file, and the YAML file that says so."""
        folder = tmp_path_factory.mktemp("other")
        csv = folder / "labels.csv"
        means = np.random.default_rng(0).uniform(2, 8, (12, 2)).round(1)
        pd.DataFrame({"id": range(1, 13), "valence": means[:, 0], "arousal": means[:, 1]}).to_csv(csv, index=False)
        render_deam(folder / "songs", labels=[csv], seconds=4.0)
        unit = pd.read_csv(csv).assign(valence=(means[:, 0] - 1) / 8, arousal=(means[:, 1] - 1) / 8)
        unit.to_csv(folder / "songs" / "labels.csv", index=False)
        collection = folder / "other.yaml"
        collection.write_text("root: songs\ncsv: labels.csv\naudio_dir: .\nlabel_range: [0, 1]\nsource: Other\n")
        return collection, means

    def test_is_evaluated_in_one_command(self, finished, other, tmp_path):
        collection, means = other
        out, _ = command("evaluate", "--model", finished[0], "--collection", collection,
                     "--output", tmp_path / "out.json")  # fmt: skip
        results = json.loads((tmp_path / "out.json").read_text())
        assert results["songs"] == 12 and results["protocol"].startswith(
            "Other, audio rendered from the labels; labels as distributed (0..1"
        )
        assert "an external test; 0 of 12 songs share an artist" in out and "12 Other songs" in out
        train = pd.read_csv(finished[0] / "songs.csv").query("split == 'train'")
        expected = np.sqrt(np.mean((means[:, 1] - train["arousal"].mean()) ** 2))
        assert results["baseline_mean_arousal_rmse"] == pytest.approx(expected, abs=1e-3)
        assert re.search(r"Intervals of level 0.5, from the model's validation songs: valence ± \d", out)

    def test_songs_trained_on_are_refused_under_any_name(self, finished, root, tmp_path):
        static = read_static(root)
        csv = tmp_path / "emo.csv"
        columns = {"song_id": static.index, "mean_valence": static["arousal"], "mean_arousal": static["valence"]}
        pd.DataFrame(columns).to_csv(csv, index=False)
        (tmp_path / "emo.yaml").write_text(f"csv: {csv}\naudio_dir: {root}\nsource: EmoMusic\n")
        _, err = command("evaluate", "--model", finished[0], "--collection",
                     tmp_path / "emo.yaml", code=1)  # fmt: skip
        assert err.splitlines()[-1].startswith("evaluate: ") and "with valence and arousal exchanged" in err

    def test_joins_the_training(self, config, other, tmp_path):
        finetune(config, "--output_dir", tmp_path, "--collections", other[0], "--num_train_epochs", "1")
        songs = pd.read_csv(tmp_path / "songs.csv")
        assert songs["source"].value_counts().to_dict() == {"songs rendered in DEAM's layout": 40, "Other": 12}
        assert len(set(songs["song_id"])) == 52 and songs[songs["source"] == "Other"]["split"].nunique() > 1
        protocol = json.loads((tmp_path / "all_results.json").read_text())["protocol"]
        assert " + Other, audio rendered from the labels; labels as distributed (0..1 mapped" in protocol


GAN_SIZES = ("--gan_batch_size", "8", "--gan_channels", "4", "--latent_size", "8", "--regressor_steps", "30")


def train_gan(*flags, code=0):
    return command("train_gan", *flags, *GAN_SIZES, code=code)


@pytest.fixture(scope="module")
def trained_gan(finished, config, tmp_path_factory):
    """A finished GAN on the train songs of `finished`: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "gan"
    flags = ("--gan_steps", "60", "--measure_steps", "30", "--ema_decay", "0.9", "--report_to", "tensorboard")
    out, err = train_gan(config, "--finetuned", finished[0], "--gan_output_dir", folder, *flags)
    return folder, out, err


class TestTrainGan:
    def test_leaves_a_generator_that_loads_and_everything_it_promised(self, trained_gan, finished):
        folder = trained_gan[0]
        generator, info = MelGenerator.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert generator.generate([[0.5, -0.5]], seed=1).shape == (1, 151, 128)
        for name in ("config.yaml", "preprocessor_config.json", "all_results.json", "splits/train.txt"):
            assert (folder / name).stat().st_size > 0, name
        for name in ("discriminator", "regressor"):
            assert (folder / name / "model.safetensors").is_file()
        for name in ("quality.png", "samples-000000.png", "samples-000030.png", "samples-000060.png"):
            assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG"), name
        assert list((folder / "runs").rglob("events.out.tfevents*"))
        assert (folder / "splits" / "train.txt").read_text() == (finished[0] / "splits" / "train.txt").read_text()

    def test_says_how_far_its_windows_are_from_real_ones(self, trained_gan):
        folder, out, err = trained_gan
        results = json.loads((folder / "all_results.json").read_text())
        assert results["windows_per_second"] > 0 and results["steps_per_second"] > 0
        row = re.search(rf"^step {results['step']}, kept +([\d.]+) +([\d.]+)", out, re.M)
        assert float(row[1]) == pytest.approx(results["frechet"], abs=5e-4)
        real, untrained = (re.search(rf"^{name} +([\d.]+)", out, re.M)[1] for name in ("real", "untrained"))
        assert float(real) == pytest.approx(results["real_frechet"], abs=5e-4)
        assert results["frechet_share"] == pytest.approx(results["frechet"] / float(untrained), rel=1e-3)
        assert results["frechet_share"] != 1 and re.search(r"^untrained +[\d.]+ +1\.000", out, re.M)
        assert f"larger than {results['frechet_percentile']:.0f} % of those between two sets of" in out
        songs = [results[f"{side}_songs"] for side in ("train", "selecting", "reporting")]
        assert sum(songs) == len((folder / "splits" / "train.txt").read_text().split()) and min(songs) >= 2
        assert "split" in results["protocol"] or "id lists" in results["protocol"]
        assert re.search(r"D=-?[\d.]+, G=-?[\d.]+, emotion=[\d.]+, lr D=[\d.e+-]+, lr G=[\d.e+-]+", err)

    @pytest.mark.stress
    def test_a_killed_run_resumes_to_the_same_weights(self, finished, config, tmp_path):
        flags = (config, "--finetuned", finished[0], "--gan_steps", "12", "--measure_steps", "5")
        train_gan(*flags, "--gan_output_dir", tmp_path / "whole")
        folder = tmp_path / "killed"
        process = start(sys.executable, "recipes/train_gan.py", *flags, *GAN_SIZES, "--gan_output_dir", folder)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint-5" / "gan_state.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (folder / "all_results.json").exists()
        _, err = train_gan(*flags, "--gan_output_dir", folder, code=1)
        assert "unfinished run" in err and "--resume_from_checkpoint" in err
        train_gan(*flags, "--gan_output_dir", folder, "--resume_from_checkpoint")
        for name in ("model.safetensors", "checkpoint-12/model.safetensors", "checkpoint-12/model_1.safetensors"):
            first, second = (load_file(path / name) for path in (tmp_path / "whole", folder))
            assert all(torch.equal(first[key], second[key]) for key in first), name

    def test_finetune_trains_with_its_windows_and_tests_on_the_same_songs(
        self, trained_gan, finished, config, tmp_path
    ):
        out, _ = finetune(config, "--output_dir", tmp_path, "--gan", trained_gan[0], "--synthetic_fraction", "0.3",
                            "--num_train_epochs", "2")  # fmt: skip
        plain, ours = (json.loads((path / "all_results.json").read_text()) for path in (finished[0], tmp_path))
        assert ours["synthetic_windows"] == round(plain["train_songs"] * 0.3 / 0.7) and plain["synthetic_windows"] == 0
        assert f"{ours['synthetic_windows']} synthetic windows per epoch" in out
        songs = [pd.read_csv(path / "predictions.csv")["song_id"].tolist() for path in (finished[0], tmp_path)]
        assert songs[0] == songs[1]
        assert "windows per epoch came from a GAN" in (tmp_path / "README.md").read_text()
        assert "came from a GAN" not in (finished[0] / "README.md").read_text()

    def test_finetune_keeps_what_a_model_confirms(self, trained_gan, finished, config, tmp_path):
        finetune(config, "--output_dir", tmp_path, "--gan", trained_gan[0], "--confirm_with", finished[0],
                 "--confirm_within", "1", "--max_steps", "2", "--num_train_epochs", "1")  # fmt: skip
        assert (tmp_path / "all_results.json").is_file()

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (["--seconds", "2"], 1, "max_length is 101 here and 151 there"),
            (["--labels", "distributed"], 1, "labels are distributed here, but repaired"),
            (["--gan_batch_size", "500"], 1, "do not fill a batch of 500"),
            (["--label_smoothing", "1"], 2, "label_smoothing must lie in [0, 1)"),
            (["--resume_from_checkpoint"], 1, "no checkpoint to resume from"),
        ],
    )
    def test_one_clear_sentence_before_any_training(self, finished, config, tmp_path, flags, code, message):
        places = ("--finetuned", finished[0], "--gan_output_dir", tmp_path / "gan")
        _, err = command("train_gan", config, *places, *GAN_SIZES, *flags, code=code)
        assert message in err and "Traceback" not in err and "GAN:" not in err

    def test_refuses_without_a_finished_run(self, config, tmp_path):
        _, err = train_gan(config, "--finetuned", tmp_path, "--gan_output_dir", tmp_path / "gan", code=1)
        assert "is not a finished fine-tuning run" in err

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (["--seconds", "2"], 1, "max_length is 101 here and 151 there"),
            (["--synthetic_fraction", "1"], 2, "synthetic_fraction is a share in [0, 1), but is 1"),
            (["--gan", "nowhere"], 1, "no GAN in 'nowhere'"),
            (["--seed", "7"], 1, "was trained on"),  # another random split: its test songs are the GAN's
        ],
    )
    def test_finetune_refuses_what_does_not_fit(self, trained_gan, config, tmp_path, flags, code, message):
        _, err = finetune(config, "--output_dir", tmp_path, "--gan", trained_gan[0], *flags, code=code)
        assert message in err


class TestAblate:
    @pytest.mark.stress
    def test_prints_a_row_an_arm_and_goes_on_where_it_stopped(self, config, tmp_path):
        ablate = (sys.executable, "recipes/ablate.py", config, "--seeds", "1", "--sizes", "20", "--steps", "2",
                  "--gan_steps", "2", "--measure_steps", "2", *GAN_SIZES, "--output", tmp_path)  # fmt: skip
        out, _ = run(*ablate)
        folder = tmp_path / "training"
        table = pd.read_csv(folder / "ablation.csv")
        assert table["arm"].tolist() == ["plain", "+ SpecAugment", "+ GAN", "+ both"]
        for arm, row in table.set_index("arm").iterrows():
            assert re.search(rf"{re.escape(arm)} +{row['test_valence_r2']:.3f}", out), arm
        assert (folder / "plots" / "ablation.png").read_bytes().startswith(b"\x89PNG")
        (cell,) = folder.glob("songs-*")
        for name in ("specaugment", "gan", "both"):
            assert (cell / name / "splits" / "train.txt").read_text() == (cell / "splits" / "train.txt").read_text()
        before = (cell / "plain" / "all_results.json").stat().st_mtime_ns
        assert run(*ablate)[0] == out
        assert (cell / "plain" / "all_results.json").stat().st_mtime_ns == before
        _, err = run(*ablate, "--head_dropout", "0.1", code=1)
        assert "holds runs with other settings (flags)" in err


class TestBadInput:
    @pytest.fixture
    def damaged(self, root, tmp_path):
        """The rendered songs, four of them damaged."""
        copy = tmp_path / "damaged"
        shutil.copytree(root, copy)
        files = sorted(copy.rglob("*.mp3"), key=lambda path: int(path.stem))
        files[0].write_text("this is no music")
        files[1].write_bytes(b"")
        files[2].write_bytes(files[2].read_bytes()[:300])
        files[3].unlink()
        return copy, [int(path.stem) for path in files[:4]]

    def test_bad_files_are_reported_and_left_out(self, damaged, config, tmp_path):
        root, ids = damaged
        folder = tmp_path / "run"
        _, err = finetune(config, "--data_root", root, "--output_dir", folder, "--max_steps", "2",
                            "--max_bad_fraction", "0.1")  # fmt: skip
        assert f"left out 1 annotated songs without audio: {ids[3]}" in err
        assert "3 of 39 audio files cannot be used" in err
        bad = pd.read_csv(folder / "bad_files.csv")
        assert bad["song_id"].tolist() == ids[:3] and bad["reason"].str.len().min() > 3
        listed = " ".join((folder / "splits" / f"{name}.txt").read_text() for name in ("train", "validation", "test"))
        assert not {str(i) for i in ids} & set(listed.split())
        assert json.loads((folder / "all_results.json").read_text())["bad_files"] == 3

    def test_too_many_stop_the_run(self, damaged, config, tmp_path):
        _, err = finetune(config, "--data_root", damaged[0], "--output_dir", tmp_path / "run", code=1)
        assert "max_bad_fraction" in err and f"{damaged[1][0]}.mp3" in err

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (["--data_root", "nowhere"], 1, "nowhere"),
            (["--head_learning_rat", "1"], 2, "did you mean 'head_learning_rate'"),
            (["--split", "weekly"], 1, "weekly"),
            (["--checkpoint", "no/such-model"], 1, "no/such-model"),
            (["--resume_from_checkpoint"], 1, "no checkpoint to resume from"),
            (["--labels", "dynamic", "--collections", "pmemo"], 2, "'dynamic' need curves"),
            (["--f_max", "9000"], 2, "section 'audio': 0 <= f_min < f_max <= 8000"),
        ],
    )
    def test_one_clear_sentence(self, config, tmp_path, flags, code, message):
        _, err = finetune(config, "--output_dir", tmp_path / "run", *flags, code=code)
        assert err.splitlines()[-1].startswith("finetune: ") and message in err


class TestEvaluate:
    def test_reproduces_the_numbers_of_the_training(self, finished, root, tmp_path):
        output = tmp_path / "results.json"
        out, _ = command("evaluate", "--model", finished[0], "--data_root", root, "--output", output)
        assert re.search(r"^\d+ test songs", out, re.M)
        ours, theirs = json.loads(output.read_text()), json.loads((finished[0] / "all_results.json").read_text())
        for name in ("valence_r2", "arousal_ccc", "mean_rmse"):
            assert ours[f"test_{name}"] == pytest.approx(theirs[f"test_{name}"], abs=1e-5)

    def test_another_split_is_no_way_round(self, finished, root, tmp_path):
        splits = tmp_path / "splits"
        shutil.copytree(finished[0] / "splits", splits)
        (splits / "train.txt").rename(splits / "x")
        (splits / "test.txt").rename(splits / "train.txt")
        (splits / "x").rename(splits / "test.txt")
        flags = ("--model", finished[0], "--data_root", root, "--split", splits)
        _, err = command("evaluate", *flags, code=1)
        assert re.search(r"evaluate: the model in .* was trained or selected on \d+ of these \d+ songs", err)

    def test_only_the_songs_asked_for_are_needed(self, finished, root, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(root, copy)
        kept = set((finished[0] / "splits" / "test.txt").read_text().split())
        for path in copy.rglob("*.mp3"):
            if path.stem not in kept:
                path.unlink()
        command("evaluate", "--model", finished[0], "--data_root", copy)

    def test_missing_model_and_missing_songs(self, finished, tmp_path):
        missing = ((tmp_path, tmp_path, "no model in"), (finished[0], tmp_path / "nowhere", "nowhere"))
        for model, root, message in missing:
            _, err = command("evaluate", "--model", model, "--data_root", root, code=1)
            assert err.splitlines()[-1].startswith("evaluate: ") and message in err
