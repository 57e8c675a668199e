"""How does a test speak to a listener byte by byte, and what do bytes mean, strictly?

`Wire` is a raw client: it sends what it is told, in pieces if asked, half-closes, resets and
reads until silence. `parse_requests` and `parse_responses` read recorded bytes with h11, and
name what is wrong with them instead of guessing.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11

ANSWER_S = 30.0  # a busy machine may take as long for an answer that must come
SILENCE_S = 0.35


class _Reader(asyncio.StreamReader):
    """Knows that the peer has closed while what it said before lies there unread."""

    has_ended = False

    def feed_eof(self) -> None:
        self.has_ended = True
        super().feed_eof()


class Wire:
    """One raw connection."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.received = bytearray()
        self.ended = ""  # "", "closed" (FIN) or "reset"

    async def send(self, data: bytes) -> None:
        """Write all of it; a peer that has closed is noticed when reading."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def send_slowly(self, data: bytes, size: int = 1, pause_s: float = 0.0) -> None:
        """`size` bytes per write, each in a packet of its own; stops when the peer closes."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(pause_s)
            # Not at_eof(), which is false as long as an answer lies there unread.
            if self.writer.is_closing() or self.reader.has_ended:
                return

    def half_close(self) -> None:
        if self.writer.can_write_eof() and not self.writer.is_closing():
            with contextlib.suppress(OSError):
                self.writer.write_eof()

    def reset(self) -> None:
        """Close with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def read_some(self, timeout_s: float) -> bytes:
        """What comes within `timeout_s`: b"" on silence or the end (then `ended` is set)."""
        if self.ended:
            return b""
        try:
            data = await asyncio.wait_for(self.reader.read(1 << 16), timeout_s)
        except TimeoutError:
            return b""
        except ConnectionError:
            self.ended = "reset"
            return b""
        if not data:
            self.ended = "closed"
        self.received += data
        return data

    async def read_until_quiet(self, quiet_s: float = SILENCE_S, after_data_s: float = 0) -> bytes:
        """Everything until nothing comes for `quiet_s` or the peer closes.

        Once something has come, `after_data_s` (where given) is silence enough.
        """
        wait = quiet_s
        while await self.read_some(wait):
            wait = after_data_s or quiet_s
        return bytes(self.received)

    async def read_till(
        self, enough: Callable[[bytearray], object], timeout_s: float = ANSWER_S
    ) -> bytes:
        """Everything until there is enough of it, the peer closes or the time is up."""
        end = time.monotonic() + timeout_s
        while not enough(self.received) and not self.ended:
            if (left := end - time.monotonic()) <= 0:
                break
            await self.read_some(left)
        return bytes(self.received)

    async def read_answer(self, method: str = "GET", quiet_s: float = 0.05) -> bytes:
        """A whole answer to `method`, or all there is of it, and what follows it at once."""

        def whole(data: bytearray) -> bool:
            responses = parse_responses(bytes(data), [method], False).responses
            return bool(responses) and responses[0].complete

        await self.read_till(whole)
        return await self.read_until_quiet(quiet_s)

    async def read_for(self, seconds: float = ANSWER_S) -> bytes:
        """Everything that comes within `seconds`, or until the peer closes."""
        end = time.monotonic() + seconds
        while not self.ended and (left := end - time.monotonic()) > 0:
            await self.read_some(left)
        return bytes(self.received)

    async def read_until(self, mark: bytes, timeout_s: float = ANSWER_S) -> bytes:
        """Everything up to and with `mark`; fails the test when it does not come."""
        end = time.monotonic() + timeout_s
        while mark not in self.received:
            left = end - time.monotonic()
            assert left > 0, f"no {mark!r} within {timeout_s} s: {bytes(self.received[-500:])!r}"
            assert not self.ended, f"{self.ended} before {mark!r}: {bytes(self.received[-500:])!r}"
            await self.read_some(left)
        return bytes(self.received)

    async def read_response(self, timeout_s: float = ANSWER_S, method: str = "GET") -> "Response":
        """The next whole response; bytes after it stay in `received`."""
        end = time.monotonic() + timeout_s
        while True:
            parsed = parse_responses(bytes(self.received), [method], self.ended == "closed")
            if parsed.responses and parsed.responses[0].complete:
                del self.received[: parsed.responses[0].wire_length]
                return parsed.responses[0]
            left = end - time.monotonic()
            assert left > 0, f"no whole response in time: {bytes(self.received[:500])!r}"
            assert not self.ended, f"{self.ended}: {bytes(self.received[:500])!r}"
            await self.read_some(left)

    async def ends_within(self, seconds: float) -> float:
        """How long until the peer closes; fails the test if it does not."""
        began = time.monotonic()
        await self.read_for(seconds)
        assert self.ended, f"still open after {seconds} s; got {bytes(self.received[:300])!r}"
        return time.monotonic() - began

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def wire(
    port: int, receive_buffer: int = 0, read_ahead: int = 1 << 16
) -> AsyncIterator[Wire]:
    """A raw connection to `port` on this machine.

    A small `receive_buffer` makes a slow reader, and a small `read_ahead` one that keeps little
    in this process of what nobody has asked for.
    """
    raw = socket.socket()
    raw.setblocking(False)
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    reader = _Reader(limit=read_ahead)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_connection(lambda: protocol, sock=raw)
    connection = Wire(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(slots=True)
class Request:
    """One strictly parsed request."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Response:
    """One strictly parsed final response; `clean_end` tells a whole body from a cut one."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False
    wire_length: int = 0
    informational: list[int] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [v.decode("latin-1") for k, v in self.headers if k == name.lower().encode()]

    def header(self, name: str) -> str:
        return next(iter(self.all(name)), "")


@dataclass(slots=True)
class Parsed:
    """Whole messages first; `rest` is what follows them and `fault` what is wrong with it."""

    requests: list[Request] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    rest: bytes = b""
    fault: str = ""


def parse_requests(data: bytes) -> Parsed:
    """The requests that a strict server finds in `data`, one after the other."""
    parsed = Parsed()
    while data:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        request: Request | None = None
        try:
            parser.receive_data(data)
            while not isinstance(event := parser.next_event(), (h11.EndOfMessage, type)):
                if isinstance(event, h11.Request):
                    fields = [(bytes(k), bytes(v)) for k, v in event.headers]
                    request = Request(event.method.decode(), bytes(event.target), fields)
                    parsed.requests.append(request)
                elif isinstance(event, h11.Data) and request is not None:
                    request.body += bytes(event.data)
        except h11.RemoteProtocolError as error:
            parsed.rest, parsed.fault = data, str(error)
            return parsed
        if request is None or not isinstance(event, h11.EndOfMessage):
            parsed.rest, parsed.fault = data, "incomplete"
            return parsed
        request.complete = True
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            parsed.rest, parsed.fault = data, "Content-Length together with Transfer-Encoding"
            return parsed
        data = bytes(parser.trailing_data[0])
    return parsed


def parse_responses(data: bytes, methods: Sequence[str], closed: bool) -> Parsed:
    """The responses that a strict client finds in `data` when it had sent `methods`."""
    parsed = Parsed()
    for method in methods:
        if not data:
            return parsed
        response, used, fault = _one_response(data, method, closed)
        if response is not None:
            parsed.responses.append(response)
        if fault or response is None or not response.complete:
            parsed.rest, parsed.fault = data, fault or "incomplete"
            return parsed
        response.wire_length = used
        data = data[used:]
    parsed.rest = data
    parsed.fault = "bytes after the last response" if data else ""
    return parsed


def _one_response(data: bytes, method: str, closed: bool) -> tuple[Response | None, int, str]:
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    response: Response | None = None
    informational: list[int] = []
    try:
        parser.receive_data(data)
        if closed:
            parser.receive_data(b"")
        while not isinstance(event := parser.next_event(), type):
            if isinstance(event, h11.InformationalResponse):
                informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                fields = [(bytes(k), bytes(v)) for k, v in event.headers]
                response = Response(event.status_code, fields, informational=informational)
            elif isinstance(event, h11.Data) and response is not None:
                response.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
    except h11.RemoteProtocolError as error:
        return response, 0, str(error)
    if response is not None and isinstance(event, h11.EndOfMessage):
        response.complete = True
        return response, len(data) - len(parser.trailing_data[0]), ""
    return response, 0, ""
