"""What does the head of a request say?

The strict grammar of RFC 9112, read from bytes in one pass: a head is either understood
exactly or refused. Header lines that nobody here has to understand are kept as the bytes
they came as; every other is sorted out by the kind of its name. This module decides what a
message *means*; what is added to it on the way is `gateway.core.headers`, and what the heads of
answers say `gateway.core.response_heads`. A connection may keep its last head and compare the next
one's bytes with it (`raw`) instead of reading again; of what clients ask for nothing is kept beyond
their connection, for targets hold secrets.
"""

import re
from typing import Any, Final

from gateway.core.errors import ClientFault
from gateway.core.lines import (
    API_KEY,
    AUTHORIZATION,
    CODING,
    CONNECTION,
    DEADLINE,
    DROP,
    EXPECT,
    FIELD_BYTES,
    HOST,
    LENGTH,
    PASS,
    PREFLIGHT,
    REQUEST_LINES,
    TRACEPARENT,
    TRACESTATE,
    TRUSTED,
    UNDERSCORE,
    UPGRADE,
    Line,
    is_claim,
    only,
)  # fmt: skip
from gateway.core.tracing import names_trace, without_trace

CHUNKED: Final = -1
CRLF: Final = b"\r\n"
END: Final = b"\r\n\r\n"
MEMORABLE: Final = 1024  # bytes of a head up to which a connection keeps its last one

# No `#` and no `\`: what one server reads as a fragment or a separator another reads as path.
_TARGET_BYTE: Final = only(bytes({*range(0x21, 0x7F)} - {*b"#\\"}))
_VERSION: Final = 9  # bytes behind a target, from the space on
_is_method: Final = re.compile(rb"[A-Z][A-Z-]{0,31}").fullmatch
_LONG_TARGET: Final = re.compile(rb"[A-Z][A-Z-]{0,31} [^ ]*")
_method_start: Final = re.compile(rb"[A-Z][A-Z-]{0,31}(?: .*)?", re.DOTALL).fullmatch
_COLON: Final = 0x3A
_ZERO: Final = 0x30
_KEEP_ALIVE: Final = (b"keep-alive", b"Keep-Alive")


class Head:
    """What request and response heads share. `length` is None (none announced), a number of
    bytes, or CHUNKED; `forward` holds the header lines that pass, as they came. Never changed
    once it is read: `raw`, the whole head with its final empty line, is set where the same
    bytes may come again and then mean the same."""

    __slots__ = ("close", "forward", "known", "length", "lines", "minor", "nominated", "raw")

    def __init__(self, lines: list[bytes], minor: int) -> None:
        self.lines = lines
        self.raw = b""
        self.minor = minor
        self.close = not minor  # one of HTTP/1.0 carries one message each way, unless it asks
        self.forward: list[bytes] = []
        self.length: int | None = None
        self.nominated: list[bytes] | None = None
        self.known: dict[int, bytes] = {}

    def get(self, name: str) -> str | None:
        """The value of header `name`, repeated ones joined by commas; None if there is none."""
        wanted = name.lower().encode("latin-1")
        size = len(wanted)
        found: str | None = None
        for line in self.lines[1:]:
            if len(line) > size and line[size] == _COLON and line[:size].lower() == wanted:
                value = line[size + 1 :].strip(b" \t").decode("latin-1")
                found = value if found is None else f"{found}, {value}"
        return found

    def _connection(self, value: bytes) -> None:
        if value in _KEEP_ALIVE:
            return
        names = [name.strip(b" \t").lower() for name in value.split(b",")]
        if b"close" in names:
            self.close = True
        self.nominated = (self.nominated or []) + names

    def _framing(self, kind: int, value: bytes, number: int) -> None:
        if self.length is not None:
            raise ValueError("ambiguous framing")
        if kind == LENGTH:
            self.length = number
        elif value.lower() != b"chunked" or self.minor == 0:
            raise ValueError("transfer coding not supported")
        else:
            self.length = CHUNKED

    def drop_nominated(self) -> None:
        """Hop-by-hop headers by nomination go; Host and our own are not in `forward`."""
        if self.nominated:
            dropped = {name for name in self.nominated if name not in (b"close", b"upgrade")}
            self.forward = _without(self.forward, dropped)
            if TRUSTED in self.known:
                left = _without(self.known.pop(TRUSTED).split(CRLF), dropped)
                if left:
                    self.known[TRUSTED] = CRLF.join(left)


def _without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


