"""A training that takes a second: a tiny AST on noise whose band profile follows the labels."""

import torch
from transformers import TrainerCallback, set_seed

from emotion_ft.config.settings import TrainingConfig
from emotion_ft.modeling import ASTEmotionConfig, ASTForEmotionRegression

SONGS, FRAMES = 24, 160
NO_EVALUATION = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def tiny_model(seed=0, **settings):
    set_seed(seed)
    return ASTForEmotionRegression(
        ASTEmotionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_mel_bins=32,
            max_length=64,
            time_stride=16,
            frequency_stride=16,
            **settings,
        )
    )


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "backbone_learning_rate": 1e-3,
        "head_learning_rate": 3e-3,
        "precision": "fp32",
        "disable_tqdm": True,
        "logging_steps": 1,
        "early_stopping_patience": 0,
    }
    return TrainingConfig(**(settings | changes))


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Die right after the checkpoint of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == self.step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def assert_same_weights(a, b):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), f"{name} differs by up to {(x - y).abs().max()}"
