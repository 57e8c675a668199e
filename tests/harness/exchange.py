"""What is one request as an origin gets it, and how is it framed from a connection's bytes?

h11 frames strictly, one parser per request, so that whatever a gateway should never have sent
is an error here and not a guess. What to answer is the business of `origins`.
"""

import asyncio
import hashlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from tests.harness.origins import Origin

KEPT_BODY = 1 << 20
PROBE = b"/health"
OPENAPI = b"/openapi.json"


class Gone(Exception):
    """The gateway closed its connection."""


class Exchange:
    """One request as the origin got it, and the means to answer it."""

    def __init__(self, connection: "Connection", request: h11.Request) -> None:
        self.connection = connection
        self.method = request.method.decode()
        self.target = request.target
        self.headers = [(bytes(k), bytes(v)) for k, v in request.headers]
        self.body = bytearray()
        self.length = 0
        self.digest = hashlib.sha256()
        self.trailers: list[tuple[bytes, bytes]] = []
        self.began = time.monotonic()
        self.complete = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone_at = 0.0

    @property
    def origin(self) -> "Origin":
        return self.connection.origin

    @property
    def id(self) -> str:
        return self.header("x-test-id")

    def header(self, name: str) -> str:
        """The first value of header `name`; "" where there is none."""
        wanted = name.lower().encode()
        return next((v.decode("latin-1") for k, v in self.headers if k == wanted), "")

    def all(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [v for k, v in self.headers if k == wanted]

    async def read(self) -> bytes:
        """The whole body (the first MiB of it); Gone if the gateway breaks off before its end."""
        await self.or_gone(self.complete.wait())
        return bytes(self.body)

    async def or_gone(self, something: Awaitable) -> None:
        """Await `something`, but raise Gone as soon as the gateway has closed."""
        both = [asyncio.ensure_future(something), asyncio.ensure_future(self.gone.wait())]
        done, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        if both[0] not in done:
            raise Gone

    async def sleep(self, seconds: float) -> None:
        """Sleep; Gone as soon as the gateway has closed."""
        await self.or_gone(asyncio.sleep(seconds))

    def write(self, data: bytes) -> None:
        self.connection.write(data)

    async def drain(self) -> None:
        """Return once the gateway has taken most of what was written."""
        await self.or_gone(self.connection.writable.wait())

    def reply(
        self, status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """A whole answer framed by Content-Length; the connection stays open."""
        lines = [f"HTTP/1.1 {status} Stub", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.write(head if self.method == "HEAD" else head + body)

    def close(self) -> None:
        self.connection.close()

    def reset(self) -> None:
        """Close with RST, as a killed process does."""
        self.connection.reset()


Responder = Callable[[Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection from the gateway: its bytes, and its requests framed one at a time."""

    def __init__(self, origin: "Origin") -> None:
        self.origin = origin
        self.received = bytearray()
        self.malformed = ""
        self.probe = False
        self._asked = b""
        self.closed = False
        self.exchange: Exchange | None = None
        self.open: list[Exchange] = []
        self.transport: asyncio.Transport | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._parser = _parser()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.origin.connections.append(self)
        if self.origin.refuse:
            self.reset()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self.origin.record:
            self.received += data
        if self.malformed or self.closed:
            return
        if isinstance(self.exchange, Exchange) and self.exchange.method == "CONNECT":
            return
        try:
            self._parser.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            self.malformed = str(error)
            self.origin.malformed.append(self.malformed)
            self.write(b"HTTP/1.1 400 Malformed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.close()

    def _advance(self) -> None:
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data) and self.exchange is not None:
                self._body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._end(event)

    def _begin(self, request: h11.Request) -> None:
        fields = {bytes(name) for name, _ in request.headers}
        if self._is_the_gateways_own(bytes(request.target), fields):
            self.probe, self.exchange, self._asked = True, None, bytes(request.target)
            return
        if {b"content-length", b"transfer-encoding"} <= fields:
            raise h11.RemoteProtocolError("Content-Length together with Transfer-Encoding")
        self.exchange = Exchange(self, request)
        self.open.append(self.exchange)
        self.origin.take(self.exchange)

    @staticmethod
    def _is_the_gateways_own(target: bytes, fields: set[bytes]) -> bool:
        """Whether the control process asks for itself: it probes and collects descriptions."""
        return target.startswith(PROBE) or (target == OPENAPI and b"via" not in fields)

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        exchange.digest.update(data)
        exchange.length += len(data)
        if len(exchange.body) < KEPT_BODY:
            exchange.body += data

    def _end(self, event: h11.EndOfMessage) -> None:
        rest, _ = self._parser.trailing_data
        if self.exchange is not None:
            self.exchange.trailers = [(bytes(k), bytes(v)) for k, v in event.headers]
            self.exchange.complete.set()
        elif self.probe:
            self.origin.answer_probe(self, self._asked)
        self._parser = _parser()
        if rest:
            self._parser.receive_data(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        for exchange in self.open:
            exchange.gone_at = time.monotonic()
            exchange.gone.set()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        assert self.transport is not None
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def hold(self) -> None:
        """Stop reading, so that the gateway's writes back up."""
        assert self.transport is not None
        self.transport.pause_reading()

    def release(self) -> None:
        assert self.transport is not None
        self.transport.resume_reading()


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
