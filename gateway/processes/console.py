"""The program's own words, for whoever started it.

They go to stderr, results to stdout; the logs of the processes are another
matter (`gateway.telemetry`).
"""

import os
import sys
import time
from typing import TextIO

from gateway.processes import outlet


def take_over() -> None:
    """From now on no line of this process waits for who reads it (`gateway.processes.outlet`)."""
    outlet.take_over(lambda lines: f"headgate: {_left_out(lines)}\n".encode())


def _left_out(lines: int) -> str:
    return f"{lines} {'line was' if lines == 1 else 'lines were'} dropped here: nobody read them"


FOR_PEOPLE = "HEADGATE_FOR_PEOPLE"
"""Set in the environment where a person follows on a terminal: lines begin with the time."""


def is_for_people() -> bool:
    """Whether this process writes to the one screen of `headgate up`."""
    return FOR_PEOPLE in os.environ


def can_draw(stream: TextIO) -> bool:
    """Whether `stream` leads to a terminal that takes colours and a cursor that moves; one of which
    nobody says what it is takes text alone."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def say(line: str) -> None:
    """One line of the program's own words, on stderr."""
    write(sys.stderr, f"{time.strftime('%H:%M:%S') if is_for_people() else 'headgate:'} {line}")


def write(stream: TextIO, text: str) -> None:
    """Writes a line where somebody may read it. That nobody does (a pipe that was closed, a
    disk that is full) must not stop what keeps the processes running."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        pass
