"""How does a worker end when its parent is gone, however the parent died?

Twice over: Linux is asked to kill it with its parent, and a thread waits for the end of a
pipe whose other end only the parent holds, which works everywhere and even while the main
thread computes. Processes that the model forks hold on to the same pipe, which the parent also
closes when a worker has ended: none of them outlives its worker. It refuses to know of those
that a model starts anew, but for the ones that `multiprocessing` keeps.
"""

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

_PR_SET_PDEATHSIG = 1
_ENDS = (signal.SIGINT, signal.SIGTERM)


def hang_on(parent: int, pipe: int) -> None:
    """This process ends as soon as `parent` does; `pipe` is the reading end of its lifeline."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(0)
    # A terminal's Ctrl-C and a container's stop reach the whole group: the parent decides. Not
    # SIG_IGN, which programs that a model starts would inherit and then could not be ended.
    for number in _ENDS:
        signal.signal(number, _leave_to_the_parent)
        signal.siginterrupt(number, False)
    _watch(pipe)
    _follow_forks(pipe)


def _follow_forks(pipe: int) -> None:
    """Forks of this process watch the pipe too, and end by signals as others do; one that
    comes while they are made waits until they can."""

    def before() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)

    def after() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)

    def in_the_fork() -> None:
        for number in _ENDS:
            signal.signal(number, signal.SIG_DFL)
        after()
        _watch(pipe)

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=in_the_fork)


def end_children() -> None:
    """Ends the processes that `multiprocessing` started here and would end at an exit in
    order, which a worker does not take."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            with suppress(OSError):
                child.kill()


def _leave_to_the_parent(number: int, frame: FrameType | None) -> None:
    pass


def _watch(pipe: int) -> None:
    threading.Thread(target=_wait, args=(pipe,), name="lifeline", daemon=True).start()


def _wait(pipe: int) -> None:
    try:
        os.read(pipe, 1)
    except OSError:
        pass
    os._exit(0)
