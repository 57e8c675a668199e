"""All connections of an instance: what is the same for each, and one timer for them."""

import asyncio
import time
from contextlib import suppress
from math import inf

from instance.front.incoming import Client, Surface
from instance.settings import Settings
from instance.wire.arena import Arena


class Server:
    """All connections of an instance, and one timer for them."""

    def __init__(self, surface: Surface, settings: Settings, arena: Arena | None) -> None:
        self.surface = surface
        self.max_body = settings.max_body
        self.keep_alive_s = settings.keep_alive_s
        self.stream_idle_s = settings.stream_idle_s or inf
        self.arena = arena  # where large bodies are received
        self.connections: set[Client] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    def add(self, connection: Client) -> None:
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(1.0, self._sweep)

    def remove(self, connection: Client) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    async def emptied(self, within_s: float) -> None:
        """Returns when no connection is left, or `within_s` seconds have passed."""
        self._emptied.clear()
        if self.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._emptied.wait()

    def close_idle(self) -> None:
        for connection in list(self.connections):
            connection.close_if_idle()

    def close(self) -> None:
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()

    def _sweep(self) -> None:
        self._sweeper = None
        now = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(now)
        if self.connections:
            self._sweeper = asyncio.get_running_loop().call_later(1.0, self._sweep)
