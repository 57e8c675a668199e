"""What does a process have in the places of standard input, output and error?

Whoever starts it decides that, and may leave them closed or say that they take ASCII only.
"""

import io
import os
import select
import sys
from typing import TextIO

_is_dropped = False


def make_usable() -> None:
    """All three are open afterwards, and a character that output cannot show is an escape there.

    A place that was left closed would be given to the first socket that is opened, and what is
    printed, here or by a child, would be written into that.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """What is printed from now on, and what waits to be, goes nowhere: nobody takes it."""
    global _is_dropped
    _is_dropped = True
    _drop(sys.stdout)


def drop_unwritten_words() -> None:
    """What of standard error could not be written goes nowhere; Python would fail at it once more
    at its end, and make an exit code of its own of that."""
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def is_left(within_s: float = 0.0) -> bool:
    """Whether whoever read the output has left; waits so long for that."""
    if _is_dropped:
        return True
    poll = select.poll()
    poll.register(1, 0)  # that nobody reads any more is told unasked
    told = poll.poll(1000 * within_s)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in told)


def _drop(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
