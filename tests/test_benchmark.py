"""The benchmark, run as a user does on a tiny setting, and the arithmetic of its figures."""

import json
import math
import re

import numpy as np
import pytest
import torch
from commands import in_process, succeed


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the recipe prints, and what it writes."""
    path = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    tiny = ["--repeats", "1", "--songs", "3", "--seconds", "12"]
    done = succeed("benchmark", "--only", "loader,features,store", *tiny, "--output", path)
    return done.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_json_holds_every_run_with_its_unit_and_ratio(report):
    _, written = report
    assert {"hardware", "software", "protocol"} <= written.keys()
    figures = written["figures"]
    assert [figure["section"] for figure in figures] == ["loader"] * 4 + ["features"] * 2 + ["store"] * 2
    for figure in figures:
        assert figure["unit"] in ("windows/s", "ms", "KiB", "x")
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
    assert [row[5] for row in rows[1:4]] == ["≥ 50", "≥ 2,000", "≥ 1,000"]


@pytest.fixture(scope="module")
def bench(tiny_config, tiny_extractor, tmp_path_factory):
    """Three songs of 10 s and a tiny model."""
    from emotion_ft.benchmark import Workbench

    folder, size = tmp_path_factory.mktemp("bench"), {"songs": 3, "seconds": 10.0, "repeats": 1}
    return Workbench(folder, **size, predict=None, extractor=tiny_extractor, config=tiny_config())


def test_inference_compares_the_pipeline_and_int8_with_a_plain_loop(bench):
    from emotion_ft.benchmark import SECTIONS
    from emotion_ft.config.settings import hardware_precision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        figures = {figure.name: figure for figure in SECTIONS["inference"](bench)}
    expected = {"10 s MP3 to log-mel in the pipeline": "ms", "pipeline in fp32, 10 s MP3": "s"}
    halved = {"onnx-int8": 0.5, **({"pipeline in bf16": 0.65} if hardware_precision() == "bf16" else {})}
    for name in halved:
        expected |= {f"{name}, 10 s MP3": "s", f"share of the loop, {name}": ""}
        expected |= {f"{dimension}, largest difference, {name}": "of 1-9" for dimension in ("valence", "arousal")}
    many = "3 songs in one call, 4 layers x 192"
    expected |= {f"{many}, per song": "ms", f"share of one song per call, {many}": ""}
    assert {name: figure.unit for name, figure in figures.items()} == expected
    assert {figure.section for figure in figures.values()} == {"inference"}
    for figure in figures.values():
        assert len(figure.runs) == 1 and math.isfinite(figure.value) and figure.value > 0
    for name, target in halved.items():
        timed, share = figures[f"{name}, 10 s MP3"], figures[f"share of the loop, {name}"]
        assert share.target == target and share.value == pytest.approx(timed.value / timed.peer_value)
        for dimension in ("valence", "arousal"):
            assert 1e-4 < figures[f"{dimension}, largest difference, {name}"].value < 0.5
    together = figures[f"{many}, per song"]
    assert figures[f"share of one song per call, {many}"].value == pytest.approx(together.value / together.peer_value)


def test_trainings_are_compared_with_the_usual_recipe(bench):
    from emotion_ft.benchmark import SECTIONS

    figures = SECTIONS["training"](bench)
    assert [figure.unit for figure in figures] == ["samples/s", "x", "samples/s", "x", "%"]
    for rates, times in (figures[:2], figures[2:4]):
        assert rates.ratio == pytest.approx(times.value) and times.target in (3.5, 5.0, 1.0)
    assert "1024 frames, fp32" in figures[0].peer and "101 frames" in figures[2].peer
    assert 0 < figures[4].value < 100 and 0 < figures[4].peer_value < 100


def test_the_head_alone_is_compared_with_frozen_passes(bench):
    from emotion_ft.benchmark import SECTIONS

    seconds, times = SECTIONS["head"](bench)
    assert seconds.ratio == pytest.approx(times.value) and times.target == 4.0


def test_the_gan_makes_steps(bench):
    from emotion_ft.benchmark import SECTIONS

    (step,) = SECTIONS["gan"](bench)
    assert step.unit == "s" and 0 < step.value < 60 and "batch 3" in step.name


def test_prepared_collections_and_two_processes(bench):
    from emotion_ft.benchmark import SECTIONS

    ours, times = SECTIONS["processes"](bench)
    assert ours.ratio == pytest.approx(times.value) and times.target == 1.6
    figures = {figure.unit: figure.value for figure in SECTIONS["prepare"](bench)}
    assert figures["KiB"] == pytest.approx(501 * 128 * 2 / 1024, rel=0.1) and figures["songs/s"] > 1


def test_the_flops_of_a_sample_are_those_of_its_matrix_products(tiny_config):
    from emotion_ft.benchmark.gpu import sample_flops

    config = tiny_config()
    tokens, width, inner = 2 + 8 * 6, config.hidden_size, config.intermediate_size
    # per layer: q, k, v and output, scores and values, two of the MLP; a product of (m, k) and (k, n) is 2mkn
    layer = 2 * tokens * (4 * width * width + 2 * tokens * width + 2 * width * inner)
    patches = 2 * 8 * 6 * 16 * 16 * width
    forward = config.num_hidden_layers * layer + patches + 2 * width * width + 2 * width * 2
    # Backward is twice the forward pass, but that no gradient of the window itself is needed.
    assert sample_flops(config) == 3 * forward - patches


def test_an_accelerator_is_measured_under_each_option(bench, monkeypatch):
    """Here a CPU, in the precisions that it computes in."""
    from emotion_ft.benchmark import SECTIONS, gpu
    from emotion_ft.config.settings import hardware_precision

    without = {name: changes for name, changes in gpu.VARIANTS.items() if "compile" not in name}
    monkeypatch.setattr(gpu, "VARIANTS", without)  # compiling takes a minute
    figures = {figure.name: figure for figure in SECTIONS["accelerator"](bench)}
    fast = hardware_precision()
    assert figures[f"matrix product, {fast}"].value > 0
    assert figures[f"training, {fast}, eager attention"].value > 0
    assert figures[f"training, {fast}, eager attention"].peer == "fp32"
    used, rate = figures[f"model FLOPs utilisation, {fast}"], figures[f"matrix product, {fast}"].value
    flops = figures["AST, forward and backward, a sample"].value
    assert used.value == pytest.approx(figures[f"training, {fast}"].value * flops / rate / 10, rel=1e-6)
    assert not torch.cuda.is_available() or "training, fp16" in figures


@pytest.mark.parametrize(
    ("fast", "on_gpu", "precisions"),
    [
        ("fp32", False, ["fp32"]),
        ("bf16", False, ["fp32", "bf16"]),
        ("bf16", True, ["fp32", "fp16", "bf16"]),
        ("fp16", True, ["fp32", "fp16"]),
    ],
)
def test_only_precisions_that_the_hardware_computes_in_are_measured(fast, on_gpu, precisions):
    from emotion_ft.benchmark import gpu

    offered = gpu.options(fast, on_gpu)
    assert list(offered)[: len(precisions)] == precisions
    assert {name: option["precision"] for name, option in offered.items()} == (
        {name: name for name in precisions} | {f"{fast}, {name}": fast for name in gpu.VARIANTS}
    )


def test_random_models_of_the_benchmark_tell_songs_apart(bench):
    from emotion_ft.benchmark.predictions import file_windows, plain_loop, random_model
    from emotion_ft.inference.predict import predict_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = random_model(bench)
    with torch.no_grad():
        values = torch.cat([model(file_windows(bench.extractor, file)).logits for file in bench.files]).atanh()
    torch.testing.assert_close(values.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std(0), torch.full((2,), 0.25), atol=1e-3, rtol=0)  # 1 of 1-9
    songs = [plain_loop(model, bench.extractor, file) for file in bench.files]
    usual = [predict_file(model, bench.extractor, file)[:2] for file in bench.files]
    np.testing.assert_allclose(songs, usual, atol=0.02)  # log-mels of float16


def test_recipe_and_package_name_the_same_sections():
    from emotion_ft.benchmark import SECTIONS

    offered = in_process("benchmark", "--only", "nothing").stderr
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
def test_wrong_arguments_are_refused(arguments):
    done = in_process("benchmark", *arguments)
    assert done.returncode == 2
    assert "error: --" in done.stderr
