import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from emotion_ft.config.parser import parse_config
from emotion_ft.data.splits import read_split
from emotion_ft.training import ablation
from emotion_ft.training.ablation import (
    AblationError,
    carry_out,
    check,
    collect,
    plan,
    settle,
    summary,
    write_subsets,
)

SEEDS = range(2)


@pytest.fixture
def songs():
    ids = {"train": range(10, 30), "validation": range(30, 34), "test": range(34, 38)}
    return DatasetDict({name: Dataset.from_dict({"song_id": list(side)}) for name, side in ids.items()})


@pytest.fixture
def recipes(tmp_path):
    """A folder of recipes that note how they were called and score by a rule: seed + a bonus for --gan."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    script = """
import json, os, pathlib, sys
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(flags.get("--gan_output_dir") or flags["--output_dir"])
if flags.get("--seed") == "1" and (out.parent / "broken").exists():
    sys.exit("finetune: no space left")
score = float(flags["--seed"]) + (0.5 if "--gan" in flags else 0) + (0.25 if "--time_masks" not in flags else 0)
names = ("test_valence_r2", "test_arousal_r2", "test_valence_ccc", "test_arousal_ccc", "test_mean_ccc")
(out / "calls").open("a").write("1")
(out / "all_results.json").write_text(json.dumps(dict.fromkeys(names, score) | {"argv": sys.argv[1:]}))
"""
    for name in ("finetune", "train_gan"):
        (folder / f"{name}.py").write_text(script)
    return folder


@pytest.fixture
def cells(recipes, songs, tmp_path):
    write_subsets(songs, tmp_path / "study", [5, 12], SEEDS)
    return plan("training", "c.yaml", tmp_path / "study", recipes, [5, 12], SEEDS, ["--head_dropout", "0.1"], 40)


class TestSubsets:
    def test_are_nested_random_and_leave_validation_and_test_alone(self, songs, tmp_path):
        write_subsets(songs, tmp_path, [5, 12], SEEDS)
        found = {(n, s): read_split(tmp_path / f"songs-{n}-seed-{s}" / "splits") for n in (5, 12) for s in SEEDS}
        for (size, seed), splits in found.items():
            assert len(splits["train"]) == size and set(splits["train"]) <= set(range(10, 30))
            assert set(found[5, seed]["train"]) <= set(found[12, seed]["train"])
            assert splits["validation"] == [30, 31, 32, 33] and splits["test"] == [34, 35, 36, 37]
        assert found[5, 0]["train"] != found[5, 1]["train"]


class TestPlan:
    def test_all_arms_of_a_cell_share_songs_seed_and_steps(self, cells):
        assert [[run.arm.name for run in runs] for runs in cells] == [
            ["plain", "+ SpecAugment", "generator", "+ GAN", "+ both"]
        ] * 4
        for runs in cells:
            assert len({run.folder for run in runs}) == len(runs)
            values = {}
            for run in runs:
                pairs = dict(zip(run.command[2::2], run.command[3::2], strict=True))
                for flag in ("--split", "--seed", "--head_dropout"):
                    values.setdefault(flag, set()).add(pairs[flag])
                if run.arm.recipe == "finetune":
                    assert pairs["--max_steps"] == "40" and pairs["--eval_steps"] == "4"
            assert all(len(found) == 1 for found in values.values())

    def test_the_gan_learns_from_the_cells_own_run_and_feeds_its_arms(self, cells):
        for runs in cells:
            by_name = {run.arm.name: run for run in runs}
            assert str(by_name["plain"].folder) in by_name["generator"].command
            for name in ("+ GAN", "+ both"):
                command = by_name[name].command
                assert command[command.index("--gan") + 1] == str(by_name["generator"].folder)
            masked = {name for name, run in by_name.items() if "--time_masks" in run.command}
            assert masked == {"plain", "+ GAN"}

    def test_the_losses_study_compares_both_with_and_without_the_emotion_term(self, recipes, tmp_path):
        (runs,) = plan("losses", "c.yaml", tmp_path, recipes, [5], range(1), [], 10)
        flags = [dict(zip(run.command[2::2], run.command[3::2], strict=True)) for run in runs if run.arm.shown]
        found = {(pairs["--adversarial_loss"], pairs.get("--emotion_weight")) for pairs in flags}
        assert found == {("hinge", None), ("bce", None), ("hinge", "0"), ("bce", "0")}


class TestChecks:
    @pytest.fixture
    def config(self):
        return parse_config(["--reference_fraction", "0.2", "--gan_batch_size", "32", "--precision", "fp32"])

    def test_a_study_that_can_be_carried_out(self, config):
        check(config, ["--head_dropout", "0.1"], [48, 96], 96)

    @pytest.mark.parametrize("flag", ["--seed", "--gan", "--max_steps", "--output_dir=x"])
    def test_flags_that_would_change_the_arms_are_refused(self, config, flag):
        with pytest.raises(AblationError, match=rf"{flag.split('=')[0]} is set by the study itself"):
            check(config, [flag, "1"], [48], 96)

    def test_a_file_that_names_a_gan_is_refused(self):
        config = parse_config(["--gan", "some/gan", "--precision", "fp32"])
        with pytest.raises(AblationError, match="--gan is set by the study itself"):
            check(config, [], [48], 96)

    @pytest.mark.parametrize(("sizes", "message"), [([1], "between 2 and"), ([97], "96"), ([39], "about 31, which")])
    def test_sizes_that_cannot_be_trained_are_refused_first(self, config, sizes, message):
        with pytest.raises(AblationError, match=message):
            check(config, [], sizes, 96)


class TestCarryingOut:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_every_run_once_and_finished_ones_never_again(self, cells, jobs):
        for _ in range(2):
            carry_out(cells, jobs)
        for run in (run for runs in cells for run in runs):
            assert (run.folder / "calls").read_text() == "1" and (run.folder / "log.txt").is_file()

    def test_a_failure_names_the_run_its_last_words_and_its_log(self, cells):
        (cells[1][0].folder.parent / "broken").touch()
        with pytest.raises(AblationError, match=r"plain, 5 songs, seed 1 failed: finetune: no space left; see .*log"):
            carry_out(cells, 1)

    def test_a_failure_stops_the_other_cells(self, cells):
        (cells[1][0].folder.parent / "broken").touch()
        with pytest.raises(AblationError):
            carry_out(cells, 2)
        assert not all(run.finished for runs in cells[2:] for run in runs)

    def test_unfinished_runs_are_resumed(self, cells):
        checkpoint = cells[0][2].folder / "checkpoint-3"
        checkpoint.mkdir(parents=True)
        (checkpoint / "gan_state.json").write_text("{}")
        carry_out(cells[:1], 1)
        resumed = ["--resume_from_checkpoint" in run.results["argv"] for run in cells[0]]
        assert resumed == [False, False, True, False, False]

    def test_other_settings_in_the_same_folder_are_refused(self, tmp_path):
        config = tmp_path / "c.yaml"
        config.write_text("a")
        settle(tmp_path / "study", {"steps": 3}, config)
        settle(tmp_path / "study", {"steps": 3}, config)
        with pytest.raises(AblationError, match=r"other settings \(steps\)"):
            settle(tmp_path / "study", {"steps": 4}, config)
        config.write_text("b")
        with pytest.raises(AblationError, match=r"other settings \(config\)"):
            settle(tmp_path / "study", {"steps": 3}, config)


class TestTable:
    def test_mean_deviation_and_paired_difference(self, cells):
        carry_out(cells, 2)
        runs = collect(cells, "training")
        assert len(runs) == 16 and "generator" not in set(runs["arm"])
        table = summary(runs, "training")
        deviation = np.std([0, 1], ddof=1)
        assert table.loc[(5, "plain"), "V R2"] == f"0.500 ± {deviation:.3f}"
        assert table.loc[(12, "+ both"), "mean CCC"] == f"1.250 ± {deviation:.3f}"
        assert table.loc[(12, "+ GAN"), "mean CCC - plain's"] == "0.500 ± 0.000"  # the seed cancels
        assert table.loc[(5, "+ both"), "mean CCC - plain's"] == "0.750 ± 0.000"

    def test_one_seed_has_no_deviation(self):
        columns = {name: [0.5] for name in (*ablation.COLUMNS["training"], "test_mean_ccc")}
        table = summary(pd.DataFrame({"songs": [5], "seed": [0], "arm": ["plain"], **columns}), "training")
        assert table.iloc[0].tolist() == ["0.500"] * 5 + ["0.000"]


def test_the_note_is_readable(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {}\n")
    settle(tmp_path, {"steps": 3}, tmp_path / "c.yaml")
    assert json.loads((tmp_path / "study.json").read_text()) == {"steps": 3, "config": "data: {}\n"}
