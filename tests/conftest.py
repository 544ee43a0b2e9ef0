"""What every test may use: an offline environment, a tiny model and front end, and a folder of songs as DEAM's.

The environment is set when pytest loads this file, before any test imports a Hugging Face library.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

from emotion_ft import run_folder

ROOT = Path(__file__).resolve().parents[1]
HF_HOME = tempfile.mkdtemp(prefix="emotion_ft-tests-")
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
for name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)
# librosa's numba compiles into one cache; two workers that write it at the same time leave code that crashes.
NUMBA_CACHE = ROOT / ".pytest_cache" / f"numba-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
os.environ.update(
    NUMBA_CACHE_DIR=str(NUMBA_CACHE),
    HF_HOME=HF_HOME,
    HF_DATASETS_CACHE=f"{HF_HOME}/datasets",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # recipes test this checkout
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


SLOWEST = ("test_faults", "test_distributed", "test_recipes", "hub/test_push", "test_wheel", "test_notebook")
SLOWEST += ("gan/test_trainer", "test_benchmark", "hub/test_space", "training/test_trainer", "gan/test_train_songs")


def pytest_collection_modifyitems(items):
    """Modules that take longest come first, so that no worker is left alone with one of them at the end."""
    rank = {Path(__file__).parent / f"{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


SONG_IDS = range(1010, 1034)  # above 1000, where DEAM's labels need no repair; two parts of `store_log_mels`


@pytest.fixture(scope="session")
def tiny_config():
    """`tiny_config(**changes)` -> an `ASTEmotionConfig` of two narrow layers for windows of 101 frames."""
    from emotion_ft.modeling import ASTEmotionConfig

    def config(**changes):
        settings = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "time_stride": 16,
            "frequency_stride": 16,
            "max_length": 101,
        }
        return ASTEmotionConfig(**{**settings, **changes})

    return config


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """A random `ASTForEmotionRegression`, the same in every session. Shared: `deepcopy` it before changing it."""
    from emotion_ft.modeling import ASTForEmotionRegression

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ASTForEmotionRegression(tiny_config()).eval()


@pytest.fixture(scope="session")
def tiny_extractor():
    """The default mel front end with windows of 101 frames, 2 s, three a song."""
    from emotion_ft.modeling import ASTEmotionFeatureExtractor

    return ASTEmotionFeatureExtractor(max_length=101, num_windows=3)


@pytest.fixture(scope="session")
def model(tiny_model):
    """A tiny model whose predictions differ from song to song. Shared: `deepcopy` it before changing it."""
    model = deepcopy(tiny_model)
    with torch.no_grad():
        model.head.out_proj.weight *= 30
    return model


@pytest.fixture(scope="session")
def model_dir(model, tiny_extractor, tmp_path_factory):
    """`model` and its front end as `save_pretrained` leaves them. Shared: copy before changing."""
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_wav():
    """`write_wav(path, seconds, rate, channels, frequency, amplitude, **options)` -> the path, with a sine in it.

    The format follows the path's suffix; `options` go to `soundfile.write`. Channel c plays frequency * (c + 1).
    """

    def write(path, seconds=3.0, rate=16000, channels=1, frequency=440.0, amplitude=0.3, **options):
        time = np.arange(round(seconds * rate))[:, None] / rate
        sines = amplitude * np.sin(2 * np.pi * frequency * time * np.arange(1, channels + 1))
        soundfile.write(path, sines, rate, **options)
        return path

    return write


@pytest.fixture(scope="session")
def songs_root(tmp_path_factory):
    """24 songs of 3-4 s in DEAM's layout, valence as pitch, arousal as pulse. Shared: copy before changing."""
    root = tmp_path_factory.mktemp("songs")
    audio = root / "DEAM_audio" / "MEMD_audio"
    audio.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["song_id, valence_mean, valence_std, arousal_mean, arousal_std"]
    for song_id in SONG_IDS:
        valence, arousal = rng.uniform(1.5, 8.5, 2).round(2)
        time = np.arange(int(rng.uniform(3, 4) * 16000)) / 16000
        tone = np.sin(2 * np.pi * 110 * 2 ** (valence / 2) * time)
        pulse = np.sin(2 * np.pi * arousal * time) > 0
        soundfile.write(audio / f"{song_id}.wav", 0.3 * tone * pulse + 0.01 * rng.standard_normal(len(time)), 16000)
        lines.append(f"{song_id}, {valence}, 1.5, {arousal}, 1.5")
    (root / "static_annotations_averaged_songs_1_2000.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def run_config(songs_root, tmp_path):
    """`run_config(*flags)` -> a configuration for one step of a tiny model on `songs_root`, written to `run/`."""
    from emotion_ft.config.parser import parse_config

    def parse(*flags):
        tiny = "--seconds 2 --num_windows 2 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 "
        tiny += "--intermediate_size 64 --max_steps 1 --eval_strategy no --no_load_best_model_at_end --unfreeze_at 0 "
        tiny += "--precision fp32 --report_to none --disable_tqdm true --interval_level 0.5 --save_strategy no "
        places = ["--data_root", songs_root, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "run"]
        return parse_config([*tiny.split(), "--checkpoint=", *map(str, (*places, *flags))])

    return parse


@pytest.fixture(scope="session")
def stored_songs(songs_root, tiny_extractor, tmp_path_factory):
    """`songs_root` as `store_log_mels` returns it: train 16, validation 4, test 4."""
    from emotion_ft.data.collections.deam import load_deam
    from emotion_ft.data.features import store_log_mels

    return store_log_mels(load_deam(songs_root), tiny_extractor, tmp_path_factory.mktemp("log_mels"))[0]


@pytest.fixture(scope="session")
def recipe():
    """`recipe(name, *arguments, timeout=..., **environment)` -> the finished process, its output as text.

    Starting one takes ten seconds: `commands.in_process` does for what needs no process of its own.
    """

    def run(name, *arguments, timeout=240, **environment):
        return subprocess.run(
            [sys.executable, f"recipes/{name}.py", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def gan_dir(tiny_extractor, tmp_path):
    """A folder as a finished GAN leaves it, its generator and its results."""
    from emotion_ft.modeling import MelGanConfig, MelGenerator
    from emotion_ft.reports.cards import write_gan_card
    from emotion_ft.reports.gan import COLUMNS, quality_table, write_quality

    folder = tmp_path / "gan"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = MelGenerator(MelGanConfig(max_length=101, channels=2, latent_size=4, condition_size=8)).eval()
    generator.save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    best = {name: index / 8 for index, name in enumerate(COLUMNS)}
    collection = {"source": "songs rendered in DEAM's layout", "labels": "repaired", "rendered": True, "songs": 24}
    results = {"protocol": collection["source"], "collections": [collection], "step": 60, **best}
    write_quality(folder, quality_table({"real": {"frechet": 0.25}, "step 60, kept": best}))
    write_gan_card(folder, results=results)
    run_folder.write_results(folder, results)
    for name in ("plots/samples-000060.png", "plots/quality.png", "discriminator/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder, generator, results
