"""How do messages cross between the control process and a worker?

A Unix stream socket carrying frames: four bytes of length, big-endian, then one JSON object.
This module knows framing and nothing of what the messages mean (`gateway.messages`).
"""

import asyncio
import struct
from typing import Any

import orjson

MAX_FRAME = 256 << 20
_LENGTH = struct.Struct(">I")


class Channel:
    """One end of a channel. `send` waits for room; `receive` gives None at the end."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: str) -> "Channel":
        """A channel to whoever listens at `path`; OSError when nobody does."""
        return cls(*await asyncio.open_unix_connection(path))

    def send_soon(self, message: Any) -> None:
        """Queues `message` without waiting; lost, as any message is, if the channel breaks."""
        frame = orjson.dumps(message)
        self._writer.write(_LENGTH.pack(len(frame)) + frame)

    async def send(self, message: Any) -> None:
        """Queues `message` and waits while the other end is behind."""
        self.send_soon(message)
        await self._writer.drain()

    async def send_last(self, message: Any) -> None:
        """Sends `message` and returns when all of it has left this process."""
        self._writer.transport.set_write_buffer_limits(high=0)
        await self.send(message)

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other end is gone, however it went."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                return None
            message: dict[str, Any] = orjson.loads(await self._reader.readexactly(length))
            return message
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()
