"""A way between two processes that can be cut: nothing comes through, and nobody is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress


class Link:
    """Passes on what comes to `port` to `target`, while it is whole; what came meanwhile, later."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._carried: set[asyncio.Task[None]] = set()
        self.port = 0

    def cut(self) -> None:
        """Lets nothing through from now on."""
        self._whole.clear()

    def heal(self) -> None:
        """Lets everything through again."""
        self._whole.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection, both ways, to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        with suppress(OSError, asyncio.CancelledError):  # streams make a traceback of the latter
            await self._whole.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        self._carried.discard(task)

    async def close(self) -> None:
        """Gives up what it carries."""
        for task in self._carried:
            task.cancel()
        if self._carried:
            await asyncio.wait(self._carried)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def link_to(target: int) -> AsyncIterator[Link]:
    """A link to the port `target` of this machine, at a port of its own."""
    link = Link(target)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()
