"""SIGTERM: a command ends as on Ctrl-C; a training loop first finishes its step and saves a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..faults import WorkerKilled

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
