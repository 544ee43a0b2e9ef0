import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

import emotion_ft
from emotion_ft.modeling import ASTEmotionFeatureExtractor, ASTForEmotionRegression

ROOT = Path(__file__).resolve().parents[1]


def python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_it_is_fast_and_light():
    code = """
import sys, time
start = time.perf_counter()
import emotion_ft
print(time.perf_counter() - start, *(m for m in ("torch", "transformers", "datasets", "numpy") if m in sys.modules))
"""
    seconds, *heavy = python(code)
    assert float(seconds) < 0.5 and not heavy


def test_every_public_name_is_there():
    assert set(emotion_ft.__all__) <= set(dir(emotion_ft))
    for name in emotion_ft.__all__:
        value = getattr(emotion_ft, name)
        assert name == "__version__" or value.__name__ == name
    with pytest.raises(AttributeError, match="'emotion_ft' has no attribute 'nothing'"):
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


@pytest.mark.parametrize(
    "name",
    ["finetune", "evaluate", "predict", "train_gan", "ablate", "cross_validate", "report", "prepare", "push"],
)
def test_recipes_show_help(recipe, name):
    done = recipe(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"recipes/{name}.py" in done.stdout and not done.stderr


def test_a_recipe_called_evaluate_does_not_hide_the_library(recipe):
    done = recipe("evaluate", "--model", "nowhere", "--data_root", "nowhere")
    assert done.returncode == 1 and done.stderr.startswith("evaluate: "), done.stderr
