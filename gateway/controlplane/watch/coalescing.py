"""How is work done once for all who ask for it at the same time (coalescing)?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.processes.tasks import Tasks, told

log = logging.getLogger(__name__)


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
