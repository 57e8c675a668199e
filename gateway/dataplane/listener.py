"""How does one client connection carry one request after another?

An asyncio protocol that frames requests strictly, one at a time: while one is under way,
what a client pipelines waits in a bounded buffer, so answers come in order. What a request
means is `exchange`; what a connection can do without knowing requests is `connection`.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, cast

from gateway.core.errors import ClientFault, GatewayError, NoRoom
from gateway.core.framing import Body, Chunked, Sized
from gateway.core.heads import (
    CHUNKED,
    CRLF,
    END,
    RequestHead,
    check_start,
    parse_request,
    refused_head,
    too_large,
)
from gateway.dataplane import admitting
from gateway.dataplane.connection import (
    BODY,
    CLOSED,
    HEAD,
    LINGER,
    LINGER_S,
    TUNNEL,
    WAIT,
    Connection,
    Sink,
)
from gateway.dataplane.deadlines import NEVER, fault
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.plane import Plane

RACE_S: Final = 0.05
LAST_CALL_S: Final = 1.0  # for who may not have heard that we go
LINGER_BYTES: Final = 16 << 20
ExchangeOf = Callable[[Plane, Connection, RequestHead, float], Exchange]
_empty_lines: Final = re.compile(rb"(?:\r\n)+").match


class Client(Connection):
    """One client connection. Its deadline depends on its state; see `expired`."""

    __slots__ = (
        "_body", "_buffer", "_exchange_of", "_head_since", "_keep_alive_s", "_last_head",
        "_pumping", "_tunnel", "exchange", "keep", "plane", "stalled",
    )  # fmt: skip

    def __init__(self, plane: Plane, exchange_of: ExchangeOf) -> None:
        Connection.__init__(self, plane)
        self.plane = plane
        self.exchange: Exchange | None = None  # of the request under way
        # None for the usual one: what is compiled makes what it knows by name in half the time.
        self._exchange_of = None if exchange_of is Exchange else exchange_of
        self.keep = True
        self.stalled = False
        self._tunnel: Sink | None = None
        self._last_head: RequestHead | None = None  # its last head: clients repeat themselves
        self._buffer = b""
        self._body: Body | None = None
        self._pumping = False
        self._head_since = 0.0
        self._keep_alive_s = plane.options.keep_alive_s

    @property
    def buffered(self) -> int:
        """Bytes that have come and are not read yet."""
        return len(self._buffer)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new client, if there is room for one."""
        self.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        # A socket on [::] calls 192.0.2.1 ::ffff:192.0.2.1; nobody who looks for it would.
        self.address = name[0].removeprefix("::ffff:") if isinstance(name, tuple) else "unix"
        self.peer = self.address.encode("latin-1")
        plane = self.plane
        if plane.room.left(plane.now()) < 1.0:
            self.abort()
            return
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        self.trusted = plane.trusts(self.address)
        self.forwarding = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: " % (
            self.peer,
            self.scheme,
        )
        high = plane.options.buffer
        self.transport.set_write_buffer_limits(high=high, low=high // 4)
        plane.clients.add(self)
        plane.wheel.set(self, plane.now() + plane.options.keep_alive_s)

    def data_received(self, data: bytes) -> None:
        """What the client sent, to whoever reads it in this state; too much is held or cut off."""
        state = self.state
        try:
            if state == HEAD:
                self._pump(self._buffer + data if self._buffer else data)
            elif state == BODY:
                self._more(data)
            elif state == WAIT:
                self._buffer += data
                if len(self._buffer) > self.plane.options.max_head:
                    self.pause_reading()
            elif state == TUNNEL:
                if self._tunnel is not None:
                    self._tunnel.from_client(data)
            elif state == LINGER:
                self._lingered += len(data)
                if self._lingered > LINGER_BYTES:
                    self.abort()
        except Exception:
            fault(self.give_up)

    def eof_received(self) -> bool:
        # A client that has said its last word is taken to have left: waiting for an answer
        # with a closed half cannot be told from having gone, and work for nobody is worse.
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: whatever runs for it ends."""
        self.plane.clients.discard(self)
        self.state = CLOSED
        self.plane.wheel.drop(self)
        tunnel, exchange = self._tunnel, self.exchange
        if tunnel is not None:
            tunnel.client_left()
        elif exchange is not None:
            exchange.client_left()
        self.exchange = None
        self._tunnel = None

    def pause_writing(self) -> None:
        self.stalled = True
        if self.exchange is not None:
            self.exchange.pause_instance()
        elif self.state == HEAD:
            self.pause_reading()
        self._wait_for(self.plane.options.stream_idle_s)

    def resume_writing(self) -> None:
        """The client reads again: so does the instance's answer, and what waits is parsed."""
        self.stalled = False
        try:
            if self.state in (WAIT, TUNNEL):
                self.deadline = NEVER
            elif self.state == BODY:
                self._wait_for(self.plane.options.body_idle_s)
            elif self.state == LINGER:
                self._wait_for(LINGER_S)
            if self.exchange is not None:
                self.exchange.resume_instance()
            elif self.state == HEAD:
                self._next(self.plane.now())
        except Exception:
            fault(self.give_up)

    # -- requests

    def _pump(self, data: bytes) -> None:
        """Reads as many requests as are there and can be answered at once."""
        self._pumping = True
        while self.state == HEAD and not self.stalled:
            if data[:1] == b"\r":
                skipped = _empty_lines(data)
                data = data[skipped.end() :] if skipped else data
                if data == b"\r":
                    break  # perhaps half of another empty line
            if not data:
                break
            last = self._last_head
            if last is not None and data.startswith(last.raw):
                data = self._begin(last, data[len(last.raw) :])
                continue
            start, end, rest = data.partition(END)
            if not end or len(start) > self.plane.options.max_head:
                if not self._is_beginning(data, len(end) > 0):
                    return
                break
            try:
                head = self._read(start)
            except ClientFault as refusal:
                self._refuse(refusal, data)
                return
            if head.raw:
                self._last_head = head
            data = self._begin(head, rest)
        self._pumping = False
        self._buffer = data if self.state in (HEAD, WAIT, TUNNEL) else b""

    def _read(self, head: bytes) -> RequestHead:
        options = self.plane.options
        return parse_request(
            head, options.max_target, options.max_headers, options.underscore_headers
        )

    def _is_beginning(self, data: bytes, has_end: bool) -> bool:
        """Whether `data` may still become a head; otherwise it is refused."""
        options = self.plane.options
        try:
            if len(data) >= options.max_head + len(END) or has_end:
                raise too_large(data, options.max_target)
            check_start(data, options.max_target, options.max_headers, options.underscore_headers)
        except ClientFault as refusal:
            self._refuse(refusal, data)
            return False
        if not self._head_since:
            self._head_since = self.plane.now()
            self._wait_for(options.head_timeout_s)
        return True

    def _begin(self, head: RequestHead, data: bytes) -> bytes:
        """Starts the request of `head`; gives what lies behind it of `data`."""
        plane = self.plane
        now = plane.now()
        self._head_since = 0.0
        self.keep = not head.close
        length = head.length or 0
        self.exchange = exchange = self._made(head, now)
        if 0 <= length <= len(data):
            self.state = WAIT
            self.deadline = NEVER
            exchange.start(data[:length], True)
            return data[length:]
        body: Body = Chunked() if length == CHUNKED else Sized(length)
        try:
            payload = body.feed(data) if data else b""
        except ValueError as error:
            self.state = BODY  # the rest of it, which nobody understands
            exchange.refuse(ClientFault(f"Malformed request body: {error}."))
            return b""
        self._body = body
        self._begin_upload(now)
        if body.done:
            self.state = WAIT
            self.deadline = NEVER
        else:
            self.state = BODY
            self._wait_for(plane.options.body_idle_s)
        exchange.start(payload, body.done)
        return body.rest

    def _made(self, head: RequestHead, now: float) -> Exchange:
        """The exchange of the request with `head`."""
        exchange_of = self._exchange_of
        if exchange_of is None:
            return Exchange(self.plane, self, head, now)
        return exchange_of(self.plane, self, head, now)

    def _more(self, data: bytes) -> None:
        """Takes more of the body of the request under way."""
        body, exchange = self._body, self.exchange
        assert body is not None
        assert exchange is not None
        try:
            payload = body.feed(data)
        except ValueError as error:
            self.keep = False
            exchange.fail(ClientFault(f"Malformed request body: {error}."))
            return
        if body.done:
            self.state = WAIT
            if not self.stalled:
                self.deadline = NEVER
            self._buffer = body.rest
            self._body = None
            exchange.feed(payload, True)
            return
        self._last_piece = self.plane.now()
        self._window_bytes += len(payload)
        exchange.feed(payload, False)

    def give_up(self) -> None:
        """A fault of ours: 500 to the request under way, or to one that never became one."""
        self._pumping = False
        if self._tunnel is not None:
            self._tunnel.give_up()
        elif self.exchange is not None:
            self.exchange.give_up()
        elif self.state == HEAD:
            try:
                self._refuse(GatewayError("The gateway failed.", "internal"), b"")
            except Exception:
                self.abort()
                raise
        else:
            self.abort()

    def _refuse(self, refusal: GatewayError, data: bytes) -> None:
        """Answers a request that never became one, of which `data` came."""
        self._pumping = False
        self.keep = False
        self._buffer = b""
        plane = self.plane
        head, since = refused_head(data, plane.options.max_target), self._head_since or plane.now()
        if refusal.code == "bad_request":
            head.target = b""  # where anything may stand, a secret may: it is in no log
        exchange = self._made(head, since)
        self.state = BODY  # what follows is the rest of something that nobody understood
        self.exchange = exchange
        exchange.refuse(refusal)

    # what an exchange does with its client

    def ending(self, minor: int) -> bytes:
        if self.plane.lame or self.state == BODY or self.ends_body:
            self.keep = False
        if self.keep:
            return CRLF if minor else b"Connection: keep-alive\r\n\r\n"
        return b"Connection: close\r\n\r\n"

    def finished(self, now: float) -> None:
        """The exchange is over: the next request, or the end of the connection."""
        self.exchange = None
        self._tunnel = None
        if self.state == CLOSED or self.transport.is_closing():
            return
        if self.state == BODY:
            self._body = None
            self._buffer = b""
            self._linger()
        elif not self.keep:
            self._buffer = b""
            if self.transport.can_write_eof():
                self._linger()
            else:  # by TLS the end is said, and waited for, as it closes
                self.close_soon()
        else:
            self.state = HEAD
            if self.stalled:
                self.pause_reading()  # who takes no answers gets no more of them
            else:
                self._next(now)

    def _next(self, now: float) -> None:
        """On to the next request, which may be here already."""
        if self.is_paused:
            self.resume_reading()
        self.plane.wheel.set(self, now + self._keep_alive_s)
        if self._buffer and not self._pumping:
            data, self._buffer = self._buffer, b""
            self._pump(data)

    def tunnel(self, sink: Sink) -> None:
        self._tunnel = sink
        self.state = TUNNEL
        self.deadline = NEVER
        self.resume_reading()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            sink.from_client(data)

    def stall(self, seconds: float) -> None:
        """As if the client did not read for so long: nobody reads what it sends meanwhile."""
        self.stalled = True
        self.plane.later(seconds, self._held)

    def _held(self) -> None:
        if self.state != CLOSED:
            self.resume_writing()

    def is_beyond(self, exchange: object) -> bool:
        return self.exchange is not exchange and self.exchange is not None

    def resting_since(self) -> float:
        if self.state != HEAD or self.stalled:
            return NEVER
        return self._head_since or self.deadline - self._keep_alive_s

    def count_under_way(self) -> None:
        if self.exchange is not None:
            self.exchange.count_under_way()

    def cut(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.state < admitting.TUNNEL:
            exchange.fail(NoRoom("The gateway is shutting down.", "draining"))
        elif self._tunnel is not None:
            self._tunnel.cut()
        else:
            self.abort()

    def shut(self) -> None:
        """As declared; but who has just connected, or gets an answer that began before anybody was
        told to close, may ask once more within LAST_CALL_S."""
        came, self._keep_alive_s = self.deadline - self._keep_alive_s, LAST_CALL_S
        if self.state == HEAD and not self._buffer:
            left_s = came + LAST_CALL_S - self.plane.now()
            if self.remembered.mark is None and left_s > 0.0:
                self._wait_for(left_s)
            elif not self._has_unread():  # a request that came just before is answered
                self.close_soon()
        elif self._tunnel is not None:
            self._tunnel.shut()

    # -- time

    def expired(self, now: float) -> None:
        """The deadline of the state passed: idle connections and who does not read are cut off,
        a late head or body is refused."""
        if self.state == LINGER:
            left_s = self._left_to_read_s(now)
            if left_s > 0.0:
                self._wait_for(min(left_s, LINGER_S))
            else:
                self.abort()
        elif self.state == CLOSED or self.stalled:
            self.abort()
        elif self.state == HEAD:
            if self._head_since:
                late = ClientFault("The request head took too long.", "request_timeout")
                self._refuse(late, self._buffer)
            elif self._has_unread():
                self._wait_for(RACE_S)  # a request came just before we went: it is answered
            else:
                self.close_soon()
        elif self.state == BODY and self.exchange is not None and self._is_upload_slow(now):
            late = ClientFault("The request body took too long.", "request_timeout")
            self.exchange.fail(late)
