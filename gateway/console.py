"""How does the program itself speak to whoever started it?

Lines of its own words go to stderr, results to stdout; the logs of the processes are another
matter (`gateway.telemetry`).
"""

import sys
from typing import TextIO


def say(line: str) -> None:
    """One line of the program's own words, on stderr."""
    write(sys.stderr, f"headgate: {line}")


def write(stream: TextIO, text: str) -> None:
    """Writes a line where somebody may read it. That nobody does (a pipe that was closed, a
    disk that is full) must not stop what keeps the processes running."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        pass
