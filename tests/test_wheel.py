"""The wheel alone: what `pip install` brings runs the commands, with its recipes and configurations inside."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("emotion_ft", "recipes", "hub_cards", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
TINY = "--rendered_songs 24 --rendered_seconds 4 --seconds 2 --num_windows 2 --max_steps 2 --eval_strategy no "
TINY += "--no_load_best_model_at_end --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 "
TINY += "--intermediate_size 64 --interval_level 0.5 --output_dir run --report_to none"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed the wheel into; the dependencies are those of this environment."""
    checkout, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("installed")
    for name in PARTS:  # a copy, since the build writes beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", target, checkout], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(checkout)
    return target


@pytest.mark.stress
def test_finetunes_and_predicts(installed, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(installed / "bin" / "emotion-ft"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(installed), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "held-out songs" in run("finetune", "toy", *TINY.split())
    assert (tmp_path / "run" / "all_results.json").is_file()
    song = next(tmp_path.rglob("*.mp3"))
    said = run("predict", "--model", "run", str(song))
    assert re.search(r"valence \d\.\d\d.*, arousal \d\.\d\d", said)


def test_holds_recipes_configurations_cards_and_types(installed):
    package = installed / "emotion_ft"
    for name in ("recipes/finetune.py", "recipes/configs/deam.yaml", "recipes/accelerate/multi_gpu.yaml",
                 "recipes/notebooks/deam.ipynb", "hub_cards/emotion_model.md", "hub_cards/space/app.py", "py.typed",
                 "__init__.pyi", "data/collections/deam.py", "data/rendering/songs.py"):  # fmt: skip
        assert (package / name).is_file(), name
    assert not list(installed.glob("tests")) and not list(installed.glob("recipes"))
