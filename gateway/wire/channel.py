"""A channel: how messages cross between processes of the gateway.

A Unix stream socket carrying frames: four bytes of length, big-endian, then one JSON object.
This module knows framing and nothing of what the messages mean (`gateway.wire.messages`).
"""

import asyncio
import struct
from typing import Any, Generic, Never, Self, TypeVar, cast

import orjson

MAX_FRAME = 256 << 20  # bytes
_LENGTH = struct.Struct(">I")


Sent = TypeVar("Sent")
Received = TypeVar("Received")


class BadFrame(Exception):
    """What came is no message: nothing that follows on this channel can be understood."""


class Channel(Generic[Sent, Received]):
    """One end of a channel, and the shapes that leave and reach it. `send` waits for room;
    `receive` gives None at the end."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: str) -> Self:
        """A channel to whoever listens at `path`; OSError when nobody does."""
        return cls(*await asyncio.open_unix_connection(path))

    def send_soon(self, message: Sent) -> None:
        """Queues `message` without waiting; lost, as any message is, if the channel breaks."""
        if self._writer.is_closing():
            return  # it broke just now: uvloop raises where somebody writes to it still
        frame = orjson.dumps(message)
        self._writer.write(_LENGTH.pack(len(frame)) + frame)

    async def send(self, message: Sent) -> None:
        """Queues `message` and waits while the other end is behind."""
        self.send_soon(message)
        await self._writer.drain()

    async def receive(self) -> Received | None:
        """The next message; None when the other end is gone, however it went. BadFrame when it
        speaks another language. That the members of its type are there is not looked at."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                raise BadFrame(f"a frame of {length} bytes")
            return cast(Received, _message(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()


def _message(frame: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(frame)
    except ValueError:
        raise BadFrame("a frame that is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadFrame("a message without a type")
    return message


def pass_over(message: Never) -> None:
    """Does nothing with a message whose type is not declared: the other end may be a newer one for
    a moment. In the place where nothing declared is left, so that mypy sees what is missed."""
