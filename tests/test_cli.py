"""`emotion-ft`: commands, exit codes, the launch of several processes, and how soon a first error comes."""

import os
import re
import resource
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path

import pytest

from emotion_ft import cli
from emotion_ft.errors import UsageError
from emotion_ft.shipped import shipped
from emotion_ft.training.signals import Terminated

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [name for name in cli.commands() if name != "env"]


def run(*arguments, **environment):
    command = [sys.executable, "-m", "emotion_ft.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240)


def cpu_seconds(*command):
    """CPU time of a command with its children, whatever else the machine is doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


class TestCommands:
    def test_every_recipe_is_one_and_says_what_it_does(self):
        files = {cli.FILES.get(name, name) for name in COMMANDS}
        assert files == {path.stem for path in shipped("recipes").glob("*.py")} - {"__init__"}
        assert all(re.match(r"[A-Z].*\.$", summary) for summary in cli.commands().values())

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_shows_help_within_a_screen_or_two(self, name, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        assert not ended.value.code and 5 < len(shown.splitlines()) <= 80
        assert "usage: emotion-ft" in shown

    def test_usage_names_all_of_them(self, capsys):
        for arguments in ([], ["--help"]):
            with pytest.raises(SystemExit) as ended:
                cli.main(arguments)
            shown = capsys.readouterr().out
            assert not ended.value.code and all(f"\n  {name}" in shown for name in (*COMMANDS, "env"))

    def test_version(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert capsys.readouterr().out == f"emotion_ft {version('emotion_ft')}\n"

    def test_an_unknown_command_is_answered_with_the_nearest(self, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main(["finetoon"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == "emotion-ft: no command 'finetoon'; did you mean 'finetune'?\n"

    def test_hyphens_will_do(self, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main(["cross-validate", "--help"])
        assert not ended.value.code and "--folds" in capsys.readouterr().out

    def test_env_names_versions_and_hardware(self, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main(["env"])
        shown = capsys.readouterr().out
        assert not ended.value.code
        for part in (f"emotion_ft: {version('emotion_ft')}", f"torch: {version('torch')}", "hardware: ", "platform: "):
            assert part in shown

    def test_no_recipe_hides_a_library(self):
        """`python recipes/X.py` puts the recipes' folder first on the path."""
        places = [sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")]
        for path in shipped("recipes").glob("*.py"):
            assert path.stem == "__init__" or PathFinder.find_spec(path.stem, places) is None, path


class TestLaunch:
    def test_flags_before_the_configuration_are_those_of_accelerate(self):
        ours = ["deam", "--data_root", "x", "--num_processes", "3"]
        assert cli.launch_flags(["--num_processes", "2", "--cpu", *ours]) == ["--num_processes", "2", "--cpu"]
        assert cli.launch_flags(["--config_file=a.yaml", *ours]) == ["--config_file=a.yaml"]
        assert cli.launch_flags(ours) == cli.launch_flags(["--data_root", "x", "deam"]) == []
        assert cli.launch_flags(["--help"]) == cli.launch_flags([]) == []

    def test_they_start_accelerate_with_the_recipe(self, monkeypatch):
        started = []

        def execv(program, arguments):
            started.append((program, arguments))
            raise SystemExit

        monkeypatch.setattr(os, "execv", execv)
        with pytest.raises(SystemExit):
            cli.main(["finetune", "--num_processes", "2", "toy", "--seed", "1"])
        ((program, arguments),) = started
        recipe = str(shipped("recipes") / "finetune.py")
        assert program == arguments[0] == sys.executable
        assert arguments[3:] == ["launch", "--num_processes", "2", recipe, "toy", "--seed", "1"]


class TestExits:
    @pytest.fixture
    def leave(self, capsys):
        """`leave(error)` -> exit code and what was printed, of a recipe that ends with that error or result."""

        def run(outcome):
            @cli.command("nothing is lost")
            def main(arguments):
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

            with pytest.raises(SystemExit) as ended:
                main([])
            return ended.value.code or 0, capsys.readouterr().err

        return run

    def test_codes(self, leave):
        from emotion_ft.config.settings import ConfigError

        assert leave(None) == (0, "") and leave(1) == (1, "")
        assert leave(UsageError("no folder")) == (1, "test_cli: no folder\n")
        assert leave(ConfigError("no key")) == (2, "test_cli: no key\n")
        assert leave(KeyboardInterrupt()) == (130, "test_cli: interrupted; nothing is lost\n")
        assert leave(Terminated()) == (143, "test_cli: stopped by SIGTERM; nothing is lost\n")
        code, said = leave(Terminated(7, "runs/x/checkpoint-7"))
        assert code == 143 and said == "test_cli: stopped by SIGTERM at step 7; checkpoint-7 saved, nothing is lost\n"

    def test_an_interruption_says_what_was_kept(self, leave):
        interrupt = KeyboardInterrupt()
        interrupt.add_note("3 of 9 files are predicted")
        assert leave(interrupt) == (130, "test_cli: interrupted; 3 of 9 files are predicted\n")

    def test_debug_shows_the_traceback(self, monkeypatch):
        @cli.command()
        def main(arguments):
            raise UsageError("no folder")

        monkeypatch.setenv("EMOTION_FT_DEBUG", "1")
        with pytest.raises(UsageError, match="no folder"):
            main([])

    def test_a_bug_is_not_hidden(self):
        @cli.command()
        def main(arguments):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            main([])


@pytest.mark.slow
class TestFirstError:
    """In CPU time, so that a busy machine does not matter; the bounds are looser than what is aimed at."""

    @pytest.fixture(scope="class")
    def unit(self):
        """`from transformers import TrainingArguments`, which no command with a configuration avoids."""
        code = "from transformers import TrainingArguments"
        return min(cpu_seconds(sys.executable, "-c", code)[0] for _ in range(2))

    @pytest.mark.parametrize(
        ("recipe", "arguments", "code"),
        [
            ("finetune", ["toy", "--head_learning_rat", "1"], 2),
            ("finetune", ["--help"], 0),
            ("cross_validate", ["toy", "--flods", "3"], 2),
        ],
    )
    def test_a_typo_costs_no_more_than_the_imports_of_its_check(self, unit, recipe, arguments, code):
        seconds, done = cpu_seconds(sys.executable, f"recipes/{recipe}.py", *arguments)
        assert done.returncode == code, done.stderr
        assert seconds < 1.5 * unit + 1

    def test_no_configuration_no_imports(self):
        for arguments, code in ((["--help"], 0), (["--version"], 0), (["finetoon"], 2)):
            seconds, done = cpu_seconds(sys.executable, "-m", "emotion_ft.cli", *arguments)
            assert done.returncode == code and seconds < 0.6, done.stderr
        seconds, done = cpu_seconds(sys.executable, "recipes/predict.py", "song.mp3")
        assert done.returncode == 2 and "--model" in done.stderr and seconds < 0.6