class RequestHead(Head):
    """A request: `method`, `target` and `host` are the bytes that go on unchanged; `api_key` and
    `authorization` the lines of these names, b"" where there are none; `traceparent` what names
    its trace, None where nothing does."""

    __slots__ = (
        "admitted", "api_key", "authorization", "host", "method", "prepared", "target",
        "traceparent",
    )  # fmt: skip

    def __init__(
        self, lines: list[bytes], method: bytes = b"", target: bytes = b"", minor: int = 1
    ) -> None:
        Head.__init__(self, lines, minor)
        self.method = method
        self.target = target
        self.host: bytes | None = None
        self.api_key = self.authorization = b""
        self.traceparent: bytes | None = None
        # Target, who was let in with it, and headers.message_start.
        self.prepared: tuple[bytes, object, bytes] | None = None
        self.admitted: tuple[object, object, Any] | None = None  # see dataplane.door

    def copy(self) -> "RequestHead":
        """A head of which other lines may pass; no connection keeps it."""
        made = RequestHead(self.lines, self.method, self.target, self.minor)
        made.close, made.length, made.nominated = self.close, self.length, self.nominated
        made.forward, made.known = self.forward.copy(), self.known.copy()
        made.host = self.host
        made.api_key, made.authorization = self.api_key, self.authorization
        made.traceparent = self.traceparent
        return made

    def note(self, entry: Line, line: bytes, underscores: str) -> None:
        """Takes one header that is not just passed on."""
        kind, value = entry.kind, entry.value
        if kind == HOST:
            if self.host is not None:
                raise ValueError("more than one Host")
            self.host = value
        elif kind in (LENGTH, CODING):
            self._framing(kind, value, entry.number)
        elif kind == CONNECTION:
            self._connection(value)
        elif kind == UNDERSCORE:
            if underscores == "refuse":
                raise ValueError("header name with an underscore")
            if underscores != "pass":
                return
            name = line.partition(b":")[0].lower()
            if name.replace(b"_", b"-").startswith(b"x-headgate-"):
                return  # many servers make the same of both
            if is_claim(name):
                self._keep(TRUSTED, value, line)
            else:
                self.forward.append(line)
        elif kind != DROP:
            self._keep(kind, value, line)

    def _keep(self, kind: int, value: bytes, line: bytes) -> None:
        known = self.known
        if kind in (DEADLINE, TRACEPARENT, TRACESTATE, AUTHORIZATION, API_KEY, PREFLIGHT):
            self.forward.append(line)
        if kind == API_KEY:  # one more of them
            self.api_key += CRLF + line
        elif kind == AUTHORIZATION:
            self.authorization += CRLF + line
        elif kind == TRACEPARENT:  # two name none
            self.traceparent = (self.traceparent or b"") + b", " + value
        elif kind == TRUSTED:  # as lines
            known[kind] = known[kind] + CRLF + line if kind in known else line
        else:
            known[kind] = known[kind] + b", " + value if kind in known else value

    @property
    def upgrades(self) -> bool:
        """Whether this asks for a WebSocket in the one form that is proxied."""
        return (
            self.known.get(UPGRADE, b"").lower() == b"websocket"
            and self.method == b"GET"
            and self.minor == 1
            and self.nominated is not None
            and b"upgrade" in self.nominated
            and not self.length
        )


def parse_request(
    head: bytes, max_target: int, max_headers: int, underscores: str, whole: bool = True
) -> RequestHead:
    """The request whose head, without its final empty line, is `head`. Raises ClientFault.
    Not `whole`: only the lines so far, and nothing is said about what may be missing."""
    try:
        lines = head.split(CRLF)
        method, target, minor = _first_line(lines[0], max_target)
        request = RequestHead(lines, method, target, minor)
        if len(head) <= MEMORABLE:
            request.raw = head + END
        if len(lines) - 1 > max_headers:
            raise ClientFault("The request has too many headers.", "head_too_large")
        forward = request.forward
        known = REQUEST_LINES.kept.young
        for line in lines[1:]:
            entry = known.get(line) or REQUEST_LINES.read(line)
            kind = entry.kind
            if kind == PASS:
                forward.append(line)
            elif kind == HOST and request.host is None:
                request.host = entry.value
            elif kind == LENGTH and request.length is None:
                request.length = entry.number
            elif kind == TRACEPARENT and request.traceparent is None:
                forward.append(line)
                request.traceparent = entry.value
            elif kind == API_KEY and not request.api_key:
                forward.append(line)
                request.api_key = line
            elif kind == AUTHORIZATION and not request.authorization:
                forward.append(line)
                request.authorization = line
            else:
                request.note(entry, line, underscores)
        if whole:
            _check_whole(request)
        return request
    except ValueError as error:
        raise ClientFault(f"Malformed request: {error}.") from None


