import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from commands import succeed
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

import emotion_ft
from emotion_ft.cli import commands
from emotion_ft.modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "datasets", "numpy")


def python(code):
    """The words of the last line that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_importing_it_is_fast_and_light():
    code = f"""
import sys, time
start = time.process_time()
import emotion_ft
print(time.process_time() - start, *(m for m in {HEAVY} if m in sys.modules))
"""
    seconds, *heavy = python(code)
    assert float(seconds) < 0.5 and not heavy


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["push", "nowhere"]], ids=" ".join)
def test_help_and_wrong_arguments_need_nothing_heavy(arguments):
    code = f"""
import sys
from emotion_ft.cli import main
try:
    main({arguments})
except SystemExit as leaving:
    print("left", leaving.code or 0, *(m for m in {HEAVY} if m in sys.modules))
"""
    assert python(code) == ["left", "2" if "nowhere" in arguments else "0"]


def test_every_public_name_is_there():
    assert set(emotion_ft.__all__) <= set(dir(emotion_ft))
    for name in emotion_ft.__all__:
        value = getattr(emotion_ft, name)
        assert name == "__version__" or value.__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = emotion_ft.nothing


def test_a_saved_model_opens_with_the_auto_classes(tmp_path, tiny_model, tiny_extractor):
    tiny_model.save_pretrained(tmp_path)
    tiny_extractor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(tiny_model.config)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ASTEmotionFeatureExtractor
    for auto in (AutoModel, AutoModelForAudioClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is ASTForEmotionRegression
        assert all((loaded.state_dict()[name] == value).all() for name, value in tiny_model.state_dict().items())


@pytest.mark.parametrize("name", sorted(commands().keys() - {"env"}))
def test_commands_show_help(name):
    done = succeed(name, "--help")
    assert done.stdout.startswith(f"usage: emotion-ft {name} ") and not done.stderr


def test_no_recipe_hides_a_library():
    """Run as a script, a recipe has its own folder first in `sys.path`."""
    others = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    for path in (ROOT / "recipes").glob("*.py"):
        assert path.stem == "__init__" or PathFinder.find_spec(path.stem, others) is None, path
