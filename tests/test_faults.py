"""What a machine does to a run: kills, full disks, too little memory. The recipes go on to the very same bytes.

One process imports everything once and then forks a recipe at a time; its pictures stay empty, which take longest.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from transformers.trainer import TRAINER_STATE_NAME

from emotion_ft import run_folder
from emotion_ft.data import features
from emotion_ft.data.collections.deam import load_deam
from emotion_ft.data.features import store_log_mels
from emotion_ft.errors import RESUME_OR_AGAIN, UsageError
from emotion_ft.training.checkpoints import checkpoints

pytestmark = pytest.mark.stress

ROOT = Path(__file__).resolve().parents[1]

FORGE = """
import gc, json, os, resource, runpy, signal, sys, threading
import datasets, sklearn.svm, torch  # what takes long
import transformers.trainer
import emotion_ft.hub.push, emotion_ft.training.finetuning, emotion_ft.gan.trainer, emotion_ft.reports.page
from matplotlib.figure import Figure
from emotion_ft.gan.trainer import MelGanTrainer
from emotion_ft.training.trainer import EmotionTrainer
from emotion_ft.data.augment import TrainingTransform
from emotion_ft.data.features import LogMel

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, act):
    original = getattr(owner, name)
    def acting(*args, **kwargs):
        act(*args, **kwargs)
        return original(*args, **kwargs)
    setattr(owner, name, acting)

def room(megabytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (megabytes << 20),) * 2)

Figure.savefig = lambda figure, path, **settings: open(path, "wb").close()
torch.set_num_threads(1)
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitpid(order["wait"], 0)[1], flush=True)
        continue
    if pid := os.fork():
        print(pid, flush=True)
        continue
    os.setpgid(0, 0)
    for number, path in enumerate(order["files"]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.environ.update(order["environment"])
    sys.argv = [f"recipes/{order['recipe']}.py", *order["arguments"]]
    sys.path.insert(0, "recipes")
    exec(order["fault"])
    break
else:
    os._exit(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Run:
    """A recipe that was started."""

    def __init__(self, forge, pid, files):
        self.forge, self.pid, self.files = forge, pid, files

    def kill(self, number):
        os.kill(self.pid, number)

    def wait(self):
        """Its exit code, negative for a signal; `out` and `err` are what it printed."""
        code = os.waitstatus_to_exitcode(int(self.forge.ask({"wait": self.pid})))
        self.out, self.err = (file.read_text() for file in self.files[1:])
        return code


class Forge:
    def __init__(self, folder):
        self.folder, self.runs = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORGE], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, order):
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return self.process.stdout.readline()

    def start(self, recipe, *arguments, fault="", **environment):
        """A `Run` of `recipes/NAME.py`, in which `fault`, Python code, was executed first."""
        self.runs += 1
        files = [Path("/dev/null"), *(self.folder / f"{self.runs}.{name}" for name in ("out", "err"))]
        order = {
            "recipe": recipe,
            "arguments": list(map(str, arguments)),
            "files": list(map(str, files)),
            "fault": fault,
            "environment": environment,
        }
        return Run(self, int(self.ask(order)), files)

    def run(self, *arguments, code=0, **kwargs):
        run = self.start(*arguments, **kwargs)
        assert run.wait() == code, f"{arguments}\n{run.out}\n{run.err}"
        return run


