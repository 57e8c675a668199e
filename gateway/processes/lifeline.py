"""The ties that end a process together with the one that started it.

Two ties, because each alone has a hole. On Linux the kernel kills a child whose parent has
gone (`PR_SET_PDEATHSIG`); everywhere a pipe, whose writing end only the parent holds, comes
to its end. Neither asks the child to be well: the first needs no code to run, the second
runs in a thread of its own, so that a child whose event loop hangs ends as well.

This module refuses to stop anything gently. A parent that ends in good order stops its
children itself; these ties are for the one that was killed.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

PARENT = "HEADGATE_PARENT"
PIPE = "HEADGATE_LIFELINE"

_PR_SET_PDEATHSIG = 1
_ORPHANED = 1


class Lifeline:
    """The parent's end: give `environment` and `fd` to every child that shall end with it."""

    __slots__ = ("_writing", "fd")

    def __init__(self) -> None:
        self.fd, self._writing = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        return {PARENT: str(os.getpid()), PIPE: str(self.fd)}

    def close(self) -> None:
        """Lets go: children that are still tied end at once. A second call does nothing."""
        if self._writing >= 0:
            os.close(self._writing)
            os.close(self.fd)
            self._writing = self.fd = -1


def tie() -> None:
    """Ties this process to the parent named in its environment; does nothing without one.

    Must be called from the main thread, before anything that may take long.
    """
    parent, pipe = os.environ.pop(PARENT, None), os.environ.pop(PIPE, None)
    if parent is None or pipe is None:
        return
    _ask_the_kernel(int(parent))
    threading.Thread(target=_wait_for_the_end, args=(int(pipe),), daemon=True).start()


def exec_tied(command: Sequence[str]) -> NoReturn:
    """Becomes `command`, a program that knows nothing of lifelines, tied to our parent.

    On Linux this process turns into the command: the kernel's tie survives `execve`.
    Elsewhere it stays as the command's guard and exits as the command did.
    """
    parent, pipe = os.environ.pop(PARENT, None), os.environ.pop(PIPE, None)
    try:
        if parent is None or pipe is None or sys.platform == "linux":
            if parent is not None:
                _ask_the_kernel(int(parent))
            os.execvp(command[0], list(command))  # noqa: S606
        _guard(command, int(pipe))
    except OSError as error:  # whoever started us shows our last line
        sys.exit(f"{command[0]} cannot be run: {(error.strerror or str(error)).lower()}")


def _ask_the_kernel(parent: int) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died between the fork and the call above; then nobody will be told.
    if os.getppid() != parent:
        os._exit(_ORPHANED)


def _wait_for_the_end(fd: int) -> None:
    while True:
        try:
            if not os.read(fd, 1):
                break
        except InterruptedError:
            continue
        except OSError:
            break
    os._exit(_ORPHANED)


def _guard(command: Sequence[str], pipe: int) -> NoReturn:
    child = os.posix_spawnp(command[0], list(command), os.environ)

    def end_the_child() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(child, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    threading.Thread(target=end_the_child, daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)
