"""A collection's files: finding them, limits on their size, the ids in them, and one list of all their faults."""

import logging
import os
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import UsageError, brief

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".aiff", ".aif")
RENDER_SETTINGS = "render_settings.json"
"""The file that marks a collection as rendered rather than downloaded, in its root."""
COLLECTION = 1 << 32
"""DEAM's songs keep their ids; in other collections, an id is the collection's number times this, plus the song's."""

MAX_BYTES = 1 << 24
"""The largest CSV file that is read: in memory it takes several times its size. DEAM's largest has 3 MB."""
MAX_COLUMNS = 1 << 14
"""The most columns that a CSV file may have, a dynamic annotation of more than two hours. DEAM's longest has 1224."""
MAX_FAULTS = 1000
"""How many faults of a file are collected, in memory, before the reader gives up."""


class AnnotationError(UsageError):
    """A collection's files are missing, or cannot be used as they are."""


def files_under(root: StrPath) -> Iterator[Path]:
    """Every visible file at any depth under `root`, in sorted order, following links.

    Hidden files and folders are left out, as are the copies in archives made by macOS (`._*`, `__MACOSX`).
    Raises `AnnotationError` if `root` is not a folder or a folder below it cannot be listed.
    """
    if not os.path.isdir(root):  # Path.is_dir would raise for a name that is too long
        raise AnnotationError(f"expected the folder of an unzipped collection, but {brief(root, 500)} is not a folder")
    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if name != "__MACOSX" and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def find_file(root: StrPath, name: str) -> Path | None:
    """The file called `name` at any depth under `root`, or None.

    Raises `AnnotationError` if `root` is missing or empty, or if two files with that name differ in content.
    """
    files = list(files_under(root))
    if not files:
        raise AnnotationError(f"{root} contains no files: unzip the collection's annotations and audio there")
    copies = [path for path in files if path.name == name]
    for copy in copies[1:]:
        if read_bytes(copies[0]) != read_bytes(copy):
            raise AnnotationError(f"two different files are called {name}: {copies[0]} and {copy}; remove one")
    return copies[0] if copies else None


def is_rendered(root: StrPath) -> bool:
    """Whether the songs under `root` were rendered from their labels."""
    return find_file(root, RENDER_SETTINGS) is not None


def read_bytes(path: Path) -> bytes:
    """The content of a CSV file.

    Raises:
        AnnotationError: if it is not a file, cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AnnotationError(f"{path} cannot be read: not a file")
        if size > MAX_BYTES:
            raise AnnotationError(
                f"{path} has {size} bytes, but at most {MAX_BYTES} can be read: keep only the rows and columns that "
                "are needed"
            )
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error


def refuse_columns(path: Path, line: int, number: int) -> None:
    """Raise an `AnnotationError` for a row of more than `MAX_COLUMNS` cells."""
    if number > MAX_COLUMNS:
        raise AnnotationError(f"{path}, line {line}: {number} columns, but at most {MAX_COLUMNS} can be read")


def is_number(text: str) -> bool:
    """Whether an id is a decimal integer below `COLLECTION`."""
    return text.isascii() and text.isdecimal() and len(text) < 1000 and int(text) < COLLECTION


def canonical(text: str) -> str:
    """An id or file name in the form that is compared: 007 is 7, and an accent is the same however it is encoded."""
    return str(int(text)) if is_number(text) else unicodedata.normalize("NFC", text)


def first_ids(song_ids: Collection[int | str]) -> str:
    """The first ten ids, as messages list them."""
    return ", ".join(map(str, list(song_ids)[:10])) + (", ..." if len(song_ids) > 10 else "")


def warn_left_out(what: str, song_ids: Collection[int | str]) -> None:
    """Log which songs are left out, if any."""
    if len(song_ids):
        logger.warning("left out %d %s: %s", len(song_ids), what, first_ids(sorted(song_ids)))


def refuse_faults(faults: list[str], hint: str = "") -> None:
    """If there are faults, raise an `AnnotationError` that lists the first five and counts the rest."""
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}:"
        more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise AnnotationError("\n".join([count, *faults[:5], *more, *filter(None, [hint])]))


def _raise(error: OSError) -> None:
    raise AnnotationError(f"{error.filename} cannot be listed: {error.strerror}") from error
