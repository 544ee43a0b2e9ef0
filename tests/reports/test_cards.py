"""Cards of runs, of models that were only trained, and of GANs: what they say, and that what they print runs."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from loopback_hub import LoopbackHub
from transformers import set_seed

from emotion_ft import __version__, run_folder
from emotion_ft.config.settings import SpecAugmentConfig, TrainingConfig
from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, with_transform
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.features import LogMel
from emotion_ft.data.shards import finish_prepared, plan_shards, store_shards
from emotion_ft.errors import UsageError
from emotion_ft.hub.repository import add_pipeline
from emotion_ft.inference.predict import predict_file
from emotion_ft.reports.cards import write_data_card, write_gan_card, write_model_card, write_validation_card
from emotion_ft.reports.environment import environment
from emotion_ft.scoring import curves
from emotion_ft.scoring.metrics import DIMENSIONS, METRICS
from emotion_ft.scoring.scores import difference_with_intervals, flat, score_with_intervals
from emotion_ft.training.trainer import EmotionTrainer

TOKEN = "hf_user"
RENDERED = "songs rendered in DEAM's layout; labels repaired (exchanged back in 0 rows); split random, seed 42"
DEAM = "DEAM; labels repaired (exchanged back in 744 rows with ids ≤ 1000); split random, seed 42"


def collection(source, labels="repaired", rendered=False):
    return {"source": source, "labels": labels, "rendered": rendered, "songs": 98}


OURS = [collection("songs rendered in DEAM's layout", rendered=True)]
FROM_DEAM, FROM_PMEMO = [collection("DEAM")], [collection("PMEmo", "distributed")]
PRIVATE = ("songs.csv", "predictions.csv", "bad_files.csv", "training_args.bin", "checkpoint-2/model.safetensors",
           "checkpoint-2/modeling_ast_emotion.py", "runs/today/events.out.tfevents.1", "audit/audit.csv")  # fmt: skip


def make_scores(treatments=("repaired",), artists=5):
    """Scores of made-up predictions for 20 songs."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 9, (20, 2))
    predictions = {"model": truth + rng.normal(0, 1, truth.shape), "mean": np.tile(truth.mean(0), (20, 1))}
    rows = {
        (treatment, name): score_with_intervals(values, truth, [f"artist {i % artists}" for i in range(20)])
        for treatment in treatments
        for name, values in predictions.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["labels", "system"])


@pytest.fixture(scope="module")
def run(tiny_model, tiny_extractor, tmp_path_factory):
    """`run(protocol, ...)` -> a folder as a finished run leaves it, with its card."""

    def make(
        protocol=RENDERED, collections=OURS, scores=None, checkpoint=None, curve_scores=None, model_id=None, **changes
    ):
        folder = tmp_path_factory.mktemp("run")
        tiny_model.save_pretrained(folder)
        tiny_extractor.save_pretrained(folder)
        add_pipeline(folder)
        scores = make_scores() if scores is None else scores
        config = {
            "data": {"data_root": "/home/somebody/DEAM", "labels": "repaired", "rendered_songs": 0},
            "model": {"checkpoint": checkpoint, "loss": "mse"},
            "training": {"output_dir": str(folder), "backbone_learning_rate": 3e-5, "precision": "bf16"},
        }
        for section, settings in changes.pop("config", {}).items():
            config[section] |= settings
        results = {"protocol": protocol, "collections": collections, "labels": "repaired", "label_weights": "none",
                   "train_songs": 60, "validation_songs": 18, "test_songs": 20, "synthetic_windows": 0,
                   "bad_files": 0, "epochs": 7.0, "train_runtime": 65.4, "train_loss": 0.1234567,
                   "validation_mean_ccc": 0.81234, "base_model": None,
                   **environment(torch.device("cpu")), **flat(scores), **changes}  # fmt: skip
        run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
        if curve_scores is not None:
            run_folder.write_table(folder, run_folder.CURVE_SCORES, curve_scores.reset_index())
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        run_folder.write_results(folder, results)
        return write_model_card(folder, model_id).parent

    return make


@pytest.fixture(scope="module")
def rendered(run):
    return run()


def text_of(folder):
    return (folder / "README.md").read_text()


def said(text):
    """Prose without its line breaks."""
    return " ".join(text.split())


