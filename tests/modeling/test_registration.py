"""`import emotion_ft` alone makes transformers know the models, the feature extractor and the pipeline."""

import json
import os
import subprocess
import sys

import pytest

# What is imported first, and what then loads a model; each line of output is printed by one of them.
START = """
import json, sys
imported = lambda *names: [name for name in names if name in sys.modules]
kind = lambda thing: f"{type(thing).__module__}.{type(thing).__name__}"
show = lambda thing: print(json.dumps(thing))
"""


def run(code, *arguments):
    """Run code in a new process; the values that it showed."""
    done = subprocess.run(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "already registered" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def gan_folder(tmp_path_factory):
    from emotion_ft.modeling import MelGanConfig, MelGenerator

    folder = tmp_path_factory.mktemp("gan")
    sizes = {"max_length": 37, "num_mel_bins": 20, "channels": 4, "max_channels": 16, "num_scales": 3}
    MelGenerator(MelGanConfig(**sizes)).save_pretrained(folder)
    return folder


def test_importing_emotion_ft_first(model_dir, gan_folder):
    code = """
import emotion_ft
show(imported("torch", "transformers", "soundfile"))

from transformers import HfArgumentParser, TrainingArguments
show(imported("emotion_ft.modeling.auto_classes"))

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
show(imported("emotion_ft.modeling.auto_classes"))

show(kind(AutoFeatureExtractor.from_pretrained(sys.argv[1])))
show(kind(AutoModelForAudioClassification.from_pretrained(sys.argv[1])))
show(kind(AutoConfig.from_pretrained(sys.argv[1])))
show(kind(AutoConfig.for_model("mel-gan", latent_size=3)))
show(kind(AutoModel.from_pretrained(sys.argv[2])))

from transformers import pipeline
show(imported("emotion_ft.modeling.pipeline_ast_emotion"))
emotion = pipeline("music-emotion", model=sys.argv[1], device="cpu")
show([kind(emotion), kind(emotion.model), kind(emotion.feature_extractor)])
emotion.save_pretrained(sys.argv[3])
"""
    saved = gan_folder / "saved"
    modeling = "emotion_ft.modeling."
    extractor = f"{modeling}feature_extraction_ast_emotion.ASTEmotionFeatureExtractor"
    model = f"{modeling}modeling_ast_emotion.ASTForEmotionRegression"
    assert run(code, model_dir, gan_folder, saved) == [
        [],
        [],
        [],
        extractor,
        model,
        f"{modeling}configuration_ast_emotion.ASTEmotionConfig",
        f"{modeling}modeling_mel_gan.MelGanConfig",
        f"{modeling}modeling_mel_gan.MelGenerator",
        [],
        [f"{modeling}pipeline_ast_emotion.MusicEmotionPipeline", model, extractor],
    ]
    assert "music-emotion" in json.loads((saved / "config.json").read_text())["custom_pipelines"]


def test_importing_transformers_first(model_dir):
    code = """
from transformers import pipeline
import emotion_ft
from emotion_ft.modeling.registration import register_lazily
finders = len(sys.meta_path)
register_lazily()
show(len(sys.meta_path) - finders)
show(imported("emotion_ft.modeling.auto_classes", "emotion_ft.modeling.pipeline_ast_emotion"))
emotion = pipeline("music-emotion", model=sys.argv[1], device="cpu")
show(kind(emotion))
show(emotion({"raw": __import__("numpy").sin(__import__("numpy").arange(32000) / 9), "sampling_rate": 16000}))
"""
    added, loaded, kind, result = run(code, model_dir)
    assert added == 0 and loaded == []
    assert kind == "emotion_ft.modeling.pipeline_ast_emotion.MusicEmotionPipeline"
    assert 1 < result["valence"] < 9


def test_a_configuration_that_was_not_loaded():
    code = """
import emotion_ft
from transformers import AutoModelForAudioClassification

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
show(kind(AutoModelForAudioClassification.from_config(emotion_ft.ASTEmotionConfig(**sizes))))
"""
    assert run(code) == ["emotion_ft.modeling.modeling_ast_emotion.ASTForEmotionRegression"]
