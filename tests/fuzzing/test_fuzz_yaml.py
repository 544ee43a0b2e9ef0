"""Damaged and absurd YAML files: either plain values and a `Config`, or a `YAMLError` and a `ConfigError`."""

import os
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from fuzz import bounds, damaged, fuzz, one_line
from hypothesis import strategies as st

from emotion_ft.config.parser import parse_config
from emotion_ft.config.settings import SECTIONS, Config, ConfigError
from emotion_ft.config.yaml_files import MAX_BYTES, MAX_DEPTH, read_yaml
from emotion_ft.data.collections.csv_collection import load_collection_file
from emotion_ft.data.files import AnnotationError

pytestmark = pytest.mark.stress

CONFIGS = [path.read_text()[:600] for path in sorted((Path(__file__).parents[2] / "recipes" / "configs").iterdir())]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
PARTS = [
    *("[", "]", "{", "}", ": ", "- ", "? ", "\n", "\n  ", "\t", ",", "#"),
    *("|\n", ">\n", "'", '"', "%YAML 1.1\n", "---\n", "...\n"),
    *("&a ", "*a", "<<: ", "<<: *a", "!!int ", "!!float ", "!!bool ", "!!timestamp "),
    *("!!binary ", "!!map ", "!!set ", "!!omap "),
    *("!!pairs ", "!!python/object/apply:os.system ", "!!python/name:os.system ", "!x ", "!<tag:x> ", "@"),
    *("`", "\0", "\ufeff"),
    *("data", "training", "seed", "audio", "seconds", "0", "-1", "1e400"),
    *(".nan", ".inf", "0b" + "1" * 200, "9" * 5000, "1:30"),
    *("1" + ":59" * 300, "1:" * 200 + "1.5", "2001-99-99", "2001-01-01", "~", "null", "yes"),
    *("'\\0'", '"\\0"', '"\\ud800"', "٣"),
    *("[" * 500, "- " * 500, "{a: " * 500, "a" * 3000, "💥", "\u2028", "\x1b[31m"),
    *("--help", "../../x", "key: 1\n", "key: 1\n"),
]  # fmt: skip
SCALARS = (str, int, float, bool, type(None), bytes)


def is_plain(value, depth=0):
    assert depth <= MAX_DEPTH
    if isinstance(value, dict):
        return all(is_plain(part, depth + 1) for pair in value.items() for part in pair)
    if isinstance(value, list | set | tuple):
        return all(is_plain(part, depth + 1) for part in value)
    if isinstance(value, str):
        return "\0" not in value and len(value.encode()) <= MAX_BYTES
    return isinstance(value, SCALARS) or type(value).__module__ == "datetime"