def examples(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def python(code, cwd, without=False, *arguments, **environment):
    """Run code in a new process, in another folder, as if emotion_ft was not installed; what it printed."""
    block = "import sys; sys.modules['emotion_ft'] = None\n" if without else ""
    done = subprocess.run([sys.executable, "-c", block + code, *map(str, arguments)], cwd=cwd,
                          env=os.environ | environment, capture_output=True, text=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestModelCard:
    def test_index_holds_the_scores_to_the_digit(self, rendered):
        card = ModelCard.load(rendered / "README.md")
        results = json.loads((rendered / "all_results.json").read_text())
        found = {result.metric_type: result for result in card.data.eval_results}
        assert found.keys() == {f"{d}_{m}" for d in DIMENSIONS for m in METRICS}
        for key, result in found.items():
            assert result.metric_value == results[f"test_{key}"]
            assert (result.dataset_name, result.dataset_split) == (RENDERED, "test")
        assert card.data.library_name == "transformers"
        assert "pipeline_tag" not in card.data.to_dict()

    def test_can_be_written_again(self, rendered):
        before = text_of(rendered)
        (rendered / "README.md").unlink()
        write_model_card(rendered)
        assert text_of(rendered) == before

    def test_says_what_it_ran_on_and_how_it_was_set(self, rendered):
        text = text_of(rendered)
        assert f"emotion_ft {__version__}" in text and f"torch {version('torch')}" in text
        assert f"| hardware | CPU ({torch.get_num_threads()} threads) |" in text
        for line in ("| epochs | 7; mean CCC of the weights kept, on the validation songs: 0.812 |",
                     "| time | 65 s since", "| started from | random weights |", "windows of 101 frames, 2 s |",
                     "| number | 60 | 18 | 20 |"):  # fmt: skip
            assert line in text
        settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
        assert settings["training"] == {"backbone_learning_rate": 3e-5, "precision": "bf16"}
        assert "/home/somebody" not in text and "output_dir" not in text

    def test_versions_are_those_of_the_training(self, run):
        folder = run(versions={"emotion_ft": "0.0.1", "torch": "1.0"}, device="2 x A GPU")
        assert "| software | emotion_ft 0.0.1, torch 1.0 |" in text_of(folder)
        assert "| hardware | 2 x A GPU |" in text_of(folder)

    def test_intervals_below_the_values_where_there_are_any(self, run, rendered):
        results = json.loads((rendered / "all_results.json").read_text())
        low, high = results["test_valence_rmse_interval"]
        assert re.search(
            rf"\| model +\| {results['test_valence_rmse']:.3f}<br>\[{low:.3f},&nbsp;{high:.3f}\]", text_of(rendered)
        )
        without = text_of(run(scores=make_scores(artists=1)))
        assert re.search(rf"\| model +\| {results['test_valence_rmse']:.3f} +\|", without) and "<br>" not in without

    def test_says_how_the_model_compares_as_the_differences_show(self, run, rendered):
        rng = np.random.default_rng(0)
        truth = rng.uniform(1, 9, (20, 2))
        pair = truth + rng.normal(0, 0.5, truth.shape), truth + rng.normal(0, 2, truth.shape)
        scores = make_scores()
        scores.loc[("repaired", "model - svr"), :] = difference_with_intervals(*pair, truth, list("abcdefghij") * 2)
        text = text_of(run(scores=scores))
        assert re.search(r"^\| model - svr +\| -\d\.\d{3}<br>\[-", text, re.M)
        row = scores.loc[("repaired", "model - svr")]
        low, high = row["mean_ccc_low"], row["mean_ccc_high"]
        assert f"mean CCC, minus svr's {row['mean_ccc']:+.3f} [{low:+.3f}, {high:+.3f}], better." in text
        assert "minus" not in text_of(rendered)

    def test_every_treatment_of_the_labels_has_its_table(self, run):
        text = text_of(run(scores=make_scores(("repaired", "distributed"))))
        assert text.count("| model ") == 2 and text.index("Labels repaired:") < text.index("Labels distributed:")

    def test_prediction_intervals(self, run, rendered):
        told = {"interval_level": 0.9}
        for dimension in DIMENSIONS:
            told |= {f"interval_{dimension}": 1.5, f"test_{dimension}_coverage": 0.95}
        assert "valence ± 1.50 covers 95% [75%, 100%]" in text_of(run(**told)) and "± 1.50" not in text_of(rendered)

    def test_curve_scores(self, run):
        values = np.linspace(-0.5, 0.5, 24).reshape(3, 4, 2)
        table = curves.score_curves(list(values + 0.1), list(values))
        text = text_of(run(collections=[collection("DEAM", "dynamic")], curve_scores=table))
        assert "MediaEval 2015" in text and "mean of the half-second annotations" in text
        assert re.search(r"\| all windows of all songs together +\| +0\.100 ", text)

    def test_rendered_songs_are_free_and_worth_nothing_on_music(self, run, rendered):
        text = said(text_of(rendered))
        assert "is of no use on music" in text and "free to use" in text
        assert "CC BY-NC" not in text and "aljanaki" not in text
        assert ModelCard.load(rendered / "README.md").data.license is None  # rendered by somebody, from some labels
        ours = run(config={"data": {"rendered_songs": 300}})
        assert ModelCard.load(ours / "README.md").data.license == "apache-2.0"
        pretrained = run(config={"data": {"rendered_songs": 300}}, checkpoint="you/ast")
        assert ModelCard.load(pretrained / "README.md").data.license is None

    def test_deam_has_terms_limits_and_a_citation(self, run):
        folder = run(
            DEAM, FROM_DEAM, checkpoint="MIT/ast", base_model="MIT/ast", synthetic_windows=9, label_weights="agreement"
        )
        text, data = said(text_of(folder)), ModelCard.load(folder / "README.md").data
        assert data.base_model == "MIT/ast" and data.license is None
        for part in ("CC BY-NC", "Apache License 2.0", "10.1371/journal.pone.0173392", "10.21437/Interspeech.2021-698",
                     "excerpts of 45 s", "started from | `MIT/ast`", "came from a GAN that learned only from these",
                     "annotators agree", "Mechanical Turk"):  # fmt: skip
            assert part in text, part
        assert "of no use" not in text and "whoever distributes" not in text

    def test_other_collections_are_named_and_not_judged(self, run):
        text = said(text_of(run(collections=FROM_DEAM + FROM_PMEMO)))
        assert "PMEmo: whoever distributes the collection decides" in text and "CC BY-NC" in text
        assert "as the collection gives them." in text and "744" not in text
        alone = said(text_of(run(collections=FROM_PMEMO)))
        assert "PMEmo: whoever" in alone and "CC BY-NC" not in alone and "Western" not in alone
        assert "744 of DEAM's rows" in text_of(run(collections=[collection("DEAM", "distributed")]))

    def test_no_name_makes_a_collection_rendered_or_deams(self, run):
        folder = run("Surrendered; labels as distributed", [collection("Surrendered", "distributed")])
        text = said(text_of(folder))
        assert "Surrendered: whoever distributes" in text and "of no use on music" not in text
        assert "CC BY-NC" in said(text_of(run("songs", FROM_DEAM))) and "CC BY-NC" not in text

    def test_the_install_line_has_bounds(self, rendered):
        line = re.search(r"`pip install (.*?)`", text_of(rendered))[1]
        assert all(f'"{name}' in line for name in ("torch<2.15", "torchaudio<2.12", "transformers<6", "soxr>="))

    def test_a_folder_is_no_repository_to_start_from(self, run):
        folder = run(DEAM, FROM_DEAM, checkpoint="/home/somebody/runs/other")
        text = text_of(folder)
        assert "weights that whoever trained it had at hand" in text and "/home/somebody" not in text
        assert ModelCard.load(folder / "README.md").data.base_model is None

    def test_shows_the_pictures_that_are_there(self, run):
        folder = run()
        assert "![" not in text_of(folder) and "(audit/audit.md)" not in text_of(folder)
        for name in ("plots/valence_arousal.png", "plots/learning_curve.png", "audit/audit.md"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        write_model_card(folder)
        assert re.findall(r"!\[.*?\]\((.*?)\)", text_of(folder)) == [
            "plots/valence_arousal.png",
            "plots/learning_curve.png",
        ]
        assert "(audit/audit.md)" in text_of(folder)

    @pytest.mark.parametrize("missing", ["all_results.json", "scores.csv"])
    def test_refuses_an_unfinished_run(self, run, missing):
        folder = run()
        (folder / missing).unlink()
        with pytest.raises(UsageError, match=f"holds no finished run, no {missing}"):
            write_model_card(folder)

    @pytest.mark.stress
    def test_what_it_prints_runs(self, rendered, tiny_model, tiny_extractor, write_wav, tmp_path):
        song = write_wav(tmp_path / "song.mp3", format="WAV")
        expected = predict_file(tiny_model, tiny_extractor, song)
        first, second = examples(text_of(rendered))
        heard = python(first, tmp_path, without=True)
        assert "emotion_ft" not in first
        for dimension in DIMENSIONS:
            assert float(re.search(rf"'{dimension}': (\d\.\d+)", heard)[1]) == pytest.approx(
                getattr(expected, dimension), abs=1e-2
            )
        assert python(second, tmp_path).startswith(f"Prediction(valence={expected.valence:.4f}")


class TestTrainer:
    @pytest.fixture
    def trainer(self, tiny_model, tiny_extractor, stored_songs, tmp_path):
        def make(folder=tmp_path, extractor=tiny_extractor, **changes):
            settings = {"precision": "fp32", "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1,
                        "save_steps": 1, "max_steps": 3, "per_device_train_batch_size": 4, "report_to": "none",
                        "gradient_accumulation_steps": 1, "hub_model_id": "user/x", "disable_tqdm": True}  # fmt: skip
            set_seed(0)
            return EmotionTrainer(
                type(tiny_model)(tiny_model.config),
                TrainingConfig(output_dir=str(folder), **(settings | changes)),
                train_dataset=with_transform(
                    stored_songs["train"], TrainingTransform(tiny_extractor, SpecAugmentConfig(), 0)
                ),
                eval_dataset=with_transform(stored_songs["validation"], EvaluationTransform(tiny_extractor)),
                processing_class=extractor,
            )

        return make

    def test_card_of_a_finished_run_is_the_runs(self, run, trainer):
        folder = run(model_id="user/x")
        before = text_of(folder)
        (folder / "README.md").write_text("stale")
        trainer(folder).create_model_card()
        assert text_of(folder) == before

    def test_refuses_the_results_of_another_training(self, run, trainer):
        folder = run()
        ours = trainer(folder, save_strategy="no", load_best_model_at_end=False)
        loss = ours.train().training_loss
        with pytest.raises(UsageError, match="the results of another training"):
            ours.create_model_card()
        results = json.loads((folder / "all_results.json").read_text())
        run_folder.write_results(folder, results | {"train_loss": loss})
        ours.create_model_card()
        assert "held-out songs, used once" in text_of(folder)

    @pytest.mark.parametrize("best", [True, False])
    def test_card_without_held_out_songs_says_so(self, trainer, tmp_path, best):
        ours = trainer(load_best_model_at_end=best)
        ours.train()
        ours.save_model()
        ours.evaluate(ours.eval_dataset.select(range(2)))  # other songs, afterwards
        ours.create_model_card(finetuned_from="MIT/ast")
        card = ModelCard.load(tmp_path / "README.md")
        step = ours.state.best_global_step if best else 3
        kept = next(entry for entry in ours.state.log_history if entry["step"] == step and "eval_loss" in entry)
        assert re.search(rf"\| model, validation songs +\| {kept['eval_valence_rmse']:.3f} ", card.text)
        assert "No held-out result" in card.text and "flatter it" in card.text
        assert not card.data.eval_results and card.data.base_model == "MIT/ast"
        assert "report.html" not in card.text and "splits/" not in card.text
        assert "| number | 16 | 4 |" in card.text and f"torch {version('torch')}" in card.text
        assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", card.text, re.S)[1])["training"]["max_steps"] == 3
        assert 'model="user/x"' in card.text and str(tmp_path) not in card.text

    def test_card_without_any_scores(self, trainer, tmp_path):
        ours = trainer(eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
        ours.save_model()
        ours.create_model_card()
        assert "No validation songs were scored either" in text_of(tmp_path) and "| model" not in text_of(tmp_path)

    def test_results_of_stock_trainer_are_no_finished_run(self, trainer, tmp_path):
        ours = trainer()
        ours.save_metrics("train", ours.train().metrics)
        ours.save_model()
        ours.create_model_card()
        assert (tmp_path / "all_results.json").is_file() and "No held-out result" in text_of(tmp_path)

    def test_a_model_without_its_front_end_has_no_card(self, trainer):
        ours = trainer(extractor=None)
        ours.save_model()
        with pytest.raises(UsageError, match="give the trainer processing_class"):
            ours.create_model_card()

    def test_pickles_no_token_for_the_hub_at_a_checkpoint(self, trainer, tmp_path):
        ours = trainer(hub_token=TOKEN)
        ours.push_in_progress = None
        ours._push_from_checkpoint(str(tmp_path))
        assert not list(tmp_path.rglob("*.bin"))


PUSH = """
import sys
from emotion_ft import EmotionTrainer, TrainingConfig, load_model

model, extractor = load_model(sys.argv[1])
arguments = TrainingConfig(sys.argv[1], precision="fp32", hub_model_id="user/pushed", eval_strategy="no",
                           save_strategy="no", load_best_model_at_end=False)
trainer = EmotionTrainer(model, arguments, processing_class=extractor)
trainer.push_to_hub(revision=None)
"""
REFUSED = """
import json, sys
from huggingface_hub import HfApi
from emotion_ft import EmotionTrainer, TrainingConfig, load_model
from emotion_ft.errors import UsageError

api, model_type = HfApi(), json.dumps({"model_type": "mel_gan"}).encode()
api.create_repo("user/a-gan")
api.upload_file(path_or_fileobj=model_type, path_in_repo="config.json", repo_id="user/a-gan")
for folder, repository in zip(sys.argv[1:], ("user/secret", "user/a-gan")):
    model, extractor = load_model(folder)
    arguments = TrainingConfig(folder, precision="fp32", hub_model_id=repository, eval_strategy="no",
                               save_strategy="no", load_best_model_at_end=False)
    try:
        EmotionTrainer(model, arguments, processing_class=extractor).push_to_hub()
    except UsageError as error:
        print(error)
"""


class TestPushToHub:
    @pytest.fixture(scope="class")
    def hub(self, tmp_path_factory):
        with LoopbackHub(tmp_path_factory.mktemp("hub"), {TOKEN: "user"}) as server:
            yield server

    @pytest.fixture
    def online(self, hub, tmp_path):
        return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
                "HF_HOME": str(tmp_path / "hf")}  # fmt: skip

    @pytest.mark.stress
    def test_sends_what_belongs_there_and_the_card_of_the_run(self, run, hub, online, write_wav, tmp_path):
        folder = run(model_id="user/pushed")
        card = text_of(folder)
        for name in (*PRIVATE, "report.html", "splits/test.txt", "plots/valence_arousal.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        python(PUSH, tmp_path, False, folder, **online)
        files = hub.files("user/pushed")
        code = {
            f"{name}_ast_emotion.py"
            for name in ("audio", "configuration", "feature_extraction", "modeling", "pipeline")
        }
        assert set(files) - {".gitattributes"} == code | {
            "README.md", "config.json", "preprocessor_config.json", "model.safetensors", "all_results.json",
            "config.yaml", "scores.csv", "report.html", "splits/test.txt", "plots/valence_arousal.png",
        }  # fmt: skip
        assert "![Labels and predictions]" in files["README.md"].decode()
        (folder / "plots" / "valence_arousal.png").unlink()
        assert write_model_card(folder, "user/pushed").read_text() == card  # but for that picture, nothing differs
        write_wav(tmp_path / "song.mp3", format="WAV")
        heard = python(examples(files["README.md"].decode())[0], tmp_path, True, **online)
        assert re.search(r"'valence': \d\.\d+", heard)

    def test_refuses_a_token_and_a_repository_of_another_kind_of_model(self, run, hub, online, tmp_path):
        secret, plain = run(), run()
        with (secret / "config.yaml").open("a") as config:
            config.write(f"# hf_{'a' * 34}\n")
        token, kind = python(REFUSED, tmp_path, False, secret, plain, **online).splitlines()
        assert token.startswith(f"'{secret / 'config.yaml'}' holds what looks like a token of the Hub: remove it")
        assert kind == "'user/a-gan' holds a model of type mel_gan: push one of type ast-emotion elsewhere."
        assert set(hub.files("user/secret")) == {".gitattributes"}
        assert set(hub.files("user/a-gan")) == {".gitattributes", "config.json"}


class TestGanCard:
    def test_says_what_it_is_and_how_good(self, gan_dir):
        folder, _, results = gan_dir
        card = ModelCard.load(folder / "README.md")
        assert card.data.tags == ["music-emotion-recognition", "gan", "emotion_ft"]
        assert re.search(rf"\| step 60, kept +\| {results['frechet']:.3f} +\| 0.125 +\| 0.250 ", card.text)
        assert re.search(r"\| real +\| 0.250 +\|  +\|", card.text) and "nan" not in card.text
        for part in ("must never enter an evaluation", "(plots/samples-000060.png)", "windows of 2 s", "of no use",
                     "Apache License 2.0", "free to use", "@inproceedings{gong2021ast"):  # fmt: skip
            assert part in said(card.text), part
        assert "{%" not in card.text and "{{ " not in card.text
        assert "Fréchet distance to the reference windows" in card.text

    def test_can_be_written_again_for_another_place(self, gan_dir, tmp_path):
        folder = gan_dir[0]
        assert 'from_pretrained("you/gan")' in write_gan_card(folder, "you/gan").read_text()
        (folder / "quality.csv").unlink()
        with pytest.raises(UsageError, match=r"no quality\.csv"):
            write_gan_card(folder)

    def test_names_versions_and_terms_of_deam(self, gan_dir):
        folder, _, results = gan_dir
        run_folder.write_results(
            folder, results | {"protocol": DEAM, "collections": FROM_DEAM, **environment(torch.device("cpu"))}
        )
        text = said(write_gan_card(folder).read_text())
        assert "Trained with Python " in text and f", emotion_ft {__version__}, torch " in text
        assert "CC BY-NC" in text and "of no use" not in text


class TestDataCard:
    @pytest.fixture
    def folder(self, songs_root, tiny_extractor, tmp_path):
        """Of 24 songs of 3 to 4 s, those that are long enough."""
        tables, log_mel = {"repaired": load_songs(songs_root)}, LogMel(tiny_extractor, min_seconds=3.5)
        shards = plan_shards(tables)
        store_shards(tmp_path / "songs", shards, log_mel)
        assert not finish_prepared(tmp_path / "songs", tables, shards, log_mel, max_bad_fraction=1.0)
        return tmp_path / "songs"

    def test_says_what_it_holds_and_how_it_was_made(self, folder):
        text = said(write_data_card(folder, "you/songs").read_text())
        labels = pd.read_parquet(folder / "labels" / "repaired.parquet")
        valence = f"{labels['valence'].mean():.2f} ± {labels['valence'].std():.2f}"
        held = f"{len(labels)} songs, 0.0 hours; {24 - len(labels)} more could not be decoded"
        assert 0 < len(labels) < 24
        for part in (held, f"mean ± standard deviation | {valence} |",
                     "| `repaired` | DEAM; labels as distributed (no dynamic annotations to repair them by) |",
                     "128 mel bands of 50-8000 Hz, FFT of 1024 samples, a frame every 20 ms", '"you/songs"',
                     "CC BY-NC", "of these log-mels", "10.1371/journal.pone.0173392"):  # fmt: skip
            assert part in text, part
        assert "say nothing about music" not in text and "The code in this repository" not in text

    def test_its_metadata_let_datasets_read_it(self, folder):
        data = DatasetCard.load(write_data_card(folder)).data
        assert data.license is None and data.task_categories == ["audio-classification"]
        assert [(config["config_name"], config["data_files"]) for config in data.configs] == [
            ("repaired", "labels/repaired.parquet"),
            ("log_mels", "log_mels/*.parquet"),
        ]
        labels, log_mels = (load_dataset(str(folder), name, split="train") for name in (None, "log_mels"))
        assert labels["song_id"][:] == log_mels["song_id"][:] and "log_mel" in log_mels.column_names


def test_validation_card_of_unnamed_songs(tiny_model, tiny_extractor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_extractor.save_pretrained(tmp_path)
    results = {"protocol": "", "collections": [], "train_songs": 3, "validation_songs": 0}
    text = said(write_validation_card(tmp_path, results, {}).read_text())
    assert "Whoever trained it has to say" in text and "The songs: whoever distributes" in text


def test_every_name_that_a_card_links_to_travels(rendered):
    links = set(re.findall(r"\]\(((?!http).*?)\)", text_of(rendered)))
    assert links and links <= set(run_folder.SHARED)
