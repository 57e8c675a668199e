"""What does a process have in the places of standard input, output and error?

Whoever starts it decides that, and may leave them closed or say that they take ASCII only.
"""

import io
import os
import sys


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
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
