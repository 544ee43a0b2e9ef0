"""Pushing to a Hub on this machine, and loading from it in other processes."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub

from emotion_ft import run_folder
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.errors import UsageError
from emotion_ft.hub.push import push, shared_files
from emotion_ft.hub.repository import add_pipeline
from emotion_ft.inference.loading import load_model
from emotion_ft.inference.predict import predict_file, predict_log_mel
from emotion_ft.reports.cards import card_for, write_model_card
from emotion_ft.scoring.metrics import score
from emotion_ft.scoring.scores import flat

ROOT = Path(__file__).resolve().parents[2]
TOKEN, OTHER_TOKEN = "hf_user", "hf_somebody"
PRIVATE_FILES = (
    "checkpoint-3/model.safetensors",
    "checkpoint-3/optimizer.pt",
    "runs/today/events.out.tfevents.1",
    "discriminator/config.json",
    "regressor/model.safetensors",
    "audit/audit.csv",
    "songs.csv",
    "predictions.csv",
    "bad_files.csv",
    "training_args.bin",
    ".env",
)
SHARED_FILES = ("config.yaml", "scores.csv", "report.html", "plots/valence_arousal.png", "audit/audit.md",
                "splits/train.txt")  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LoopbackHub(tmp_path_factory.mktemp("hub"), {TOKEN: "user", OTHER_TOKEN: "somebody"}) as server:
        yield server


@pytest.fixture
def online(hub, tmp_path):
    """The environment of a process that sees the loopback Hub, with a cache that knows nothing."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def results():
    """Scores of made-up predictions, and the results that follow."""
    truth = np.random.default_rng(0).uniform(1, 9, (20, 2))
    rows = {"model": score(truth + 0.3, truth), "mean": score(truth * 0 + truth.mean(0), truth)}
    scores = pd.DataFrame(
        list(rows.values()),
        pd.MultiIndex.from_tuples([("repaired", name) for name in rows], names=["labels", "system"]),
    )
    songs = {"source": "songs rendered in DEAM's layout", "labels": "repaired", "rendered": True, "songs": 100}
    about = {"protocol": f"{songs['source']}; seed 42", "collections": [songs], "train_songs": 60,
             "validation_songs": 20, "test_songs": 20, "synthetic_windows": 0, "label_weights": "none"}  # fmt: skip
    return scores, about | flat(scores)


@pytest.fixture
def run(tiny_model, tiny_extractor, results, tmp_path):
    """A folder as a finished run leaves it."""
    folder = tmp_path / "run"
    for name in (*SHARED_FILES, *PRIVATE_FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "config.yaml").write_text("training:\n  seed: 42\n")
    tiny_model.save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    add_pipeline(folder)
    scores, values = results
    run_folder.write_table(folder, "scores.csv", scores.reset_index())
    (folder / "all_results.json").write_text(json.dumps(values))
    write_model_card(folder)
    return folder


def python(code, *arguments, cwd="/", **environment):
    """Run code in a new process, anywhere but in this checkout; what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=os.environ | environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_of(folder):
    return (folder / "README.md").read_text()


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


LOAD = """
import json, sys
import numpy as np, torch
if sys.argv[1] == "without":
    sys.modules["emotion_ft"] = None
else:
    import emotion_ft.modeling
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

code = {"trust_remote_code": True} if sys.argv[1] == "without" else {}
model = AutoModelForAudioClassification.from_pretrained(sys.argv[2], **code).eval()
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[2], **code)
assert type(model).__module__.startswith("transformers_modules") == bool(code), type(model).__module__
waves = np.random.default_rng(0).standard_normal((2, 32000)).astype("float32")
with torch.no_grad():
    np.save(sys.argv[3], model(**extractor(waves, 16000, return_tensors="pt")).logits.numpy())
if code:
    from transformers import pipeline

    emotion = pipeline("music-emotion", model=sys.argv[2], device="cpu", **code)
    print(json.dumps(emotion({"raw": waves[0], "sampling_rate": 16000})))
