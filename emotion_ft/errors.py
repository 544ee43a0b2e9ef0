"""Errors that the user can fix, and text from outside made fit for their messages."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

RESUME = "go on with --resume_from_checkpoint"
RESUME_OR_AGAIN = f"{RESUME}, or start again if there is no checkpoint yet"
SAME_COMMAND = "run the same command to continue"


class UsageError(ValueError):
    """Wrong input: the message says what was expected, what came and what to do; commands print only that."""

    exit_code = 1
    """What a command that ends with this error exits with."""


def brief(text: object, length: int = 120) -> str:
    """`text` on one line of at most `length` characters and an ellipsis, whatever it holds."""
    text = str(text)
    line = "".join(character if character.isprintable() else " " for character in text[:length])
    return line + "..." if len(text) > length else line


def nearest(wanted: Iterable[str], names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name most like one of the wanted ones, in any letter case; None where none of the first thousand is.

    Args:
        cutoff: the least similarity, in [0, 1] (`difflib.SequenceMatcher.ratio`).
    """
    names = [name for name in islice(names, 1000) if len(name) <= 100]
    pairs = [(SequenceMatcher(None, a[:100].lower(), b.lower()).ratio(), b) for a in wanted for b in names]
    ratio, name = max(pairs, default=(0.0, ""))
    return name if ratio > cutoff else None


def nearest_hint(wanted: Iterable[str], names: Iterable[str]) -> str:
    """ " (nearest: NAME)", or nothing where no name is similar."""
    name = nearest(wanted, names)
    return f" (nearest: {brief(name)})" if name else ""
