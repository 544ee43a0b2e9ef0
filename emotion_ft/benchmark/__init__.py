"""What the toolkit's speed rests on, each beside the usual way of doing the same thing.

A section is a function: a `Workbench` in, `Figure`s out; its docstring says what it measures.
"""

from .figures import Figure
from .processes import memory, startup
from .songs import decode, features, loader, store
from .steps import peer, step
from .workbench import Workbench

SECTIONS = {section.__name__: section for section in (decode, features, store, loader, step, peer, startup, memory)}

__all__ = ["SECTIONS", "Figure", "Workbench"]