"""


class TestPush:
    @pytest.mark.stress
    def test_a_run_travels_whole_and_only_once(self, run, hub, online, recipe, tiny_model, tiny_extractor, tmp_path):
        done = recipe("push", run, "user/run", **online)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.url}/user/run"
        files = hub.files("user/run")
        code = {
            f"{name}_ast_emotion.py"
            for name in ("audio", "configuration", "feature_extraction", "modeling", "pipeline")
        }
        assert {
            "README.md",
            "config.json",
            "preprocessor_config.json",
            "model.safetensors",
            "all_results.json",
        } | code | {*SHARED_FILES} <= set(files)
        assert not {path for path in files if path.startswith(("checkpoint", "runs", "discriminator", "regressor"))}
        assert not set(PRIVATE_FILES) & set(files)
        assert [commit.title for commit in hub.commits("user/run")] == ["initial commit", "Push run"]
        for name in set(files) - {"README.md", ".gitattributes"}:
            assert files[name] == (run / name).read_bytes(), name

        before = len(hub.requests)
        again = recipe("push", run, "user/run", **online)
        assert again.returncode == 0 and again.stdout == done.stdout
        sent = {request.method + request.path for request in hub.requests[before:]}
        assert any("/preupload/" in request for request in sent)
        assert not [request for request in sent if request.startswith("PUT") or "/commit/" in request]
        assert len(hub.commits("user/run")) == 2

        waves = np.random.default_rng(0).standard_normal((2, 32000)).astype("float32")
        with torch.no_grad():
            expected = tiny_model(**tiny_extractor(waves, 16000, return_tensors="pt")).logits.numpy()
        for how in ("with", "without"):
            cache = {"HF_HOME": str(tmp_path / how), "OMP_NUM_THREADS": "1"}
            out = python(LOAD, how, "user/run", tmp_path / f"{how}.npy", **{**online, **cache})
            assert np.array_equal(np.load(tmp_path / f"{how}.npy"), expected), how
        song = predict_log_mel(tiny_model, tiny_extractor, tiny_extractor.log_mel(waves[0]).astype(np.float16))
        heard = json.loads(out.splitlines()[-1])
        assert [heard["valence"], heard["arousal"]] == pytest.approx(song[:2], abs=1e-3)

        card = ModelCard(files["README.md"].decode())
        values = json.loads(files["all_results.json"])
        scored = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert len(scored) == 10
        assert all(value == pytest.approx(values[f"test_{name}"], abs=1e-4) for name, value in scored.items())
        assert 'load_model("user/run")' in card.text and 'model="user/run"' in card.text
        assert str(run) not in card.text

    def test_branches_removed_files_and_refusals(self, run, hub, online, tmp_path):
        """What one process can see: pushes to branches, and every refusal of the Hub as one sentence."""
        code = """
import json, sys
from pathlib import Path
from huggingface_hub import constants
from emotion_ft.errors import UsageError
from emotion_ft.hub.push import push

def attempt(*arguments, **options):
    try:
        said.append(["pushed", push(folder, *arguments, **options)])
    except UsageError as error:
        said.append(["refused", str(error)])

