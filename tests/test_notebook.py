"""The notebook as Kaggle and Colab run it: a kernel of its own, DEAM at any depth, a Hub on this machine."""

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml
from huggingface_hub import get_token
from ipykernel.kernelspec import get_kernel_dict
from IPython.core.inputtransformer2 import TransformerManager
from loopback_hub import LoopbackHub
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from emotion_ft.config.parser import parse_config
from emotion_ft.data.collections.annotations import STATIC_FILES
from emotion_ft.data.rendering.songs import render_deam
from emotion_ft.inference.loading import load_model
from emotion_ft.inference.predict import predict_file
from emotion_ft.scoring.metrics import DIMENSIONS, METRICS
from emotion_ft.training.inputs import load_collection

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "recipes" / "notebooks" / "deam.ipynb"
TOKEN = "hf_user"
SONG_LEVEL = Path("DEAM_Annotations", "annotations", "annotations averaged per song", "song_level")


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    """Sources by id, as Python."""
    manager = TransformerManager()
    return {cell.id: manager.transform_cell(cell.source) for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture
def run_cells(notebook, monkeypatch, tmp_path):
    """`run_cells(*ids, **parameters)` runs single cells here, after those that they all need; their variables."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    sources = code_cells(notebook)

    def run(*ids, **parameters):
        names = {}
        exec(sources["parameters"], names)
        assert set(parameters) <= set(names)
        names |= parameters
        for name in ("install", *ids):
            exec(compile(sources[name], name, "exec"), names)
        return names

    return run


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """`execute(notebook, parameters, python=..., env=...)` runs all cells in `tmp_path`, in a kernel of that Python.

    Parameters come in as papermill brings them: in a cell after the one with their defaults.
    """
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))  # any other kernel, installed by the user, is not ours
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def run(notebook, parameters, python=sys.executable, env=None):
        place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        notebook.cells.insert(place + 1, new_code_cell("\n".join(lines)))
        spec = tmp_path / "kernels" / "emotion_ft" / "kernel.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        named = get_kernel_dict()
        spec.write_text(json.dumps(named | {"argv": [str(python), *named["argv"][1:]]}))
        client = NotebookClient(
            notebook,
            timeout=240,
            kernel_name=spec.parent.name,
            resources={"metadata": {"path": str(tmp_path)}},
        )
        client.execute(env=os.environ | (env or {}))
        return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return run


def shown(outputs, kind):
    """What a cell displayed as `kind`, a MIME type."""
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


class TestFile:
    def test_is_valid_and_holds_nothing_of_a_run(self, notebook):
        nbformat.validate(notebook)
        raw = json.loads(NOTEBOOK.read_text())
        assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
        assert raw["metadata"] == {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None
            assert cell.metadata == ({"tags": ["parameters"]} if cell.id == "parameters" else {})
            assert re.fullmatch(r"[a-z-]+", cell.id)
        assert NOTEBOOK.read_text() == json.dumps(raw, indent=1, ensure_ascii=False) + "\n"

    def test_a_dozen_cells_each_introduced(self, notebook):
        kinds = [cell.cell_type for cell in notebook.cells]
        assert kinds[::2] == ["markdown"] * len(kinds[::2]) and kinds[1::2] == ["code"] * len(kinds[1::2])
        assert len(kinds[::2]) == len(kinds[1::2]) <= 16

    def test_cells_compile_and_define_nothing(self, notebook):
        for name, source in code_cells(notebook).items():
            nodes = list(ast.walk(ast.parse(source, name)))
            assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)], name
        parameters = ast.parse(code_cells(notebook)["parameters"]).body
        assert {type(node) for node in parameters} == {ast.Assign}
        assert all(isinstance(ast.literal_eval(node.value), str | int | None) for node in parameters)

    def test_names_no_path_of_a_machine_and_no_token(self, notebook):
        text = "\n".join(cell.source for cell in notebook.cells)
        absolute = re.findall(r"""(?:^|[\s"'`(=])(/[A-Za-z~][^\s"'`)]*)""", text)
        assert absolute and all(path.startswith("/kaggle/") for path in absolute)
        assert not re.search(r"[A-Z]:\\|~/|hf_[A-Za-z0-9]{8}", text)


class TestFindingDeam:
    @pytest.fixture
    def kaggle(self, songs_root, tmp_path):
        """Inputs as Kaggle mounts them: DEAM two folders down, its table once more, and other people's audio."""
        inputs = tmp_path / "inputs"
        deam = inputs / "deam-mediaeval dataset" / "version 2"
        shutil.copytree(songs_root / "DEAM_audio", deam / "DEAM_audio")
        for folder in (deam / SONG_LEVEL, inputs / "another" / "deep" / "er" / "and" / "deeper" / "still"):
            folder.mkdir(parents=True)
            shutil.copy(songs_root / STATIC_FILES[0], folder)
        (inputs / "other-music").mkdir()
        shutil.copy(next((songs_root / "DEAM_audio").rglob("*.wav")), inputs / "other-music")
        return inputs, deam

    def test_wherever_it_lies_and_trains_on_it_as_deam_yaml_says(self, kaggle, run_cells, tmp_path, capsys):
        inputs, deam = kaggle
        names = run_cells("find", "config", INPUTS=str(inputs), OUTPUT="run")
        assert names["root"] == deam and names["rendered"] is False
        assert capsys.readouterr().out == f"DEAM: {deam}\n"
        config, flags = names["config"], ["--data_root", str(deam), "--output_dir", "run"]
        expected = parse_config([str(ROOT / "recipes/configs/deam.yaml"), *flags])
        saved = [yaml.safe_load(each.save(tmp_path).read_text()) for each in (config, expected)]
        for section in ("data", "audio", "spec_augment", "model", "training"):
            assert saved[0][section] == saved[1][section], section
        songs = load_collection(config.data, config.training.seed)
        assert sum(map(len, songs.values())) == 24
        assert songs["test"].info.description.startswith("DEAM; labels ")

    def test_audio_and_annotations_as_two_data_sets(self, songs_root, run_cells, tmp_path):
        inputs = tmp_path / "inputs"
        shutil.copytree(songs_root / "DEAM_audio", inputs / "deam-audio" / "DEAM_audio")
        (inputs / "deam-annotations").mkdir()
        shutil.copy(songs_root / STATIC_FILES[0], inputs / "deam-annotations")
        assert run_cells("find", INPUTS=str(inputs))["root"] == inputs

    def test_a_folder_that_is_told_wins(self, kaggle, songs_root, run_cells):
        assert run_cells("find", INPUTS=str(kaggle[0]), DATA_ROOT=str(songs_root))["root"] == str(songs_root)

    @pytest.mark.parametrize("empty", [True, False])
    def test_without_it_songs_are_rendered_and_said_to_be(self, empty, run_cells, tmp_path, capsys):
        if empty:
            (tmp_path / "inputs").mkdir()
        names = run_cells("find", "config", INPUTS=str(tmp_path / "inputs"), SONGS=1, SECONDS=2)
        assert names["rendered"] is True and len(list(Path(names["root"]).rglob("*.mp3"))) == 1
        assert "A stand-in for DEAM, songs rendered from their own labels" in capsys.readouterr().out
        assert not names["config"].model.checkpoint and names["config"].model.hidden_size == 96

    def test_rendered_songs_are_no_deam_where_deam_would_lie(self, run_cells, tmp_path):
        root = render_deam(tmp_path / "inputs" / "deam" / "1", songs=1, seconds=2.0)
        names = run_cells("find", INPUTS=str(tmp_path / "inputs"))
        assert names["root"] == root and names["rendered"] is True


@pytest.mark.parametrize("repo_id", [None, "user/model"])
def test_without_a_token_nothing_is_pushed_and_the_folder_is_loaded(repo_id, run_cells, capsys):
    assert get_token() is None
    names = run_cells("share", REPO_ID=repo_id, OUTPUT="nowhere")
    assert capsys.readouterr().out == "Nothing was pushed: that needs REPO_ID and a token.\n"
    assert names["place"] == "nowhere"


PROBE = """
import json, sys
print(json.dumps({"pid": os.getpid(), "python": sys.executable, "path": str(Path(path).resolve()),
                  "place": model.name_or_path, "local": prediction[:2], "again": emotion(path)}))
"""


@pytest.mark.stress
def test_runs_from_top_to_bottom(notebook, execute, tmp_path, tmp_path_factory):
    tiny = "--seconds 2 --num_windows 2 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 "
    tiny += "--intermediate_size 64 --per_device_train_batch_size 4"
    parameters = {"INPUTS": "inputs", "SONGS": 24, "SECONDS": 4, "EPOCHS": 2, "REPO_ID": "user/notebook",
                  "OUTPUT": "run", "FLAGS": tiny}  # fmt: skip
    notebook.cells.append(new_code_cell(PROBE, id="probe"))
    with LoopbackHub(tmp_path_factory.mktemp("hub"), {TOKEN: "user"}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
               "HF_HOME": str(tmp_path / "hf")}  # fmt: skip
        outputs = execute(notebook, parameters, env=env)
        files, asked = hub.files("user/notebook"), [request.path for request in hub.requests]
        assert hub.store.repositories["models/user/notebook"].private
        assert f"Pushed to {hub.url}/user/notebook" in printed(outputs["share"])
    probe = json.loads(printed(outputs["probe"]))
    assert probe["python"] == sys.executable
    with pytest.raises(ProcessLookupError):
        os.kill(probe["pid"], 0)

    run = tmp_path / "run"
    results = json.loads((run / "all_results.json").read_text())
    assert "A stand-in for DEAM" in printed(outputs["find"])
    said = shown(outputs["scores"], "text/markdown")
    assert "say nothing about DEAM" in said[0]
    assert said[1].startswith(f"{results['test_songs']} held-out songs. {results['protocol']}\n")
    assert "labels repaired" in said[1] and "split random" in said[1]
    first = said[1].split("\nLabels repaired\n")[1].split("\nLabels ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines() if line[:1] == "|"]
    table = {name: [cell.split("<br>")[0] for cell in cells] for name, *cells in rows[2:]}
    systems = ("ridge", "svr", "mean")
    assert set(table) == {"model", "ceiling", *systems, *(f"model - {system}" for system in systems)}
    prefixes = {"model": "test", "ceiling": "ceiling"} | {f"model - {name}": f"test_minus_{name}" for name in systems}
    for name, cells in table.items():
        prefix = prefixes.get(name, f"baseline_{name}")
        keys = [f"{prefix}_{dimension}_{metric}" for dimension in DIMENSIONS for metric in METRICS]
        assert cells == [f"{results[key]:z.3f}" for key in keys], name

    def pictures(cell):
        return [base64.b64decode(picture) for picture in shown(outputs[cell], "image/png")]

    names = ("valence_arousal", "residuals", "learning_curve", "worst_songs")
    assert pictures("pictures") == [(run / "plots" / f"{name}.png").read_bytes() for name in names]
    audited = tmp_path / "run-audit" / "plots"
    assert pictures("audit") == [(audited / f"{name}.png").read_bytes() for name in ("labels", "exchange")]
    assert "songs with static annotations: 24" in shown(outputs["audit"], "text/markdown")[0]
    assert pictures("predict") == [(run / "curve.png").read_bytes()]
    assert len(pictures("listen")) == 1 and pictures("listen")[0].startswith(b"\x89PNG")
    for cell in ("listen", "predict"):
        player = next(html for html in shown(outputs[cell], "text/html") if "<audio" in html)
        heard = base64.b64decode(re.search(r"base64,([^\"]+)", player)[1])
        assert heard in {path.read_bytes() for path in (tmp_path / "runs").rglob("*.mp3")}
    page = shown(outputs["page"], "text/html")[0]
    assert "srcdoc" in page and len(page) > (run / "report.html").stat().st_size

    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert probe["place"] == "user/notebook" and any(path.endswith("/model.safetensors") for path in asked)
    loaded = ast.literal_eval(shown(outputs["load"], "text/plain")[0])
    assert loaded == probe["again"]
    model, extractor = load_model(run)
    local = predict_file(model, extractor, probe["path"])[:2]
    assert [loaded[name] for name in DIMENSIONS] == pytest.approx(local, abs=1e-4)
    over_time = predict_file(model, extractor, probe["path"], curve_step=0.5)[:2]
    assert probe["local"] == pytest.approx(over_time, abs=1e-4)
    assert Path(probe["path"]).stem in (run / "splits" / "test.txt").read_text().split()
    assert f"valence {over_time[0]:.2f}, arousal {over_time[1]:.2f}" in printed(outputs["predict"])


def test_installs_from_what_kaggle_mounts(notebook, execute, tmp_path):
    """In an environment that has all packages but emotion_ft; offline, so setuptools comes from there, too."""
    packages = Path(sysconfig.get_path("purelib"))
    others = tmp_path / "packages"
    others.mkdir()
    for entry in packages.iterdir():
        if "emotion_ft" not in entry.name:
            (others / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    site = Path(subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                        text=True).strip())  # fmt: skip
    (site / "others.pth").write_text(f"{others}\n")
    checkout = tmp_path / "inputs" / "my-code" / "emotion_ft-main"
    for name in ("emotion_ft", "hub_cards", "recipes"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    before = sorted(checkout.rglob("*"))

    notebook.cells = [cell for cell in notebook.cells if cell.id in ("parameters", "install")]
    check = "from emotion_ft.reports import templates; print(templates.__file__, *templates.TEMPLATES.iterdir())"
    env = {"PYTHONPATH": "", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull,
           "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
    with pytest.raises(CellExecutionError) as stopped:
        execute(notebook, {"INPUTS": str(tmp_path / "nothing")}, python, env)
    assert stopped.value.evalue.startswith("emotion_ft is not installed: set SOURCE")
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("parameters", "install")]
    notebook.cells.append(new_code_cell(check, id="check"))
    outputs = execute(notebook, {"INPUTS": str(tmp_path / "inputs")}, python, env)
    package, *templates = printed(outputs["check"]).split()
    assert Path(package).parents[1] == site / "emotion_ft"
    assert {Path(path).name for path in templates} >= {"emotion_model.md", "emotion_data.md", "report.html", "space"}
    assert (site / "emotion_ft" / "hub_cards" / "space" / "app.py").is_file()
    assert sorted(checkout.rglob("*")) == before
