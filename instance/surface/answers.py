"""How is a whole answer written to a connection?

Head and body in one write, with the bytes made here: most of what a request costs in the
HTTP process is this. Streams are written by `surface.streaming`.
"""

import time
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

Buffer = bytes | bytearray | memoryview
_JOIN_MAX = 64 << 10  # above, head and body are handed over apart rather than copied together
_BODILESS = frozenset({204, 304})
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
            self._text = f"Date: {text}\r\n".encode()
        return self._text


_date = _Date()


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n".encode()


@lru_cache(maxsize=64)
def _kind_line(content_type: str) -> bytes:
    """The media type, and the beginning of the line of the length."""
    if any(mark in content_type for mark in "\r\n\0"):
        content_type = "application/octet-stream"
    return f"Content-Type: {content_type}\r\nContent-Length: ".encode("latin-1", "replace")


def date_line() -> bytes:
    return _date.line()


def header_lines(headers: list[tuple[str, str]]) -> bytes:
    """The lines of headers that a model chose; those that cannot be a header, or would
    change the framing, are left out."""
    lines = []
    for name, value in headers:
        lower = name.lower()
        if lower in ("content-length", "transfer-encoding", "connection", "keep-alive", "date"):
            continue
        if not lower.replace("-", "").replace("_", "").isalnum() or not lower.isascii():
            continue
        if any(mark in value for mark in "\r\n\0"):
            continue
        lines.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
    return b"".join(lines)


class WholeAnswer(web.StreamResponse):
    """An answer whose body is all there; the base class is only what aiohttp asks for."""

    def __init__(
        self,
        status: int,
        content_type: str,
        body: Buffer,
        extra: bytes = b"",
        close: bool = False,
    ) -> None:
        # Not calling super().__init__(): its headers and cookies are never used here, and
        # building them costs more than all the rest.
        self._code = status
        self._kind = content_type
        self._payload = body
        self._extra = extra
        self._must_close = close
        self._writer: AbstractStreamWriter | None = None

    @property
    def status(self) -> int:
        return self._code

    @property
    def keep_alive(self) -> bool | None:
        return not self._must_close

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Writes all of it, and waits only where the client is behind."""
        message = request._message
        close = self._must_close or message.should_close
        self._must_close = close
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left")
        body = self._payload
        bodiless = self._code in _BODILESS
        parts = [_STATUS_LINES.get(self._code) or status_line(self._code)]
        if not bodiless:
            parts.append(_kind_line(self._kind) + b"%d\r\n" % len(body))
        parts.append(_date.line())
        if close:
            parts.append(b"Connection: close\r\n")
        elif message.version < (1, 1):
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(self._extra)
        parts.append(b"\r\n")
        if bodiless or message.method == "HEAD":
            transport.write(b"".join(parts))
        elif len(body) <= _JOIN_MAX:
            parts.append(body if type(body) is bytes else bytes(body))
            transport.write(b"".join(parts))
        else:
            transport.writelines([b"".join(parts), body])
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""
