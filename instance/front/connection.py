"""One client's HTTP connection: bytes become requests, and answers bytes.

One protocol per connection over llhttp (httptools): no task and no timer for a request. It
frames, limits and times; what a request means is the surface's. Requests of one connection
are answered in their order, one after the other.
"""

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from typing import cast

import httptools

from instance.core.errors import Problem
from instance.front.answers import Buffer
from instance.front.bodies import Receiving, Sending, read_with, room_for
from instance.front.incoming import Client, Incoming
from instance.front.server import Server
from instance.front.takers import Taking
from instance.wire.arena import Room
from instance.wire.frames import Body

log = logging.getLogger("instance")
MAX_HEAD = 64 << 10
MAX_HEADERS = 128
MAX_PIPELINED = 32
MAX_HELD = 64 << 10  # bytes that are read behind a request which is not answered yet
HEAD_S = 10.0  # from the first byte of a head to its end
BODY_IDLE_S = 30.0  # between two parts of a body
LINGER_S = 2.0  # for what a client still sends after a refusal
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOO_LARGE = f"the head of the request is larger than {MAX_HEAD >> 10} KiB"


def _origin_form(target: bytes) -> bytes:
    """Path and query alone of a target that names scheme and host too, as for a proxy."""
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        return target
    return b"/" + rest.partition(b"/")[2]


def _size_of(incoming: Incoming) -> int:
    """Bytes of its head, but for the few that each has."""
    headers = incoming.headers
    return len(incoming.target) + sum(len(name) + len(headers[name]) + 4 for name in headers)


