"""Faults of the machine, each as one sentence: a full or read-only disk, too little memory, killed workers."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import RESUME_OR_AGAIN, UsageError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
DISK |= {errno.EEXIST, errno.ENOTDIR}  # a file where a folder should be


class DiskError(UsageError):
    """A folder that cannot be written to."""


class OutOfMemory(UsageError):
    """A batch that does not fit into memory; the message names the flag to lower."""


class WorkerKilled(UsageError):
    """A worker process of this one was killed."""


def disk_fault(error: Exception) -> str | None:
    """What is wrong with the disk, in the system's words, if that is what an error is about."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in DISK else None
    if isinstance(error, SafetensorError) and (number := re.search(r"\(os error (\d+)\)", str(error))):
        return os.strerror(int(number[1]))
    # torch.save reports that a file is shorter than what was written to it, but not why.
    if isinstance(error, RuntimeError) and re.search(r"inline_container\.cc|iostream error", str(error)):
        reason = re.search(r"failed with strerror: (.+)", str(error))
        return reason[1] if reason else "a file was cut short, as on a full disk"
    return None


@contextmanager
def writing(folder: str | Path, flag: str, going_on: str = RESUME_OR_AGAIN) -> Iterator[None]:
    """Wrap code that writes into a folder.

    Args:
        folder: the folder.
        flag: the flag that chooses it.
        going_on: how to continue once it can be written to again.

    Raises:
        DiskError: instead of what Python, safetensors or torch raise for a full, read-only or failing disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = disk_fault(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None) or folder
        raise DiskError(
            f"cannot write '{place}': {reason}. Make room there, or make it writable, and {going_on}; or choose "
            f"another --{flag}."
        ) from error


@contextmanager
def memory(advice: str) -> Iterator[None]:
    """Wrap code that computes in batches: raise `OutOfMemory`, with the advice, if GPU or CPU memory runs out."""
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # All that oneDNN, which does convolutions on the CPU, says when one of its own allocations fails.
        of_memory = should_reduce_batch_size(error) or "could not create a primitive" in str(error)
        if isinstance(error, RuntimeError) and not of_memory:
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        raise OutOfMemory(f"out of memory{f' (tried to allocate {asked[1]})' if asked else ''}: {advice}") from error


@contextmanager
def loading() -> Iterator[None]:
    """Wrap code that reads from a data loader: raise `WorkerKilled` if one of its processes was killed."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", str(error)):
            raise
        raise WorkerKilled(
            "a process of the data loader was killed. If it ran out of memory, lower dataloader_num_workers; "
            f"{RESUME_OR_AGAIN}."
        ) from error