def test_values(tmp_path):
    path = tmp_path / "config.yaml"

    def check(data):
        path.write_bytes(data)
        try:
            assert is_plain(read_yaml(path))
        except yaml.YAMLError as error:
            one_line(str(error), longest=300)

    joined = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
    spliced = st.builds(
        lambda text, part, at: text[: int(at * len(text))] + part + text[int(at * len(text)) :],
        st.sampled_from(CONFIGS),
        joined,
        st.floats(0, 1),
    )
    fuzz(
        "YAML, parts", 1800, check, st.one_of(joined, spliced).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    fuzz("YAML, damaged configurations", 900, check, damaged([text.encode() for text in CONFIGS]))


@pytest.fixture
def environment():
    """Restored afterwards, as some of Trainer's arguments change it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_configurations(tmp_path, environment):
    """Every key with every value, one or two at a time, some under the wrong section."""
    path = tmp_path / "config.yaml"
    keys = [(section, f.name) for section, kind in SECTIONS.items() for f in fields(kind) if f.init]
    keys += [("data", "seed"), ("nosuch", "seed"), ("training", "x" * 3000), (1, 2), ("audio", None)]
    odd = [
        *(None, [], {}, "", -1, 0, 1e400, float("nan"), True, [1, 2], {"a": 1}),
        *({1: 2}, 2**63 - 1, "x", "{", "['1'", [None]),
        *([[1]], b"hi", {"a"}, "../../x", '{"a": 1}', "1" + "0" * 5000, "@x", "%s"),
        *("%(x)s", "a" * 3000, "1-2", "9-1", "²-³"),
        *(["a", "--help"], ["-h"], ["a", "--seed", "3"], "--seed 3", '{"a":' * 9000, "[" * 9000, "auto"),
        *("no", "1e-4", 0.5, 3),
    ]  # fmt: skip

    def check(pairs, flow):
        sections = {}
        for (section, key), value in pairs:
            sections.setdefault(section, {})[key] = value
        path.write_text(yaml.safe_dump(sections, default_flow_style=flow))
        try:
            assert isinstance(parse_config([str(path)]), Config)
        except ConfigError as error:
            one_line(str(error), longest=5000)  # it may name every valid key

    pairs = st.lists(st.tuples(st.sampled_from(keys), st.sampled_from(odd)), min_size=1, max_size=2)
    fuzz("YAML, configurations", 800, check, pairs, st.booleans())


BOMBS = {
    "billion laughs": (LAUGHS, "line 2, column 8: aliases are not supported"),
    "an alias of itself": ("data: &a [*a]", "aliases are not supported"),
    "deep flow": ("[" * 60_000, "line 1, column 17: nested more than 16 levels deep"),
    "deep block": ("- " * 30_000, "nested more than 16 levels deep"),
    "deep keys": ("? " * 30_000, "nested more than 16 levels deep"),
    "deep mappings": ("{a: " * 15_000, "nested more than 16 levels deep"),
    "a large file": ("#" * (MAX_BYTES + 1), "more than 65536 bytes, too large for a settings file"),
    "a decimal number": (f"data: {'9' * 60_000}", "a value that cannot be read: Exceeds the limit"),
    "a binary number": (f"data: 0b{'1' * 60_000}", "an integer of more than 64 bits"),
    "a sexagesimal number": (f"data: 1{':59' * 20_000}", "an integer of more than 64 bits"),
    "a sexagesimal fraction": (f"data: {'1:' * 300}1.5", "a value that cannot be read"),
    "no day": ("data: 2001-99-99", "a value that cannot be read: month must be in 1..12"),
    "half a character": ('data: "\\ud800"', "a NUL or half a character in a string"),
    "a NUL in a string": ('data: "\\0"', "a NUL or half a character in a string"),
    "a NUL": ("data: \0", "character 7: special characters are not allowed"),
    "code": ("!!python/object/apply:os.system [touch /tmp/x]", "could not determine a constructor for the tag"),
    "a key twice": ("data: {num_proc: 1, num_proc: 2}", "line 1, column 21: 'num_proc' is given twice"),
    "a list as a key": ("{[a]: 1}", "line 1, column 2: a list or a mapping cannot be a key"),
    "many keys": ("{" + ", ".join(f"k{number}" for number in range(8000)) + "}", "unknown section 'k0'"),
    "a long key": ("a" * 60_000 + ": 1", "column 60001: mapping values are not allowed here"),
    "a long quoted key": (f"? '{'a' * 60_000}'\n: 1", "unknown section 'aaa"),
    "not UTF-8": (b"data: \n  split: Zo\xeb", "line 2: not UTF-8; save the file in that encoding"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name, tmp_path):
    content, said = BOMBS[name]
    path = tmp_path / "bomb.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with bounds(), pytest.raises(ConfigError) as raised:
        parse_config([str(path)])
    one_line(str(raised.value), path, said, longest=1000)
    with bounds(), pytest.raises(AnnotationError) as raised:
        load_collection_file(path)
    one_line(str(raised.value), path, longest=1000)


def test_as_large_as_allowed(tmp_path):
    path = tmp_path / "large.yaml"
    for text in (
        "[" + "1," * 32_000 + "]",
        "'" + "\n" * 60_000 + "'",
        "{" + ",".join(f"k{i}: {i}" for i in range(5000)) + "}",
    ):
        path.write_text(text)
        with bounds():
            assert is_plain(read_yaml(path))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    for path in (tmp_path / "config.yaml", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError):
            parse_config([str(path)])
        with pytest.raises(AnnotationError):
            load_collection_file(path)