class Connection(Client, asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._surface = server.surface
        self._parser = httptools.HttpRequestParser(self)
        self._current: Incoming | None = None  # being received
        self._busy: Incoming | None = None  # being answered
        self._waiting: deque[Incoming] = deque()
        self._unheard = 0  # bytes read since the last one that is known to be no head's
        self._read = 0  # bytes that are being read
        self._headers = 0
        self._goes_on = False  # with a head that was read already
        self._deaf = False  # nothing more is read from it
        self._behind = 0  # bytes read since a request is under way that is not answered yet
        self._paused = False
        self._writable: asyncio.Future[None] | None = None
        self._sending = Sending()
        self._taking = Taking()
        self.transport: asyncio.Transport | None = None
        self.ends = 0.0  # when it is closed unless something happens before

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ends = time.monotonic() + self._server.keep_alive_s
        self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """What is being answered is given up; what was not begun is forgotten."""
        self.transport = None
        self._server.remove(self)
        self.resume_writing()
        busy, self._busy = self._busy, None
        self._current = None
        self._waiting.clear()
        if busy is not None:
            self._surface.leave(busy)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; refuses a head that is no HTTP or larger than MAX_HEAD."""
        if self._deaf:
            return
        if self._busy is not None or self._waiting:
            self._hold(len(data))
        self._read = len(data)
        self._unheard += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            if self._current is not None and not self._deaf:
                self._read_its_body(self._current, data[end.args[0] :])
                return
            self._deaf = True  # answered as if it had not asked, and then closed
            self.close_if_idle()
        except httptools.HttpParserCallbackError as error:  # raised by what the parser calls
            log.critical("a fault in headgate itself", exc_info=error)
            if self.transport is not None:
                self.transport.abort()
        except httptools.HttpParserError as error:
            self._refuse("bad_request", f"the request is no HTTP: {error}")
        else:
            receiving = self._current
            if receiving is None:
                self._unheard = 0
            elif self._unheard > MAX_HEAD:
                # Of a head, or between the parts of a body: extensions of chunks, trailers.
                self._refuse("head_too_large", TOO_LARGE)
            elif receiving.method and not self._deaf:
                self._receive_apart(receiving)

    def _read_its_body(self, incoming: Incoming, rest: bytes) -> None:
        """Goes on with the body of a request that asks for another protocol, at which the parser
        stops: a new one is told of the body alone."""
        self._parser = httptools.HttpRequestParser(self)
        self._goes_on = True
        framing = (b"Transfer-Encoding", b"Content-Length")
        name = next(name for name in framing if name.lower() in incoming.headers)
        said = incoming.headers[name.lower()]
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, said))
        self._goes_on = False
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        self._sending.over(self.transport)
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        self._advance()

    async def drain(self) -> None:
        if self._writable is not None:
            await self._writable

    # -- llhttp

    def on_message_begin(self) -> None:
        if self._goes_on:
            return
        self._current = Incoming(self)
        self._headers = 0
        self.ends = time.monotonic() + HEAD_S

    def on_url(self, url: bytes) -> None:
        if self._current is not None and not self._goes_on:
            self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes a header; those of one name are joined by commas, but a second Host spoils it. What
        comes behind a body is none of them."""
        incoming = self._current
        if incoming is None or incoming.method:  # refused already, or known
            return
        # The parser leaves the whitespace behind a value, which is no part of it.
        headers, key, value = incoming.headers, name.lower(), value.rstrip(b" \t")
        self._headers += 1
        if key not in headers:
            headers[key] = value
        elif key == b"host":
            headers[b"host"] = b""  # two of them: as bad as none
        else:
            headers[key] += b", " + value

    def on_headers_complete(self) -> None:
        """The head is whole: refused here or by the surface, before its body is waited for."""
        incoming, parser = self._current, self._parser
        if incoming is None or self._goes_on:
            return
        incoming.version = parser.get_http_version()
        incoming.keep_alive = parser.should_keep_alive()
        incoming.method = parser.get_method().decode("latin-1")
        if parser.should_upgrade() and not self._stops_before_body(incoming):
            incoming.keep_alive = False  # nothing behind it is read: its answer says so
        if not incoming.target.startswith(b"/"):
            incoming.target = _origin_form(incoming.target)
        self.ends = time.monotonic() + BODY_IDLE_S
        may_be_large = self._unheard > MAX_HEAD or self._read > MAX_HEAD
        self._unheard = 0
        if self._headers > MAX_HEADERS:
            self._refuse("head_too_large", f"there are more than {MAX_HEADERS} headers")
        elif may_be_large and _size_of(incoming) > MAX_HEAD:
            self._refuse("head_too_large", TOO_LARGE)
        elif not incoming.headers.get(b"host") and incoming.version == "1.1":
            self._refuse("bad_request", "a request must name its host, once")
        elif (problem := self._surface.begin(incoming)) is not None:
            self._refuse_with(problem)
        elif self._waits_for_continue(incoming) and self._is_next:
            self.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Keeps a part of the body; refuses one that grows larger than `max_body` bytes."""
        incoming = self._current
        if incoming is None or self._deaf:
            return
        self.ends = time.monotonic() + BODY_IDLE_S
        self._unheard = 0
        incoming.parts.append(body)
        incoming.size += len(body)
        if incoming.size > self._server.max_body:
            limit = self._server.max_body
            self._refuse("body_too_large", f"the body is larger than {limit} bytes (--max-body)")

    def on_message_complete(self) -> None:
        """The request is whole: answered now, or after those before it on this connection. Where
        the parser stops for another protocol, its body is still to come."""
        if self._current is not None and self._stops_before_body(self._current):
            return
        incoming, self._current = self._current, None
        self._unheard = 0
        if incoming is None or self._deaf:
            return
        if not incoming.body:
            parts = incoming.parts
            incoming.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._waiting.append(incoming)
        if len(self._waiting) > MAX_PIPELINED:
            self._deaf = True  # answers what there is
            incoming.keep_alive = False  # the last one: its answer says so
        self._advance()

    def _stops_before_body(self, incoming: Incoming) -> bool:
        if b"upgrade" not in incoming.headers or not self._parser.should_upgrade():
            return False
        length = incoming.headers.get(b"content-length", b"0")
        return incoming.method != "CONNECT" and (
            b"transfer-encoding" in incoming.headers or length.strip(b"0") != b""
        )

    @staticmethod
    def _waits_for_continue(incoming: Incoming) -> bool:
        """Whether its client sends no body before it is told to: none of HTTP/1.0 does, and such a
        one would take what it is told for its answer."""
        return b"expect" in incoming.headers and incoming.version != "1.0"

    @property
    def _is_next(self) -> bool:
        """Whether no request is ahead of the one that is being received."""
        return self._busy is None and not self._waiting

    def _hold(self, count: int) -> None:
        """Reads no more behind a request that is under way than MAX_HELD bytes: what a client
        sends ahead is its own to keep. Up to there it is read on, for nothing else tells that
        a client has left."""
        self._behind += count
        if self._behind > MAX_HELD and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Reads on: what is being received is the next to be answered."""
        self._behind = 0
        incoming = self._current
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        if incoming is not None and incoming.method and not self._deaf:
            if self._waits_for_continue(incoming) and not incoming.size:
                self.write(CONTINUE)
            self._receive_apart(incoming)

    def _receive_apart(self, incoming: Incoming) -> None:
        """What is missing of a large body goes straight to where its worker reads it."""
        if not self._is_next or self.transport is None or self.transport.is_closing():
            return
        if (room := room_for(incoming, self._server.arena)) is not None:
            receiving = Receiving(self, room, incoming.size, self._progressed, self._received)
            read_with(self.transport, receiving)

    def _progressed(self) -> None:
        if not self._deaf:
            self.ends = time.monotonic() + BODY_IDLE_S

    def _received(self) -> None:
        """The large body is whole; the parser has not seen its end, so the next request gets
        a new one."""
        assert self.transport is not None
        read_with(self.transport, self)
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    # -- answers

    def reply(self, incoming: Incoming, data: bytes, body: Body = b"") -> None:
        """Sends a whole answer, head (`data`) and `body`, and finishes `incoming`; nothing where
        its client is gone or it was answered before."""
        if self.transport is None or (incoming is not self._busy and incoming is not self._current):
            return
        self._taking.put += len(data) + len(body)
        if isinstance(body, Room):
            self._sending.write(self.transport, data, body)
        elif body:
            self.transport.writelines([data, body])
        else:
            self.transport.write(data)
        self.finish(incoming)

    def write(self, data: Buffer) -> None:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client left")
        self._taking.put += len(data)
        self.transport.write(data)

    def finish(self, incoming: Incoming, close: bool = False) -> None:
        """`incoming` was answered: the next request is taken, or the connection closed."""
        early = incoming is self._current
        if early:
            self._current = None
        else:
            self._busy = None
        if self.transport is None:
            return
        if early or close or not incoming.keep_alive or (self._deaf and not self._waiting):
            self._linger()
        else:
            behind = self._behind or self._current is not None
            idle_s = BODY_IDLE_S if behind else self._server.keep_alive_s
            self.ends = time.monotonic() + idle_s
            self._advance()

    def break_off(self, reset: bool) -> None:
        if self.transport is None:
            return
        if reset:
            self.reset_at_end(True)
        self.transport.close()

    def reset_at_end(self, resets: bool) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", resets, 0))
            # Then `drain` waits for all that is written: what waits here ends with us.
            self.transport.set_write_buffer_limits(high=0 if resets else None)

    def close_if_idle(self) -> None:
        if self._busy is None and self._current is None and self.transport is not None:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """As declared; and ends at once what takes nothing of its answer any more, which would else
        wait for ever to be closed."""
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size():
            if self._taking.idle_s(self.transport, now) >= self._server.stream_idle_s:
                self.transport.abort()
            return
        if self._busy is not None or now < self.ends:
            return
        if self._deaf or self._current is None:
            self.transport.close()
        else:
            self._refuse("request_timeout", "the request did not come in time")

    def _advance(self) -> None:
        if self._busy is not None or self._writable is not None:
            return  # one after the other, and no answers for who does not read them
        if self._waiting and self.transport is not None:
            self._busy = self._waiting.popleft()
            self._surface.handle(self._busy)
        elif self._behind:
            self._go_on()

    def _refuse(self, code: str, detail: str) -> None:
        self._refuse_with(Problem(code, detail))

    def _refuse_with(self, problem: Problem) -> None:
        """Answers before the request is whole, unless another one is being answered."""
        if self._deaf:
            return
        self._deaf = True
        if self._current is None:
            self._current = Incoming(self)
        self._current.keep_alive = False
        if self._busy is None and not self._waiting:
            self._surface.refuse(self._current, problem)

    def _linger(self) -> None:
        """Says that no more will come, and lets the client finish: to close while it sends could
        throw away the answer before it is read."""
        self._deaf = True
        self.ends = time.monotonic() + LINGER_S
        if self.transport is None or self.transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
