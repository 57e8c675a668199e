"""How is a client's connection held back, watched for its pace, and ended?

What a connection can do whatever its client asks: write, pause and go on reading, close so that
everything arrives or abort so that nothing looks complete. A connection that was refused
mid-request is lingered on, so that the client can read the answer before it learns that
nobody reads the rest. Requests are not known here.
"""

import asyncio
import os
import socket
from typing import TYPE_CHECKING, cast

from gateway.core.errors import ClientFault
from gateway.dataplane.deadlines import NEVER, Timed

if TYPE_CHECKING:
    from gateway.dataplane.context import Plane
    from gateway.dataplane.exchange import Exchange

HEAD, BODY, WAIT, TUNNEL, LINGER, CLOSED = range(6)
LINGER_S = 2.0


class Connection(asyncio.Protocol, Timed):
    """One client connection; `state` is one of the above. `exchange` is the request under way."""

    __slots__ = (
        "_held", "_last_piece", "_lingered", "_window", "_window_bytes", "exchange", "plane",
        "state", "transport",
    )  # fmt: skip

    def __init__(self, plane: "Plane") -> None:
        self.deadline = self.armed = NEVER
        self.plane = plane
        self.transport = cast(asyncio.Transport, None)
        self.state = HEAD
        self.exchange: Exchange | None = None
        self._held = False
        self._last_piece = 0.0
        self._window = 0.0
        self._window_bytes = 0
        self._lingered = 0

    def write(self, data: bytes) -> None:
        if self.state != CLOSED:
            self.transport.write(data)

    def hold(self) -> None:
        """Reads no more until `release`."""
        if not self._held and self.state != CLOSED:
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._last_piece = self._window = self.plane.now()
            self._window_bytes = 0
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def close_soon(self) -> None:
        """Ends the connection when everything is written."""
        self.state = CLOSED
        self._wait_for(self.plane.options.stream_idle_s)
        self.transport.close()

    def abort(self) -> None:
        """Ends the connection so that an unfinished answer looks like one."""
        self.state = CLOSED
        self.transport.abort()

    def _linger(self) -> None:
        self.state = LINGER
        self._lingered = 0
        self.release()
        self._wait_for(LINGER_S)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _has_unread(self) -> bool:
        """Whether bytes have come that the loop has not yet handed over."""
        try:
            with socket.socket(
                fileno=os.dup(self.transport.get_extra_info("socket").fileno())
            ) as s:
                return bool(s.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _wait_for(self, seconds: float) -> None:
        self.plane.wheel.set(self, self.plane.now() + seconds)

    def _begin_upload(self, now: float) -> None:
        self._last_piece = self._window = now
        self._window_bytes = 0

    def _check_upload(self, now: float) -> None:
        """408 for a body that stalls or trickles; one that is held back by us is excused."""
        options = self.plane.options
        idle_s = options.body_idle_s
        if self._held:
            self._last_piece = self._window = now
        else:
            too_slow = self._window_bytes < options.body_min_rate * (now - self._window)
            window_over = now - self._window >= idle_s
            if now - self._last_piece >= idle_s or (window_over and too_slow):
                assert self.exchange is not None
                fault = ClientFault("The request body took too long.", "request_timeout")
                self.exchange.fail(fault)
                return
            if window_over:
                self._window = now
                self._window_bytes = 0
        self.plane.wheel.set(self, min(self._last_piece, self._window) + idle_s)
