"""A recipe as one of several processes, which leaves notes of what a test compares.

    torchrun ... tests/rank.py NOTES RECIPE [arguments of the recipe]

NOTES/rank-R.json: `world`, the number of processes; `written`, the files that this one opened to write; `backbone` and
`head`, digests of the weights after every step of a fine-tuning. NOTES/rank-R.safetensors, of a GAN: all its weights,
and the gradients of every update.
"""

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from emotion_ft.data import shards
from emotion_ft.gan.trainer import MelGanTrainer
from emotion_ft.training.callbacks import UnfreezeCallback

notes, recipe, *arguments = sys.argv[1:]
rank = int(os.environ.get("RANK", 0))
said = {"world": 1, "backbone": [], "head": [], "written": []}
tensors = {}


def note_written(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        said["written"].append(os.path.abspath(arguments[0]))
    elif event == "os.rename":
        said["written"].append(os.path.abspath(arguments[1]))


def note_world():
    if torch.distributed.is_initialized():
        said["world"] = torch.distributed.get_world_size()


def digest(module):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.parameters())).hexdigest()


def on_step_end(self, args, state, control, model=None, **kwargs):
    model = getattr(model, "module", model)
    for part in ("backbone", "head"):
        said[part].append(digest(getattr(model, part)))


def update(self, network, optimizer, schedule):
    if self.accelerator.sync_gradients:
        network = self.accelerator.unwrap_model(network)
        for name, parameter in network.named_parameters():
            tensors[f"gradient.{self.step}.{type(network).__name__}.{name}"] = parameter.grad.clone()
    return plain_update(self, network, optimizer, schedule)


def train(self):
    note_world()  # accelerate leaves the others at the end
    best = plain_train(self)
    networks = {"generator": self.bare_generator, "discriminator": self.bare_discriminator}
    for name, network in {**networks, "average": self.average.module}.items():
        tensors.update({f"{name}.{key}": value.contiguous() for key, value in network.state_dict().items()})
    return best


plain_update, MelGanTrainer._update = MelGanTrainer._update, update
plain_train, MelGanTrainer.train = MelGanTrainer.train, train
UnfreezeCallback.on_step_end = on_step_end
shards.SHARD_SONGS = 5
sys.addaudithook(note_written)
sys.argv = [recipe, *arguments]
try:
    runpy.run_path(recipe, run_name="__main__")
except SystemExit as leaving:
    code = leaving.code
note_world()
Path(notes).mkdir(parents=True, exist_ok=True)
Path(notes, f"rank-{rank}.json").write_text(json.dumps(said))
save_file({name: value.clone() for name, value in tensors.items()}, Path(notes, f"rank-{rank}.safetensors"))
sys.exit(code)
