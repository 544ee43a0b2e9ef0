"""The toolkit's commands, run in this very process: a process of its own would spend ten seconds on imports."""

import base64
import logging
import os
import random
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import datasets
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from emotion_ft.cli import FILES

ROOT = Path(__file__).resolve().parents[1]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""A PNG."""


class Done(NamedTuple):
    """What a finished command leaves, named as in `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def in_process(name: str, *arguments: object, pictures: bool = False, **environment: str) -> Done:
    """Run `emotion-ft NAME ARGUMENTS` here, from the root of the checkout; nothing of it outlasts the call.

    For what takes a process of its own (signals, several processes, variables that are read at import), see the
    fixture `recipe`.

    Args:
        pictures: draw them, which takes longer than all else in a small run; otherwise each is one pixel.
        environment: variables to add for the duration.
    """
    out, err = StringIO(), StringIO()
    with ExitStack() as stack:
        for context in (_settings(), _random_states(), _process_states(), _logging_to(err), chdir(ROOT)):
            stack.enter_context(context)
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(sys, "argv", [f"emotion-ft {name}"]))
        if not pictures:
            stack.enter_context(mock.patch.object(Figure, "savefig", lambda _, path, **__: path.write_bytes(PIXEL)))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            import_module(f"emotion_ft.recipes.{FILES.get(name, name)}").main([str(value) for value in arguments])
            code = f"{name}: main returned instead of raising SystemExit"
        except SystemExit as leaving:
            code = leaving.code
        except Exception:
            traceback.print_exc()
            code = 1
        if isinstance(code, str):
            print(code, file=sys.stderr)
    return Done(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def succeed(name: str, *arguments: object, **settings: Any) -> Done:
    """`in_process`, where anything but exit code 0 fails the test with what was printed."""
    return leave(0, name, *arguments, **settings)


def leave(code: int, name: str, *arguments: object, **settings: Any) -> Done:
    """`in_process`, where anything but this exit code, or a traceback, fails the test with what was printed."""
    done = in_process(name, *arguments, **settings)
    said = f"{name} {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == code and "Traceback" not in done.stderr, said
    return done


@contextmanager
def _logging_to(stream: StringIO) -> Iterator[None]:
    """Log lines and warnings go to `stream` as `set_up_logging` shows them; with pytest's handlers, it adds none."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("emotion_ft", "accelerate")}
    root.handlers[:] = [logging.StreamHandler(stream)]
    try:
        with warnings.catch_warnings():
            yield
            logging.captureWarnings(False)
    finally:
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _settings() -> Iterator[None]:
    """Progress bars, torch's determinism and the environment are put back."""
    bars = transformers_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with mock.patch.dict(os.environ):
            yield
    finally:
        for enabled, library in zip(bars, (transformers_logging, datasets), strict=True):
            bar = "progress_bar" if library is transformers_logging else "progress_bars"
            getattr(library, f"{'enable' if enabled else 'disable'}_{bar}")()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def _random_states() -> Iterator[None]:
    """The global random generators are put back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def _process_states() -> Iterator[None]:
    """accelerate knows nothing of earlier commands, and then again what it knew before."""
    shared = [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)
