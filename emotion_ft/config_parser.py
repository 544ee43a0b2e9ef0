"""A YAML file and the command line on top of it -> `Config`.

A value in the YAML file passes the same gate as a flag: it is checked by the flag's own type, so `1e-4`, which YAML
reads as a string, is the number that it looks like, and an unknown key or a wrong type stops with the key, the file
and the nearest valid name.
"""

import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from .config import SECTIONS, Config, ConfigError


class _UniqueKeys(yaml.SafeLoader):
    """Bare YAML lets a repeated key replace the first one, and a second section all of the first."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise yaml.YAMLError(f"'{repeated[0]}' stands there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


class _Parser(HfArgumentParser):
    """Flags for all sections, whose errors are exceptions, so that they can name the YAML file they came from."""

    def error(self, message: str):
        raise ConfigError(message)


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid names: {', '.join(sorted(names))}"


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"no configuration file at '{path}'; recipes/configs holds some to start from")
    try:
        content = yaml.load(path.read_text(), Loader=_UniqueKeys) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections {', '.join(SECTIONS)}, got a {type(content).__name__}")
    for section, values in content.items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: unknown section '{section}'{_nearest(str(section), list(SECTIONS))}")
        if not isinstance(values, dict | None):
            raise ConfigError(f"{path}: section '{section}' must hold 'key: value' lines, got {values!r}")
        valid = {f.name: name for name, kind in SECTIONS.items() for f in fields(kind) if f.init}
        for key in values or {}:
            if key not in valid:
                names = [f.name for f in fields(SECTIONS[section]) if f.init]
                raise ConfigError(f"{path}: unknown key '{section}.{key}'{_nearest(str(key), names)}")
            if valid[key] != section:
                raise ConfigError(f"{path}: key '{section}.{key}' belongs into section '{valid[key]}'")
    return {section: values or {} for section, values in content.items()}


def _as_flags(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value)]
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
            if isinstance(value, list) and not value:
                defaults[key] = value
                continue
            if isinstance(value, list) and "list" not in str(types[key]):
                raise ConfigError(f"{path}: key '{section}.{key}' got {value!r}: expected one value, not a list")
            try:
                defaults[key] = getattr(parser.parse_args(_as_flags(key, value)), key)
            except ConfigError as error:
                raise ConfigError(f"{path}: key '{section}.{key}' got {value!r}: {error}") from error
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
    parser = _Parser(list(SECTIONS.values()), description=description, usage=usage, allow_abbrev=False)
    parser.add_argument("config", nargs="?", help="YAML file with a section per group of flags below")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        names = [f.name for kind in SECTIONS.values() for f in fields(kind) if f.init]
        flag = unknown[0].split("=")[0]
        raise ConfigError(f"unknown argument '{flag}'{_nearest(flag.lstrip('-').replace('-', '_'), names)}")
    if known.config is not None:
        parser.set_defaults(**_yaml_defaults(parser, Path(known.config)))
    try:
        *sections, _ = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ConfigError:
        raise
    except ValueError as error:  # TrainingArguments checks values and their combinations
        raise ConfigError(f"{known.config or 'flags'}: {error}") from error
    return Config(*sections)
