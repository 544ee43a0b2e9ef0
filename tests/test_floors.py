"""Imports run down only: one ordered list of rooms, which CONTRIBUTING and docs/architecture.md show too."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "recipes",
    "cli",
    "benchmark",
    "studies",
    "gan",
    "training",
    "hub",
    "reports",
    "scoring",
    "inference",
    "data.rendering",
    "data.collections",
    "data",
    "config",
    "modeling",
    "faults",
    "run_folder",
    "shipped",
    "errors",
)
"""From the top down; a room imports itself and rooms below it."""
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("emotion_ft", "recipes")
    for path in (ROOT / folder).rglob("*.py")
    if path.relative_to(ROOT) != Path("emotion_ft/__init__.py")  # the front door, which names all rooms
)
TRAVELS = ("emotion_ft.modeling", "torch", "torchaudio", "transformers", "huggingface_hub", "numpy", "soundfile")
TRAVELS += ("soxr", "lazy_loader")


def module(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Absolute names of everything that a file imports, wherever in the file, with the names taken from modules."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.parent.parts[: len(path.parts) - node.level]) if node.level else ""
            names |= {".".join(filter(None, [package, node.module, alias.name])) for alias in node.names}
    return names


def within(name, *places):
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def room(name):
    """The room that a module, or a name in one, lies in; the innermost one. None for what is not ours."""
    name = name.removeprefix("emotion_ft.") if within(name, "emotion_ft", "recipes") else ""
    return max((place for place in ROOMS if within(name, place)), key=len, default=None)


def test_every_file_lies_in_a_room():
    assert not [str(path) for path in FILES if room(module(path)) is None]
    assert set(ROOMS) == {room(module(path)) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_down_only(path):
    own = ROOMS.index(room(module(path)))
    above = {name for name in imports(path) if (there := room(name)) and ROOMS.index(there) < own}
    # A recipe is started by its file's name, and what starts it is the command line.
    allowed = {"emotion_ft.cli.command"} if within(module(path), "recipes") else set()
    assert not above - allowed
    assert not [name for name in imports(path) if within(name, "tests")]


def test_data_imports_no_model():
    """It is handed a feature extractor; the audio reader that travels with the pipeline is no model."""
    for path in (path for path in FILES if within(module(path), "emotion_ft.data")):
        models = [name for name in imports(path) if within(name, "emotion_ft.modeling")]
        assert not [name for name in models if not within(name, "emotion_ft.modeling.audio_ast_emotion")], path


def test_an_import_that_runs_up_is_found():
    path = Path("emotion_ft/data/targets.py")
    found = imports(path)
    assert {"numpy", "emotion_ft.data.scale.to_unit", "emotion_ft.errors.UsageError"} <= found
    assert room("emotion_ft.data.collections.deam.load_deam") == "data.collections"
    assert room("emotion_ft.data.targets") == "data" and room("torch.nn") is None


def test_modeling_travels_alone():
    standard = ("collections", "contextlib", "dataclasses", "functools", "importlib", "io", "itertools", "logging")
    standard += ("math", "os", "pathlib", "sys", "threading", "types", "typing")
    for path in (path for path in FILES if path.parent.name == "modeling"):
        assert not [name for name in imports(path) if not within(name, *TRAVELS, *standard)], path


def test_print_the_arrows_between_rooms():
    """`pytest -s tests/test_floors.py -k arrows` prints what imports what, and how large each room is."""
    arrows, lines = Counter(), Counter()
    for path in FILES:
        own = room(module(path))
        lines[own] += len((ROOT / path).read_text().splitlines())
        arrows.update((own, there) for name in imports(path) if (there := room(name)) and there != own)
    for own in ROOMS:
        below = ", ".join(f"{there} {arrows[own, there]}" for there in ROOMS if arrows[own, there])
        print(f"{own:18}{lines[own]:6} lines  -> {below or '-'}")
    assert all(ROOMS.index(own) < ROOMS.index(there) for own, there in arrows)
