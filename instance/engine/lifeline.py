"""How does a worker end when its parent is gone, however the parent died?

Twice over: Linux is asked to kill it with its parent, and a thread waits for the end of a
pipe whose other end only the parent holds, which works everywhere and even while the main
thread computes.
"""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def hang_on(parent: int, pipe: int) -> None:
    """This process ends as soon as `parent` does; `pipe` is the reading end of its lifeline."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(0)
    threading.Thread(target=_wait, args=(pipe,), name="lifeline", daemon=True).start()


def _wait(pipe: int) -> None:
    try:
        os.read(pipe, 1)
    except OSError:
        pass
    os._exit(0)
