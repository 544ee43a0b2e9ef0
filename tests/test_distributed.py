"""Several processes and machines end where one does that learns from the same batches; the first one writes.

Processes are torchrun's, on CPUs; two machines are two of its commands over loopback, with folders and caches of their
own and an output that they share. What they hold in memory, `rank.py` notes.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType

from emotion_ft.data import shards
from emotion_ft.data.collections.deam import load_songs
from emotion_ft.data.features import LogMel
from emotion_ft.data.shards import finish_prepared, plan_shards, store_shards
from emotion_ft.modeling import ASTEmotionFeatureExtractor

pytestmark = pytest.mark.stress

ROOT = Path(__file__).resolve().parents[1]
TWO = ("--standalone", "--nproc_per_node", "2")
HALF_BATCH = ("--per_device_train_batch_size", "2")


def start(recipe, *arguments, notes, torchrun=(), cwd=ROOT, **environment):
    launcher = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
    command = [sys.executable, *launcher, ROOT / "tests/rank.py", notes, ROOT / f"recipes/{recipe}.py", *arguments]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def side_by_side(*processes):
    """What they printed."""
    printed = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, f"{out}\n{err}"
            printed.append(out)
    finally:
        for process in processes:
            process.kill()
    return printed


def noted(notes, ranks):
    """The notes of all ranks, and no others."""
    found = [json.loads(path.read_text()) for path in sorted(notes.glob("rank-*.json"))]
    assert [said["world"] for said in found] == [ranks] * ranks
    return found


def largest_difference(one, other):
    one, other = (load_file(path) if isinstance(path, Path) else path for path in (one, other))
    assert one.keys() == other.keys()
    return max((tensor - other[name]).abs().max().item() for name, tensor in one.items())


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def config(songs_root, tmp_path_factory):
    """A tiny AST without dropout, 16 training songs: two updates of two micro-batches of four songs an epoch."""
    sections = {
        "data": {"data_root": str(songs_root), "cache_dir": "cache"},
        "audio": {"seconds": 2.0, "num_windows": 3},
        "model": {
            "checkpoint": None,
            "head_dropout": 0.0,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "time_stride": 16,
            "frequency_stride": 16,
        },
        "training": {
            "output_dir": "run",
            "num_train_epochs": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "backbone_learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "unfreeze_at": 0.5,
            "precision": "fp32",
            "logging_steps": 1,
            "interval_level": 0.5,
            "early_stopping_patience": 0,
            "disable_tqdm": True,
        },
    }
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """Folders with a run of one process and of two with half the batch each, their notes and what they printed."""
    alone, pair = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("pair")
    printed = side_by_side(
        start("finetune", config, notes=alone / "notes", cwd=alone),
        start("finetune", config, *HALF_BATCH, notes=pair / "notes", torchrun=TWO, cwd=pair),
    )
    return alone, pair, printed[1]


def same_run(one, other):
    """Weights after every kept step and of the end, scores, predictions and files of two runs are the same."""
    last = sorted(name for name in files(one) if re.fullmatch(r"checkpoint-\d+/model.safetensors", name))
    assert last[-1] == "checkpoint-8/model.safetensors"
    for name in (*last, "model.safetensors"):
        difference = largest_difference(one / name, other / name)
        print(f"{name}: largest absolute difference {difference:.1e}")
        assert difference < 5e-6
    ours, theirs = (json.loads((run / "all_results.json").read_text()) for run in (one, other))
    for name, value in ours.items():
        if name.startswith(("test_", "validation_", "interval_", "train_loss", "epochs")):
            assert theirs[name] == pytest.approx(value, abs=1e-5), name
    tables = [pd.read_csv(run / "predictions.csv") for run in (one, other)]
    assert tables[1]["song_id"].tolist() == tables[0]["song_id"].tolist() and len(tables[0]) == ours["test_songs"] == 4
    assert not tables[1]["song_id"].duplicated().any()
    assert np.allclose(tables[0].filter(regex="predicted"), tables[1].filter(regex="predicted"), atol=1e-3)
    states = {re.sub(r"rng_state\.pth", "rng_state_0.pth", name) for name in files(one)}
    assert files(other) == states | {re.sub("_0.pth", "_1.pth", name) for name in states if name.endswith("_0.pth")}


class TestAccelerateConfigs:
    """What `accelerate launch` makes of `recipes/accelerate`, up to the point where it looks for GPUs."""

    @staticmethod
    def understood(name, *flags):
        file = ROOT / "recipes/accelerate" / f"{name}.yaml"
        arguments = launch_command_parser().parse_args(["--config_file", str(file), *flags, "recipe.py"])
        return _validate_launch_command(arguments)

    def test_all_are_tested_here(self):
        names = sorted(path.stem for path in (ROOT / "recipes/accelerate").iterdir())
        assert names == ["fsdp", "multi_gpu", "multi_machine", "one_gpu"]

    def test_one_gpu(self):
        arguments, config, _ = self.understood("one_gpu")
        assert (config.distributed_type, arguments.num_processes) == (DistributedType.NO, 1)
        assert prepare_simple_launcher_cmd_env(arguments)[1]["CUDA_VISIBLE_DEVICES"] == "0"

    def test_several_gpus(self):
        arguments, config, _ = self.understood("multi_gpu", "--num_processes", "8")
        prepare_multi_gpu_env(arguments)
        assert (config.distributed_type, arguments.nproc_per_node) == (DistributedType.MULTI_GPU, "8")

    def test_several_machines(self):
        flags = ("--machine_rank", "1", "--main_process_ip", "10.0.0.1")
        arguments, config, _ = self.understood("multi_machine", *flags)
        prepare_multi_gpu_env(arguments)
        assert config.distributed_type == DistributedType.MULTI_GPU
        assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", 1)
        assert arguments.rdzv_endpoint == "10.0.0.1:29500"

    def test_fsdp_wraps_our_layers_and_saves_whole_models(self, monkeypatch, tiny_model):
        monkeypatch.setattr(os, "environ", dict(os.environ))
        arguments, config, _ = self.understood("fsdp")
        assert (config.distributed_type, arguments.use_fsdp) == (DistributedType.FSDP, True)
        os.environ.update(prepare_multi_gpu_env(arguments))
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.state_dict_type == StateDictType.FULL_STATE_DICT
        plugin.set_auto_wrap_policy(tiny_model)  # raises where no layer of the model has that name
        (layer,) = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
        assert sum(isinstance(module, layer) for module in tiny_model.backbone.modules()) == 2

    def test_precision_is_left_to_the_recipes(self):
        for path in (ROOT / "recipes/accelerate").iterdir():
            assert load_config_from_file(str(path)).mixed_precision == "no", path


@pytest.mark.slow
class TestFinetune:
    def test_two_processes_equal_one_with_the_same_global_batch(self, runs):
        alone, pair, _ = runs
        same_run(alone / "run", pair / "run")

    def test_all_processes_hold_equal_weights_before_and_after_unfreezing(self, runs):
        (alone,), (first, second) = noted(runs[0] / "notes", 1), noted(runs[1] / "notes", 2)
        assert first["backbone"] == second["backbone"] and first["head"] == second["head"]
        for said in (alone, first):
            steps = said["backbone"]
            assert len(steps) == 8 and len(set(said["head"])) == 8
            assert len(set(steps[:4])) == 1 and len(set(steps[3:])) == 5  # frozen for half of the steps, then not

    def test_the_first_process_writes_and_prints(self, runs):
        first, second = noted(runs[1] / "notes", 2)
        assert {"predictions.csv", "all_results.json", "README.md"} <= {Path(name).name for name in first["written"]}
        assert not [name for name in second["written"] if "/run/" in name]
        assert runs[2].count("held-out songs,") == runs[2].count("Model, numbers and plots") == 1

    def test_two_machines_equal_one(self, config, runs, tmp_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        machines = []
        for rank in (0, 1):
            place = tmp_path / f"machine-{rank}"
            place.mkdir()
            torchrun = ("--nnodes", 2, "--node_rank", rank, "--master_addr", "127.0.0.1", "--master_port", port)
            machines.append(
                start("finetune", config, *HALF_BATCH, "--output_dir", tmp_path / "shared" / "run",
                      notes=tmp_path / "notes", torchrun=torchrun, cwd=place, HF_HOME=str(place / "hf"),
                      HF_DATASETS_CACHE=str(place / "hf/datasets"))
            )  # fmt: skip
        printed = side_by_side(*machines)
        first, second = noted(tmp_path / "notes", 2)
        assert first["backbone"] == second["backbone"] and first["head"] == second["head"]
        assert [out.count("held-out songs,") for out in printed] == [1, 0]
        same_run(runs[0] / "run", tmp_path / "shared" / "run")
        caches = [files(tmp_path / f"machine-{rank}" / "cache") for rank in (0, 1)]
        assert caches[0] == caches[1] and len(caches[0]) == 2  # each decodes for itself
        assert {name.split("/")[0] for name in files(tmp_path / "machine-1")} <= {"cache", "hf"}


@pytest.mark.slow
class TestGan:
    def test_two_processes_equal_one_with_the_same_global_batch(self, config, runs, tmp_path):
        flags = ("--finetuned", runs[0] / "run", "--cache_dir", runs[0] / "cache", "--gan_steps", "6",
                 "--measure_steps", "3", "--gan_channels", "4", "--latent_size", "8",
                 "--regressor_steps", "10")  # fmt: skip
        side_by_side(*(
            start("train_gan", config, *flags, "--gan_batch_size", batch, "--gan_output_dir", tmp_path / name,
                  notes=tmp_path / f"{name}-notes", torchrun=torchrun)
            for name, torchrun, batch in (("alone", (), 4), ("pair", TWO, 2))
        ))  # fmt: skip
        noted(tmp_path / "alone-notes", 1)
        _, written = (said["written"] for said in noted(tmp_path / "pair-notes", 2))
        alone, pair, second = (
            load_file(tmp_path / f"{name}.safetensors")
            for name in ("alone-notes/rank-0", "pair-notes/rank-0", "pair-notes/rank-1")
        )
        assert largest_difference(pair, second) == 0 and any(name.endswith("_u") for name in pair)
        regressors = (tmp_path / name / "regressor" / "model.safetensors" for name in ("alone", "pair"))
        assert largest_difference(*regressors) == 0

        # The first updates start from the same weights: gradients are equal but for rounding.
        for step in (0, 1):
            for network in ("MelDiscriminator", "MelGenerator"):
                names = [name for name in alone if name.startswith(f"gradient.{step}.{network}.")]
                ours, theirs = (torch.cat([run[name].flatten() for name in names]) for run in (alone, pair))
                off = ((ours - theirs).norm() / ours.norm()).item()
                print(f"update {step} of {network}: gradients off by {off:.1e} of their norm")
                assert off < 1e-5
        # AdamW's first updates are the gradients' signs, and rounding turns those of gradients that are nearly zero:
        # weights differ by a part of the learning rate, 1e-3.
        weights = [{k: v for k, v in run.items() if not k.startswith("gradient.")} for run in (alone, pair)]
        difference = largest_difference(*weights)
        print(f"weights after 6 updates: largest absolute difference {difference:.1e}")
        assert difference < 5e-4
        assert not [name for name in written if "/pair/" in name]
        assert {n for n in files(tmp_path / "pair") if "random_states_1" not in n} == files(tmp_path / "alone")


@pytest.mark.slow
class TestCrossValidation:
    def test_two_processes_equal_one(self, config, runs, tmp_path):
        flags = ("--folds", "2", "--num_train_epochs", "1", "--gradient_accumulation_steps", "1", "--cache_dir",
                 runs[0] / "cache", "--dataloader_drop_last")  # fmt: skip
        _, out = side_by_side(*(
            start("cross_validate", config, *flags, *batch, "--output", tmp_path / name,
                  notes=tmp_path / f"{name}-notes", torchrun=torchrun)
            for name, torchrun, batch in (("alone", (), ()), ("pair", TWO, HALF_BATCH))
        ))  # fmt: skip
        _, second = noted(tmp_path / "pair-notes", 2)
        assert out.count("out-of-fold songs;") == 1 and not [name for name in second["written"] if "/pair/" in name]
        for fold in ("fold-0", "fold-1"):
            models = (tmp_path / name / fold / "model.safetensors" for name in ("alone", "pair"))
            difference = largest_difference(*models)
            print(f"{fold}: largest absolute difference {difference:.1e}")
            assert difference < 2e-5
        tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("alone", "pair")]
        assert tables[0]["song_id"].tolist() == tables[1]["song_id"].tolist() == list(range(1010, 1034))
        scores = [pd.read_csv(tmp_path / name / "scores.csv", index_col=[0, 1]) for name in ("alone", "pair")]
        assert np.allclose(*(table.select_dtypes("number") for table in scores), atol=1e-3, equal_nan=True)


@pytest.mark.slow
class TestStoring:
    def test_processes_and_machines_write_what_one_does(self, config, songs_root, tmp_path, monkeypatch):
        monkeypatch.setattr(shards, "SHARD_SONGS", 5)
        log_mel = LogMel(ASTEmotionFeatureExtractor(max_length=101, num_windows=3), 1.0)
        tables = {labels: load_songs(songs_root, labels) for labels in ("repaired", "distributed")}
        planned = plan_shards(tables)
        store_shards(tmp_path / "alone", planned, log_mel)
        assert len(planned) == 5 and finish_prepared(tmp_path / "alone", tables, planned, log_mel) == []

        parts = (
            start("prepare", config, "--output", tmp_path / "songs", "--shards", "2", "--shard", part,
                  notes=tmp_path / f"notes-{part}", torchrun=torchrun)
            for part, torchrun in ((0, TWO), (1, ()))
        )  # fmt: skip
        printed = "".join(side_by_side(*parts))
        assert "24 songs, labels repaired, distributed, " in printed
        noted(tmp_path / "notes-1", 1)
        places = [
            {Path(name).name for name in said["written"] if name.endswith(".parquet") and "log_mels" in name}
            for said in (*noted(tmp_path / "notes-0", 2), *noted(tmp_path / "notes-1", 1))
        ]
        assert places == [{"00000.parquet", "00004.parquet"}, {"00002.parquet"}, {"00001.parquet", "00003.parquet"}]
        assert files(tmp_path / "songs") == files(tmp_path / "alone") | {"README.md"}
        for name in files(tmp_path / "alone"):
            assert (tmp_path / "songs" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
