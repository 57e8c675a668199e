"""Which trace does a request belong to, and what do its spans say?

W3C Trace Context read and written as bytes, and the names and attributes of spans after
OpenTelemetry's semantic conventions for HTTP. No span is made here and no time is read. The
query, headers and bodies are in no attribute: they may hold secrets.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SAMPLED, RANDOM = 1, 2
OTHER = "_OTHER"
QUIET = frozenset({"client_left", "draining"})
"""Ends of a request that are nobody's error."""

Attributes = dict[str, str | int | float | bool]

_METHODS = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
)
_traceparent = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
# With each digit as 0 and all else as it cannot be, what is written as today looks like _USUAL.
_DIGITS: Final = bytes(
    0x30 if byte in b"0123456789abcdef" else 0x2D if byte == 0x2D else 0 for byte in range(256)
)
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_USUAL: Final = b"00-%b-%b-00" % (_NO_TRACE, _NO_SPAN)
_trace_id = re.compile(rb"[0-9a-f]{32}").fullmatch


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a request says it belongs to."""

    trace_id: int
    span_id: int
    sampled: bool
    random: bool = False  # whether the trace's id is: receivers sample by it


def parse_traceparent(value: bytes) -> Parent | None:
    """What a `traceparent` says; None if it is none, and a new trace is to be begun."""
    found = _traceparent(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    said = int(flags, 16)
    parent = Parent(int(trace_id, 16), int(span_id, 16), bool(said & SAMPLED), bool(said & RANDOM))
    return parent if parent.trace_id and parent.span_id else None


def names_trace(value: bytes) -> bool:
    """Whether `parse_traceparent` finds a trace; of most, and of all that are written as they are
    today, by one look."""
    is_usual = (
        value.translate(_DIGITS) == _USUAL
        and value.startswith(b"00-")
        and value[3:35] != _NO_TRACE
        and value[36:52] != _NO_SPAN
    )
    return is_usual or parse_traceparent(value) is not None


def traceparent_line(trace_id: int, span_id: int, sampled: bool, random: bool = False) -> bytes:
    """The header line that makes the receiver's span a child of this one."""
    flags = (SAMPLED if sampled else 0) | (RANDOM if random else 0)
    return b"traceparent: 00-%032x-%016x-%02x" % (trace_id, span_id, flags)


def trace_of(request_id: bytes) -> int:
    """The trace that begins with the request of that id; 0 if that can be no trace's id."""
    return int(request_id, 16) if _trace_id(request_id) else 0


def without_trace(lines: Iterable[bytes]) -> list[bytes]:
    """Header lines without `traceparent`."""
    return [line for line in lines if line.partition(b":")[0].lower() != b"traceparent"]


def method_of(method: bytes) -> str:
    """The method as an attribute: one that HTTP does not know is not the client's to name."""
    return method.decode("latin-1") if method in _METHODS else OTHER


def span_name(method: bytes, path: str) -> str:
    """`POST /digits`: few names, whatever clients ask for."""
    word = method.decode("latin-1") if method in _METHODS else "HTTP"
    return f"{word} {path}" if path else word


def path_of(target: bytes) -> str:
    """The path of a request target, without its query."""
    return target.partition(b"?")[0].decode("latin-1")


def host_facts(host: str) -> Attributes:
    """`server.address` and `server.port` of `host:port`, `[ipv6]:port` or a bare host."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit() or len(port) > 5 or host.endswith("]"):
        name, port = host, ""
    facts: Attributes = {"server.address": name.removeprefix("[").removesuffix("]")} if name else {}
    return {**facts, "server.port": int(port)} if port else facts


def is_error(status: int, reason: str) -> bool:
    """Whether a request that ended so failed by the server's fault."""
    return status >= 500 or (bool(reason) and status < 400 and reason not in QUIET)


def error_type(status: int, reason: str, least: int) -> str:
    """`error.type`: the gateway's own code, else the status from `least` on, else ""."""
    return reason or (str(status) if status >= least else "")
