"""`emotion-ft COMMAND`: the recipes, for those who installed the package with pip."""

import argparse
import ast
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from .errors import RESUME, RESUME_OR_AGAIN, UsageError, nearest
from .shipped import shipped

Main = Callable[[list[str]], int | None]

FILES = {"evaluate": "evaluate_model"}
"""Commands whose recipe has another name; `import evaluate` must find the library."""
LAUNCHED = ("finetune", "cross_validate", "train_gan", "prepare")
"""Commands that several processes can carry out."""
INTERRUPTED, USAGE = 130, 2


def commands() -> dict[str, str]:
    """What each command does, by its name: the first line of its recipe's docstring."""
    names = {file: name for name, file in FILES.items()}
    found = {}
    for path in sorted(shipped("recipes").glob("*.py")):
        if path.stem != "__init__":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[names.get(path.stem, path.stem)] = text.splitlines()[0]
    return found | {"env": "Print versions and hardware, for bug reports."}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Carry out a command.

    Raises:
        SystemExit: always. 0: done; 1: an error, or some files failed; 2: wrong arguments or configuration; 130:
            Ctrl-C; 143: SIGTERM.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        sys.exit()
    if name == "--version":
        print(f"emotion_ft {version('emotion_ft')}")
        sys.exit()
    name = name.replace("-", "_")
    known = commands()
    if name not in known:
        close = nearest([name], known)
        hint = f"did you mean '{close}'?" if close else f"there are {', '.join(known)}."
        print(f"emotion-ft: no command '{name}'; {hint}", file=sys.stderr)
        sys.exit(USAGE)
    if name == "env":
        environment(rest)
    file = FILES.get(name, name)
    if name in LAUNCHED and (launch := launch_flags(rest)):
        script = str(shipped("recipes") / f"{file}.py")
        rest = ["-m", "accelerate.commands.accelerate_cli", "launch", *launch, script, *rest[len(launch) :]]
        os.execv(sys.executable, [sys.executable, *rest])
    sys.argv[0] = f"emotion-ft {name}"
    import_module(f"emotion_ft.recipes.{file}").main(rest)
    raise AssertionError(f"{file}.main returned")


def usage() -> str:
    """The text of `emotion-ft --help`."""
    lines = ["usage: emotion-ft COMMAND [CONFIG] [--flag value ...]", "", "commands:"]
    lines += [f"  {name:16}{summary}" for name, summary in commands().items()]
    lines += ["", "`emotion-ft COMMAND --help` shows the flags of a command. Flags of `accelerate launch`, such as"]
    lines += ["--num_processes, go before the configuration: emotion-ft finetune --num_processes 2 deam"]
    return "\n".join(lines)


def launch_flags(arguments: list[str]) -> list[str]:
    """The flags before the configuration, when they are those of `accelerate launch`."""
    if not arguments or not arguments[0].startswith("--") or arguments[0] in ("--help", "--help_all"):
        return []
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    if arguments[0].split("=")[0] not in known:
        return []
    after = parser.parse_args(arguments).training_script_args
    return arguments[: len(arguments) - len(after) - 1]


def command(going_on: str = "nothing was written") -> Callable[[Main], Callable[[list[str] | None], NoReturn]]:
    """The one way out of every recipe: errors as one sentence, exit codes, Ctrl-C and SIGTERM with what was kept.

    With `EMOTION_FT_DEBUG=1` in the environment, errors show their traceback.

    Args:
        going_on: how to go on after an interruption, and what it left behind.
    """

    def decorate(recipe: Main) -> Callable[[list[str] | None], NoReturn]:
        file = Path(recipe.__code__.co_filename).stem
        name = next((name for name, stem in FILES.items() if stem == file), file)

        @wraps(recipe)
        def run(arguments: list[str] | None = None) -> NoReturn:
            from .training.signals import EXIT_CODE, Terminated, heeded

            try:
                with heeded():
                    sys.exit(recipe(sys.argv[1:] if arguments is None else arguments))
            except UsageError as error:
                if os.environ.get("EMOTION_FT_DEBUG") == "1":
                    raise
                _say(f"{name}: {error}")
                sys.exit(error.exit_code)
            except Terminated as stop:
                if os.environ.get("RANK", "0") == "0":
                    at = "" if stop.step is None else f" at step {stop.step}"
                    resume = RESUME if going_on == RESUME_OR_AGAIN else going_on
                    saved = stop.checkpoint and f"{Path(stop.checkpoint).name} saved, {resume}"
                    how = saved or _kept(stop, going_on)
                    _say(f"{name}: stopped by SIGTERM{at}; {how}")
                sys.exit(EXIT_CODE)
            except KeyboardInterrupt as interrupt:
                _say(f"{name}: interrupted; {_kept(interrupt, going_on)}")
                sys.exit(INTERRUPTED)

        return run

    return decorate


def _kept(interrupt: KeyboardInterrupt, otherwise: str) -> str:
    """What an interruption left behind: the note that the recipe added on the way out."""
    return "; ".join(getattr(interrupt, "__notes__", [])) or otherwise


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """A parser for a recipe's own flags, whose help shows the recipe's docstring unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def _say(line: str) -> None:
    """Print to stderr, below progress bars that are still open."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(tqdm._instances):  # type: ignore[attr-defined]
            bar.close()
    print(line, file=sys.stderr)


def set_up_logging(process: int = 0, level: int = logging.INFO) -> None:
    """Our log lines as plain sentences, of the first process; no bars for single files that are read and written."""
    from transformers.utils.logging import disable_progress_bar

    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.WARNING if process else level)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    disable_progress_bar()


def environment(arguments: list[str]) -> NoReturn:
    """`emotion-ft env`."""
    if arguments:
        print("usage: emotion-ft env\n\nPrint versions and hardware, for bug reports.")
        sys.exit(0 if arguments[0] in ("-h", "--help") else USAGE)
    warnings.simplefilter("ignore")
    from .reports.environment import describe

    print(describe())
    sys.exit()


if __name__ == "__main__":
    main()
