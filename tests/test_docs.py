"""The documentation: its links, its commands, its names, and the example that is run as it stands."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

import emotion_ft

ROOT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MANUAL = [README, *PAGES]
LINKED = [*MANUAL, CONTRIBUTING, ROOT / "CHANGELOG.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CONFIGURED = ("finetune", "cross_validate", "prepare", "train_gan", "ablate")  # their first argument is one
# Flags of accelerate launch, torchrun and tensorboard, and those of every command.
OTHER_FLAGS = {"num_processes", "config_file", "num_cpu_threads_per_process", "nproc_per_node", "cpu", "logdir"}
OTHER_FLAGS |= {"version", "help", "help_all"}


def name(path):
    return path.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", LINKED, ids=name)
each_manual_page = pytest.mark.parametrize("page", MANUAL, ids=name)


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return [code for found, code in FENCE.findall(page.read_text()) if found == language]


def prose(page):
    """A page without its fenced blocks and its inline code."""
    return re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text()))


def without_blocks(text):
    """A text with its fenced blocks blanked out, so that a comment in one is no heading; places stay the same."""
    return FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)


@cache
def anchors(page):
    """The ids that GitHub gives the headings of a page."""
    found = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_blocks(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found[re.sub(r"[^\w\- ]", "", text).replace(" ", "-")] += 1
    return {f"{slug}-{index}" if index else slug for slug, count in found.items() for index in range(count)}


def table_rows(text):
    """The cells of every row of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def section(page, heading):
    """The text under a heading, up to the next one of any level."""
    text = page.read_text()
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    following = re.search(r"^#{1,6} ", without_blocks(text)[start:], re.MULTILINE)
    return text[start:][: following.start()] if following else text[start:]


def test_slugs_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Does it help?\n## `all_results.json`\n## A [link](x.md), B\n## A link, B\n```bash\n# no\n```\n")
    assert anchors(page) == {"does-it-help", "all_resultsjson", "a-link-b", "a-link-b-1"}


@each_page
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 150
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(README))}
    assert {*PAGES, CONTRIBUTING, ROOT / "CHANGELOG.md", ROOT / "CITATION.cff"} <= linked


def test_the_readmes_results_are_the_measured_ones():
    lines = blocks(ROOT / "docs" / "results.md", "")[0].splitlines()
    columns = [match.end() for match in re.finditer(r"[VA] \w+", lines[0])]
    shown, measured = ("model", "ridge", "svr", "mean", "ceiling", "model - ridge", "model - svr"), {}
    for line, below in zip(lines[1:], [*lines[2:], ""], strict=True):
        if (system := re.split(" {2,}", line)[0]) in shown:
            ends = {match.end(): match[0] for match in re.finditer(r"\[.*?\]", below) if below.startswith(" ")}
            values = [line[:end].split()[-1] for end in columns]
            cells = [f"{value} {ends.get(end, '')}".strip() for value, end in zip(values, columns, strict=True)]
            measured[system] = [cells[column] for column in (2, 4, 7, 9)]  # R2 and CCC, valence and arousal
    assert len(measured) == len(shown)
    assert {row[0]: row[1:] for row in table_rows(section(README, "## Results"))} == measured


@each_manual_page
def test_commands_exist(page):
    from emotion_ft.cli import commands

    text = page.read_text()
    named = {command.replace("-", "_") for command in re.findall(r"emotion-ft ([a-z][a-z_-]*)", text)}
    assert named <= set(commands())


def test_the_table_of_commands_has_all_of_them():
    from emotion_ft.cli import commands

    rows = table_rows(section(ROOT / "docs" / "training.md", "## The command").partition("| exit code")[0])
    assert {row[0].strip("`") for row in rows} == set(commands())


@each_manual_page
def test_paths_exist(page):
    for path in re.findall(r"\b(?:recipes|hub_cards|tests|docs|emotion_ft)/[\w./-]*\w", page.read_text()):
        assert (ROOT / path).exists(), path


@each_manual_page
def test_flags_exist(page):
    """Each is a key of the configuration, or an argument of a recipe."""
    keys = {f.name for part in dataclasses.fields(emotion_ft.Config) for f in dataclasses.fields(part.type)}
    sources = [*(ROOT / "recipes").glob("*.py"), *(ROOT / "emotion_ft").rglob("*.py")]
    arguments = {flag for path in sources for flag in re.findall(r'"--([a-z_]+)"', path.read_text())}
    used = set(re.findall(r"(?<![\w-])--([a-z_]+)", page.read_text()))
    assert used <= keys | arguments | OTHER_FLAGS


@each_manual_page
def test_configurations_are_shipped_or_files(page):
    shipped = {path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    for line in "\n".join(blocks(page, "bash")).splitlines():
        command, *words = line.partition("#")[0].split()[1:] if line.startswith("emotion-ft ") else [""]
        if command in CONFIGURED:
            assert [word for word in words if word in shipped or word.endswith(".yaml")], line


@each_manual_page
def test_imported_names_are_public(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "emotion_ft":
                assert node.module == "emotion_ft", f"from {node.module} import ..."
                assert {alias.name for alias in node.names} <= set(emotion_ft.__all__)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "emotion_ft":
                assert node.attr in emotion_ft.__all__


def test_the_rooms_are_listed_the_same_everywhere_and_are_there():
    architecture = section(ROOT / "docs" / "architecture.md", "## The rooms").partition("```")[0]
    rows = table_rows(architecture)
    listed = [re.findall(r"`([\w/.]+)`", row[0]) for row in rows]
    numbered = re.findall(r"^\d+\. (.+)$", section(CONTRIBUTING, "## The rooms"), re.MULTILINE)
    assert [re.findall(r"`([\w/.]+)`", line) for line in numbered] == listed
    for rooms, (_, contents) in zip(listed, rows, strict=True):
        places = [ROOT / "emotion_ft" / room for room in rooms]
        assert all(place.exists() for place in places), rooms
        for module in re.findall(r"`([a-z_]+)`", contents) if places[0].is_dir() else ():
            assert (places[0] / f"{module}.py").is_file() or (places[0] / module).is_dir(), module


def test_the_citation_is_complete_and_leaves_the_version_to_setup_cfg():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["title"] and citation["message"]
    assert citation["authors"] == [{"name": "The emotion_ft authors"}]
    assert "version" not in citation


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=name)
def test_github_files_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.slow
def test_the_example_leaves_a_model(tmp_path):
    from transformers import AutoModelForAudioClassification

    script = tmp_path / "example.py"
    script.write_text(FENCE.findall(section(ROOT / "docs" / "python.md", "## A complete example"))[0][1])
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test CCC -?\d\.\d\d, RMSE \d\.\d\d on 1-9$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^valence \d\.\d\d, arousal \d\.\d\d$", done.stdout, re.MULTILINE), done.stdout
    model, extractor = emotion_ft.load_model(tmp_path / "runs" / "python")
    assert (model.config.max_length, extractor.num_windows) == (101, 3)
    audio = next((tmp_path / "songs").rglob("*.mp3"))
    prediction = emotion_ft.predict_file(model, extractor, audio)
    assert 1 <= prediction.valence <= 9 and 1 <= prediction.arousal <= 9
    assert type(AutoModelForAudioClassification.from_pretrained(tmp_path / "runs" / "python")) is type(model)
