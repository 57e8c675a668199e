"""How does one connection to one instance carry one request at a time?

An asyncio protocol around the strict response grammar. It knows whose answer it is reading
and hands it over synchronously; what the answer means is the receiver's. A connection that
said anything it was not asked for, or whose answer did not end exactly where its framing
says, is closed and never used again: a late or double answer reaches nobody (R14).
"""

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from gateway.core.errors import UpstreamFault
from gateway.core.framing import Body, Chunked, Sized, UntilClose
from gateway.core.heads import CHUNKED, END, ResponseHead, parse_response
from gateway.core.lines import KEEP_ALIVE, UPGRADE
from gateway.dataplane.deadlines import NEVER, Timed

if TYPE_CHECKING:
    from gateway.dataplane.instance import LiveInstance

IDLE, HEAD, BODY, TUNNEL, CLOSED = range(5)
MAX_INTERIM = 16


class Receiver(Protocol):
    """Who gets the answer of a request. Exactly one call says that it is over: a `done`, or
    `broke`; a connection speaks to nobody after that."""

    method: bytes

    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None: ...
    def received(self, payload: bytes, done: bool, now: float) -> None: ...
    def broke(self, reason: str, detail: str) -> None: ...
    def switched(self, head: ResponseHead, rest: bytes) -> None: ...
    def tunnelled(self, data: bytes) -> None: ...
    def sending_paused(self) -> None: ...
    def sending_resumed(self) -> None: ...


