"""What stands in for a reader that stalls: a pipe that is full and that nobody empties."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe into which not one more byte fits, so that a write blocks."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        for size in (1 << 16, 1):
            try:
                while True:
                    os.write(writing, b"\n" * size)
            except BlockingIOError:
                pass
        os.set_blocking(writing, True)
        yield writing
    finally:
        os.close(writing)
        os.close(reading)


def is_full(writing: int) -> bool:
    """Whether the pipe still holds all it can: nobody read from it."""
    held = int.from_bytes(fcntl.ioctl(writing, 0x541B, b"\0" * 4), "little")  # FIONREAD
    return held >= fcntl.fcntl(writing, getattr(fcntl, "F_GETPIPE_SZ", 1032))
