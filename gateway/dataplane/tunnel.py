"""What passes between client and instance once a WebSocket is open?

Bytes, both ways, with back-pressure and one limit on silence. Frames are not interpreted but
for their boundaries towards the client (`FrameBounds`), so that a shutdown can say 1001
between two frames instead of inside one.
"""

from collections.abc import Callable
from typing import Final

from gateway.core.response_heads import ResponseHead
from gateway.dataplane.connection import Connection, Sink
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.upstream import Receiver, Upstream

CLOSE: Final = 0x8
GOING_AWAY: Final = b"\x88\x02\x03\xe9"


class FrameBounds:
    """Follows a stream of WebSocket frames and knows whether it stands between two, and whether a
    Close was one of them."""

    __slots__ = ("_header", "_left", "has_closed")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self.has_closed = False

    @property
    def between(self) -> bool:
        return not self._left and not self._header

    def feed(self, data: bytes) -> None:
        """Takes what came of the frames and says where one ends."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            header = self._header + data[at : at + 14 - len(self._header)]
            length = _frame_length(header)
            if length is None:
                self._header = header
                return
            if header[0] & 0x0F == CLOSE:
                self.has_closed = True
            consumed, self._left = length
            at += consumed - len(self._header)
            self._header = b""


def _frame_length(header: bytes) -> tuple[int, int] | None:
    """(bytes of the frame's header, bytes of its payload); None while the header is partial."""
    if len(header) < 2:
        return None
    code = header[1] & 0x7F
    extra = 2 if code == 126 else 8 if code == 127 else 0
    whole = 2 + extra + (4 if header[1] & 0x80 else 0)
    if len(header) < whole:
        return None
    return whole, int.from_bytes(header[2 : 2 + extra], "big") if extra else code


class Tunnel(Timed, Receiver, Sink):
    """Takes over both connections of an exchange; `over` is told why it ended, and how many bytes
    came from the client and went to it."""

    __slots__ = (
        "_bounds", "_client", "_closing", "_is_over", "_over", "_received", "_sent", "_upstream",
        "method",
    )  # fmt: skip

    def __init__(
        self, client: Connection, upstream: Upstream, over: Callable[[str, int, int], None]
    ) -> None:
        super().__init__()
        self.method = b"GET"
        self._client = client
        self._upstream = upstream
        self._over = over
        self._bounds = FrameBounds()
        self._closing = False
        self._is_over = False
        self._received = self._sent = 0
        upstream.receiver = self
        self._touch()

    def _touch(self) -> None:
        shared = self._client.shared
        shared.wheel.set(self, shared.now() + shared.options.stream_idle_s)

    # -- from the client

    def from_client(self, data: bytes) -> None:
        self._touch()
        self._received += len(data)
        self._upstream.transport.write(data)

    def client_left(self) -> None:
        self._upstream.end()  # what it said last is still to be sent
        self._end("client_left")

    # -- from the instance: upstream.Receiver

    def tunnelled(self, data: bytes) -> None:
        self._touch()
        self._sent += len(data)
        self._bounds.feed(data)
        self._client.write(data)
        if self._closing and self._bounds.between:
            self._go_away()

    def received(self, payload: bytes, done: bool, now: float) -> None:
        """The instance closed its end."""
        self._client.close_soon()
        self._end("")

    def broke(self, reason: str, detail: str) -> None:
        """The instance is gone without a word, unless that was said by a frame."""
        self._client.close_soon()  # what came before is still to be sent
        self._end("" if self._bounds.has_closed else "upstream_broke")

    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None:
        raise AssertionError("a tunnel has no answers")

    def sending_paused(self) -> None:
        self._client.pause_reading()

    def sending_resumed(self) -> None:
        self._client.resume_reading()

    # -- the end

    def shut(self) -> None:
        """Says 1001 to the client as soon as no frame is under way, and ends."""
        self._closing = True
        if self._bounds.between:
            self._go_away()

    def _go_away(self) -> None:
        if self._is_over:
            return
        self._client.write(GOING_AWAY)
        self._upstream.abort()
        self._client.close_soon()
        self._end("draining")

    def cut(self) -> None:
        """Time is up, and a frame is still under way."""
        self._break_off("draining")

    def expired(self, now: float) -> None:
        if not self._is_over:
            self._break_off("idle")

    def give_up(self) -> None:
        """A fault of ours: both ends learn that nothing more will come."""
        self._break_off("internal")

    def _break_off(self, reason: str) -> None:
        self._upstream.abort()
        self._client.abort()
        self._end(reason)

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._client.shared.wheel.drop(self)
            self._over(reason, self._received, self._sent)
