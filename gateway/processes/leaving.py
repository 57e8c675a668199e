"""Which workers of the gateway before a hot restart are still draining?

They finish what they have, and decide requests of clients that keep their connections. So they
are told of edits like any other worker, and an edit is in force when they serve it too or are gone.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Before:
    """The processes `pids`, and the descriptor of the socket at which they open their channels."""

    channels_fd: int
    pids: Sequence[int]


async def follow(pids: Sequence[int], told: Callable[[Sequence[int]], None]) -> None:
    """Calls `told` with those of `pids` that are left, whenever one is gone; returns when all are.

    By looking: they are nobody's children here, and whoever started them may be killed."""
    left = list(pids)
    while left:
        await asyncio.sleep(LOOK_S)
        now = [pid for pid in left if is_there(pid)]
        if now != left:
            left = now
            told(left)


def end(pid: int) -> None:
    """Ends process `pid` at once; it may have ended since somebody looked."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
