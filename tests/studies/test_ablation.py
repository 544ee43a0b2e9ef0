import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from scipy import stats

from emotion_ft.config.parser import parse_config
from emotion_ft.config.settings import ConfigError
from emotion_ft.data.splits import read_split
from emotion_ft.studies import ablation
from emotion_ft.studies.ablation import (
    AblationError,
    carry_out,
    check,
    collect,
    findings,
    paired_differences,
    plan,
    run_ablation,
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
facts = {"argv": sys.argv[1:], "epochs": float(flags.get("--num_train_epochs", 0)), "train_songs": 7}
(out / "all_results.json").write_text(json.dumps(dict.fromkeys(names, score) | facts))
"""
    for name in ("finetune", "train_gan"):
        (folder / f"{name}.py").write_text(script)
    return folder


@pytest.fixture
def cells(recipes, songs, tmp_path):
    write_subsets(songs, tmp_path / "study", [5, 12], SEEDS)
    flags = ["--head_dropout", "0.1"]
    return plan("training", "c.yaml", tmp_path / "study", recipes, {5: 40, 12: 17}, SEEDS, flags)


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
    def test_all_arms_of_a_cell_share_songs_seed_and_epochs(self, cells):
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
                    assert pairs["--num_train_epochs"] == {5: "40", 12: "17"}[run.size]
                    assert pairs["--max_steps"] == "-1" and pairs["--early_stopping_patience"] == "0"
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

    @pytest.mark.parametrize(
        ("study", "expected"),
        [
            ("losses", [("bce", None), ("hinge", None)]),
            ("emotion_term", [(None, None), (None, "0")]),
        ],
    )
    def test_studies_of_the_gan_differ_in_one_setting(self, recipes, tmp_path, study, expected):
        (runs,) = plan(study, "c.yaml", tmp_path, recipes, {5: 3}, range(1), [])
        flags = [dict(zip(run.command[2::2], run.command[3::2], strict=True)) for run in runs if run.arm.shown]
        assert [(pairs.get("--adversarial_loss"), pairs.get("--emotion_weight")) for pairs in flags] == expected


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
        assert dict(zip(runs["songs"], runs["real_windows"], strict=True)) == {5: 40 * 7, 12: 17 * 7}
        table = summary(runs, paired_differences(runs, "training"), "training")
        deviation = np.std([0, 1], ddof=1)
        assert table.loc[(5, "plain"), "V R2"] == f"0.500 ± {deviation:.3f}"
        assert table.loc[(12, "+ both"), "mean CCC"] == f"1.250 ± {deviation:.3f}"
        assert table.loc[(12, "+ GAN"), "mean CCC - plain's"] == "+0.500 [+0.500, +0.500]"  # the seed cancels
        assert table.loc[(5, "+ both"), "mean CCC - plain's"] == "+0.750 [+0.750, +0.750]"
        assert table.loc[(5, "plain"), "mean CCC - plain's"] == "" and set(table["seeds"]) == {2}

    def test_one_seed_has_neither_deviation_nor_interval(self):
        runs = scored([[0.5], [0.7]])
        (difference,) = paired_differences(runs, "training")
        assert difference.mean == pytest.approx(0.2) and np.isnan([difference.low, difference.high]).all()
        assert summary(runs, [difference], "training").loc[(5, "plain"), "mean CCC"] == "0.500"
        assert "no benefit seen" in findings([difference], "training")[0]


def scored(arms, study="training"):
    """Runs of 5 songs: for each arm, its scores by seed, in every column."""
    names = ("plain", "+ GAN", "+ both")[: len(arms)]
    return pd.DataFrame(
        {"songs": 5, "seed": seed, "arm": arm, **dict.fromkeys(ablation.COLUMNS[study], score)}
        for arm, scores in zip(names, arms, strict=True)
        for seed, score in enumerate(scores)
    )


class TestPaired:
    def test_the_interval_is_the_t_tests(self):
        plain, gan = np.random.default_rng(0).normal(0.7, 0.05, (2, 6))
        (found,) = paired_differences(scored([plain, gan]), "training")
        expected = stats.ttest_rel(gan, plain).confidence_interval(0.95)
        assert (found.songs, found.arm, found.seeds) == (5, "+ GAN", 6)
        assert (found.mean, found.low, found.high) == pytest.approx((np.mean(gan - plain), *expected))

    def test_seeds_are_paired_in_any_order_of_the_runs(self):
        runs = scored([[0.1, 0.5, 0.9], [0.2, 0.6, 1.0]])
        (found,) = paired_differences(runs.iloc[[0, 1, 2, 5, 3, 4]], "training")
        assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))

    @pytest.mark.parametrize(
        ("study", "shift", "verdict"),
        [
            ("training", 0.3, "better"),
            ("training", -0.3, "worse"),
            ("training", 0.01, "no benefit seen"),
            ("training", -0.01, "no benefit seen"),
            ("losses", -0.3, "better"),
            ("losses", 0.3, "worse"),
            ("losses", -0.01, "no benefit seen"),
        ],
    )
    def test_a_finding_is_no_stronger_than_its_interval(self, study, shift, verdict):
        plain = np.array([0.5, 0.6, 0.55, 0.58])
        other = plain + shift + np.array([0.02, -0.03, 0.04, -0.02])
        (difference,) = paired_differences(scored([plain, other], study), study)
        (said,) = findings([difference], study)
        assert said.startswith(f"5 songs, + GAN: {verdict}; ") and said.endswith(f"{difference}, n = 4")
        assert (difference.low < 0 < difference.high) == (verdict == "no benefit seen")


class TestStudy:
    @pytest.fixture
    def toy(self, songs_root, recipes, monkeypatch, tmp_path):
        """`toy(*arguments)` -> a study of the tiny songs, with the recipes that score by a rule."""
        monkeypatch.setattr(ablation, "shipped", lambda name: recipes)
        file = tmp_path / "c.yaml"
        file.write_text(f"data: {{data_root: {songs_root}}}\ngan: {{gan_batch_size: 4}}\n")

        def study(*flags, **settings):
            settings = {"seeds": 2, "sizes": [6, 16], "steps": 3, "output": tmp_path, "jobs": 2, **settings}
            return run_ablation(str(file), ["--precision", "fp32", *flags], **settings)

        return study

    def test_every_arm_of_a_size_sees_as_many_real_windows(self, toy):
        study = toy("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
        for size, epochs in ((6, 4), (16, 2)):  # three steps of eight windows, rounded up
            of_size = study.runs[study.runs["songs"] == size]
            assert set(of_size["real_windows"]) == {epochs * 7} and len(of_size) == 8

    def test_files_say_what_the_study_found(self, toy):
        study = toy("--synthetic_fraction", "0.2")
        text = (study.folder / "ablation.md").read_text()
        assert "synthetic ones, 20% of all, come on top: an arm with them takes about 1.25 times the steps" in text
        assert "6 songs, + GAN: better; mean CCC +0.500 [+0.500, +0.500], n = 2" in study.findings
        assert all(f"- {finding}\n" in text for finding in study.findings) and len(study.findings) == 6
        assert (study.folder / "plots" / "ablation.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(study.folder / "ablation.csv")) == 16

    def test_flags_that_an_arm_cannot_have_are_refused_before_any_run(self, toy, tmp_path):
        with pytest.raises(ConfigError, match=r"label_smoothing=0\.2 has no effect"):
            toy("--label_smoothing", "0.2", study="losses", sizes=None)
        assert not (tmp_path / "losses").exists()


def test_the_note_is_readable(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {}\n")
    settle(tmp_path, {"steps": 3}, tmp_path / "c.yaml")
    assert json.loads((tmp_path / "study.json").read_text()) == {"steps": 3, "config": "data: {}\n"}
