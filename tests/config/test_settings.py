from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainingArguments

from emotion_ft.config.parser import parse_config
from emotion_ft.config.settings import SECTIONS, AudioConfig, ConfigError, hardware_precision

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


class TestGivenNumbers:
    """`deam.yaml` and the defaults of the dataclasses are one and the same recipe."""

    @pytest.fixture(scope="class", params=[[str(CONFIGS / "deam.yaml")], []], ids=["deam.yaml", "defaults"])
    def config(self, request):
        return parse_config(request.param)

    def test_audio(self, config):
        audio = config.audio
        assert (audio.seconds, audio.sampling_rate, audio.n_fft, audio.hop_length) == (10, 16000, 1024, 320)
        assert (audio.num_mel_bins, audio.f_min, audio.f_max) == (128, 50, 8000)
        assert audio.feature_extractor_kwargs()["max_length"] == 501

    def test_spec_augment_and_model(self, config):
        masks = config.spec_augment
        assert (masks.time_masks, masks.time_mask_frames) == (1, 30)
        assert (masks.frequency_masks, masks.frequency_mask_bins) == (2, 15)
        assert config.model.checkpoint == "MIT/ast-finetuned-audioset-10-10-0.4593"
        assert config.model.head_dropout == 0.3

    def test_training(self, config):
        training = config.training
        assert isinstance(training, TrainingArguments)
        assert (training.backbone_learning_rate, training.head_learning_rate) == (3e-5, 3e-4)
        assert (training.weight_decay, training.adam_beta1, training.adam_beta2) == (1e-4, 0.9, 0.999)
        assert (training.unfreeze_at, training.warmup_steps, training.lr_scheduler_type) == (0.25, 0.05, "cosine")
        assert (training.max_grad_norm, training.gradient_accumulation_steps) == (1.0, 4)
        assert (training.early_stopping_patience, training.seed) == (7, 42)
        assert training.precision == hardware_precision()


