"""Which headers does the gateway add on the way, in either direction?

Heads are built as bytes from the lines that pass (`gateway.core.heads`) and from blocks that
are made once per connection, backend or instance, so that a request touches each header
once. Framing is always regenerated here, never copied.
"""

import hashlib
import re
from typing import Final

from gateway.core.heads import CHUNKED, CRLF, RequestHead
from gateway.core.lines import (
    DEADLINE,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    REQUEST_ID,
    TRUSTED,
    VIA,
)
from gateway.core.units import parse_duration

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_SHORT_LENGTHS: Final = [b""] * 4096  # their lines, once they were asked for
_NO_SPAN: Final = b"0" * 16
_is_trace: Final = re.compile(rb"[0-9a-f]{32}").fullmatch
_is_request_id: Final = re.compile(rb"[A-Za-z0-9._~+/=:-]{1,128}").fullmatch


def forwarded(head: RequestHead, peer: bytes, trusted: bool, scheme: bytes = b"http") -> bytes:
    """The X-Forwarded-* lines. What the client says of itself counts only if it is trusted."""
    known = head.known
    host = head.host
    if not trusted or not known:
        lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (peer, scheme)
        return lines + b"X-Forwarded-Host: %b\r\n" % host if host else lines
    hops = known.get(FORWARDED_FOR)
    lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
        hops + b", " + peer if hops else peer,
        known.get(FORWARDED_PROTO) or scheme,  # one without a value says nothing
    )
    host = known.get(FORWARDED_HOST) or host
    if host:
        lines += b"X-Forwarded-Host: %b\r\n" % host
    return lines + known[TRUSTED] + CRLF if TRUSTED in known else lines


def given_id(head: RequestHead) -> bytes | None:
    """The id that a trusted proxy gave a request; None if there is none that can be one."""
    given = head.known.get(REQUEST_ID)
    return given if given is not None and _is_request_id(given) else None


def is_loop(head: RequestHead, node: bytes) -> bool:
    """Whether this request came through the gateway called `node` before."""
    via = head.known.get(VIA)
    if via is None or node not in via:
        return False
    return any(node in entry.split() for entry in via.split(b","))


def message_start(
    head: RequestHead, target: bytes, host: bytes, forward: list[bytes], added: bytes, node: bytes
) -> bytes:
    """What an instance gets up to the request's id: all that does not change from one request
    with this head to the next. `forward` are the header lines that pass, `added` those of
    the gateway: X-Forwarded-* and who the consumer is."""
    known = head.known
    via = known.get(VIA) if known else None
    return b"".join(
        (
            head.method, b" ", target, b" HTTP/1.1\r\nHost: ", host, CRLF,
            CRLF.join(forward), CRLF if forward else b"", added,
            b"Via: " if via is None else b"Via: " + via + b", ",
            b"1.1 " if head.minor else b"1.0 ", node, b"\r\nX-Request-Id: ",
        )
    )  # fmt: skip


def upstream_message(
    start: bytes, request_id: bytes, trace: bytes, timeout: bytes, framing: bytes, body: bytes
) -> bytes:
    """What an instance gets: a head that begins with `start`, and `body` as it is framed.

    `timeout` is the line of `timeout_line`, `framing` the Content-Length, Transfer-Encoding or
    Upgrade lines; `trace` is the one that begins here, b"" where somebody began one before.
    """
    if not trace:
        return b"".join((start, request_id, timeout, framing, CRLF, body))
    return b"".join(
        (
            start, request_id, b"\r\ntraceparent: 00-", trace, b"-", trace[16:], b"-00",
            timeout, framing, CRLF, body,
        )
    )  # fmt: skip


def timeout_line(seconds: float) -> bytes:
    """Tells an instance how long the client will wait; begins with the line end before it."""
    return b"\r\nX-Headgate-Timeout-Ms: %d\r\n" % max(1, int(seconds * 1000))


def trace_of_id(request_id: bytes) -> bytes:
    """The trace that begins with the request called `request_id`. A trusted proxy's own id need not
    be a trace's: then it is another one, the same for the same id."""
    if _is_trace(request_id) and request_id[16:] != _NO_SPAN:
        return request_id
    return hashlib.blake2b(request_id, digest_size=16).hexdigest().encode()


def length_line(length: int | None) -> bytes:
    """The framing line of a body of `length` bytes, CHUNKED, or None: no body announced."""
    if length is None:
        return b""
    if length == CHUNKED:
        return b"Transfer-Encoding: chunked\r\n"
    if length >= len(_SHORT_LENGTHS):
        return b"Content-Length: %d\r\n" % length
    return _SHORT_LENGTHS[length] or _short_length(length)


def _short_length(length: int) -> bytes:
    _SHORT_LENGTHS[length] = line = b"Content-Length: %d\r\n" % length
    return line


def client_timeout_s(head: RequestHead) -> float | None:
    """How long the client says it will wait (X-Request-Timeout), in seconds; None if it does
    not say, or says it in no form that is known: `2.5`, `250ms`, `2s`."""
    given = head.known.get(DEADLINE)
    if given is None:
        return None
    text = given.decode("latin-1")
    try:
        seconds = float(text) if text[-1:].isdigit() else parse_duration(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e6 else None
