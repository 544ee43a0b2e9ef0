"""The configuration that every command reads, one dataclass per section; `config.parser` fills it."""

import math
import os
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

import torch
import yaml
from transformers import TrainingArguments

from .. import run_folder
from ..errors import UsageError


class ConfigError(UsageError):
    """A configuration that cannot be used: says which key of which file, what came and what was expected."""

    exit_code = 2


def _option(default: Any, help: str, **kwargs: Any) -> Any:
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class DataConfig:
    """Which songs, which labels, and who goes into train, validation and test."""

    _argument_group_name = "data"

    data_root: str | None = _option(None, "Folder with DEAM's audio and annotations, unzipped at any depth.")
    prepared: str | None = _option(
        None,
        "Instead of data_root: a collection stored by `prepare`; folder, you/name[@revision] or URL.",
    )
    collections: list[str] | None = field(
        default=None,
        metadata={"help": "Other collections to add: YAML files, or the shipped pmemo."},
    )
    labels: Literal["repaired", "distributed", "dynamic"] = _option(
        "repaired",
        "DEAM's static labels, exchanged ones repaired, or as distributed; dynamic: means over each window.",
    )
    exchanged_ids: str | None = _option(
        None, "Ids whose valence and arousal to swap back, whatever the data show, such as 1-1000."
    )
    label_weights: Literal["none", "agreement"] = _option(
        "none", "Weight songs in the loss by how well their annotators agree (loss mse only)."
    )
    split: str = _option("random", "random, full_songs (MediaEval 2015's 58), or a folder of id lists.")
    group_by_artist: bool = _option(True, "Keep all songs by an artist on one side of the split.")
    validation_fraction: float = _option(0.15, "Share of songs that select the model, in (0, 1).")
    test_fraction: float = _option(0.15, "Share of songs held out for the final table, in (0, 1).")
    calibration_fraction: float = _option(
        0.0, "Share of the validation songs that only calibrate prediction intervals, in [0, 1) (0: all do both)."
    )
    max_bad_fraction: float = _option(0.05, "Stop when more of the audio files cannot be read: a share in [0, 1].")
    min_seconds: float = _option(1.0, "Shorter audio files are reported as bad, in seconds.")
    cache_dir: str | None = _option(None, "Where log-mels are stored (default: in the datasets library's cache).")
    num_proc: int = _option(1, "Processes that decode audio and compute log-mels.")
    rendered_songs: int = _option(0, "Number of songs to render into data_root first, as a stand-in for DEAM.")
    rendered_seconds: float = _option(45.0, "Length of a rendered song, in seconds.")

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction", "calibration_fraction", "max_bad_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share in [0, 1], but is {getattr(self, name):g}.")
        self.exchanged_range()
        if self.prepared and self.exchanged_ids:
            raise ConfigError("exchanged_ids are decided when a collection is prepared: give them to prepare.")
        if self.labels == "dynamic" and self.label_weights != "none":
            raise ConfigError("label_weights need static labels: the curves come without deviations.")
        if not 0 <= self.min_seconds < math.inf:
            raise ConfigError(f"min_seconds must be a length, but is {self.min_seconds:g}.")
        if self.num_proc < 1:
            raise ConfigError(f"num_proc must be at least 1, but is {self.num_proc}.")

    def exchanged_range(self) -> tuple[int, int] | None:
        """`exchanged_ids` as first and last id."""
        if self.exchanged_ids is None:
            return None
        first, _, last = self.exchanged_ids.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ConfigError(f"exchanged_ids must be first-last, as 1-1000, but is {self.exchanged_ids!r}.")
        return int(first), int(last)