class Upstream(asyncio.Protocol, Timed):
    """A connection to an instance: idle in its pool, or with one `receiver`."""

    __slots__ = (
        "_body", "_buffer", "_interim", "_known", "_reusable", "born", "expects_upgrade",
        "idle_since", "instance", "is_reused", "paused", "receiver", "request_done", "state",
        "transport",
    )  # fmt: skip

    def __init__(self, instance: "LiveInstance") -> None:
        Timed.__init__(self)
        self.instance = instance
        self.transport = cast(asyncio.Transport, None)
        self.receiver: Receiver | None = None
        self.state = IDLE
        self.born = 0.0
        self.idle_since = 0.0
        self.is_reused = False
        self.paused = False
        self.request_done = True
        self.expects_upgrade = False
        self._known: ResponseHead | None = None  # the last head: instances repeat themselves
        self._buffer = b""
        self._body: Body | None = None
        self._interim = 0
        self._reusable = True

    # what the pool and the exchange do

    def send(self, receiver: Receiver, data: bytes, request_done: bool, upgrade: bool) -> None:
        """Begins a request; `data` is its head and what there is of its body."""
        self.receiver = receiver
        self.state = HEAD
        self.request_done = request_done
        self.expects_upgrade = upgrade
        self._interim = 0
        self.transport.write(data)

    def abort(self) -> None:
        """Ends the connection at once; the receiver hears nothing more."""
        self.receiver = None
        self.state = CLOSED
        self.transport.abort()

    def pause(self) -> None:
        if not self.paused and self.state in (HEAD, BODY, TUNNEL):
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        high = self.instance.plane.options.buffer
        self.transport.set_write_buffer_limits(high=high, low=high // 4)

    def pause_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.sending_paused()

    def resume_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.sending_resumed()

    def data_received(self, data: bytes) -> None:
        """A part of the answer, to the receiver; what nobody asked for ends the connection."""
        state = self.state
        if state == HEAD:
            try:
                self._head(self._buffer + data if self._buffer else data)
            except (UpstreamFault, ValueError) as fault:
                self._break("broken_head", str(fault))
        elif state == BODY:
            body = self._body
            assert body is not None
            try:
                payload = body.feed(data)
            except ValueError as fault:
                self._break("reset", f"The instance's answer is malformed: {fault}.")
                return
            receiver = self.receiver
            assert receiver is not None
            now = self.instance.plane.now()
            if body.done:
                self._release(not body.rest, now)
                receiver.received(payload, True, now)
            else:
                self.instance.plane.wheel.set(self, self._idle_deadline(now))
                receiver.received(payload, False, now)
        elif state == TUNNEL:
            assert self.receiver is not None
            self.receiver.tunnelled(data)
        elif state == IDLE:
            # Nobody asked: a 408 before closing, or the second half of a double answer.
            self.instance.forget(self)
            self.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of an answer that only this delimits; else the receiver hears that it broke."""
        state, receiver = self.state, self.receiver
        self.state = CLOSED
        self.receiver = None
        self.instance.plane.wheel.drop(self)
        self.instance.lost(self, state == IDLE)
        if receiver is None:
            return
        if (
            state == BODY and isinstance(self._body, UntilClose) and error is None
        ) or state == TUNNEL:
            receiver.received(b"", True, self.instance.plane.now())
        elif state == BODY:
            receiver.broke("reset", "The instance broke off in the middle of its answer.")
        else:
            receiver.broke("reset", "The instance closed the connection without an answer.")

    def expired(self, now: float) -> None:
        """An idle connection is given up; an answer that takes too long breaks, unless it is the
        client that does not read."""
        if self.state == IDLE:
            self.instance.forget(self)
            self.abort()
        elif self.paused:
            # The client does not read, and answers for that with its own deadline.
            self.instance.plane.wheel.set(self, self._idle_deadline(now))
        elif self.state == TUNNEL:
            self._break("timeout", "The tunnel was silent for too long.")
        elif self.state in (HEAD, BODY):
            self._break("timeout", "The instance did not answer in time.")

    # reading the answer

    def _head(self, data: bytes) -> None:
        known = self._known
        if known is not None and data.startswith(known.said):
            self._buffer = b""
            self._answer(known, data[len(known.said) :])
            return
        options = self.instance.plane.options
        while True:
            end = data.find(END)
            if end > options.max_head or (end < 0 and len(data) > options.max_head):
                raise UpstreamFault("The instance's response head is too large.")
            if end < 0:
                self._buffer = data
                return
            head = parse_response(data[:end], options.max_headers)
            data = data[end + len(END) :]
            self._buffer = b""
            if head.status >= 200:
                if head.said:
                    self._known = head
                if KEEP_ALIVE in head.special:
                    self.instance.announced(head.idle_s)
                self._answer(head, data)
                return
            if head.status == 101:
                self._switch(head, data)
                return
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise UpstreamFault("The instance sent too many interim responses.")

    def _answer(self, head: ResponseHead, data: bytes) -> None:
        receiver = self.receiver
        assert receiver is not None
        now = self.instance.plane.now()
        length = head.length
        status = head.status
        if status == 408 and head.close and self.is_reused:
            # The end of an idle connection, said at the moment of the next request: that
            # request was not read, and the words are about the silence before it.
            self._break("reset", "The instance closed an idle connection.")
            return
        if status == 204 or status == 304 or receiver.method == b"HEAD":
            self._reusable = not head.close
            self._release(not data, now)
            receiver.answered(head, b"", True, False, now)
            return
        if length is not None and length >= 0 and length <= len(data):
            self._reusable = not head.close
            exact = length == len(data)
            self._release(exact, now)
            receiver.answered(head, data if exact else data[:length], True, True, now)
            return
        if length is None:
            body: Body = UntilClose()
        else:
            body = Chunked() if length == CHUNKED else Sized(length)
        self._reusable = not head.close and length is not None
        payload = body.feed(data) if data else b""
        if body.done:
            self._release(not body.rest, now)
            receiver.answered(head, payload, True, True, now)
            return
        self._body = body
        self.state = BODY
        self.instance.plane.wheel.set(self, self._idle_deadline(now))
        receiver.answered(head, payload, False, True, now)

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        # Another protocol than the one asked for is as unasked as none.
        if not self.expects_upgrade or head.special.get(UPGRADE, b"").lower() != b"websocket":
            raise UpstreamFault("The instance switched protocols unasked.")
        receiver = self.receiver
        assert receiver is not None
        self.state = TUNNEL
        self.instance.plane.wheel.set(self, NEVER)
        receiver.switched(head, data)

    def _idle_deadline(self, now: float) -> float:
        return now + self.instance.backend.config.timeouts.idle_s

    def _release(self, clean: bool, now: float) -> None:
        """The answer ended: back into the pool, or closed where it did not end cleanly."""
        self.receiver = None
        self._body = None
        if clean and self._reusable and self.request_done:
            self.paused = False
            self.state = IDLE
            self.instance.put(self, now)
        else:
            self.state = CLOSED
            self.deadline = NEVER
            self.transport.abort()

    def _break(self, reason: str, detail: str) -> None:
        receiver = self.receiver
        self.abort()
        if receiver is not None:
            receiver.broke(reason, detail)
