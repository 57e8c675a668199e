"""An event loop in a thread of its own.

A lease must be renewed and a watch be read while a large table holds up the loop of the control
process; and a store is called from threads that may wait.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gateway.processes.tasks import Tasks

T = TypeVar("T")


class OwnLoop:
    """The loop, and what runs on it; `failed(name, error)` hears of tasks that failed."""

    def __init__(self, name: str, failed: Callable[[str, Exception], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks = Tasks(failed)
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which this thread waits for; not from the loop itself."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def soon(self, call: Callable[[], None]) -> None:
        """Has `call` made on the loop, and does not wait for it."""
        self._loop.call_soon_threadsafe(call)

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs what `work` gives, and again each time it failed."""
        self._loop.call_soon_threadsafe(self._tasks.keep, name, work)

    def close(self, farewell: Coroutine[Any, Any, None]) -> None:
        """Ends every task, does `farewell`, and ends the loop."""

        async def last() -> None:
            await self._tasks.close()
            await farewell

        self.call(last())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
