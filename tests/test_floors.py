"""Imports go downward only: recipes > training, hub > data, modeling > config, scale."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "emotion_ft").rglob("*.py"))
FORBIDDEN = {
    "config": ("data", "modeling", "training", "hub", "inference"),
    "faults": ("config", "scale", "data", "modeling", "training", "hub", "inference"),
    "errors": ("config", "scale", "data", "modeling", "training", "hub", "inference"),
    "scale": ("config", "data", "modeling", "training", "hub", "inference"),
    "data": ("modeling", "training", "hub", "inference"),
    "modeling": ("config", "scale", "data", "training", "hub", "inference"),
    "training": ("hub",),
    "training.trainer": ("training.gan",),
    "training.gan": ("training.trainer",),
}


def imports(path):
    """Absolute names of everything that a file imports, wherever in the file, with the names taken from modules."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.parent.parts[: len(path.parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, [package, node.module]))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def within(name, *floors):
    return any(f"{name}.".startswith(f"{floor}.") for floor in floors)


def test_imports_are_found():
    found = imports(FILES[[path.name for path in FILES].index("augment.py")])
    assert {"numpy", "emotion_ft.data.targets.SongTarget", "transformers.SequenceFeatureExtractor"} <= found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_floor_imports_nothing_above_it(path):
    own = ".".join(path.with_suffix("").parts[1:])
    forbidden = [f"emotion_ft.{up}" for floor, ups in FORBIDDEN.items() if within(own, floor) for up in ups]
    assert not [name for name in imports(path) if within(name, "recipes", "tests", *forbidden)]


def test_modeling_travels_alone():
    allowed = ("emotion_ft.modeling", "torch", "torchaudio", "transformers", "huggingface_hub", "numpy")
    allowed += ("collections", "dataclasses", "functools", "itertools", "logging", "math", "pathlib", "typing")
    allowed += ("io", "os", "soundfile", "soxr")
    for path in (path for path in FILES if path.parent.name == "modeling"):
        assert not [name for name in imports(path) if not within(name, *allowed)], path
