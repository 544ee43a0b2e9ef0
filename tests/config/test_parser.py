"""The command line: what is suggested, what `--help` shows, and configurations by their bare names."""

import pytest

from emotion_ft.config.help import COMMON, STOCK, help_text
from emotion_ft.config.parser import WITHOUT_EFFECT, parse_config
from emotion_ft.config.settings import SECTIONS, ConfigError
from emotion_ft.shipped import configurations


@pytest.mark.parametrize("name", ["deam", "deam_small", "toy"])
def test_a_shipped_configuration_is_known_by_its_bare_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse_config([name]) == parse_config([str(configurations()[name])])


def test_a_file_of_that_name_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").write_text("training: {seed: 7}\n")
    assert parse_config(["toy"]).training.seed == 7


def test_a_configuration_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ConfigError, match="'deem'; shipped ones to start from: deam, deam_small, pmemo, toy"):
        parse_config(["deem"])


@pytest.mark.parametrize("typo", ["learning_rte", "hub_strateg", "remove_unused_column"])
def test_a_flag_without_effect_is_never_suggested(typo):
    with pytest.raises(ConfigError) as raised:
        parse_config([f"--{typo}", "1"])
    assert not any(f"'{name}'" in str(raised.value) for name in WITHOUT_EFFECT)


def test_help_shows_what_people_use_with_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_config(["--help"], "What it does.", ("data", "training"))
    shown = capsys.readouterr().out
    assert not ended.value.code and "What it does." in shown and "\ngan:" not in shown
    assert "--test_fraction X" in shown and "(default: 0.15)" in shown
    assert "--learning_rate" not in shown and "--adafactor" not in shown and "--data-root" not in shown


def test_help_all_shows_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help_all"])
    shown = capsys.readouterr().out
    assert "--gan_beta1" in shown and "--torch_compile" in shown and len(shown.splitlines()) > 300


def test_what_help_shows_exists_and_says_something():
    for section, names in COMMON.items():
        settings = {f.name: f for f in SECTIONS[section].__dataclass_fields__.values()}
        for name in names.split():
            assert settings[name].metadata.get("help") or STOCK[name], name
    text = help_text("emotion-ft finetune", "one line", SECTIONS)
    assert max(map(len, text.splitlines())) <= 119


def test_an_error_in_another_section_comes_before_the_trainings(monkeypatch):
    """Checking the training section imports half of transformers."""
    with pytest.raises(ConfigError, match="synthetic_fraction"):
        parse_config(["--synthetic_fraction", "2", "--unfreeze_at", "9"])
