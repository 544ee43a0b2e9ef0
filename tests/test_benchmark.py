"""The benchmark, run as a user does on a tiny setting, and the arithmetic of its figures."""

import json
import math
import re

import pytest


@pytest.fixture(scope="module")
def report(recipe, tmp_path_factory):
    """What the recipe prints, and what it writes."""
    path = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    tiny = ["--repeats", "1", "--songs", "3", "--seconds", "12"]
    result = recipe("benchmark", "--only", "loader,features,store", *tiny, "--output", path)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_json_holds_every_run_with_its_unit_and_ratio(report):
    _, written = report
    assert {"hardware", "software", "protocol"} <= written.keys()
    figures = written["figures"]
    assert [figure["section"] for figure in figures] == ["loader"] * 2 + ["features"] * 2 + ["store"] * 2
    for figure in figures:
        assert figure["unit"] in ("windows/s", "ms", "KiB")
        assert len(figure["runs"]) == 1
        numbers = [figure["value"], *figure["runs"], *figure["peer_runs"]]
        numbers += [figure["ratio"]] if figure["peer"] else []
        assert all(math.isfinite(number) and number > 0 for number in numbers)
    on_disk = figures[-1]
    assert on_disk["value"] == pytest.approx(601 * 128 * 2 / 1024, rel=0.05)
    assert on_disk["ratio"] == pytest.approx(2, rel=0.1)


@pytest.mark.slow
def test_table_shows_the_figures_beside_targets_and_peers(report):
    printed, written = report
    assert re.search(r"^hardware: .* cores", printed, re.M)
    assert re.search(r"^software: .*torch \d.*transformers \d", printed, re.M)
    assert re.search(r"^others: other processes took \d+% ", printed, re.M)
    assert re.search(r"^protocol: medians over 1 repeats", printed, re.M)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in printed.splitlines() if row[:1] == "|"]
    header, _, *rows = rows
    assert len(rows) == len(written["figures"])
    assert all(len(row) == len(header) for row in rows)
    for row, figure in zip(rows, written["figures"], strict=True):
        assert row[:2] == [figure["section"], figure["name"]]
        assert re.fullmatch(rf"[\d.,]+ {figure['unit']}", row[2])
        if figure["peer"]:
            assert re.fullmatch(r"[\d.,]+ x", row[4])
        assert row[6] == {None: "", True: "met", False: "not met"}[figure["met"]]
    assert [row[5] for row in rows[:2]] == ["≥ 2,000", "≥ 1,000"]


def test_recipe_and_package_name_the_same_sections(recipe):
    from emotion_ft.benchmark import SECTIONS

    offered = recipe("benchmark", "--only", "nothing").stderr
    assert offered.rstrip().endswith(f"there are {', '.join(SECTIONS)}")


def test_figures_compare_within_repeats():
    from emotion_ft.benchmark.figures import Figure

    slower_twice = Figure("s", "n", "ms", [10, 20, 30], "peer", [20, 60, 60], target=20)
    assert (slower_twice.value, slower_twice.peer_value, slower_twice.ratio) == (20, 60, 2)
    assert slower_twice.met
    rate = Figure("s", "n", "windows/s", [10, 30], "peer", [10, 10], target=21, higher_is_better=True)
    assert (rate.value, rate.ratio, rate.met) == (20, 2, False)
    alone = Figure("s", "n", "ms", [1])
    assert (alone.ratio, alone.peer_value, alone.met) == (None, None, None)


def test_tasks_take_turns_after_a_warm_up():
    from emotion_ft.benchmark.figures import wall_seconds

    calls = []
    seconds = wall_seconds(2, ours=lambda: calls.append("ours"), peer=lambda: calls.append("peer"))
    assert calls == ["ours", "peer"] * 3
    assert [len(runs) for runs in seconds] == [2, 2]


@pytest.mark.parametrize("arguments", [["--only", "features,speed"], ["--repeats", "0"], ["--seconds", "5"]])
def test_wrong_arguments_are_refused(recipe, arguments):
    result = recipe("benchmark", *arguments)
    assert result.returncode == 2
    assert "error: --" in result.stderr
