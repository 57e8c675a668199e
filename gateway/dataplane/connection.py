"""How is a client's connection held back, watched for its pace, and ended?

What a connection can do whatever its client asks: write, pause and go on reading, close so that
everything arrives or abort so that nothing looks complete. A connection that was refused
mid-request is lingered on, so that the client can read the answer before it learns that
nobody reads the rest. Requests are not known here.
"""

import asyncio
import contextlib
import os
import socket
import struct
from abc import abstractmethod
from typing import Final, cast

from mypy_extensions import trait

from gateway.dataplane.deadlines import NEVER, Timed
from gateway.dataplane.match_memory import Remembered
from gateway.dataplane.shared import Shared

STATES: Final = ("head", "body", "wait", "tunnel", "linger", "closed")
HEAD: Final = 0
BODY: Final = 1
WAIT: Final = 2
TUNNEL: Final = 3
LINGER: Final = 4
CLOSED: Final = 5
LEGAL: Final = {
    HEAD: (BODY, WAIT, CLOSED),  # more of a request's head, if there is one, is to come
    BODY: (WAIT, LINGER, CLOSED),  # more of its body
    WAIT: (HEAD, TUNNEL, LINGER, CLOSED),  # the request is there, its answer is not
    TUNNEL: (CLOSED,),  # no requests any more, bytes both ways
    LINGER: (CLOSED,),  # the last answer is written: the client may read it
    CLOSED: (),
}
LINGER_S: Final = 2.0
_AT_ONCE: Final = struct.pack("ii", 1, 0)


@trait
class Sink:
    """Who takes what a client sends once that is no request any more."""

    __slots__ = ()

    @abstractmethod
    def from_client(self, data: bytes) -> None: ...
    @abstractmethod
    def client_left(self) -> None: ...
    @abstractmethod
    def shut(self) -> None: ...
    @abstractmethod
    def cut(self) -> None: ...
    @abstractmethod
    def give_up(self) -> None: ...


class Connection(asyncio.Protocol, Timed):
    """One client connection, as whoever answers its requests knows it; `state` is one of STATES,
    and moves as is LEGAL."""

    __slots__ = (
        "_last_piece", "_lingered", "_window", "_window_bytes", "address", "ends_body",
        "forwarding", "is_paused", "peer", "remembered", "scheme", "shared", "state", "transport",
        "trusted",
    )  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        self.deadline = self.armed = NEVER
        self.shared = shared
        self.transport = cast(asyncio.Transport, None)
        self.state = HEAD
        self.address = ""
        self.peer = self.forwarding = b""
        self.scheme = b"http"
        self.trusted = False
        self.remembered = Remembered()  # its last request and the route of it
        self.is_paused = False
        self.ends_body = False  # of the answer under way: nothing else says where it ends
        self._last_piece = 0.0
        self._window = 0.0
        self._window_bytes = 0
        self._lingered = 0

    # what is the listener's to say

    @abstractmethod
    def ending(self, minor: int) -> bytes:
        """The end of the head of the answer to the request under way, which is of HTTP/1.`minor`:
        with whether the connection ends, where its client would take the other for granted."""

    @abstractmethod
    def finished(self, now: float) -> None:
        """The answer is written: on to the next request, or the end."""

    @abstractmethod
    def tunnel(self, sink: Sink) -> None:
        """From here on `sink` gets what comes."""

    @abstractmethod
    def stall(self, seconds: float) -> None:
        """Reads no request after the one under way for so long."""

    @abstractmethod
    def is_beyond(self, exchange: object) -> bool:
        """Whether another request than `exchange` is under way."""

    @abstractmethod
    def resting_since(self) -> float:
        """Since when no whole head of a request has come; NEVER while a request is under way."""

    @abstractmethod
    def count_under_way(self) -> None:
        """Counts the request under way, if there is one, by the limits of in_flight as they are."""

    @abstractmethod
    def shut(self) -> None:
        """Draining: an idle connection ends, a busy one with its answer."""

    @abstractmethod
    def cut(self) -> None:
        """Time is up: a request without an answer gets one that says so, a stream breaks off."""

    def write(self, data: bytes) -> None:
        if self.state != CLOSED:
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Reads no more until `resume_reading`."""
        if not self.is_paused and self.state != CLOSED:
            self.is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._last_piece = self._window = self.shared.now()
            self._window_bytes = 0
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def close_soon(self) -> None:
        """Ends the connection when everything is written."""
        self.state = CLOSED
        self._wait_for(self.shared.options.stream_idle_s)
        self.transport.close()

    def abort(self) -> None:
        """Ends the connection so that an unfinished answer looks like one."""
        self.state = CLOSED
        if self.ends_body:
            self._reset()
        self.transport.abort()

    def _reset(self) -> None:
        """Lets the connection end by a reset: its usual end would be that of the body."""
        with contextlib.suppress(OSError), self._socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)

    def _linger(self) -> None:
        """Says that nothing more comes, and reads on until the client has ended too: to close while
        it sends (RFC 9112, 9.6) would throw away what it has not read of the answer."""
        self.state = LINGER
        self.ends_body = False  # its end is said
        self._lingered = 0
        self._last_piece = self.shared.now()
        self.resume_reading()
        self._wait_for(LINGER_S)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _left_to_read_s(self, now: float) -> float:
        """How long who is lingered on still has for what is left of the answer; 0.0: nothing is."""
        if not self.transport.get_write_buffer_size():
            return 0.0
        return self._last_piece + self.shared.options.stream_idle_s - now

    def make_room(self) -> bool:
        """Ends a connection that rests, for somebody else; False where a request has come by now,
        or its client has yet to take an answer."""
        if self.transport.get_write_buffer_size() or self._has_unread():
            return False
        self.abort()
        return True

    def _has_unread(self) -> bool:
        """Whether bytes have come that the loop has not yet handed over."""
        try:
            with self._socket() as s:
                return bool(s.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _socket(self) -> socket.socket:
        """The connection's own, to be closed again: the loop's cannot be asked everything."""
        return socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))

    def _wait_for(self, seconds: float) -> None:
        self.shared.wheel.set(self, self.shared.now() + seconds)

    def _begin_upload(self, now: float) -> None:
        self._last_piece = self._window = now
        self._window_bytes = 0

    def _is_upload_slow(self, now: float) -> bool:
        """Whether a body stalls or trickles; one that is held back by us is excused."""
        options = self.shared.options
        idle_s = options.body_idle_s
        if self.is_paused:
            self._last_piece = self._window = now
        else:
            too_slow = self._window_bytes < options.body_min_rate * (now - self._window)
            window_over = now - self._window >= idle_s
            if now - self._last_piece >= idle_s or (window_over and too_slow):
                return True
            if window_over:
                self._window = now
                self._window_bytes = 0
        self.shared.wheel.set(self, min(self._last_piece, self._window) + idle_s)
        return False
