"""What does the gateway answer by itself?

Problem documents (RFC 9457) for its own errors and the few paths below `/-/`. Translated
here once, at the boundary: inside, errors are GatewayErrors.
"""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import orjson

from gateway.core.errors import GatewayError
from gateway.core.openai import error_object

RESERVED: Final = b"/-/"


def problem(
    fault: GatewayError, request_id: bytes, allow: str | None, openai: bool
) -> tuple[bytes, bytes]:
    """Header lines and body of the answer to `fault`; with what a client of OpenAI's API reads, if
    it is one."""
    kind = fault.kind
    said: dict[str, object] = {
        "type": "about:blank",
        "title": kind.title,
        "status": kind.status,
        "detail": fault.detail,
        "code": kind.code,
        "request_id": request_id.decode("latin-1"),
    }
    if openai:
        said["error"] = error_object(kind, fault.detail)
    body = orjson.dumps(said)
    lines = f"Content-Type: application/problem+json\r\nX-Headgate-Error: {kind.code}\r\n"
    if kind.retry_after:
        lines += f"Retry-After: {max(1, int(fault.retry_after_s))}\r\n"
    if allow is not None:
        lines += f"Allow: {allow}\r\n"
    return lines.encode("latin-1") + fault.lines, body


def reply(status: int, lines: bytes, body: bytes, close: bool, is_head: bool) -> bytes:
    """A whole response of the gateway's own."""
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\n%b%b%b\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        formatdate(time.time(), usegmt=True).encode(),
        lines,
        b"" if status == 204 else b"Content-Length: %d\r\n" % len(body),
        b"Connection: close\r\n" if close else b"",
        b"" if is_head else body,
    )
