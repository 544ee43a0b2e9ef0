"""Benchmarks of everything that makes the toolkit fast, each beside the usual way of doing the same thing.

A section is a function that takes a `Workbench` and returns `Figure`s; its docstring says what it measures.
"""

from .figures import Figure
from .gpu import accelerator
from .predictions import inference
from .prepared import prepare
from .processes import memory, startup
from .songs import decode, features, loader, processes, store
from .steps import step
from .trainings import gan, head, training
from .workbench import Workbench

ORDER = (decode, features, processes, store, prepare, loader, step, training, head, gan, inference, startup, memory)
SECTIONS = {section.__name__: section for section in (*ORDER, accelerator)}

__all__ = ["SECTIONS", "Figure", "Workbench"]
