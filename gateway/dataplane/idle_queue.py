"""When is there time for what no client waits for?

After a turn of the loop in which no client's request was sent on, one piece of work at a time: a
client's request never waits for more than one of them, and where several clients' came at once,
for none that began after it. Work waits for `MAX_WAIT_S` at most, however busy the worker is.
It decides when, not whether: nothing is refused or forgotten here.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

MAX_WAIT_S: Final = 0.005


class IdleQueue:
    """Work for later, in order. `call_soon` runs a callback in the loop's next turn, `now` gives
    monotonic seconds; `sent` is what clients' requests are counted in as they are sent on."""

    __slots__ = ("_call_soon", "_last", "_now", "_waiting", "sent")

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], now: Callable[[], float]
    ) -> None:
        self._call_soon = call_soon
        self._now = now
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._last = 0
        self.sent = 0

    def add(self, work: Callable[[], None]) -> None:
        """Runs `work` once there is time for it."""
        if not self._waiting:
            self._look_again()
        self._waiting.append((self._now() + MAX_WAIT_S, work))

    def _look_again(self) -> None:
        self._last = self.sent
        self._call_soon(self._turn)

    def _turn(self) -> None:
        due, work = self._waiting[0]
        if self.sent != self._last and self._now() < due:
            self._look_again()
            return
        self._waiting.popleft()
        if self._waiting:
            self._look_again()
        work()
