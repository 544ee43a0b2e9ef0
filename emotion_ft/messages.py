"""What came from outside, fit for a message."""


def brief(text: object, length: int = 120) -> str:
    """`text` on one line of at most `length` characters and an ellipsis, whatever it holds."""
    text = str(text)
    line = "".join(character if character.isprintable() else " " for character in text[:length])
    return line + "..." if len(text) > length else line
