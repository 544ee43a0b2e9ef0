"""A YAML file and the command line on top of it -> `Config`.

A value in the YAML file passes the same gate as a flag: it is checked by the flag's own type, so `1e-4`, which YAML
reads as a string, is the number that it looks like, and an unknown key or a wrong type stops with the key, the file
and the nearest valid name.
"""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..errors import brief, nearest
from .settings import SECTIONS, Config, ConfigError
from .yaml_files import read_yaml

FOREIGN = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError, ImportError, RuntimeError)
"""What `TrainingArguments` raises over values that it cannot use, packages that it lacks, and files that it opens."""


class _Parser(HfArgumentParser):
    """Flags for all sections, whose errors are exceptions, so that they can name the YAML file they came from."""

    def error(self, message: str):
        raise ConfigError(message)


def _nearest(name: str, names: list[str]) -> str:
    close = nearest([name], names, cutoff=0.5)
    return f"; did you mean '{close}'?" if close else f"; valid names: {', '.join(sorted(names))}"


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        raise ConfigError(f"no configuration file at '{path}'; recipes/configs holds some to start from")
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
            raise ConfigError(f"{path}: unknown section '{brief(section)}'{_nearest(brief(section), list(SECTIONS))}")
        if not isinstance(values, dict | None):
            raise ConfigError(f"{path}: section '{section}' must hold 'key: value' lines, got {brief(repr(values))}")
        valid = {f.name: name for name, kind in SECTIONS.items() for f in fields(kind) if f.init}
        for key in values or {}:
            if key not in valid:
                names = [f.name for f in fields(SECTIONS[section]) if f.init]
                raise ConfigError(f"{path}: unknown key '{section}.{brief(key)}'{_nearest(brief(key), names)}")
            if valid[key] != section:
                raise ConfigError(f"{path}: key '{section}.{key}' belongs into section '{valid[key]}'")
    return {section: values or {} for section, values in content.items()}


def _as_flags(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value, default=str)]
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _yaml_defaults(parser: _Parser, path: Path) -> dict[str, Any]:
    """The file's values, each passed through its flag's type."""
    defaults = {}
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


def parse_config(arguments: list[str], description: str | None = None) -> Config:
    """Resolve `CONFIG.yaml [--flag value ...]` into a `Config`; flags win over the file, the file over the defaults.

    Args:
        arguments: the command line without the program's name. The first positional argument is the YAML file.
        description: what `--help` says at the top.

    Raises:
        ConfigError: for a missing or malformed file, an unknown key or flag (naming the nearest valid one) or a value
            of the wrong type.
    """
    usage = "%(prog)s CONFIG.yaml [--flag value ...]"
    kinds = list(SECTIONS.values())
    parser = _Parser(kinds, description=description, usage=usage, allow_abbrev=False)
    parser.add_argument("config", nargs="?", help="YAML file with a section per group of flags below")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        names = [f.name for kind in SECTIONS.values() for f in fields(kind) if f.init]
        flag = unknown[0].split("=")[0]
        raise ConfigError(f"unknown argument '{flag}'{_nearest(flag.lstrip('-').replace('-', '_'), names)}")
    if known.config is not None:
        helpless = _Parser(kinds, add_help=False, allow_abbrev=False)  # --help in a file is a value
        parser.set_defaults(**_yaml_defaults(helpless, Path(known.config)))
    try:
        *sections, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ConfigError as error:
        raise ConfigError(brief(error, 1000)) from error
    except FOREIGN as error:
        raise ConfigError(f"{known.config or 'flags'}: {brief(error, 1000)}") from error
    return Config(*sections)
