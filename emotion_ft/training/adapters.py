"""Low-rank adapters, trained with peft and saved merged: what a folder holds is the model, the adapter beside it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import is_peft_available

from .. import run_folder
from ..errors import UsageError

WEIGHTS = "adapter_model.safetensors"  # peft's own name


def add_lora(model: Any, rank: int, targets: list[str]) -> Any:
    """Wrap a model so that only its head and low-rank updates of some layers are trained (LoRA: Hu et al. 2021).

    Args:
        model: an `ASTForEmotionRegression`.
        rank: of the updates, which are scaled by 2, as for an alpha of twice the rank.
        targets: endings of the names of the linear layers to update, such as "q_proj".

    Raises:
        UsageError: if peft is not installed, or no layer has such a name.
    """
    if not is_peft_available():
        raise UsageError("lora_rank needs peft: pip install 'emotion_ft[lora]'.")
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), modules_to_save=["head"])
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        names = sorted({n.rsplit(".", 1)[-1] for n, m in model.backbone.named_modules() if isinstance(m, nn.Linear)})
        raise UsageError(f"lora_targets {targets} name no layers: there are {', '.join(names)}.") from error


def is_adapted(model: Any) -> bool:
    """Whether a model is wrapped by `peft.get_peft_model`."""
    if not is_peft_available():
        return False
    from peft import PeftModel

    return isinstance(model, PeftModel)


def check_adapted(model: Any) -> None:
    """Raise a `UsageError` if more than the head and adapters are to be trained, which would not all be saved."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError("the model's adapter would be saved without the model: use peft.get_peft_model(model, ...).")
    if not is_adapted(model):
        return
    saved = {tensor.data_ptr() for tensor in _adapter(model).values()}
    rest = [name for name, p in model.named_parameters() if p.requires_grad and p.data_ptr() not in saved]
    if rest:
        raise UsageError(
            f"{len(rest)} trainable weights are not in the adapter, first {rest[0]}: give modules_to_save."
        )


def merged(model: Any) -> Any:
    """A copy of an adapted model with its adapter merged into the weights, of the class that was wrapped."""
    return deepcopy(model).merge_and_unload()


def save_adapter(model: Any, folder: Path) -> None:
    """Write an adapted model's adapter into `adapter/`, as peft reads it."""
    folder = folder / run_folder.ADAPTER
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in _adapter(model).items()}, folder / WEIGHTS)
    model.active_peft_config.save_pretrained(folder)


def load_adapter(model: Any, folder: Path) -> None:
    """Read the adapter that `save_adapter` wrote into an adapted model.

    Raises:
        UsageError: if the folder holds none, or another one.
    """
    from peft import set_peft_model_state_dict

    path, own = folder / run_folder.ADAPTER / WEIGHTS, _adapter(model)
    stored = load_file(path) if path.is_file() else {}
    if {name: tensor.shape for name, tensor in stored.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise UsageError(f"'{path}' does not hold this model's adapter: give lora_rank and lora_targets as before.")
    set_peft_model_state_dict(model, stored)


def _adapter(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)
