"""How is a stream written to a connection?

Chunk by chunk as the items come, no faster than the client takes them. A stream that fails
after its head says so where its framing has a word for it, and then breaks the connection:
a truncated answer never looks complete.
"""

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from instance.engine.driver import Driver
from instance.engine.jobs import Job, Parts
from instance.engine.links import OVERHEAD
from instance.surface.answers import Buffer, date_line, status_line


class StreamAnswer(web.StreamResponse):
    """A streamed answer; the base class is only what aiohttp asks for."""

    def __init__(self, job: Job, parts: Parts, driver: Driver, extra: bytes, close: bool) -> None:
        self._job = job
        self._parts = parts
        self._driver = driver
        self._extra = extra
        self._must_close = close

    @property
    def status(self) -> int:
        return 200

    @property
    def keep_alive(self) -> bool | None:
        return not self._must_close

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Writes the whole stream, from its head to its end."""
        message = request._message
        chunked = message.version >= (1, 1)
        self._must_close = self._must_close or message.should_close or not chunked
        head = [
            status_line(200),
            f"Content-Type: {self._parts.content_type}\r\n".encode("latin-1", "replace"),
            b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n",
            date_line(),
            b"Transfer-Encoding: chunked\r\n" if chunked else b"",
            b"Connection: close\r\n" if self._must_close else b"",
            self._extra,
            b"\r\n",
        ]
        try:
            await self._write(request, b"".join(head), chunked)
        except BaseException:  # the client left, or this task was cancelled because it did
            self._driver.abandon(self._job)
            raise
        return None

    async def _write(self, request: BaseRequest, head: bytes, chunked: bool) -> None:
        parts = self._parts
        pending = head
        while items := await parts.take():
            taken = sum(map(len, items)) + OVERHEAD * len(items)
            body = b"".join(items)
            send(request, pending + (chunk(body) if chunked else body))
            pending = b""
            await self._taken(request)
            self._driver.acknowledge(self._job, taken)
        if parts.problem is not None:
            self._must_close = True
            send(request, pending + (chunk(bytes(parts.last)) if parts.last and chunked else b""))
            await request.writer.drain()
            break_off(request)
        else:
            send(request, pending + (b"0\r\n\r\n" if chunked else b""))

    async def _taken(self, request: BaseRequest) -> None:
        """Waits while the client is behind; one that takes nothing any more is given up,
        because it holds the worker."""
        transport = request.transport
        if transport is None or not transport.get_write_buffer_size():
            return
        limit_s = self._driver.settings.timeout_s or None
        try:
            async with asyncio.timeout(limit_s):
                await request.writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client stopped reading") from None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def chunk(body: bytes) -> bytes:
    """`body` as one chunk of the chunked framing; an empty one would end the stream."""
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def send(request: BaseRequest, data: Buffer) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client left")
    transport.write(data)


def break_off(request: BaseRequest) -> None:
    """Ends the connection without the end of the framing, after what was written."""
    if request.transport is not None:
        request.transport.close()
