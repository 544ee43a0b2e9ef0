"""Figures and how they are timed.

Ours and the peer take turns after a warm-up each; a figure is the median over the repeats, and a ratio the median of
the ratios within the repeats, so that a busy machine slows both alike.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass
class Figure:
    """One row of the table.

    Args:
        section, name: what was measured.
        unit: of `runs` and `peer_runs`, which hold one number per repeat.
        peer: what `peer_runs` were measured of.
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

    def __post_init__(self) -> None:
        self.runs, self.peer_runs = [float(run) for run in self.runs], [float(run) for run in self.peer_runs]

    @property
    def value(self) -> float:
        """The median of `runs`."""
        return statistics.median(self.runs)

    @property
    def peer_value(self) -> float | None:
        """The median of `peer_runs`, if there are any."""
        return statistics.median(self.peer_runs) if self.peer_runs else None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, if there is one."""
        if not self.peer_runs:
            return None
        pairs = zip(self.runs, self.peer_runs, strict=True)
        return statistics.median(ours / peer if self.higher_is_better else peer / ours for ours, peer in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the target is met, if there is one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.higher_is_better else self.value <= self.target


def interleave(repeats: int, clock: Callable[[], float], /, **tasks: Callable[[], object]) -> list[np.ndarray]:
    """Time tasks, which take turns after one warm-up each.

    Args:
        clock: returns seconds.
        **tasks: by name, called without arguments.

    Returns:
        The seconds (repeats,) of each task.
    """
    for task in tasks.values():
        task()
    seconds = np.empty((len(tasks), repeats))
    for repeat in range(repeats):
        for index, task in enumerate(tasks.values()):
            start = clock()
            task()
            seconds[index, repeat] = clock() - start
    return list(seconds)


def core_seconds(repeats: int, /, **tasks: Callable[[], object]) -> list[np.ndarray]:
    """`interleave` in CPU time of this process."""
    return interleave(repeats, time.process_time, **tasks)


def wall_seconds(repeats: int, /, **tasks: Callable[[], object]) -> list[np.ndarray]:
    """`interleave` in wall time."""
    return interleave(repeats, time.perf_counter, **tasks)
