"""In which threads is a store used? One for edits, another one for whoever reads the history."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.controlplane.store.store import Store

T = TypeVar("T")


class StoreThreads:
    """The threads of one store, which is synchronous: it waits for the disk or for etcd, and the
    loop must not."""

    def __init__(self) -> None:
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store")
        # No edit waits for somebody who leafs through the history.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="history")

    async def write(self, call: Callable[[], T]) -> T:
        """The result of `call`, made in the one thread that uses the store."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, call)

    async def read(self, call: Callable[[], T]) -> T:
        """The result of `call`, which reads the history."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def close(self, store: Store) -> None:
        """Closes `store` once nobody reads it any more, and ends the threads."""
        await asyncio.to_thread(self._reading.shutdown)
        await self.write(store.close)
        self._writing.shutdown()
