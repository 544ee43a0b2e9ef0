"""Figures and their clocks.

Ours and the peer take turns after a warm-up of each; a figure is the median over the repeats, and a ratio the median
of the ratios within the repeats, so that a busy machine slows both alike.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np


@dataclass
class Figure:
    """One line of the table.

    Args:
        section, name: what was measured.
        unit: of `runs` and `peer_runs`, one number a repeat.
        peer: what `peer_runs` belong to.
        target: the most that the median of `runs` may be; the least when `higher_is_better`.
    """

    section: str
    name: str
    unit: str
    runs: Iterable[float]
    peer: str = ""
    peer_runs: Iterable[float] = ()
    target: float | None = None
    higher_is_better: bool = False

    def __post_init__(self):
        self.runs, self.peer_runs = [float(run) for run in self.runs], [float(run) for run in self.peer_runs]

    @property
    def value(self) -> float:
        return statistics.median(self.runs)

    @property
    def peer_value(self) -> float | None:
        return statistics.median(self.peer_runs) if self.peer_runs else None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if not self.peer_runs:
            return None
        pairs = zip(self.runs, self.peer_runs, strict=True)
        return statistics.median(ours / peer if self.higher_is_better else peer / ours for ours, peer in pairs)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.higher_is_better else self.value <= self.target


def interleave(repeats: int, clock: Callable[[], float], **tasks: Callable) -> list[np.ndarray]:
    """Seconds (repeats,) of each task, which take turns after one warm-up each."""
    for task in tasks.values():
        task()
    seconds = np.empty((len(tasks), repeats))
    for repeat in range(repeats):
        for index, task in enumerate(tasks.values()):
            start = clock()
            task()
            seconds[index, repeat] = clock() - start
    return list(seconds)


core_seconds = partial(interleave, clock=time.process_time)
wall_seconds = partial(interleave, clock=time.perf_counter)
