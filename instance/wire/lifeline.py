"""How a worker ends when its parent is gone, with all that it started.

A worker leads a session, and so a process group, of its own, which holds what its model
starts. Its parent ends that group when the worker has ended. For the end of the parent there
is a pipe whose other end only the parent holds: Linux is asked to kill the group when it
breaks, and a thread waits for the same, which works everywhere. Not by `PR_SET_PDEATHSIG`: it
kills the worker alone, and nobody would be left to end the rest.

It refuses to follow what puts itself into a group of its own, but for forks, which watch the
pipe themselves, and for what `multiprocessing` starts anew, which ends with its parent.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

_ENDS = (signal.SIGINT, signal.SIGTERM)


def hang_on(pipe: int) -> None:
    """Ends this process, and its group, as soon as nobody holds the other end of `pipe`."""
    os.setsid()
    if sys.platform == "linux":
        with suppress(OSError):
            _kill_group_at_end(pipe)
    # A container's stop may reach every process: the parent decides. Not SIG_IGN, which
    # programs that a model starts would inherit and then could not be ended.
    for number in _ENDS:
        signal.signal(number, _leave_to_the_parent)
        signal.siginterrupt(number, False)
    _watch(pipe)
    _follow_forks(pipe)


if sys.platform == "linux":

    def _kill_group_at_end(pipe: int) -> None:
        """Has the kernel do it, which needs no thread of ours to come to its turn."""
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def end_with_parent() -> None:
    """Has what `multiprocessing` starts anew end with the process that started it, however
    that one died, and its forks as well. Called as it imports its main module."""
    _start(_follow)
    os.register_at_fork(after_in_child=lambda: _start(_follow))


def _follow() -> None:
    from multiprocessing import parent_process

    while (parent := parent_process()) is None:  # not said before the import is done
        time.sleep(0.1)
    parent.join()
    os._exit(0)


def end_group(leader: int = 0) -> None:
    """Kills what is left of the group of `leader`, which has ended; of our own: all of it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


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


def _leave_to_the_parent(number: int, frame: FrameType | None) -> None:
    pass


def _watch(pipe: int) -> None:
    _start(partial(_wait, pipe))


def _start(target: Callable[[], None]) -> None:
    threading.Thread(target=target, name="lifeline", daemon=True).start()


def _wait(pipe: int) -> None:
    with suppress(OSError):
        os.read(pipe, 1)
    end_group()
