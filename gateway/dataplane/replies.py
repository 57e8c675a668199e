"""What does the gateway answer by itself?

Problem documents (RFC 9457) for its own errors and the few paths below `/-/`. Translated
here once, at the boundary: inside, errors are GatewayErrors.
"""

import base64
import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import orjson

from gateway.core.addresses import Listener
from gateway.core.errors import GatewayError
from gateway.core.heads import RequestHead
from gateway.core.openai import error_object

RESERVED: Final = b"/-/"
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Headgate</title>
<style>{style}</style>
<h1>Headgate</h1>
<p>A gateway for machine-learning models answers here, and no route leads to this path.</p>
<ul>
<li><a href="/-/docs">What can be asked for here</a>, with every route</li>
<li>The dashboard: {where}</li>
</ul>
"""
_STYLE: Final = (
    "body{max-width:640px;margin:60px auto;padding:0 20px;background:#f7f7f4;color:#16202a;"
    "font:15px/1.5 system-ui,sans-serif}h1{font-size:22px;letter-spacing:-.02em}a{color:#0b6472}"
    "@media(prefers-color-scheme:dark){body{background:#0e1317;color:#e4e9ed}a{color:#5cc6d3}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())


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


def reply(
    status: int, date: bytes, lines: bytes, body: bytes, ending: bytes, is_head: bool
) -> bytes:
    """A whole response of the gateway's own; `ending` is the end of its head."""
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\n%b%b%b%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        date,
        lines,
        b"" if status == 204 else b"Content-Length: %d\r\n" % len(body),
        ending,
        b"" if is_head else body,
    )


def asks_for_page(head: RequestHead) -> bool:
    """Whether a person's browser asks, who would rather read than parse."""
    return head.method in (b"GET", b"HEAD") and "text/html" in (head.get("accept") or "")


def signpost(peer: bytes, listeners: Sequence[Listener], scheme: str) -> tuple[bytes, bytes]:
    """Header lines and body for a browser at `/-/`, or at `/` where no route is: where there is
    something to see. Where the dashboard is, and by which `scheme`, only this machine is told:
    others may neither reach nor know it."""
    admin = _admin_of(listeners, scheme) if _is_loopback(peer) else ""
    where = f'<a href="{admin}">{admin}</a>' if admin else "the admin listener of the gateway"
    body = _PAGE.format(where=where, style=_STYLE).encode()
    lines = (
        b"Content-Type: text/html; charset=utf-8\r\nX-Headgate-Error: no_route\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        b"Content-Security-Policy: default-src 'none'; style-src 'sha256-%b'\r\n"
    ) % _STYLE_HASH
    return lines, body


def _is_loopback(peer: bytes) -> bool:
    return peer.startswith(b"127.") or peer == b"::1"


def _admin_of(listeners: Sequence[Listener], scheme: str) -> str:
    """The URL of the admin listener, as this machine reaches it; the data plane's comes first."""
    if len(listeners) < 2:
        return ""
    host, port = listeners[1]
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 -- compared
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
