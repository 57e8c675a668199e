"""`python -m instance MODEL …`"""

import os
import signal
import sys
from functools import partial
from types import FrameType


def end(code: int, number: int, frame: FrameType | None) -> None:
    os._exit(code)


def end_at_signals(code: int) -> None:
    """Until somebody else takes SIGTERM and SIGINT they end this process with `code`, and without
    a word: in the middle of an import, say. What it has started ends by itself."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, partial(end, code))


if __name__ == "__main__":
    end_at_signals(0)
    from instance.cli import main

    code = main()
    end_at_signals(code)  # once more, who was told is about to end
    sys.exit(code)
