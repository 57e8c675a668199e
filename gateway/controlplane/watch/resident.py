"""How much memory do a process and those that it started hold?

Read off /proc, which is memory and no disk, and not more often than people look. Where there is no
/proc nothing is known.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

AGAIN_S = 5.0
MAX_PROCESSES = 64  # of one tree
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Resident:
    """Calls give bytes, looked at anew after AGAIN_S of `clock`."""

    def __init__(
        self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc, self._clock = proc, clock
        self._known: dict[int, tuple[float, int | None]] = {}

    def __call__(self, pid: int) -> int | None:
        """What `pid` and all below it hold, as `top` counts it; None for one that is gone."""
        now = self._clock()
        known = self._known.get(pid)
        if known is None or now - known[0] >= AGAIN_S:
            self._known = {
                each: found for each, found in self._known.items() if now - found[0] < AGAIN_S
            }
            known = self._known[pid] = now, self._look(pid)
        return known[1]

    def _look(self, pid: int) -> int | None:
        sizes: list[int] = []
        left = [pid]
        while left and len(sizes) < MAX_PROCESSES:
            one = self._proc / str(left.pop())
            try:
                sizes.append(_PAGE * int((one / "statm").read_text().split()[1]))
                for task in (one / "task").iterdir():
                    left += map(int, (task / "children").read_text().split())
            except (OSError, ValueError, IndexError):  # it ended meanwhile
                continue
        return sum(sizes) if sizes else None