@pytest.fixture(scope="module")
def forge(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    forge.process.stdin.close()
    forge.process.wait(timeout=10)


@pytest.fixture(scope="module")
def config(songs_root, tmp_path_factory):
    """A configuration of 4 epochs, 16 steps."""
    folder = tmp_path_factory.mktemp("config")
    sections = {
        "data": {"data_root": str(songs_root), "cache_dir": str(folder / "cache")},
        "audio": {"seconds": 2.0, "num_windows": 3},
        "model": {
            "checkpoint": None,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "time_stride": 16,
            "frequency_stride": 16,
        },
        "training": {
            "num_train_epochs": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "backbone_learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "precision": "fp32",
            "logging_steps": 2,
            "interval_level": 0.5,
            "early_stopping_patience": 0,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture(scope="module")
def whole(forge, config, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    forge.run("finetune", config, "--output_dir", folder)
    return folder


@pytest.fixture(scope="module")
def finetune(forge, config):
    """`finetune(folder, *flags, resume=False, code=0, ...)` -> the `Run`, finished."""

    def run(folder, *flags, resume=False, **kwargs):
        resumed = ["--resume_from_checkpoint"] if resume else []
        return forge.run("finetune", config, "--output_dir", folder, *flags, *resumed, **kwargs)

    return run


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: a folder, and `remount(options)`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


FILL = """
def fill(path, left):
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            file.truncate(file.tell() - left)
"""


def same(whole, folder):
    for name in ("model.safetensors", "scores.csv", "predictions.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    return True


def steps(folder, state_name=TRAINER_STATE_NAME):
    """Of the whole checkpoints."""
    return [int(path.name.split("-")[1]) for path in checkpoints(folder, state_name)]


def only_line(run, name):
    """The one line that a recipe leaves with."""
    assert "Traceback" not in run.err, run.err
    (line,) = re.findall(rf"^{name}: .*$", run.err, re.MULTILINE)
    assert run.err.rstrip().endswith(line)
    return line


@pytest.mark.slow
class TestKilled:
    """kill -9, the memory's and the scheduler's way to end a process."""

    @pytest.mark.parametrize("seed", [1])
    def test_at_random_moments(self, whole, finetune, tmp_path, seed):
        rng = random.Random(seed)
        for _ in range(3):
            step, delay = rng.randrange(1, 6), rng.uniform(0, 0.06)
            print(f"seed {seed}: killed {delay:.3f} s after the beginning of the {step}. step of a process")
            fault = f"""
left = [{step}]
def soon(*args):
    left[0] -= 1
    if left[0] == 0:
        threading.Timer({delay}, die).start()
before(EmotionTrainer, "training_step", soon)
"""
            before = steps(tmp_path)
            finetune(tmp_path, resume=bool(before), fault=fault, code=-signal.SIGKILL)
            assert steps(tmp_path)[-1:] >= before[-1:] and not (tmp_path / "all_results.json").exists()
        finetune(tmp_path, resume=bool(steps(tmp_path)))
        assert same(whole, tmp_path)

    def test_while_saving(self, whole, finetune, tmp_path):
        """Weights alone; half an optimizer; half of the file that comes last. Then to the end."""
        at = "before(EmotionTrainer, '{0}', lambda self, *args: self.state.global_step == {1} and {2})"
        finetune(tmp_path, fault=at.format("_save_optimizer_and_scheduler", 4, "die()"), code=-signal.SIGKILL)
        assert (tmp_path / "checkpoint-4" / "model.safetensors").is_file() and not steps(tmp_path)
        assert "no checkpoint to resume from" in only_line(finetune(tmp_path, resume=True, code=1), "finetune")

        half = "(os.truncate(self._get_output_dir(None) + '/checkpoint-8/optimizer.pt', 5000), die())"
        finetune(tmp_path, fault=at.format("_save_rng_state", 8, half), code=-signal.SIGKILL)
        assert steps(tmp_path) == [4]
        (tmp_path / "checkpoint-9999").mkdir()  # Trainer would take it for the last one, and keep it before others

        half = """
def save(self, path):
    if self.global_step == 12:
        open(path, "w").write('{"global_step": 12,')
        die()
before(transformers.TrainerState, "save_to_json", save)
"""
        finetune(tmp_path, resume=True, fault=half, code=-signal.SIGKILL)
        assert steps(tmp_path) == [4, 8] and (tmp_path / "checkpoint-12" / TRAINER_STATE_NAME).is_file()
        run = finetune(tmp_path, resume=True)
        assert "checkpoint-12 is passed over, and removed: trainer_state.json is cut short" in run.err
        assert same(whole, tmp_path)

    def test_never_is_the_last_whole_checkpoint_removed_before_the_next_is_whole(self, finetune, tmp_path):
        one = ("--save_total_limit", "1", "--no_load_best_model_at_end")
        at = "before(EmotionTrainer, '_save_rng_state', lambda self, *args: self.state.global_step == {0} and die())"
        for step, kept in ((8, [4]), (12, [8])):
            finetune(tmp_path, *one, resume=step > 8, fault=at.format(step), code=-signal.SIGKILL)
            assert steps(tmp_path) == kept

    def test_a_whole_checkpoint_that_is_written_again_is_not_whole_meanwhile(self, finetune, tmp_path):
        at = "before(EmotionTrainer, '_save_rng_state', lambda self, *args: self.state.global_step == {0} and die())"
        finetune(tmp_path, fault=at.format(12), code=-signal.SIGKILL)
        assert steps(tmp_path) == [4, 8]
        flags = ("--resume_from_checkpoint", tmp_path / "checkpoint-4")
        finetune(tmp_path, *flags, fault=at.format(8), code=-signal.SIGKILL)
        assert steps(tmp_path) == [4]

    def test_power_cut(self, whole, finetune, tmp_path):
        """All files of the last checkpoint have their names, and one not its bytes."""
        shutil.copytree(whole, tmp_path / "run")
        (tmp_path / "run" / "all_results.json").unlink()
        last = tmp_path / "run" / "checkpoint-16"
        assert steps(last.parent) == [8, 16]
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", TRAINER_STATE_NAME):
            content = (last / name).read_bytes()
            for damaged in (b"", content[:-2], content[: len(content) // 2]):
                (last / name).write_bytes(damaged)
                assert steps(last.parent) == [8], (name, len(damaged))
            (last / name).write_bytes(content)
        assert steps(last.parent) == [8, 16]
        (last / "optimizer.pt").write_bytes(content[:1])
        _, explicit = "--resume_from_checkpoint", last
        run = finetune(last.parent, "--resume_from_checkpoint", explicit, code=1)
        assert "checkpoint-16', with its trainer_state.json: optimizer.pt is cut short" in only_line(run, "finetune")
        run = finetune(last.parent, resume=True)
        assert "checkpoint-16 is passed over, and removed: optimizer.pt is cut short" in run.err
        assert same(whole, last.parent)

    def test_a_checkpoint_needs_the_best_one(self, tmp_path):
        for step, best in ((4, None), (8, "run/checkpoint-8"), (12, "run/checkpoint-8")):
            (tmp_path / f"checkpoint-{step}").mkdir()
            state = {"best_model_checkpoint": best}
            (tmp_path / f"checkpoint-{step}" / TRAINER_STATE_NAME).write_text(json.dumps(state))
        assert steps(tmp_path) == [4, 8, 12]
        (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(b"")
        assert steps(tmp_path) == [4]

    def test_a_data_loaders_process(self, whole, finetune, tmp_path):
        fault = """
def act(self, rows):
    if torch.utils.data.get_worker_info() and self._epoch == 2:
        die()
before(TrainingTransform, "__call__", act)
"""
        run = finetune(tmp_path, "--dataloader_num_workers", "1", fault=fault, code=1)
        line = only_line(run, "finetune")
        assert "a process of the data loader was killed. " in line
        assert "lower dataloader_num_workers; go on with --resume_from_checkpoint" in line
        assert steps(tmp_path) == [4, 8]
        finetune(tmp_path, resume=True)
        assert same(whole, tmp_path)


@pytest.mark.slow
class TestTerminated:
    def test_finishes_the_step_saves_and_goes_on_to_the_same_bytes(self, whole, finetune, tmp_path):
        """In mid-epoch; in an epoch's last step, whose evaluation comes first; in an evaluation."""
        fault = "before(EmotionTrainer, '{}', lambda self, *a, **k: self.state.global_step == {} and {})"
        term = "os.kill(os.getpid(), signal.SIGTERM)"
        moments = (("training_step", 4, 5), ("training_step", 7, 8), ("evaluation_loop", 12, 12))
        for method, begun, saved in moments:
            run = finetune(tmp_path, resume=begun > 4, fault=fault.format(method, begun, term), code=143)
            assert only_line(run, "finetune") == (
                f"finetune: stopped by SIGTERM at step {saved}; checkpoint-{saved} saved, "
                "go on with --resume_from_checkpoint"
            )
            assert steps(tmp_path)[-1] == saved and not (tmp_path / "all_results.json").exists()
        finetune(tmp_path, resume=True)
        assert same(whole, tmp_path)

    def test_before_the_training_it_leaves_at_once(self, finetune, tmp_path):
        fault = "before(LogMel, '__call__', lambda self, row: os.kill(os.getpid(), signal.SIGTERM))"
        run = finetune(tmp_path / "run", "--cache_dir", tmp_path / "cache", fault=fault, code=143)
        assert only_line(run, "finetune").startswith("finetune: stopped by SIGTERM; go on with --resume_from_check")
        assert not list((tmp_path / "cache").iterdir())

    def test_with_the_processes_of_the_data_loader(self, finetune, tmp_path):
        """As a scheduler may do it, by the group."""
        fault = "before(EmotionTrainer, 'training_step', lambda *a: os.killpg(os.getpid(), signal.SIGTERM))"
        line = only_line(finetune(tmp_path, "--dataloader_num_workers", "1", fault=fault, code=143), "finetune")
        assert line.startswith("finetune: stopped by SIGTERM")

    def test_interrupting_leaves_at_once(self, finetune, tmp_path):
        fault = "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + (
            "before(EmotionTrainer, 'training_step', lambda *args: os.kill(os.getpid(), signal.SIGINT))"
        )
        line = only_line(finetune(tmp_path, fault=fault, code=130), "finetune")
        assert line == f"finetune: interrupted; {RESUME_OR_AGAIN}"

    def test_all_processes_stop_at_the_same_step(self, forge, config, tmp_path):
        """SIGTERM reaches one process alone, the second; torchrun would send it to both, but never at once."""

        def pair(folder, *flags, fault="", code=0):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            arguments = (config, "--per_device_train_batch_size", "2", "--output_dir", folder, *flags)
            runs = [
                forge.start("finetune", *arguments, fault=fault, RANK=str(rank), LOCAL_RANK=str(rank), **place)
                for rank in (0, 1)
            ]
            codes = [run.wait() for run in runs]
            assert codes == [code] * 2, runs[0].err + runs[1].err
            return runs

        pair(tmp_path / "whole")
        fault = """
if os.environ["RANK"] == "1":
    step = lambda self, *args: self.state.global_step == 5 and os.kill(os.getpid(), signal.SIGTERM)
    before(EmotionTrainer, "training_step", step)
"""
        first, second = pair(tmp_path / "run", fault=fault, code=143)
        assert "stopped by SIGTERM at step 6; checkpoint-6 saved" in only_line(first, "finetune")
        assert "stopped" not in second.err and "Traceback" not in second.err
        assert {path.name for path in (tmp_path / "run" / "checkpoint-6").glob("rng*")} == {
            "rng_state_0.pth",
            "rng_state_1.pth",
        }
        pair(tmp_path / "run", "--resume_from_checkpoint")
        assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
class TestDisk:
    def test_full_in_mid_training(self, whole, finetune, disk):
        folder, _ = disk
        fault = (
            FILL
            + f"""
def fills(self, *args):
    if self.state.global_step == 12:
        fill("{folder}/filler", 100_000)
before(EmotionTrainer, "_save_checkpoint", fills)
"""
        )
        line = only_line(finetune(folder / "run", fault=fault, code=1), "finetune")
        assert line.startswith(f"finetune: cannot write '{folder}/run': No space left on device. Make room there")
        assert steps(folder / "run") == [4, 8]
        (folder / "filler").unlink()
        finetune(folder / "run", resume=True)
        assert same(whole, folder / "run")

    def test_read_only(self, finetune, tmp_path, request):
        folder = tmp_path
        if os.geteuid():
            folder.chmod(0o500)
        else:  # to whom rights mean nothing
            folder, remount = request.getfixturevalue("disk")
            remount("ro")
        line = only_line(finetune(folder / "run", code=1), "finetune")
        assert re.match(
            f"finetune: cannot write '{folder}/run': (Read-only file system|Permission denied)[.] Make room there, or "
            "make it writable, and go on with .*; or choose another --output_dir[.]",
            line,
        )

    @pytest.mark.parametrize(("kilobytes", "said"), [(100, "File too large"), (250, "a file was cut short")])
    def test_size_limit(self, finetune, tmp_path, kilobytes, said):
        """Of the weights, by safetensors; of the optimizer, by torch."""
        fault = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes} << 10,) * 2)"
        line = only_line(finetune(tmp_path, "--unfreeze_at", "0", fault=fault, code=1), "finetune")
        assert line.startswith(f"finetune: cannot write '{tmp_path}': {said}") and not steps(tmp_path)

    def test_full_while_storing(self, whole, finetune, disk):
        """The second part of the log-mels does not fit."""
        folder, _ = disk
        cache = folder / "cache"
        fault = FILL + f"fill('{folder}/filler', 900_000)"
        for num_proc in ("1", "2"):
            flags = ("--cache_dir", cache, "--num_proc", num_proc)
            line = only_line(finetune(whole.with_name(f"full-{num_proc}"), *flags, fault=fault, code=1), "finetune")
            assert line.startswith(f"finetune: cannot write '{cache}': No space left on device. Make room there")
            assert line.endswith("and run the same command to continue; or choose another --cache_dir.")
            (part,) = cache.iterdir()
            written = part.stat().st_mtime_ns
            (folder / "filler").unlink()
            finetune(whole.with_name(f"full-{num_proc}"), *flags)
            assert part.stat().st_mtime_ns == written and len(list(cache.iterdir())) == 2
            assert same(whole, whole.with_name(f"full-{num_proc}"))
            shutil.rmtree(cache)


@pytest.mark.slow
class TestMemory:
    """The machine's memory is limited for real; attention over thousands of patches asks for more."""

    BIG = ("--time_stride", "2", "--frequency_stride", "2", "--attn_implementation", "eager")

    def test_of_a_training_batch(self, finetune, tmp_path):
        run = finetune(tmp_path, *self.BIG, "--per_device_train_batch_size", "16", fault="room(600)", code=1)
        line = only_line(run, "finetune")
        assert re.search(
            r"out of memory \(tried to allocate \d+ bytes\): lower per_device_train_batch_size \(16\)", line
        )
        assert "raise gradient_accumulation_steps (1) by as much; go on with --resume_from_checkpoint" in line

    def test_of_an_evaluation_batch(self, finetune, tmp_path):
        flags = ("--per_device_train_batch_size", "1", "--save_strategy", "steps", "--save_steps", "1",
                 "--eval_strategy", "steps", "--eval_steps", "2", "--no_load_best_model_at_end")  # fmt: skip
        line = only_line(finetune(tmp_path, *self.BIG, *flags, fault="room(600)", code=1), "finetune")
        assert "lower per_device_eval_batch_size (4); go on with --resume_from_checkpoint" in line
        assert steps(tmp_path) == [1]


@pytest.mark.slow
class TestNotFinite:
    @pytest.mark.parametrize("step", [5, 8])
    def test_a_loss_stops_before_anything_of_it_is_saved(self, finetune, tmp_path, step):
        fault = f"""
original = EmotionTrainer.compute_loss
def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
    loss = original(self, model, inputs, return_outputs, **kwargs)
    return loss * float("nan") if model.training and self.state.global_step == {step - 1} else loss
EmotionTrainer.compute_loss = compute_loss
"""
        line = only_line(finetune(tmp_path, "--logging_steps", "3", fault=fault, code=1), "finetune")
        assert f"step {6 if step == 5 else 8}: a loss since the last log, or a weight, is not finite" in line
        assert f"the last good checkpoint is {tmp_path / 'checkpoint-4'}" in line and "lower backbone_learning" in line
        assert steps(tmp_path) == [4] and not (tmp_path / "checkpoint-8").exists()

    def test_weights_that_exploded_are_not_saved(self, finetune, tmp_path):
        flags = ("--unfreeze_at", "0", "--backbone_learning_rate", "1e39", "--logging_steps", "100")
        line = only_line(finetune(tmp_path, *flags, code=1), "finetune")
        assert "step 4: a loss since the last log, or a weight, is not finite; there was no checkpoint yet" in line


@pytest.mark.slow
class TestGan:
    SIZES = ("--gan_steps", "9", "--measure_steps", "4", "--gan_batch_size", "4", "--gan_channels", "4",
             "--latent_size", "8", "--regressor_steps", "3")  # fmt: skip
    FILES = ("model.safetensors", "discriminator/model.safetensors", "checkpoint-9/model.safetensors",
             "checkpoint-9/model_1.safetensors", "checkpoint-9/average/model.safetensors")  # fmt: skip

    @pytest.fixture(scope="class")
    def train(self, forge, config, whole):
        def run(folder, *flags, resume=False, **kwargs):
            resumed = ["--resume_from_checkpoint"] if resume else []
            places = ("--finetuned", whole, "--gan_output_dir", folder)
            return forge.run("train_gan", config, *places, *self.SIZES, *flags, *resumed, **kwargs)

        return run

    @pytest.fixture(scope="class")
    def trained(self, train, whole):
        folder = whole.with_name("gan")
        train(folder)
        return folder

    def same(self, trained, folder):
        for name in self.FILES:
            assert (folder / name).read_bytes() == (trained / name).read_bytes(), name
        return True

    def test_killed_and_terminated(self, trained, train, tmp_path):
        """Killed in a random step, while saving, and while an old checkpoint is removed; then SIGTERM."""
        step = random.Random(2).randrange(4)
        print(f"killed in step {step}")
        at = "before(MelGanTrainer, '{}', lambda self, *args: self.step == {} and {})"
        train(tmp_path, fault=at.format("learn", step, "die()"), code=-signal.SIGKILL)
        assert not steps(tmp_path, run_folder.GAN_STATE)
        half = """
import accelerate
def save(self, folder):
    open(folder / "model.safetensors", "wb").write(b"half")
    die()
before(accelerate.Accelerator, "save_state", lambda self, part: "8" in part.name and save(self, part.mkdir() or part))
"""
        train(tmp_path, fault=half, code=-signal.SIGKILL)
        assert steps(tmp_path, run_folder.GAN_STATE) == [4] and (tmp_path / "checkpoint-8.part").is_dir()
        run = train(
            tmp_path, resume=True, fault=at.format("learn", 5, "os.kill(os.getpid(), signal.SIGTERM)"), code=143
        )
        assert only_line(run, "train_gan") == (
            "train_gan: stopped by SIGTERM at step 6; checkpoint-6 saved, go on with --resume_from_checkpoint"
        )
        train(tmp_path, resume=True)
        assert self.same(trained, tmp_path)

    def test_power_cut(self, trained, train, tmp_path):
        shutil.copytree(trained, tmp_path / "run")
        (tmp_path / "run" / "all_results.json").unlink()
        last = tmp_path / "run" / "checkpoint-9"
        names = [*last.glob("*.safetensors"), *last.glob("*.bin"), *last.glob("*.pkl"), last / run_folder.GAN_STATE]
        assert len(names) == 8
        for path in (*names, last / "average" / "model.safetensors"):
            content = path.read_bytes()
            for damaged in (b"", content[: len(content) // 2]):
                path.write_bytes(damaged)
                assert steps(last.parent, run_folder.GAN_STATE) == [8], path
            path.write_bytes(content)
        path.write_bytes(b"")
        run = train(last.parent, resume=True)
        assert "checkpoint-9 is passed over, and removed: model.safetensors is cut short" in run.err
        assert self.same(trained, last.parent)

    def test_out_of_memory(self, train, tmp_path):
        flags = ("--gan_channels", "128", "--gan_batch_size", "12", "--regressor_steps", "0")
        fault = "torch.backends.mkldnn.enabled = False  # it may die of want of memory, without an error\n"
        fault += "before(MelGanTrainer, 'learn', lambda *args: room(200))"
        line = only_line(train(tmp_path, *flags, fault=fault, code=1), "train_gan")
        assert "lower gan_batch_size (12) and raise gradient_accumulation_steps (1) by as much" in line

    def test_disk_full(self, train, disk):
        folder, _ = disk
        fault = FILL + f"before(MelGanTrainer, 'save', lambda self: fill('{folder}/filler', 100_000))"
        line = only_line(train(folder / "gan", fault=fault, code=1), "train_gan")
        assert line.startswith(f"train_gan: cannot write '{folder}/gan': ") and line.endswith("--gan_output_dir.")


class TestStoring:
    @pytest.fixture
    def store(self, songs_root, tiny_extractor, tmp_path, monkeypatch):
        """`store(**settings)` in parts of eight songs; `store.alone` does it in a process that may be killed."""
        monkeypatch.setattr(features, "PART_SIZE", 8)
        songs = load_deam(songs_root)

        def store(**settings):
            return store_log_mels(songs, tiny_extractor, tmp_path / "cache", **settings)

        def alone(**settings):
            process = multiprocessing.get_context("fork").Process(target=store, kwargs=settings)
            process.start()
            return process

        store.alone = alone
        return store

    @pytest.mark.parametrize("num_proc", [1, 2])
    def test_killed(self, store, stored_songs, monkeypatch, tmp_path, num_proc):
        """In the middle of the third of four parts; no process outlives the one that was killed."""
        original, parent, pids = features.LogMel.__call__, os.getpid(), multiprocessing.Array("i", 64)

        def act(self, row):
            pids[row["song_id"] - 1010] = os.getpid()
            if row["song_id"] == 1028:
                os.kill(os.getppid() if num_proc > 1 else os.getpid(), signal.SIGKILL)
                time.sleep(0.3)
            return original(self, row)

        with monkeypatch.context() as patch:
            patch.setattr(features.LogMel, "__call__", act)
            process = store.alone(num_proc=num_proc)
            process.join(60)
        assert process.exitcode == -signal.SIGKILL and os.getpid() == parent
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in set(pids) - {0}):
            assert time.monotonic() < deadline, "a worker outlived the process that started it"
            time.sleep(0.02)
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("log_mel-*")}
        assert 1 <= len(kept) < 4
        stored, bad = store(num_proc=num_proc)
        assert not bad and all(path.stat().st_mtime_ns == written for path, written in kept.items())
        assert all(stored[name][:] == split[:] for name, split in stored_songs.items())

    def test_a_process_of_several(self, store, stored_songs, monkeypatch):
        original, test = features.LogMel.__call__, os.getpid()

        def act(self, row):
            if row["song_id"] == 1028 and os.getpid() != test:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, row)

        with monkeypatch.context() as patch:
            patch.setattr(features.LogMel, "__call__", act)
            with pytest.raises(
                UsageError, match=r"was killed.* lower num_proc \(2\); run the same command to continue"
            ):
                store(num_proc=2)
        stored, _ = store(num_proc=2)
        assert all(stored[name][:] == split[:] for name, split in stored_songs.items())

    def test_power_cut(self, store, stored_songs, tmp_path):
        store()
        for path, size in zip(sorted((tmp_path / "cache").iterdir()), (0, 100, -8, -5000), strict=True):
            path.write_bytes(path.read_bytes()[:size])
        stored, bad = store()
        assert not bad and all(stored[name][:] == split[:] for name, split in stored_songs.items())

    def test_a_file_that_vanishes_after_it_was_listed(self, songs_root, tiny_extractor, tmp_path):
        shutil.copytree(songs_root, tmp_path / "songs")
        songs = load_deam(tmp_path / "songs")
        last = next((tmp_path / "songs").rglob("1033.wav"))

        class Extractor(type(tiny_extractor)):
            def iter_log_mel(self, pieces):
                last.unlink(missing_ok=True)
                return super().iter_log_mel(pieces)

        stored, bad = store_log_mels(songs, Extractor(**tiny_extractor.to_dict()), tmp_path / "cache")
        assert [(file.song_id, file.reason) for file in bad] == [(1033, "no such file")]
        assert sum(map(len, stored.values())) == 23


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
