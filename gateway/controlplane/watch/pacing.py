"""Pacing of work that grows with the table, so that it leaves the loop time for all else.

What is asked for again and again is done at once, the first time. A start or a broken switch
asks for it a thousand times within a second: what is due then is done once for all who asked, so
late that it never takes more than a small part of the loop (`Paced`). What has to be done for
each is done for a few at a time (`FewAtOnce`). And what many ask for at the same time is done once
for all of them (`Coalesced`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.processes.tasks import Tasks, told

log = logging.getLogger(__name__)

PART = 0.1
"""The most of the loop's time that one kind of such work may take."""


class Paced:
    """Does `work` when asked: at once, or later where it took long a moment ago."""

    def __init__(
        self, work: Callable[[], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work, self._clock = work, clock
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = float("-inf")

    def __call__(self) -> None:
        if self._timer is not None:
            return
        pause_s = self._not_before - self._clock()
        if pause_s <= 0:
            self._do()
        else:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._do)

    def close(self) -> None:
        """Does now what is due later."""
        if self._timer is not None:
            self._timer.cancel()
            self._do()

    def _do(self) -> None:
        self._timer = None
        began = self._clock()
        try:
            self._work()
        finally:
            now = self._clock()
            self._not_before = now + (now - began) * (1 / PART - 1)


class FewAtOnce:
    """Lets `at_once` of those who ask go on in every `every_s` seconds, in the order in which
    they came; whoever else is due is attended to in between. Where nobody has to wait there is no
    timer, and so nothing that wakes the process."""

    def __init__(self, at_once: int, every_s: float) -> None:
        self._at_once, self._every_s = at_once, every_s
        self._left, self._until = 0, float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if loop.time() >= self._until:
                self._left, self._until = self._at_once, loop.time() + self._every_s
            if self._left:
                self._left -= 1
                return
            loop.call_at(self._until, self._next)
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        self._left, self._until = self._at_once, loop.time() + self._every_s
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # who waited may have been cancelled
                turn.set_result(None)
                self._left -= 1
        if self._waiting:
            loop.call_at(self._until, self._next)


class Coalesced:
    """Does `work`, which is called `name`, once for all who ask before it begins: who asks while
    it runs gets the next one, for what they see must not be older than their asking."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._name, self._work = name, work
        # Whoever asked is told as well, unless they have left meanwhile.
        self._own = Tasks(lambda name, error: log.error(f"{name} failed: {told(error)}"))
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        if self._next is None:
            self._next = self._own.run(self._name, self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        await self._work()
