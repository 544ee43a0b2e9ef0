"""SIGTERM: a recipe leaves as on Ctrl-C; within a training loop it finishes the step and saves a checkpoint first."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..errors import UsageError
from ..faults import RESUME, RESUME_OR_ANEW, WorkerKilled

EXIT_CODE = 128 + signal.SIGTERM  # as shells report it

_heeded = _came = _deferred = False


class Terminated(KeyboardInterrupt):
    """SIGTERM has come; like Ctrl-C, nothing that expects errors swallows it.

    Args:
        step: the last one that was finished.
        checkpoint: where it was saved.
    """

    def __init__(self, step: int | None = None, checkpoint: str | Path | None = None):
        super().__init__(step, checkpoint)
        self.step, self.checkpoint = step, checkpoint


def _handle(number: int, frame: object) -> None:
    global _came
    _came = True
    if not _deferred:
        raise Terminated


@contextmanager
def heeded() -> Iterator[None]:
    """SIGTERM raises `Terminated`, but where it is `deferred`. For the main thread."""
    global _heeded, _came
    before = signal.signal(signal.SIGTERM, _handle)
    _heeded, _came = True, False
    try:
        yield
    finally:
        _heeded = False
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Around a loop of steps that are to be finished, and that asks `stopping` after each.

    Raises:
        Terminated: after the loop, when SIGTERM came too late for it.
    """
    global _deferred
    _deferred = True
    try:
        yield
    except WorkerKilled as error:
        if _came:  # a signal to the whole group ends workers first
            raise Terminated from error
        raise
    finally:
        _deferred = False
    if _came and _heeded:
        raise Terminated


def stopping() -> bool:
    """Whether SIGTERM has come to any process of the run. All of them have to ask, and all get the same answer."""
    if not _heeded:
        return False
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    if state.num_processes == 1:
        return _came
    return bool(reduce(torch.tensor(float(_came), device=state.device), "sum"))


@contextmanager
def leaving(recipe: str, resume: str = RESUME, resume_or_anew: str = RESUME_OR_ANEW) -> Iterator[None]:
    """Around a recipe that is stopped or cannot go on: it leaves with one line and an exit code, 143 after SIGTERM.

    Args:
        recipe: its name, with which the line begins.
        resume: how to go on from a checkpoint.
        resume_or_anew: how to go on when there may be none.
    """
    try:
        with heeded():
            yield
    except UsageError as error:
        _close_bars()
        sys.exit(f"{recipe}: {error}")
    except Terminated as stop:
        _close_bars()
        if os.environ.get("RANK", "0") == "0":
            at = "" if stop.step is None else f" at step {stop.step}"
            how = resume_or_anew if stop.checkpoint is None else f"{Path(stop.checkpoint).name} saved, {resume}"
            print(f"{recipe}: stopped by SIGTERM{at}; {how}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        _close_bars()
        sys.exit(f"{recipe}: interrupted; {resume_or_anew}")


def _close_bars() -> None:
    """Progress bars that are still open: what is printed next would stand in their line."""
    for bar in list(tqdm._instances):
        bar.close()
