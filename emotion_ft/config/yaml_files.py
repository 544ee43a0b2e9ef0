"""Reading YAML settings into plain values, in bounded time and memory whatever the file contains."""

import errno
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import brief

MAX_BYTES = 1 << 16
"""Our own largest file has 3 KB."""
MAX_DEPTH = 16
"""Levels of lists and mappings inside each other; our own files have three."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without what a settings file has no use for: repeated keys, aliases and deep nesting.

    By default, a repeated key silently replaces the first one, and a repeated section all of the first; aliases can
    turn a small file into a huge value.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _error("aliases are not supported, write the value out", self.peek_event())
        if self.depth >= MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep", self.peek_event())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _error("a list or a mapping cannot be a key", key_node)
            if key in seen:
                raise _error(f"'{brief(key)}' is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        number = self.construct_yaml_int(node)
        if number.bit_length() > 63:
            raise _error("an integer of more than 64 bits", node)
        return number

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = self.construct_scalar(node)
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
            raise _error("a NUL or half a character in a string", node)
        return text


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def _error(problem: str, at: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)  # type: ignore[arg-type]


def read_yaml(path: Path) -> Any:
    """The value in a YAML file: None, strings, numbers, booleans, dates, and lists and mappings of them.

    Integers have at most 64 bits; strings contain no NUL and can be encoded.

    Raises:
        OSError: if the file cannot be read.
        yaml.YAMLError: if it is not UTF-8 or not YAML, has more than `MAX_BYTES`, is nested deeper than `MAX_DEPTH`,
            gives a key twice, or uses an alias; the message is one line that says where.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))  # a pipe might never end
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"more than {MAX_BYTES} bytes, too large for a settings file")
    try:
        return yaml.load(data.decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise yaml.YAMLError(f"line {line}: not UTF-8; save the file in that encoding") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise yaml.YAMLError(f"{where}{brief(error.problem or error.context)}") from error
    except yaml.reader.ReaderError as error:
        raise yaml.YAMLError(f"character {error.position + 1}: {error.reason}") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # Errors that escape PyYAML's constructors: 2001-99-99, !!bool maybe, a sexagesimal of a hundred digits.
        raise yaml.YAMLError(f"a value that cannot be read: {brief(error)}") from error
