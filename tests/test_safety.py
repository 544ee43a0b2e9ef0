"""What a model, a file or a run could do to whoever uses it: run code, read pickles, give a token away."""

import ast
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import succeed
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from emotion_ft.config import yaml_files
from emotion_ft.inference.loading import load_model
from emotion_ft.modeling.pipeline_ast_emotion import MusicEmotionPipeline

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "hub_cards" / "space" / "app.py"
SOURCES = sorted([*ROOT.glob("emotion_ft/**/*.py"), *ROOT.glob("recipes/**/*.py"), APP])
CALLS = {
    *("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "joblib.load", "pandas.read_pickle", "pd.read_pickle"),
}
MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")


def dangers(source, remote_code=False):
    """What a source text does that it must not, a line each; `remote_code` allows asking for it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(name.partition(".")[0] in MODULES for name in names):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            name in CALLS
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name == "yaml.load" and "Loader" not in given and len(node.args) < 2)
            or (name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False")
            or given.get("shell", "False") != "False"
            or (given.get("trust_remote_code") == "True" and not remote_code)
        ):
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources(path):
    assert list(dangers(path.read_text(), remote_code=path == APP)) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "import os, dill", "eval('1')", "exec(x)", "os.system('x')"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(x, allow_pickle=True)", "yaml.load(x)"),
        *("subprocess.run(x, shell=True)", "pipeline(x, trust_remote_code=True)", "pd.read_pickle(x)"),
    ],
)
def test_what_the_walk_finds(source):
    assert len(list(dangers(source))) == 1
    assert not list(dangers("model.eval(); yaml.load(x, Loader=_Loader); torch.load(x, weights_only=True)"))


def test_loaders_of_yaml_are_safe_ones():
    used = {name for path in SOURCES for name in re.findall(r"Loader=(\w+)", path.read_text())}
    assert used == {"_Loader"} and issubclass(yaml_files._Loader, yaml.SafeLoader)


@pytest.mark.slow
def test_a_run_keeps_the_token_to_itself_and_leaves_no_pickle(songs_root, tmp_path):
    token, folder, config = "hf_" + "TestToken" * 4, tmp_path / "run", tmp_path / "tiny.yaml"
    sections = {
        "data": {"data_root": str(songs_root), "cache_dir": str(tmp_path / "cache")},
        "audio": {"seconds": 2.0, "num_windows": 1},
        "model": {"checkpoint": None, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "intermediate_size": 16, "time_stride": 16, "frequency_stride": 16},
        "training": {"output_dir": str(folder), "max_steps": 2, "save_strategy": "steps", "save_steps": 1,
                     "eval_strategy": "steps", "eval_steps": 1, "precision": "fp32", "report_to": "tensorboard"},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(sections))
    done = succeed("finetune", config, "--hub_token", token, HF_TOKEN=token)
    assert token not in done.stdout + done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"README.md", "report.html", "config.yaml", "trainer_state.json", "optimizer.pt"} <= {p.name for p in files}
    assert any("tfevents" in path.name for path in files)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]

    pickles = [path for path in files if path.suffix in (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")]
    # A checkpoint's optimizer, scheduler and random state; nothing of the kind beside the model.
    assert {path.name for path in pickles} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert all(path.parent.name.startswith("checkpoint-") for path in pickles)
    # NumPy's random state needs these, which stock Trainer allows, too.
    allowed = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    for path in pickles:
        with torch.serialization.safe_globals(allowed if path.name == "rng_state.pth" else []):
            torch.load(path, weights_only=True)


class TestRemoteCode:
    """A model whose repository brings code: it runs where that is asked for, and nowhere else."""

    @pytest.fixture(params=["ast_emotion", "theirs"])
    def folder(self, request, tmp_path, model_dir):
        classes = ("Config", "FeatureExtractor", "ModelForAudioClassification")
        names = {f"Auto{name}": f"theirs.Their{name}" for name in classes}
        folder = shutil.copytree(model_dir, tmp_path / "model")
        for name in ("config.json", "preprocessor_config.json"):
            content = json.loads((folder / name).read_text()) | {"auto_map": names}
            if request.param == "theirs":
                content |= {"model_type": "theirs", "feature_extractor_type": "TheirFeatureExtractor"}
            (folder / name).write_text(json.dumps(content))
        (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        return folder

    def test_it_does_not_run_unasked(self, folder, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda *_: "n")  # transformers asks
        ran = folder.parent / "ran"
        for load in (
            load_model,
            AutoConfig.from_pretrained,
            AutoFeatureExtractor.from_pretrained,
            AutoModelForAudioClassification.from_pretrained,
            lambda folder: pipeline(
                "music-emotion", model=str(folder), pipeline_class=MusicEmotionPipeline, trust_remote_code=False
            ),
        ):
            with suppress(ValueError):  # where no other code fits
                load(folder)
            assert not ran.exists()

    @pytest.mark.parametrize("folder", ["theirs"], indirect=True)
    def test_it_runs_when_asked(self, folder):
        with pytest.raises(AttributeError, match="TheirConfig"):  # all that it does is leave a mark
            AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert (folder.parent / "ran").exists()
