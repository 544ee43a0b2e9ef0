"""What a machine does to a run, each as one sentence: a disk that takes no more, too little memory, killed workers."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import UsageError

RESUME = "go on with --resume_from_checkpoint"
RESUME_OR_ANEW = f"{RESUME}, or as before if there is no checkpoint yet"
SAME_COMMAND = "the same command goes on"
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
DISK |= {errno.EEXIST, errno.ENOTDIR}  # a file where a folder should be


class DiskError(UsageError):
    """A folder that cannot be written to."""


class OutOfMemory(UsageError):
    """A batch that does not fit into the memory; the message names the flag to lower."""


class WorkerKilled(UsageError):
    """A process that helped this one was killed."""


def disk_fault(error: Exception) -> str | None:
    """What is wrong with the disk, in the system's words, when that is what an error says."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in DISK else None
    if isinstance(error, SafetensorError) and (number := re.search(r"\(os error (\d+)\)", str(error))):
        return os.strerror(int(number[1]))
    # torch.save says that a file is shorter than what went into it, but not why.
    if isinstance(error, RuntimeError) and re.search(r"inline_container\.cc|iostream error", str(error)):
        reason = re.search(r"failed with strerror: (.+)", str(error))
        return reason[1] if reason else "a file was cut short, as on a full disk"
    return None


@contextmanager
def writing(folder: str | Path, flag: str, going_on: str = RESUME_OR_ANEW) -> Iterator[None]:
    """Around whatever writes into a folder.

    Args:
        folder: where.
        flag: that names another folder.
        going_on: how to go on when the folder can be written to again.

    Raises:
        DiskError: in place of what Python, safetensors or torch raise for a full, read-only or failing disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = disk_fault(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None) or folder
        raise DiskError(
            f"cannot write '{place}': {reason}. Make room there, or make it writable, and {going_on}; or name another "
            f"--{flag}."
        ) from error


@contextmanager
def memory(advice: str) -> Iterator[None]:
    """Around what computes in batches: raise `OutOfMemory`, with the advice, when the memory of GPU or CPU is full."""
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # oneDNN, which convolves on a CPU, says no more than that when an allocation of its own fails.
        of_memory = should_reduce_batch_size(error) or "could not create a primitive" in str(error)
        if isinstance(error, RuntimeError) and not of_memory:
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        raise OutOfMemory(f"out of memory{f' ({asked[1]} more were needed)' if asked else ''}: {advice}") from error


@contextmanager
def loading() -> Iterator[None]:
    """Around what reads from a data loader: raise `WorkerKilled` when a process of it was killed."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", str(error)):
            raise
        raise WorkerKilled(
            "a process of the data loader was killed. When it was for want of memory, lower dataloader_num_workers; "
            f"{RESUME_OR_ANEW}."
        ) from error
