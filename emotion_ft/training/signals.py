"""SIGTERM handling: a command ends as on Ctrl-C; a training loop first finishes its step and saves a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..faults import WorkerKilled

EXIT_CODE = 128 + signal.SIGTERM  # as shells report it

_active = _received = _deferred = False


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; a KeyboardInterrupt, so that `except Exception` does not swallow it.

    Has the last finished `step`, and the `checkpoint` that it was saved to.
    """

    def __init__(self, step: int | None = None, checkpoint: str | Path | None = None):
        super().__init__(step, checkpoint)
        self.step, self.checkpoint = step, checkpoint


def _handle(number: int, frame: object) -> None:
    global _received
    _received = True
    if not _deferred:
        raise Terminated


@contextmanager
def heeded() -> Iterator[None]:
    """Within it, SIGTERM raises `Terminated`, unless it is `deferred`; for the main thread only."""
    global _active, _received
    before = signal.signal(signal.SIGTERM, _handle)
    _active, _received = True, False
    try:
        yield
    finally:
        _active = False
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Wrap a loop that finishes each step and then calls `stopping`; `Terminated` follows it on a later SIGTERM."""
    global _deferred
    _deferred = True
    try:
        yield
    except WorkerKilled as error:
        if _received:  # a signal to the whole process group ends workers first
            raise Terminated from error
        raise
    finally:
        _deferred = False
    if _received and _active:
        raise Terminated


def stopping() -> bool:
    """Whether any process of the run received SIGTERM; all processes have to call it, and get the same answer."""
    if not _active:
        return False
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    if state.num_processes == 1:
        return _received
    return bool(reduce(torch.tensor(float(_received), device=state.device), "sum"))
