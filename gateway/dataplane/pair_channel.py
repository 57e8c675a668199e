"""How does a worker reach the compare process?

By a socket that is there for as long as the gateway, whoever listens: what is written before a
process begins is read by it, and what one leaves unread is lost. There is no answer to wait for. A
worker that ends leaves with what it has: pairs that wait for others go on their way then.
"""

import asyncio
from contextlib import suppress

from gateway.dataplane.pairing import Outbox
from gateway.wire.pairs import hello

PAUSE_S = 0.1
LEAVES_WITHIN_S = 0.5  # however far behind the compare process is


class _Wire(asyncio.Protocol):
    """The connection, of which only the end is news."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


async def keep_open(outbox: Outbox, path: str) -> None:
    """Keeps a way for the pairs of `outbox` open to whoever listens at `path`, from the first
    moment that there may be one, until it is cancelled: then what is there leaves, in a moment."""
    await outbox.wish.wait()
    loop = asyncio.get_running_loop()
    while True:
        try:
            transport, wire = await loop.create_unix_connection(_Wire, path)
        except OSError:
            await asyncio.sleep(PAUSE_S)
            continue
        transport.write(hello())
        outbox.transport = transport
        try:
            await wire.lost.wait()
        except asyncio.CancelledError:
            outbox.write()
            transport.close()  # once all of it is written
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVES_WITHIN_S):
                    await wire.lost.wait()
            raise
        finally:
            outbox.transport = None
            transport.abort()
        await asyncio.sleep(PAUSE_S)
