"""Try many inputs, the same in every run, each within bounds of CPU time and memory."""

import resource
import time
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Far above what any input takes on a slow, busy core, far below what a blow-up takes.
SECONDS = 8.0
MEGABYTES = 300
# What overwrites a field of a header: none, few and absurdly many, in either order of the bytes.
NUMBERS = (0, 1, 2, 7, 1000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FIELDS = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for number in NUMBERS
    if number < 256**size
    for order in ("little", "big")
)
# The start of a file, where its header is, or anywhere.
POSITION = st.one_of(st.integers(0, 200), st.floats(0, 1))


@contextmanager
def bounds(seconds=SECONDS, megabytes=MEGABYTES):
    """A block that fails when it takes more CPU time, and in which a greater allocation is a `MemoryError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if pages.exists():
        size = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, hard))
    start = time.process_time()
    try:
        yield
    finally:
        taken = time.process_time() - start
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert taken < seconds, f"took {taken:.1f} s"


def fuzz(name, inputs, check, *strategies):
    """Hand `inputs` draws of the strategies to `check`, each within `bounds`, and print how many were tried."""
    tried = 0

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=inputs, suppress_health_check=list(HealthCheck)
    )
    @given(st.tuples(*strategies))
    def run(drawn):
        nonlocal tried
        tried += 1
        with bounds():
            check(*drawn)

    start = time.process_time()
    run()
    print(f"{name}: {tried} inputs, {time.process_time() - start:.1f} s")
    assert tried >= inputs


def one_line(message, *names, longest=1500):
    """The message of an error that a user sees: short, printable, and about the file."""
    assert all(str(name) in message for name in names), message
    assert message.isprintable() and 0 < len(message) <= longest, repr(message[: longest + 1])


def _edit(data, kind, position, size, field):
    at = min(position, len(data)) if isinstance(position, int) else int(position * len(data))
    head, tail = data[:at], data[at:]
    match kind:
        case "flip":
            return head + bytes([tail[0] ^ 1 << size % 8]) + tail[1:] if tail else data
        case "cut":
            return head
        case "behead":
            return tail
        case "drop":
            return head + tail[size:]
        case "repeat":
            return head + tail[:size] * 20 + tail
        case "swap":
            return tail + head
        case "overwrite":
            return head + field + tail[len(field) :]
        case "insert":
            return head + field + tail


EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "behead", "drop", "repeat", "swap", "insert", *["overwrite"] * 5]),
    POSITION,
    st.integers(1, 64),
    st.sampled_from(FIELDS),
)


@st.composite
def damaged(draw, originals, edits=EDIT):
    """The bytes of one of `originals` after one to four edits."""
    data = draw(st.sampled_from(originals))
    for edit in draw(st.lists(edits, min_size=1, max_size=4)):
        data = _edit(data, *edit)
    return data