folder, said = Path(sys.argv[1]), []
attempt("branched", private=True, revision="dev", message="first")
(folder / "report.html").unlink()
attempt("user/branched", private=True, revision="dev", message="second")
attempt("user/open")
attempt("user/open", private=True)
attempt("user/open", token="hf_wrong")
attempt("somebody/theirs")
attempt("user/open", token="hf_somebody")
attempt("a/b/c")
card = folder / "README.md"
card.write_text(card.read_text().replace("tags:", "tags: ]"))
attempt("user/open")
attempt("user/open", token=False)
constants.ENDPOINT = "http://127.0.0.1:9"
attempt("user/open")
print(json.dumps(said))
"""
        said = json.loads(python(code, run, **online))
        assert said[:3] == [
            ["pushed", f"{hub.url}/user/branched/tree/dev"],
            ["pushed", f"{hub.url}/user/branched/tree/dev"],
            ["pushed", f"{hub.url}/user/open"],
        ]
        assert hub.store.repositories["models/user/branched"].private
        assert set(hub.files("user/branched")) == {".gitattributes"}
        assert 'load_model("user/branched", revision="dev")' in hub.files("user/branched", "dev")["README.md"].decode()
        first, second = hub.commits("user/branched")[1:]
        assert (first.title, second.title) == ("first", "second")
        assert set(first.files) - set(second.files) == {"report.html"} and set(second.files) < set(first.files)
        expected = ("'user/open' is public already", "'user/open': the Hub knows no such token: log in",
                    "'somebody/theirs': the token may not write there", "'user/open': the token may not write there",
                    "'a/b/c' names no repository: expected you/name", "Invalid metadata in README.md",
                    "log in with `hf auth login`", "http://127.0.0.1:9 does not answer")  # fmt: skip
        assert len(said) == 3 + len(expected)
        for (outcome, sentence), part in zip(said[3:], expected, strict=True):
            assert outcome == "refused" and part in sentence and "\n" not in sentence
        assert len(hub.commits("user/open")) == 2

    @pytest.mark.stress
    @pytest.mark.parametrize("stage", ["/lfs/", "/commit/"])
    def test_killed_half_way_it_is_not_there_and_the_next_push_makes_it_whole(self, run, tmp_path_factory, stage):
        with LoopbackHub(tmp_path_factory.mktemp("hub"), {TOKEN: "user"}) as hub:
            online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
                      "HF_HOME": str(run.parent / "hf")}  # fmt: skip
            push = [sys.executable, "recipes/push.py", str(run), "user/half"]
            hub.stall = stage
            process = subprocess.Popen(push, cwd=ROOT, env=os.environ | online, stderr=subprocess.DEVNULL)
            assert hub.stalled.wait(60)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            hub.stall = ""
            hub.released.set()
            assert set(hub.files("user/half")) == {".gitattributes"}
            load = "import sys; from emotion_ft import load_model; load_model('user/half')"
            done = subprocess.run(
                [sys.executable, "-c", load], env=os.environ | online, capture_output=True, text=True
            )
            assert "UsageError: no model in 'user/half': " in done.stderr

            before = len(hub.requests)
            subprocess.run(push, cwd=ROOT, env=os.environ | online, check=True, capture_output=True)
            sent = [request for request in hub.requests[before:] if request.method == "PUT"]
            assert len(sent) == (stage == "/lfs/")
            assert len(hub.commits("user/half")) == 2
            assert hub.files("user/half")["model.safetensors"] == (run / "model.safetensors").read_bytes()

    def test_offline_mode_is_one_sentence(self, run, online, recipe):
        done = recipe("push", run, "user/x", **{**online, "HF_HUB_OFFLINE": "1"})
        assert done.returncode == 1
        assert done.stderr == "push: cannot push to 'user/x' in offline mode: unset HF_HUB_OFFLINE.\n"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda run: (run / "all_results.json").unlink(), "no finished run: no all_results.json;"),
            (lambda run: (run / "model.safetensors").unlink(), "as a pickle, training_args.bin, which runs code"),
            (lambda run: [(run / name).unlink() for name in ("model.safetensors", "training_args.bin", "README.md")],
             "no README.md, model.safetensors;"),
            (lambda run: (run / "config.yaml").write_text(f"hub_token: hf_{'a' * 34}\n"), "what looks like a token"),
            (lambda run: (run / "pipeline_ast_emotion.py").unlink(), "no finished run: no pipeline_ast_emotion.py;"),
            (shutil.rmtree, "no such folder"),
        ],
    )  # fmt: skip
    def test_refuses_folders_before_it_asks_the_hub(self, run, change, message):
        change(run)
        with pytest.raises(UsageError, match=re.escape(message)):
            push(run, "user/x")


class TestCollection:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("README.md", "collection.json", "labels/repaired.parquet", "log_mels/00000.parquet", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    def test_only_its_own_files_travel(self, folder):
        assert set(shared_files(folder)) == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.name != "notes.txt"
        }

    def test_a_token_in_it_is_refused_as_in_a_run(self, folder):
        (folder / "README.md").write_text(f"hf_{'a' * 34}")
        with pytest.raises(UsageError, match=r"README.md' holds what looks like a token of the Hub"):
            push(folder, "user/songs")


class TestCard:
    """The card that travels loads its own repository, and nothing else in it changes."""

    def test_is_rendered_for_its_repository(self, run):
        card = card_for(run, "you/model", "dev")
        assert 'model="you/model", revision="dev", trust' in card and 'load_model("you/model", revision="dev")' in card
        assert str(run) not in card and card.replace('"you/model", revision="dev"', f'"{run}"') == text_of(run)

    def test_once_rendered_for_a_repository_it_can_be_rendered_for_another(self, run):
        write_model_card(run, "you/model")
        assert card_for(run, "you/other") == text_of(run).replace("you/model", "you/other")

    def test_a_card_that_was_edited_stays_as_it_is(self, run):
        text = text_of(run) + '\n```python\nAutoModel.from_pretrained("somebody/else"); load_dataset("a/b")\n```\n'
        (run / "README.md").write_text(text)
        assert card_for(run, "you/model") == text


class TestGan:
    @pytest.mark.stress
    def test_travels_and_its_example_runs(self, gan_dir, online, hub, tmp_path):
        folder, generator, _ = gan_dir
        code = "import sys; from emotion_ft.hub.push import push; push(sys.argv[1], 'user/gan')"
        python(code, folder, **online)
        files = hub.files("user/gan")
        assert "discriminator/model.safetensors" not in files
        assert {"plots/samples-000060.png", "modeling_mel_gan.py", "model.safetensors"} <= set(files)
        example = re.search(r"```python\n(.*?)```", files["README.md"].decode(), re.S)[1]
        assert 'from_pretrained("user/gan")' in example
        example += f"\nimport numpy\nnumpy.save({str(tmp_path / 'made.npy')!r}, windows.numpy())"
        assert "torch.Size([2, 101, 128])" in python(example, **online)
        expected = generator.generate([[0.625, 0.25], [-0.5, -0.625]], seed=0)
        assert np.array_equal(np.load(tmp_path / "made.npy"), expected.numpy())


@pytest.mark.stress
class TestSpace:
    def test_shows_the_model_that_was_pushed(self, run, hub, online, recipe, write_wav, tmp_path):
        done = recipe("push", run, "user/shown", "--private", "--space", **online)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"{hub.url}/user/shown", f"{hub.url}/spaces/user/shown-space"]
        files = hub.files("user/shown-space", kind="spaces")
        names = {"README.md", "app.py", "requirements.txt", "space.json", "example.mp3", ".gitattributes"}
        assert set(files) == names and hub.store.repositories["spaces/user/shown-space"].private
        assert json.loads(files["space.json"])["model"] == "user/shown"
        assert front(files["README.md"].decode())["models"] == ["user/shown"]
        again = recipe("push", run, "user/shown", "--private", "--space", "user/shown-space", **online)
        assert again.returncode == 0 and len(hub.commits("user/shown-space", "spaces")) == 2

        # As the Hub would start it, with a token among its secrets.
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        song = write_wav(tmp_path / "song.wav", 4.0)
        code = """
