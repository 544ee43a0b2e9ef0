"""Errors that the user can fix, and text from outside made fit for their messages."""


class UsageError(ValueError):
    """Wrong input: the message says what was expected, what came and what to do; commands print only that."""


def brief(text: object, length: int = 120) -> str:
    """`text` on one line of at most `length` characters and an ellipsis, whatever it holds."""
    text = str(text)
    line = "".join(character if character.isprintable() else " " for character in text[:length])
    return line + "..." if len(text) > length else line
