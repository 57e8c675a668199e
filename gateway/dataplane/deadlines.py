"""The timer wheel: when does something on the data plane have to be looked at again?

One timer wheel for every deadline of a worker. An item is entered once and then only its
`deadline` is moved, which is an assignment; the wheel looks when the entry comes up whether
the deadline really passed. So a request costs no timer, and an idle worker sleeps until the
earliest entry. Resolution is TICK_S; a deadline never fires early. What is over is dropped:
left in the wheel, thousands of closed connections would be kept for as long as their limits.
"""

import heapq
import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

log: Final = logging.getLogger(__name__)
TICK_S: Final = 0.02
STALLED_S: Final = 0.1  # a turn that is as late as this says that the whole process stood still
NEVER: Final = math.inf


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the data plane needs of an event loop: its timers and its next turn."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer: ...
    def call_soon(self, callback: Callable[[], None], /) -> object: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Timed:
    """Something with one deadline. Move it by Wheel.set; `expired` is told when it passed."""

    __slots__ = ("armed", "deadline")

    def __init__(self) -> None:
        self.deadline = NEVER
        self.armed = NEVER

    @abstractmethod
    def expired(self, now: float) -> None:
        """The deadline passed; there is none from now on unless it is set again."""

    def give_up(self) -> None:
        """A fault of ours came in between: ends what else would wait for ever."""


def fault(give_up: Callable[[], None]) -> None:
    """Tells the exception that is being handled, a fault of ours, and calls `give_up`.

    For the doors through which the loop calls in: whoever waits behind one learns that nothing
    more will come, and nobody else is drawn in. Raises nothing.
    """
    log.exception("fault in the gateway")
    try:
        give_up()
    except Exception:
        log.exception("fault in the gateway after another one")


class Wheel:
    """Deadlines in buckets of TICK_S. `now` gives monotonic seconds."""

    __slots__ = ("_buckets", "_clock", "_has_read", "_now", "_ticks", "_timer", "_timer_tick")

    def __init__(self, clock: Clock, now: Callable[[], float]) -> None:
        self._clock = clock
        self._now = now
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []
        self._timer: Timer | None = None
        self._timer_tick = 0
        self._has_read = False

    def set(self, item: Timed, deadline: float) -> None:
        """Moves the deadline of `item`, NEVER for none."""
        item.deadline = deadline
        if deadline < item.armed:
            self._arm(item)

    def drop(self, item: Timed) -> None:
        """Forgets `item`, which is over and has no deadline any more."""
        item.deadline = NEVER
        self._take_out(item)

    def _take_out(self, item: Timed) -> None:
        if item.armed != NEVER:
            bucket = self._buckets.get(round(item.armed / TICK_S))
            if bucket is not None:
                bucket.pop(item, None)
            item.armed = NEVER

    def _arm(self, item: Timed) -> None:
        self._take_out(item)
        tick = int(item.deadline / TICK_S) + 1
        item.armed = tick * TICK_S
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item: None}
            heapq.heappush(self._ticks, tick)
            if self._timer is None or tick < self._timer_tick:
                self._schedule()
        else:
            bucket[item] = None

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticks:
            self._timer_tick = self._ticks[0]
            # A hair late rather than early: early would only mean to come back.
            delay = self._timer_tick * TICK_S - self._now() + 0.001
            self._timer = self._clock.call_later(max(0.0, delay), self._tick)

    def _tick(self) -> None:
        now = self._now()
        if now - self._timer_tick * TICK_S > STALLED_S and not self._has_read:
            # A loop runs its timers before it reads. Whoever was silent only because nobody
            # here could listen gets the time to be heard.
            self._has_read = True
            self._timer = self._clock.call_later(0.001, self._tick)
            return
        self._has_read = False
        self._timer = None
        while self._ticks and self._ticks[0] * TICK_S <= now:
            tick = heapq.heappop(self._ticks)
            entered = tick * TICK_S
            for item in self._buckets.pop(tick):
                if item.armed != entered:
                    continue  # dropped or entered again since this tick began
                item.armed = NEVER
                if item.deadline <= now:
                    item.deadline = NEVER
                    try:
                        item.expired(now)
                    except Exception:
                        fault(item.give_up)
                elif item.deadline != NEVER:
                    self._arm(item)
        self._schedule()