def refused_head(start: bytes, max_target: int) -> RequestHead:
    """What is known of a request whose head, which begins with `start`, was refused: its method,
    and its target if its request line is a proper one; b"" for what is not known."""
    line = start.partition(CRLF)[0]
    method, space, _ = line.partition(b" ")
    if not space or _is_method(method) is None:
        return RequestHead([b""])
    request = RequestHead([b""], method)
    try:
        _, request.target, request.minor = _first_line(line, max_target)
        if request.target[0] != 0x2F:
            _absolute(request)
    except (ValueError, ClientFault):
        request.target = b""
    return request


def _first_line(line: bytes, max_target: int) -> tuple[bytes, bytes, int]:
    """Method, target and minor version of a request line."""
    method, _, rest = line.partition(b" ")
    target, version = rest[:-_VERSION], rest[-_VERSION:]
    if (
        (version != b" HTTP/1.1" and version != b" HTTP/1.0")
        or not target
        or target.translate(_TARGET_BYTE) != target
        or (method not in (b"POST", b"GET", b"PUT", b"DELETE") and _is_method(method) is None)
    ):
        raise ValueError("malformed request line")
    if method == b"CONNECT":
        raise ValueError("CONNECT asks for a tunnel, of which there is none")
    if len(target) > max_target:
        raise ClientFault("The request target is too long.", "uri_too_long")
    return method, target, version[-1] - _ZERO


def check_start(data: bytes, max_target: int, max_headers: int, underscores: str) -> None:
    """Raises ClientFault if `data`, the start of a head, cannot become a proper one.

    Whoever sends garbage is told so at once and not when the time for the head is over.
    """
    at = data.rfind(CRLF)
    last = data[at + 2 :] if at >= 0 else data
    left = last.translate(None, FIELD_BYTES)
    if left and (left != b"\r" or last[-1] != 0x0D):
        raise ClientFault("Malformed request: control character in the head.")
    if at < 0:
        if not _method_start(last[:33]):
            raise ClientFault("Malformed request: malformed request line.")
        return
    if last[:1] in (b" ", b"\t"):
        raise ClientFault("Malformed request: folded header line.")
    parse_request(data[:at], max_target, max_headers, underscores, whole=False)


def _check_whole(request: RequestHead) -> None:
    """What only the whole head can tell."""
    if request.nominated:
        request.drop_nominated()
        if b"traceparent" in request.nominated:
            request.traceparent = None
    if not request.minor:
        request.close = not _persists(request)
    elif request.host is None:
        raise ValueError("no Host")
    if request.target[0] != 0x2F:
        _absolute(request)
    said = request.traceparent
    if said is not None and not names_trace(said):
        request.traceparent = None  # one begins here
        request.forward = without_trace(request.forward)
    known = request.known
    if known:
        if EXPECT in known and known[EXPECT].lower() != b"100-continue":
            raise ClientFault("Only 100-continue can be expected.", "expectation_failed")
        if TRACESTATE in known and request.traceparent is None:
            # It says something of a trace that nobody knows; the one that begins here is another.
            request.forward = [
                line for line in request.forward if line[:11].lower() != b"tracestate:"
            ]


def _persists(request: RequestHead) -> bool:
    """Whether a client of HTTP/1.0 asks for its connection to be kept."""
    said = {name.strip().lower() for name in (request.get("connection") or "").split(",")}
    return "keep-alive" in said and "close" not in said


def _absolute(request: RequestHead) -> None:
    """Absolute-form: its authority is the host (RFC 9112 §3.2.2), its path the target."""
    target = request.target
    start = 8 if target[:8].lower() == b"https://" else 7
    if start == 7 and target[:7].lower() != b"http://":
        if target == b"*" and request.method == b"OPTIONS":
            return
        raise ValueError("request target is no path")
    authority, slash, path = target[start:].partition(b"/")
    authority, question, query = authority.partition(b"?")
    if question:
        slash, path = b"/", b"?" + query + slash + path
    request.host = authority
    request.target = b"/" + path


def too_large(start: bytes, max_target: int) -> ClientFault:
    """Why a head that has outgrown its limit, and begins with `start`, is refused."""
    line = _LONG_TARGET.match(start)
    if line is not None and len(line[0]) > max_target:
        return ClientFault("The request target is too long.", "uri_too_long")
    return ClientFault("The request head is too large.", "head_too_large")