@dataclass
class AudioConfig:
    """The front end: from a waveform to what the model sees."""

    _argument_group_name = "audio"

    front_end: Literal["mel", "ast"] = _option(
        "mel", "mel, or AST's pretraining front end (Kaldi fbank, 1024 frames)."
    )
    seconds: float = _option(10.0, "Length of a window, in seconds ('mel' only).")
    sampling_rate: int = _option(16000, "Rate that audio is resampled to, in Hz ('mel' only).")
    n_fft: int = _option(1024, "FFT and Hann window length, in samples ('mel' only).")
    hop_length: int = _option(320, "Samples from one frame to the next ('mel' only).")
    num_mel_bins: int = _option(128, "Mel bands ('mel' only).")
    f_min: float = _option(50.0, "Lower edge of the lowest band, in Hz ('mel' only).")
    f_max: float = _option(8000.0, "Upper edge of the highest band, in Hz ('mel' only).")
    num_windows: int = _option(5, "Windows per song in evaluation, at least; longer songs have one every 15 s.")

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise ConfigError(f"seconds must lie in (0, 3600], but is {self.seconds:g}.")
        most = {"sampling_rate": 768_000, "n_fft": 2**16, "hop_length": 2**16, "num_mel_bins": 4096}
        most |= {"num_windows": 10_000}
        for name, bound in most.items():
            if not 1 <= getattr(self, name) <= bound:
                raise ConfigError(f"{name} must lie in 1 to {bound}, but is {getattr(self, name)}.")

    def feature_extractor_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `ASTEmotionFeatureExtractor`."""
        if self.front_end == "ast":
            return {"front_end": "ast", "num_windows": self.num_windows}
        max_length = 1 + round(self.seconds * self.sampling_rate) // self.hop_length
        settings = {name: value for name, value in vars(self).items() if name != "seconds"}
        return {**settings, "max_length": max_length}


@dataclass
class SpecAugmentConfig:
    """Masks over time and frequency, in training only (Park et al. 2019, without time warping)."""

    _argument_group_name = "spec_augment"

    time_masks: int = _option(1, "Masks along time per window.")
    time_mask_frames: int = _option(30, "Upper bound of a time mask, in frames.")
    frequency_masks: int = _option(2, "Masks along frequency per window.")
    frequency_mask_bins: int = _option(15, "Upper bound of a frequency mask, in mel bands.")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ConfigError(f"{name} must not be negative, but is {value}.")


@dataclass
class ModelConfig:
    """The Audio Spectrogram Transformer and its head."""

    _argument_group_name = "model"

    checkpoint: str | None = _option(
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "AST weights to start from: a folder or Hub id; null: random.",
    )
    checkpoint_revision: str = _option("main", "Branch, tag or commit of the checkpoint on the Hub.")
    loss: Literal["mse", "ccc", "mix"] = _option("mse", "Training loss: MSE, 1 - CCC, or their mean.")
    head_dropout: float = _option(0.3, "Dropout in the new head, in [0, 1).")
    attn_implementation: Literal["sdpa", "eager"] = _option("sdpa", "Attention kernel.")
    lora_rank: int = _option(0, "Rank of LoRA updates, trained in place of the backbone's weights (0: none).")
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"], metadata={"help": "Layers that LoRA updates, by their names."}
    )
    hidden_size: int = _option(768, "Width (only without a checkpoint).")
    num_hidden_layers: int = _option(12, "Layers (only without a checkpoint).")
    num_attention_heads: int = _option(12, "Attention heads (only without a checkpoint).")
    intermediate_size: int = _option(3072, "Width of the feed-forward layers (only without a checkpoint).")
    patch_size: int = _option(16, "Patch edge, in frames and bands (only without a checkpoint).")
    time_stride: int = _option(10, "Patch stride along time, in frames (only without a checkpoint).")
    frequency_stride: int = _option(10, "Patch stride along frequency, in bands (only without a checkpoint).")
    initializer_range: float = _option(0.02, "Standard deviation of random weights; narrow models need a larger one.")

    def __post_init__(self) -> None:
        if self.lora_rank < 0 or not self.lora_targets:
            raise ConfigError(f"lora_rank must not be negative, and lora_targets name layers: got {self.lora_rank}.")

    def architecture(self) -> dict[str, int | float]:
        """Keyword arguments of `ASTEmotionConfig` for a model with random weights."""
        names = [f.name for f in fields(self)]
        return {name: getattr(self, name) for name in names[names.index("hidden_size") :]}


Precision = Literal["bf16", "fp16", "fp32"]


def hardware_precision() -> Precision:
    """bf16 where the hardware computes in it, else fp16 (with loss scaling) on a GPU, else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "fp32"


def _greater_is_better(metric: str) -> bool:
    return not metric.lower().endswith(("loss", "rmse", "mae", "mse"))