import json, sys
from pathlib import Path
sys.modules["emotion_ft"] = None
sys.path.insert(0, str(Path.cwd()))
import app, gradio
space = json.loads(Path("space.json").read_text())
result, log_mel = app.predict_song(app.load(space["model"], space["revision"]), sys.argv[1], gradio.Progress())
print(json.dumps([result["valence"], result["arousal"], log_mel.shape]))
"""
        valence, arousal, shape = json.loads(python(code, song, cwd=tmp_path, **online).splitlines()[-1])
        prediction = predict_file(*load_model(run), song)
        assert [valence, arousal] == pytest.approx(prediction[:2], abs=1e-3) and shape == [201, 128]

    def test_only_of_a_run(self, gan_dir, online, recipe, run):
        done = recipe("push", gan_dir[0], "user/no-run", "--space", **online)
        assert done.returncode == 1
        assert "push: no Space for 'user/no-run': no pipeline_ast_emotion.py is there" in done.stderr
        done = recipe("push", run, "shown", "--space", **online)
        assert done.returncode == 2 and "--space needs the model's REPO_ID in full" in done.stderr


@pytest.mark.stress
class TestRecipes:
    @pytest.fixture(scope="class")
    def config(self, tmp_path_factory):
        root = render_deam(tmp_path_factory.mktemp("deam"), songs=24, seconds=4.0, num_proc=2)
        sections = {
            "data": {"data_root": str(root), "split": "random"},
            "audio": {"seconds": 2.0, "num_windows": 2},
            "model": {"checkpoint": None, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "intermediate_size": 64, "time_stride": 16, "frequency_stride": 16},
            "training": {"max_steps": 2, "precision": "fp32", "per_device_train_batch_size": 4,
                         "gradient_accumulation_steps": 1, "save_steps": 1, "save_strategy": "steps",
                         "eval_strategy": "steps", "eval_steps": 1},
        }  # fmt: skip
        path = root / "tiny.yaml"
        path.write_text(yaml.safe_dump(sections))
        return path

    def test_finetune_pushes_what_it_has_finished(self, config, hub, online, recipe, tmp_path):
        flags = ("--output_dir", tmp_path / "tuned", "--push_to_hub", "--hub_model_id", "user/tuned")
        done = recipe("finetune", config, *flags, "--hub_token", TOKEN, **{**online, "HF_TOKEN": ""})
        assert done.returncode == 0, done.stderr
        assert f"Pushed to {hub.url}/user/tuned" in done.stdout
        assert [commit.title for commit in hub.commits("user/tuned")] == ["initial commit", "Push tuned"]
        files = hub.files("user/tuned")
        assert files["README.md"].decode() == text_of(tmp_path / "tuned").replace(
            str(tmp_path / "tuned"), "user/tuned"
        )
        assert 'load_model("user/tuned")' in files["README.md"].decode()
        assert {"report.html", "all_results.json", "scores.csv", "splits/test.txt"} <= set(files)
        assert not [name for name in files if name.startswith("checkpoint") or name.endswith((".bin", "songs.csv"))]
        assert not [name for name, data in files.items() if TOKEN.encode() in data]

        gan_flags = ("--finetuned", tmp_path / "tuned", "--gan_output_dir", tmp_path / "gan", "--gan_steps", "2",
                     "--measure_steps", "1", "--gan_batch_size", "4", "--gan_channels", "2", "--latent_size", "4",
                     "--regressor_steps", "2", "--reference_windows", "2", "--reference_fraction", "0.4")  # fmt: skip
        done = recipe("train_gan", config, *gan_flags, "--push_to_hub", "--hub_model_id", "user/tuned-gan", **online)
        assert done.returncode == 0, done.stderr
        assert f"Pushed to {hub.url}/user/tuned-gan" in done.stdout
        pushed = hub.files("user/tuned-gan")
        assert 'from_pretrained("user/tuned-gan")' in pushed["README.md"].decode()
        assert {"model.safetensors", "quality.csv", "splits/train.txt", "modeling_mel_gan.py"} <= set(pushed)
        assert not [name for name in pushed if name.startswith(("discriminator", "regressor", "checkpoint"))]
        done = recipe("push", tmp_path / "gan", "user/tuned", **online)
        assert done.returncode == 1
        assert "'user/tuned' holds a model of type ast-emotion: push one of type mel-gan elsewhere" in done.stderr
        assert len(hub.commits("user/tuned")) == 2
        card = (tmp_path / "gan" / "README.md").read_text()
        results = json.loads((tmp_path / "gan" / "all_results.json").read_text())
        assert re.search(rf"\| step {results['step']}, kept +\| {results['frechet']:.3f} ", card)
        assert all((tmp_path / "gan" / name).is_file() for name in re.findall(r"!\[.*?\]\((.*?)\)", card))
        assert "README.md" in shared_files(tmp_path / "gan")

    def test_shared_log_mels_train_to_the_same_weights_as_the_audio(self, config, hub, online, recipe, tmp_path):
        flags = ("--output", tmp_path / "log-mels", "--cache_dir", tmp_path / "audio")
        done = recipe("prepare", config, *flags, "--push", "mels", "--private", **online)
        assert done.returncode == 0, done.stderr
        assert f"Pushed to {hub.url}/datasets/user/mels" in done.stdout and "HTTP" not in done.stderr
        files = hub.files("user/mels", kind="datasets")
        assert set(files) - {".gitattributes"} == {
            "README.md", "collection.json", "log_mels/00000.parquet",
            *(f"labels/{treatment}.parquet" for treatment in ("repaired", "distributed", "dynamic")),
        }  # fmt: skip
        assert hub.store.repositories["datasets/user/mels"].private

        again = recipe("prepare", config, *flags, "--push", "user/mels", **online)
        assert again.returncode == 0 and len(hub.commits("user/mels", "datasets")) == 2
        card = files["README.md"].decode()
        example = re.search(r"```python\n(.*?)```", card, re.S)[1]
        assert '"user/mels"' in example and str(tmp_path) not in card
        assert "say nothing\nabout music" in card
        first = np.frombuffer(pd.read_parquet(io.BytesIO(files["log_mels/00000.parquet"]))["log_mel"][0], np.float16)
        shown = python(example, **online)
        assert str(first.reshape(-1, 128)) in shown and shown.startswith("2 ")

        weights = []
        before = len(hub.requests)
        for name, source in (("local", []), ("streamed", ["--data_root", "nowhere", "--prepared", "user/mels"])):
            flags = (*source, "--cache_dir", tmp_path / name, "--output_dir", tmp_path / f"{name}-run")
            done = recipe("finetune", config, *flags, **online)
            assert done.returncode == 0, done.stderr
            weights.append((tmp_path / f"{name}-run" / "model.safetensors").read_bytes())
        assert weights[0] == weights[1]
        scores = [(tmp_path / f"{name}-run" / "scores.csv").read_text() for name in ("local", "streamed")]
        assert scores[0] == scores[1]
        shards = {request.status for request in hub.requests[before:] if "/log_mels/00000" in request.path}
        assert shards == {206}  # parts, never the file

    def test_a_wrong_token_shows_before_the_training(self, config, online, recipe, tmp_path):
        flags = ("--output_dir", tmp_path / "tuned", "--push_to_hub", "--hub_model_id", "user/tuned")
        done = recipe("finetune", config, *flags, **{**online, "HF_TOKEN": "hf_wrong"})
        assert done.returncode == 1 and "finetune: cannot push to 'user/tuned'" in done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "tuned").exists()
