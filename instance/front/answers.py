"""Which bytes make an answer?

Head and body in one piece, with nothing made twice: most of what a request costs in the HTTP
process is this. Pure but for the clock of the Date header.
"""

import time
from functools import lru_cache
from http import HTTPStatus

Buffer = bytes | bytearray | memoryview
MAX_JOINED = 64 << 10  # above, head and body are handed over apart rather than copied together
BODILESS = frozenset({204, 304})
_OURS = frozenset(
    {"content-length", "transfer-encoding", "connection", "keep-alive", "date", "content-type"}
)


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
            self._line = f"Date: {text}\r\n".encode()
        return self._line


_date = _Date()


def head(status: int, content_type: str, length: int | None, extra: bytes, close: bool) -> bytes:
    """The head of an answer; `length` None means chunked, an empty `content_type` that it has
    none. `extra` is whole header lines."""
    if status in BODILESS:
        framing = b""
    elif length is None:
        framing = _kind_line(content_type) + b"Transfer-Encoding: chunked\r\n"
    else:
        framing = b"%bContent-Length: %d\r\n" % (_kind_line(content_type), length)
    closing = b"Connection: close\r\n" if close else b""
    return b"%b%b%b%b%b\r\n" % (_status_line(status), framing, _date.line(), closing, extra)


def header_lines(headers: list[tuple[str, str]]) -> bytes:
    """The lines of headers that a model chose; those that cannot be a header, or would
    change the framing, are left out."""
    lines = []
    for name, value in headers:
        plain = name.lower().replace("-", "").replace("_", "")
        if name.lower() in _OURS or not plain.isascii() or not plain.isalnum():
            continue
        if not any(mark in value for mark in "\r\n\0"):
            lines.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
    return b"".join(lines)


@lru_cache(maxsize=64)
def _kind_line(content_type: str) -> bytes:
    if not content_type:
        return b""
    if any(mark in content_type for mark in "\r\n\0"):
        content_type = "application/octet-stream"
    return f"Content-Type: {content_type}\r\n".encode("latin-1", "replace")


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()