@dataclass
class TrainingConfig(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for fine-tuning an AST, and the few settings that they lack."""

    _argument_group_name = "training"

    output_dir: str = _option("runs/finetune", "Where the model, its numbers and its plots go.")
    overwrite_output_dir: bool = _option(False, "Replace the run that output_dir already holds.")
    backbone_learning_rate: float = _option(3e-5, "Peak learning rate of the pretrained transformer.")
    head_learning_rate: float = _option(3e-4, "Peak learning rate of the new head.")
    unfreeze_at: float = _option(0.25, "Share of the training with a frozen backbone, in [0, 1].")
    backbone_warmup: float = _option(
        0.05, "Warm-up of the backbone once it is unfrozen: a share of the steps that remain, in [0, 1)."
    )
    freeze: Literal["first", "always"] = _option(
        "first",
        "first: until unfreeze_at; always: only the head learns, from stored embeddings.",
    )
    frozen_crops: int = _option(1, "freeze always: crops to embed per song; epochs take turns.")
    early_stopping_patience: int = _option(7, "Evaluations without improvement before stopping (0: never).")
    interval_level: float = _option(0.9, "Share of songs that the prediction intervals should cover, in (0, 1).")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = _option("auto", "Mixed precision; auto asks the hardware.")

    resume_from_checkpoint: str | None = _option(
        None, "Checkpoint to resume from; without a value, the last one in output_dir.", nargs="?", const="last"
    )
    seed: int = _option(42, "Seed of the split, the weights, the crops and the masks.")
    num_train_epochs: float = _option(30, "Passes over the training songs.")
    per_device_train_batch_size: int = _option(8, "Windows per device and step before accumulation.")
    per_device_eval_batch_size: int = _option(4, "Songs per device in evaluation, each as several windows.")
    gradient_accumulation_steps: int = _option(4, "Batches per optimizer step.")
    weight_decay: float = _option(1e-4, "AdamW's weight decay; biases and norms are exempt.")
    warmup_steps: float = _option(0.05, "Warm-up: steps, or below 1 a share of all steps.")
    lr_scheduler_type: str = _option("cosine", "Schedule of both learning rates.")
    max_grad_norm: float = _option(1.0, "Gradient clipping.")
    eval_strategy: str = _option("epoch", "When to evaluate on the validation songs.")
    save_strategy: str = _option("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = _option(2, "Checkpoints kept; the best one is always among them.")
    load_best_model_at_end: bool = _option(True, "Finish with the weights of the best validation score.")
    metric_for_best_model: str = _option("mean_ccc", "Validation score that selects the model.")
    greater_is_better: bool | None = _option(
        None, "Whether a larger metric_for_best_model is better (default: unless it is a loss, RMSE or MAE)."
    )
    remove_unused_columns: bool = _option(False, "Must stay false: the transform needs columns the model does not.")
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Label columns."})
    logging_steps: float = _option(10, "Optimizer steps between two log lines.")

    def __post_init__(self) -> None:
        if self.learning_rate != TrainingArguments.learning_rate:
            raise ConfigError(
                f"learning_rate={self.learning_rate} has no effect: there are two learning rates. "
                "Set backbone_learning_rate and head_learning_rate instead."
            )
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns must be false: log-mels become windows in a transform.")
        if self.dataloader_persistent_workers:
            raise ConfigError(
                "dataloader_persistent_workers must be false: with it, a seed no longer fixes the weights."
            )
        if not 0 <= self.unfreeze_at <= 1:
            raise ConfigError(f"unfreeze_at is a share of the training in [0, 1], but is {self.unfreeze_at}.")
        if not 0 <= self.backbone_warmup < 1:
            raise ConfigError(f"backbone_warmup is a share of the steps in [0, 1), but is {self.backbone_warmup:g}.")
        if self.freeze == "always":
            self.unfreeze_at = 1.0
        if self.enable_jit_checkpoint:
            raise ConfigError(
                "enable_jit_checkpoint would replace the handling of SIGTERM that is built in: the run saves a "
                "checkpoint, exits with 143 and resumes with --resume_from_checkpoint."
            )
        if self.frozen_crops < 1:
            raise ConfigError(f"frozen_crops must be at least 1, but is {self.frozen_crops}.")
        if not 0 < self.interval_level < 1:
            raise ConfigError(f"interval_level must lie in (0, 1), but is {self.interval_level:g}.")
        if self.greater_is_better is None:
            self.greater_is_better = _greater_is_better(self.metric_for_best_model)
        # TrainingArguments refuses bf16 on a machine without an accelerator unless told that this is meant.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if not (self.bf16 or self.fp16):
            if self.precision == "auto":
                launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch --mixed_precision
                asked = cast(Precision, launched) if launched in ("bf16", "fp16") else None
                self.precision = asked or hardware_precision()
            self.bf16, self.fp16 = self.precision == "bf16", self.precision == "fp16"
        self.precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
        if self.precision == "fp16" and self.use_cpu:
            raise ConfigError("precision fp16 needs a GPU for its loss scaling; on a CPU use bf16 or fp32.")
        if self.ddp_find_unused_parameters is None and self.unfreeze_at > 0:
            # Stock Trainer would turn this off with gradient checkpointing, and DDP wait for the frozen backbone.
            self.ddp_find_unused_parameters = True
        super().__post_init__()
        self.mixed_precision = "no" if self.precision == "fp32" else self.precision


@dataclass
class GanConfig:
    """The conditional mel GAN. What it shares with fine-tuning (seed, precision, clipping, ...) is in `training`."""

    _argument_group_name = "gan"

    gan_output_dir: str = _option("runs/gan", "Where the generator, its numbers and its samples go.")
    finetuned: str | None = _option(
        None, "Fine-tuned run whose train split it learns and whose model measures it (default: output_dir)."
    )
    gan_steps: int = _option(20000, "Optimizer steps of each network.")
    gan_batch_size: int = _option(32, "Windows per device and step before accumulation.")
    gan_channels: int = _option(16, "Feature maps at the finest scale.")
    latent_size: int = _option(64, "Size of the random vector that tells windows with the same emotion apart.")
    adversarial_loss: Literal["bce", "hinge"] = _option("bce", "Adversarial loss.")
    label_smoothing: float | None = _option(
        None, "One-sided smoothing of bce (default: 0.1): the target of real windows is 1 minus this."
    )
    emotion_weight: float = _option(10.0, "Weight of a frozen regressor's squared error on generated windows.")
    regressor_steps: int = _option(1000, "Optimizer steps of that regressor, on real training windows.")
    generator_learning_rate: float = _option(1e-3, "Peak learning rate of the generator.")
    discriminator_learning_rate: float = _option(1e-3, "Peak learning rate of the discriminator.")
    gan_beta1: float = _option(0.0, "AdamW's first beta, of both networks.")
    gan_beta2: float = _option(0.99, "AdamW's second beta, of both networks.")
    gan_warmup: float = _option(0.05, "Share of the steps during which both learning rates rise, in [0, 1).")
    ema_decay: float = _option(0.99, "Decay of the moving average of the generator's weights, which is what is kept.")
    reference_fraction: float = _option(0.2, "Share of training songs that only measure the GAN, in (0, 0.5].")
    reference_windows: int = _option(8, "Evenly spaced windows of each of these songs, at least 2.")
    measure_steps: int = _option(500, "Steps between measurements, each with a sample grid and a checkpoint.")

    def __post_init__(self) -> None:
        least = {"gan_steps": 1, "gan_channels": 1, "latent_size": 1, "measure_steps": 1}
        least |= {"gan_batch_size": 2, "reference_windows": 2, "emotion_weight": 0, "regressor_steps": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ConfigError(f"{name} must be at least {bound}, but is {getattr(self, name)}.")
        if self.adversarial_loss == "bce" and self.label_smoothing is None:
            self.label_smoothing = 0.1
        if self.adversarial_loss == "hinge" and self.label_smoothing is not None:
            raise ConfigError(
                f"label_smoothing={self.label_smoothing:g} has no effect: the hinge loss has no labels to smooth. "
                "Leave it out of flags and file, or choose adversarial_loss bce."
            )
        if not 0 <= (self.label_smoothing or 0) < 1:
            raise ConfigError(f"label_smoothing must lie in [0, 1), but is {self.label_smoothing:g}.")
        for name in ("gan_beta1", "gan_beta2", "gan_warmup", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), but is {getattr(self, name):g}.")
        if not 0 < self.reference_fraction <= 0.5:
            raise ConfigError(f"reference_fraction is a share in (0, 0.5], but is {self.reference_fraction:g}.")


@dataclass
class SyntheticConfig:
    """Synthetic windows, made by a GAN, among the training songs and nowhere else."""

    _argument_group_name = "synthetic"

    gan: str | None = _option(None, "Folder of a trained GAN whose windows join the training songs.")
    synthetic_fraction: float = _option(0.3, "Share of synthetic windows per epoch, in [0, 1).")
    confirm_with: str | None = _option(
        None, "Model fine-tuned on these training songs that must confirm the emotion of a window."
    )
    confirm_within: float = _option(0.5, "How far off it may be, on the 1-9 scale.")

    def __post_init__(self) -> None:
        if not 0 <= self.synthetic_fraction < 1:
            raise ConfigError(f"synthetic_fraction is a share in [0, 1), but is {self.synthetic_fraction:g}.")
        if not self.confirm_within > 0:
            raise ConfigError(f"confirm_within must be positive, but is {self.confirm_within:g}.")
        if self.confirm_with and not self.gan:
            raise ConfigError("confirm_with judges the windows of a GAN, but gan is not set.")


@dataclass
class Config:
    """The resolved configuration: one attribute per section."""

    data: DataConfig
    audio: AudioConfig
    spec_augment: SpecAugmentConfig
    model: ModelConfig
    training: TrainingConfig
    gan: GanConfig
    synthetic: SyntheticConfig

    def __post_init__(self) -> None:
        if self.model.loss != "mse" and self.training.per_device_train_batch_size < 2:
            raise ConfigError(
                f"loss {self.model.loss} needs a per_device_train_batch_size of 2 or more: CCC is a batch's."
            )

        if self.model.lora_rank and self.training.freeze == "always":
            raise ConfigError("lora_rank trains the backbone, which freeze always forbids: leave one of them out.")
        if self.data.label_weights != "none" and self.model.loss != "mse":
            raise ConfigError(f"label_weights weight squared errors, so they need loss mse, not {self.model.loss}.")
        if self.synthetic.gan and (self.data.labels == "dynamic" or self.data.label_weights != "none"):
            raise ConfigError(
                "synthetic windows have neither curves nor annotators: leave out dynamic labels and label_weights."
            )

        folders = {
            "output_dir": self.training.output_dir,
            "gan_output_dir": self.gan.gan_output_dir,
            "finetuned": self.gan.finetuned or "",
            "gan": self.synthetic.gan or "",
        }
        for ours, theirs in (("output_dir", "gan_output_dir"), ("gan_output_dir", "finetuned"), ("output_dir", "gan")):
            same = folders[theirs] and Path(folders[ours]).resolve() == Path(folders[theirs]).resolve()
            if same:
                raise ConfigError(
                    f"{ours} and {theirs} are the same folder, '{folders[ours]}': one would replace the other."
                )

    def save(self, folder: str | Path) -> Path:
        """Write `config.yaml` into `folder`; `parse_config` reads it back to the same configuration."""
        path = Path(folder) / run_folder.CONFIG
        path.write_text(yaml.safe_dump(self.plain(), sort_keys=False))
        return path

    def plain(self) -> dict[str, dict[str, Any]]:
        """The sections as YAML holds them."""
        return {name: _plain(getattr(self, name)) for name in SECTIONS}


SECTIONS: dict[str, type] = get_type_hints(Config)


# Follow from `precision` and from the machine: saved, they would tie the file to it.
_DERIVED = {"bf16", "fp16", "use_cpu", "dataloader_pin_memory", "gradient_checkpointing", "disable_tqdm", "debug"}
# Commands to one run: saved, they would let the file overwrite or resume where nobody asked for it.
_COMMANDS = {"overwrite_output_dir", "resume_from_checkpoint"}


def _plain(section: Any) -> dict[str, Any]:
    """A section as YAML can hold it: no enums, no tokens; of TrainingArguments' own only what is not the default."""
    ours = {f.name for f in fields(section) if f.name in type(section).__annotations__}
    plain = {}
    for f in fields(section):
        value = getattr(section, f.name)
        if (
            not f.init
            or f.name.endswith("token")
            or f.name in _DERIVED | _COMMANDS
            or (f.name == "greater_is_better" and value == _greater_is_better(section.metric_for_best_model))
            or (f.name not in ours and value == _default(f))
        ):
            continue
        value = value.value if isinstance(value, Enum) else value
        if isinstance(value, dict | list | str | int | float | None):
            plain[f.name] = value
    return plain


def _default(f: Any) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default