class TestResolution:
    def test_flags_win_over_the_file_and_the_file_over_defaults(self, config_file):
        path = config_file("training: {seed: 7, weight_decay: 0.5}\naudio: {seconds: 5}")
        config = parse_config([path, "--seed", "8", "--no_group_by_artist", "--front-end=ast"])
        assert (config.training.seed, config.training.weight_decay, config.training.unfreeze_at) == (8, 0.5, 0.25)
        assert (config.audio.seconds, config.audio.front_end, config.data.group_by_artist) == (5.0, "ast", False)

    def test_scientific_notation_is_a_number(self, config_file):
        config = parse_config([config_file("training: {head_learning_rate: 1e-4}")])
        assert config.training.head_learning_rate == 1e-4

    def test_null_where_it_has_a_meaning(self, config_file):
        assert parse_config([config_file("model: {checkpoint: null}")]).model.checkpoint is None

    def test_every_flag_belongs_to_one_section(self):
        names = [f.name for kind in SECTIONS.values() for f in fields(kind)]
        assert len(names) == len(set(names))

    def test_resume_without_a_value_means_the_last_checkpoint(self):
        assert parse_config(["--resume_from_checkpoint"]).training.resume_from_checkpoint == "last"
        assert parse_config([]).training.resume_from_checkpoint is None

    @pytest.mark.parametrize("name", ["deam.yaml", "deam_small.yaml", "toy.yaml"])
    def test_saved_configuration_reads_back(self, name, tmp_path):
        config = parse_config(
            [str(CONFIGS / name), "--head_learning_rate", "1e-5", "--lr_scheduler_kwargs", '{"a": 1}']
        )
        again = parse_config([str(config.save(tmp_path))])
        for section in SECTIONS:
            for f in fields(SECTIONS[section]):
                if f.init:
                    assert getattr(getattr(config, section), f.name) == getattr(getattr(again, section), f.name), (
                        f.name
                    )

    def test_saved_configuration_holds_no_token_and_no_machine(self, tmp_path):
        path = parse_config(["--hub_token", "hf_secret"]).save(tmp_path)
        assert "secret" not in path.read_text()
        assert not {"use_cpu", "bf16", "fp16"} & set(yaml.safe_load(path.read_text())["training"])

    def test_saved_configuration_holds_no_command_to_one_run(self, tmp_path):
        config = parse_config(
            ["--overwrite_output_dir", "--resume_from_checkpoint", "--gradient_checkpointing", "true"]
        )
        again = parse_config([str(config.save(tmp_path))]).training
        assert not again.overwrite_output_dir and again.resume_from_checkpoint is None
        assert again.gradient_checkpointing

    def test_frozen_backbone_and_ddp(self):
        assert parse_config(["--gradient_checkpointing", "true"]).training.ddp_find_unused_parameters is True
        assert parse_config(["--unfreeze_at", "0"]).training.ddp_find_unused_parameters is None

    def test_lists_come_from_files_and_flags(self, config_file):
        path = config_file("data: {collections: [a.yaml, b.yaml], exchanged_ids: 2-1000}")
        assert parse_config([path]).data.collections == ["a.yaml", "b.yaml"]
        assert parse_config([path]).data.exchanged_range() == (2, 1000)
        assert parse_config([path, "--collections", "c.yaml"]).data.collections == ["c.yaml"]

    def test_ast_front_end_ignores_the_mel_settings(self):
        audio = AudioConfig(front_end="ast", seconds=3.0, num_windows=2)
        assert audio.feature_extractor_kwargs() == {"front_end": "ast", "num_windows": 2}


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("training: {hed_learning_rate: 1}", r"config.yaml: unknown key 'training.hed_learning_rate'.*'head_lear"),
            ("trainig: {seed: 1}", r"config.yaml: unknown section 'trainig'; did you mean 'training'"),
            ("data: {seed: 1}", r"'data.seed' belongs in section 'training'"),
            ("training: {seed: high}", r"config.yaml: key 'training.seed' got 'high': .*invalid int"),
            ("training: {num_train_epochs: [1, 2]}", r"'training.num_train_epochs' got \[1, 2\]"),
            ("audio: {front_end: mfcc}", r"'audio.front_end' got 'mfcc'.*'mel', 'ast'"),
            ("data: {group_by_artist: 3}", r"'data.group_by_artist' got 3"),
            ("training: {seed: null}", r"'training.seed' must not be null"),
            ("training: 5", r"section 'training' must hold 'key: value' lines, got 5"),
            ("- a\n- b", r"expected sections data, audio"),
            ("a: [", r"config.yaml is not valid YAML"),
            ("training: {eval_strategy: sometimes}", r"config.yaml: sometimes is not a valid IntervalStrategy"),
            ("training: {learning_rate: 1e-3}", r"two learning rates. Set backbone_learning_rate and head"),
            ("training: {remove_unused_columns: true}", r"remove_unused_columns must be false"),
            ("training: {dataloader_persistent_workers: true}", r"persistent_workers must be false"),
            ("data: {max_bad_fraction: 5}", r"max_bad_fraction is a share in \[0, 1\], but is 5"),
            ("data: {num_proc: 0}", r"num_proc must be at least 1"),
            ("model: {loss: ccc}\ntraining: {per_device_train_batch_size: 1}", r"loss ccc needs a per_device"),
            ("training: {seed: 1}\ntraining: {weight_decay: 1}", r"'training' is given twice"),
            ("spec_augment: {time_masks: -1}", r"time_masks must not be negative, but is -1"),
            ("data: {exchanged_ids: 1000}", r"exchanged_ids must be first-last, as 1-1000, but is '1000'"),
            ("data: {exchanged_ids: 9-2}", r"exchanged_ids must be first-last"),
            ("data: {labels: dynamic, label_weights: agreement}", r"label_weights need static labels"),
            ("data: {label_weights: agreement}\nmodel: {loss: ccc}", r"label_weights.* need loss mse, not ccc"),
            ("data: {labels: dynamic}\nsynthetic: {gan: somewhere}", r"synthetic windows have neither curves nor"),
            ("training: {interval_level: 1}", r"interval_level must lie in \(0, 1\), but is 1"),
            ("training: {unfreeze_at: 25}", r"unfreeze_at is a share of the training in \[0, 1\], but is 25"),
        ],
    )
    def test_file(self, config_file, text, message):
        with pytest.raises(ConfigError, match=message):
            parse_config([config_file(text)])

    def test_missing_file(self):
        with pytest.raises(ConfigError, match=r"no configuration file at 'nowhere.yaml'"):
            parse_config(["nowhere.yaml"])

    def test_unknown_flag(self):
        with pytest.raises(
            ConfigError, match=r"unknown argument '--head-learning-rte'; did you mean 'head_learning_rate'"
        ):
            parse_config(["--head-learning-rte", "1"])

    def test_wrong_type_of_a_flag(self):
        with pytest.raises(ConfigError, match=r"argument --seed.*invalid int value: 'x'"):
            parse_config(["--seed", "x"])


class TestPrecision:
    @pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 works on an accelerator")
    def test_fp16_is_refused_on_a_cpu(self):
        with pytest.raises(ConfigError, match="fp16 needs a GPU"):
            parse_config(["--precision", "fp16"])

    def test_can_be_overridden(self):
        training = parse_config(["--precision", "fp32"]).training
        assert (training.precision, training.bf16, training.fp16) == ("fp32", False, False)

    def test_stock_flag_is_understood(self):
        training = parse_config(["--bf16"]).training
        assert (training.precision, training.bf16) == ("bf16", True)

    def test_accelerate_launch_is_asked_before_the_hardware_but_after_the_configuration(self, monkeypatch):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        monkeypatch.setattr("emotion_ft.config.settings.hardware_precision", lambda: "fp32")
        for flags, expected in (([], "bf16"), (["--precision", "fp32"], "fp32")):
            training = parse_config(flags).training
            assert training.precision == expected
            assert training.mixed_precision == {"fp32": "no"}.get(expected, expected)

    @pytest.mark.parametrize(
        ("cuda", "gpu_bf16", "cpu", "expected"),
        [
            (True, True, {}, "bf16"),
            (True, False, {"amx_bf16": True}, "fp16"),
            (False, False, {"amx_bf16": True}, "bf16"),
            (False, False, {"avx512_bf16": True}, "bf16"),
            (False, False, {}, "fp32"),
        ],
    )
    def test_asks_the_hardware(self, monkeypatch, cuda, gpu_bf16, cpu, expected):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_bf16)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
        assert hardware_precision() == expected
