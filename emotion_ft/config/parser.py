"""A YAML file and the command line on top of it -> `Config`.

A value in the YAML file passes the same gate as a flag: it is checked by the flag's own type, so `1e-4`, which YAML
reads as a string, is the number that it looks like, and an unknown key or a wrong type stops with the key, the file
and the nearest valid name.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..errors import brief, nearest
from ..shipped import configuration, configurations
from .help import help_text
from .settings import SECTIONS, Config, ConfigError, TrainingConfig
from .yaml_files import read_yaml

FOREIGN = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError, ImportError, RuntimeError)
"""What `TrainingArguments` raises over values that it cannot use, packages that it lacks, and files that it opens."""
KINDS: list[Any] = sorted(SECTIONS.values(), key=lambda kind: kind is TrainingConfig)
"""The sections, the training's last: to check it takes seconds of imports, and an error in another comes first."""
WITHOUT_EFFECT = {"learning_rate", "remove_unused_columns", "dataloader_persistent_workers", "hub_strategy"}
WITHOUT_EFFECT |= {"hub_always_push", "do_train", "do_eval", "do_predict"}
"""Arguments of `TrainingArguments` that are refused or do nothing here: never suggested."""


class _Parser(HfArgumentParser):
    """Flags for all sections, whose errors are exceptions, so that they can name the YAML file they came from."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _suggestion(name: str, names: list[str]) -> str:
    close = nearest([name], names, cutoff=0.5)
    return f"; did you mean '{close}'?" if close else f"; valid names: {', '.join(sorted(names))}"


def _read_yaml(name: str) -> dict[str, dict[str, Any]]:
    path = configuration(name)
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        there = ", ".join(configurations())
        raise ConfigError(f"no configuration file at '{brief(path, 500)}'; shipped ones to start from: {there}")
    try:
        content = read_yaml(path) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections {', '.join(SECTIONS)}, got a {type(content).__name__}")
    for section, values in content.items():
        if section not in SECTIONS:
            raise ConfigError(
                f"{path}: unknown section '{brief(section)}'{_suggestion(brief(section), list(SECTIONS))}"
            )
        if not isinstance(values, dict | None):
            raise ConfigError(f"{path}: section '{section}' must hold 'key: value' lines, got {brief(repr(values))}")
        valid = {f.name: name for name, kind in SECTIONS.items() for f in fields(kind) if f.init}
        for key in values or {}:
            if key not in valid:
                hint = _suggestion(brief(key), _names(SECTIONS[section]))
                raise ConfigError(f"{path}: unknown key '{section}.{brief(key)}'{hint}")
            if valid[key] != section:
                raise ConfigError(f"{path}: key '{section}.{key}' belongs in section '{valid[key]}'")
    return {section: values or {} for section, values in content.items()}


def _as_flags(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value, default=str)]
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _yaml_defaults(parser: _Parser, path: str) -> dict[str, Any]:
    """The file's values, each passed through its flag's type."""
    defaults: dict[str, Any] = {}
    for section, values in _read_yaml(path).items():
        types = get_type_hints(SECTIONS[section])
        for key, value in values.items():
            if value is None:
                if type(None) not in get_args(types[key]):
                    raise ConfigError(f"{path}: key '{section}.{key}' must not be null")
                defaults[key] = None
                continue
            got = f"{path}: key '{section}.{key}' got {brief(repr(value))}"
            if isinstance(value, list) and "list" not in str(types[key]):
                raise ConfigError(f"{got}: expected one value, not a list")
            if isinstance(value, list) and not value:
                defaults[key] = value
                continue
            try:
                defaults[key] = getattr(parser.parse_args(_as_flags(key, value)), key)
            except (ConfigError, TypeError, RecursionError) as error:  # JSON of odd keys, and of odd depths
                raise ConfigError(f"{got}: {brief(error, 1000)}") from error
    return defaults


def parse_config(
    arguments: list[str],
    description: str | None = None,
    sections: Sequence[str] = tuple(SECTIONS),
    own: argparse.ArgumentParser | None = None,
) -> Config:
    """Resolve `CONFIG [--flag value ...]` into a `Config`; flags win over the file, the file over the defaults.

    Args:
        arguments: the command line without the program's name. The first positional argument is a YAML file, or the
            bare name of a shipped configuration.
        description: what `--help` says at the top.
        sections: those whose flags `--help` shows.
        own: the command's own flags, which have been parsed already; a typo may have meant one of them.

    Raises:
        ConfigError: for a missing or malformed file, an unknown key or flag (naming the nearest valid one) or a value
            of the wrong type.
        SystemExit: after `--help` and `--help_all`.
    """
    usage = "%(prog)s CONFIG [--flag value ...]"
    parser = _Parser(KINDS, description=description, usage=usage, allow_abbrev=False, add_help=False)
    parser.add_argument("config", nargs="?", help="YAML file, or the bare name of a shipped configuration")
    if {"-h", "--help"} & {*arguments}:
        print(help_text(parser.prog, description or "", sections))
        raise SystemExit
    if "--help_all" in arguments:
        parser.print_help()
        raise SystemExit
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=")[0]
        names = [name for kind in KINDS for name in _names(kind)] + (_own_names(own) if own else [])
        raise ConfigError(f"unknown argument '{flag}'{_suggestion(flag.lstrip('-').replace('-', '_'), names)}")
    if known.config is not None:
        parser.set_defaults(**_yaml_defaults(_Parser(KINDS, add_help=False, allow_abbrev=False), known.config))
    try:
        *parts, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ConfigError as error:
        raise ConfigError(brief(error, 1000)) from error
    except FOREIGN as error:
        raise ConfigError(f"{known.config or 'flags'}: {brief(error, 1000)}") from error
    built = {type(part): part for part in parts}
    return Config(**{name: built[kind] for name, kind in SECTIONS.items()})


def _names(kind: type) -> list[str]:
    """The settings of a section that have an effect, for suggestions."""
    return [f.name for f in fields(kind) if f.init and f.name not in WITHOUT_EFFECT]


def _own_names(parser: argparse.ArgumentParser) -> list[str]:
    return [option.lstrip("-") for action in parser._actions for option in action.option_strings]
