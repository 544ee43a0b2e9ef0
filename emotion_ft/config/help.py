"""What `--help` shows: the flags that people use, with their defaults and units."""

import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .settings import SECTIONS

WIDTH = 119
COMMON = {
    "data": "data_root prepared collections labels split group_by_artist validation_fraction test_fraction cache_dir "
    "num_proc",
    "audio": "front_end seconds num_windows",
    "spec_augment": "time_masks time_mask_frames frequency_masks frequency_mask_bins",
    "model": "checkpoint loss head_dropout lora_rank",
    "training": "output_dir overwrite_output_dir resume_from_checkpoint seed num_train_epochs "
    "per_device_train_batch_size gradient_accumulation_steps backbone_learning_rate head_learning_rate weight_decay "
    "warmup_steps unfreeze_at freeze early_stopping_patience precision dataloader_num_workers "
    "report_to push_to_hub hub_model_id",
    "gan": "gan_output_dir finetuned gan_steps gan_batch_size gan_channels adversarial_loss label_smoothing "
    "emotion_weight regressor_steps generator_learning_rate discriminator_learning_rate reference_fraction "
    "measure_steps",
    "synthetic": "gan synthetic_fraction confirm_with confirm_within",
}
STOCK = {
    "dataloader_num_workers": "Processes that prepare batches.",
    "report_to": "Trackers, such as tensorboard or wandb.",
    "push_to_hub": "Push the finished run to the Hugging Face Hub.",
    "hub_model_id": "Where to: you/name.",
}
"""Of `TrainingArguments`' own flags those that people use, one line each."""


def help_text(command: str, description: str, sections: Iterable[str]) -> str:
    """The help of a command.

    Args:
        command: as it is typed, `emotion-ft finetune`.
        description: what the command does.
        sections: of the configuration, those that matter to the command.
    """
    lines = [f"usage: {command} CONFIG [--flag value ...]", "", description.strip(), ""]
    lines += ["CONFIG is a YAML file with the sections below, or the bare name of a shipped one; flags win over it."]
    lines += ["--help_all shows every flag, those of transformers.TrainingArguments among them."]
    for section in sections:
        hints = get_type_hints(SECTIONS[section])
        settings = {setting.name: setting for setting in fields(SECTIONS[section])}
        lines += ["", f"{section}:"]
        for name in COMMON[section].split():
            lines += _flag(settings[name], hints[name])
    return "\n".join(lines)


def _flag(setting: Field, kind: Any) -> list[str]:
    text = STOCK.get(setting.name) or setting.metadata.get("help", "")
    default = None if setting.default is MISSING else setting.default
    if default is not None and setting.name not in STOCK:
        text = f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})"
    flag = f"  --{setting.name} {_placeholder(kind)}"
    lines = textwrap.wrap(text, WIDTH - 38, break_on_hyphens=False)
    if len(flag) > 36:
        lines.insert(0, "")
    return [f"{flag:38}{lines[0]}".rstrip(), *(f"{'':38}{line}" for line in lines[1:])]


def _placeholder(kind: Any) -> str:
    """What stands for a flag's value: its choices, or its type."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    (kind, *_) = [option for option in get_args(kind) if option is not NoneType] or [kind]
    names = {bool: "BOOL", int: "N", float: "X", str: "TEXT"}
    return names.get(kind, "TEXT ...")
