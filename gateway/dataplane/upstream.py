"""How does one connection to one instance carry one request at a time?

An asyncio protocol around the strict response grammar. It knows whose answer it is reading
and hands it over synchronously; what the answer means is the receiver's. A connection that
said anything it was not asked for, or whose answer did not end exactly where its framing
says, is closed and never used again: a late or double answer reaches nobody (R14).
"""

import asyncio
import contextlib
import os
import select
import socket
import ssl
from abc import abstractmethod
from functools import partial
from typing import Final, cast

from mypy_extensions import trait

from gateway.core.errors import UpstreamFault
from gateway.core.framing import Body, Chunked, Sized, UntilClose
from gateway.core.heads import CHUNKED, END
from gateway.core.lines import KEEP_ALIVE, UPGRADE
from gateway.core.response_heads import ResponseHead, check_answer_start, parse_response
from gateway.core.table import Timeouts
from gateway.dataplane.deadlines import NEVER, TICK_S, Timed, fault
from gateway.dataplane.shared import Shared
from gateway.processes.credentials import why_not_trusted

STATES: Final = ("idle", "head", "body", "tunnel", "closed")
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
TUNNEL: Final = 3
CLOSED: Final = 4
LEGAL: Final = {
    IDLE: (HEAD, CLOSED),  # nobody asks: in the pool, or just opened
    HEAD: (IDLE, BODY, TUNNEL, CLOSED),  # of an answer, to come
    BODY: (IDLE, CLOSED),  # of it, to come
    TUNNEL: (CLOSED,),
    CLOSED: (),
}
HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)  # the others are always told: POLLHUP, POLLERR


@trait
class Receiver:
    """Who gets the answer of a request. Exactly one call says that it is over: a `done`, or
    `broke` (`reset`, `timeout`, `broken_head`, or `unread`: the request came too late for its
    connection); a connection speaks to nobody after that."""

    __slots__ = ()
    method: bytes

    @abstractmethod
    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None: ...
    @abstractmethod
    def received(self, payload: bytes, done: bool, now: float) -> None: ...
    @abstractmethod
    def broke(self, reason: str, detail: str) -> None: ...
    @abstractmethod
    def give_up(self) -> None: ...

    def interim(self, head: ResponseHead) -> None:
        """Something came that is to be passed on before the answer (1xx, but 100)."""

    # Only who asks for an upgrade or sends a body bit by bit meets these.

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """The instance took the upgrade; `rest` came behind its head."""
        raise AssertionError("nobody asked for an upgrade")

    def tunnelled(self, data: bytes) -> None:
        """Bytes came through a tunnel."""
        raise AssertionError("there is no tunnel")

    def sending_paused(self) -> None:
        """The instance does not take what it gets."""

    def sending_resumed(self) -> None:
        """Hears that the instance takes more."""


class Owner:
    """Who keeps connections to one instance between requests; `timeouts` are its backend's."""

    __slots__ = ("shared", "timeouts")
    shared: Shared
    timeouts: Timeouts

    @abstractmethod
    def put(self, upstream: "Upstream", now: float) -> None: ...
    @abstractmethod
    def forget(self, upstream: "Upstream") -> None: ...
    @abstractmethod
    def rested(self, upstream: "Upstream", now: float) -> None: ...
    @abstractmethod
    def lost(self, upstream: "Upstream", was_idle: bool) -> None: ...
    @abstractmethod
    def announced(self, idle_s: float | None) -> None: ...


class Upstream(asyncio.Protocol, Timed):
    """A connection to an instance: idle in its pool, or with one `receiver`. `state` is one of
    STATES, and moves as is LEGAL."""

    __slots__ = (
        "_body", "_buffer", "_has_ended", "_interim", "_last_head", "_reusable", "born",
        "expects_upgrade",
        "idle_since", "is_reused", "owner", "paused", "receiver", "request_done", "state",
        "transport",
    )  # fmt: skip

    def __init__(self, owner: Owner) -> None:
        Timed.__init__(self)
        self.owner = owner
        self.transport = cast(asyncio.Transport, None)
        self.receiver: Receiver | None = None
        self.state = IDLE
        self.born = 0.0
        self.idle_since = 0.0
        self.is_reused = False
        self.paused = False
        self.request_done = True
        self.expects_upgrade = False
        self._last_head: ResponseHead | None = None  # the last head: instances repeat themselves
        self._buffer = b""
        self._body: Body | None = None
        self._interim = 0
        self._reusable = True
        self._has_ended = False

    @property
    def is_answering(self) -> bool:
        """Whether an answer is under way, whose every part moves the deadline on."""
        return self.state == BODY

    def is_hung_up(self) -> bool:
        """Whether the instance has ended the connection, if nobody here has heard of it yet."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        found = select.poll()
        found.register(sock.fileno(), HUNG_UP)
        return len(found.poll(0)) > 0

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

    def end(self) -> None:
        """Ends the connection once all that was written is sent, for which an instance that does
        not read has `timeouts.idle`; the receiver hears nothing more."""
        self.receiver = None
        self.state = CLOSED
        shared = self.owner.shared
        shared.wheel.set(self, self._idle_deadline(shared.now()))
        self.transport.close()

    def pause(self) -> None:
        if not self.paused and self.state in (HEAD, BODY, TUNNEL):
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        high = self.owner.shared.options.buffer
        self.transport.set_write_buffer_limits(high=high, low=high // 4)

    def pause_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.sending_paused()

    def resume_writing(self) -> None:
        receiver = self.receiver
        if receiver is not None:
            try:
                receiver.sending_resumed()
            except Exception:
                fault(receiver.give_up)

    def data_received(self, data: bytes) -> None:
        """A part of the answer, to the receiver; what nobody asked for ends the connection."""
        receiver = self.receiver  # as long as it is known: an answer that ends forgets it
        state = self.state
        try:
            if state == HEAD:
                try:
                    self._head(self._buffer + data if self._buffer else data)
                except UpstreamFault as broken:
                    if self.state != HEAD:
                        raise  # the head was good: what went wrong is ours
                    self._break("broken_head", str(broken))
            elif state == BODY:
                self._more(data)
            elif state == TUNNEL:
                assert receiver is not None
                receiver.tunnelled(data)
            elif state == IDLE:
                # Nobody asked: a 408 before closing, or the second half of a double answer.
                self.owner.forget(self)
                self.abort()
        except Exception:
            fault(partial(self._give_up, receiver))

    def _more(self, data: bytes) -> None:
        """More of the body of an answer."""
        body, receiver = self._body, self.receiver
        assert body is not None
        assert receiver is not None
        try:
            payload = body.feed(data)
        except ValueError as broken:
            self._break("reset", f"The instance's answer is malformed: {broken}.")
            return
        now = self.owner.shared.now()
        if body.done:
            self._release(not body.rest, now)
            receiver.received(payload, True, now)
        else:
            self.owner.shared.wheel.set(self, self._idle_deadline(now))
            receiver.received(payload, False, now)

    def eof_received(self) -> bool:
        """The instance says that nothing more comes. By TLS the end of the connection alone does
        not say so: anybody between can bring it about."""
        self._has_ended = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of an answer that only this delimits; else the receiver hears that it broke."""
        if error is not None and self.state in (HEAD, BODY, TUNNEL):
            self._read_rest()
        state, receiver = self.state, self.receiver
        self.state = CLOSED
        self.receiver = None
        self.owner.shared.wheel.drop(self)
        self.owner.lost(self, state == IDLE)
        if receiver is not None:
            try:
                self._tell_end(receiver, state, error)
            except Exception:
                fault(receiver.give_up)

    def _read_rest(self) -> None:
        """Reads what the instance had said when writing to it failed: an answer of who reads no
        further and leaves. By TLS the event loop has read it."""
        transport = self.transport
        sock = transport.get_extra_info("socket")
        if transport.get_extra_info("sslcontext") is not None or sock is None or sock.fileno() < 0:
            return
        self.request_done = False  # what it gets no more of is used no more
        left = self.owner.shared.options.buffer
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as s:
            while left > 0 and self.state in (HEAD, BODY, TUNNEL):
                data = s.recv(left, socket.MSG_DONTWAIT)
                if not data:
                    break
                left -= len(data)
                self.data_received(data)

    def _tell_end(self, receiver: Receiver, state: int, error: Exception | None) -> None:
        is_delimited = isinstance(self._body, UntilClose) and self._has_ended
        if error is None and (state == TUNNEL or (state == BODY and is_delimited)):
            receiver.received(b"", True, self.owner.shared.now())
        elif state in (BODY, TUNNEL):
            receiver.broke("reset", "The instance broke off in the middle of its answer.")
        elif isinstance(error, ssl.SSLError):
            # By TLS 1.3 it hears of the gateway's certificate only now.
            receiver.broke("reset", f"The instance {why_not_trusted(error)}.")
        else:
            receiver.broke("reset", "The instance closed the connection without an answer.")

    def expired(self, now: float) -> None:
        """An idle connection is given up or watched, one that ends is not waited for any more; an
        answer that takes too long breaks, unless it is the client that does not read."""
        if self.state == IDLE:
            self.owner.rested(self, now)
        elif self.state == CLOSED:
            self.transport.abort()  # it does not take what is left for it
        elif self.paused:
            # The client does not read, and answers for that with its own deadline.
            self.owner.shared.wheel.set(self, self._idle_deadline(now))
        elif self.state == TUNNEL:
            self._break("timeout", "The tunnel was silent for too long.")
        elif self.state in (HEAD, BODY):
            # While the request is being sent the clock only runs when the instance does not read.
            timer = "response" if self.state == HEAD and self.request_done else "idle"
            self._break("timeout", f"The instance did not answer in time (timeouts.{timer}).")

    # -- reading the answer

    def _head(self, data: bytes) -> None:
        last = self._last_head
        if last is not None and data.startswith(last.raw):
            self._buffer = b""
            if not last.is_dated:
                self._date(last)
            self._answer(last, data[len(last.raw) :])
            return
        options = self.owner.shared.options
        again = last.again(data, options.max_head) if last is not None else None
        if again is not None:
            self._buffer = b""
            self._last_head = again
            if not again.is_dated:
                self._date(again)
            self._answer(again, data[len(again.raw) :])
            return
        while True:
            end = data.find(END)
            if end > options.max_head or (end < 0 and len(data) >= options.max_head + len(END)):
                raise UpstreamFault("The instance's response head is too large.")
            if end < 0:
                check_answer_start(data)
                self._buffer = data
                return
            head = parse_response(data[:end], options.max_headers)
            data = data[end + len(END) :]
            self._buffer = b""
            if not head.is_dated and (head.status >= 200 or head.status == 101):
                self._date(head)
            if head.status >= 200:
                if head.raw:
                    self._last_head = head
                if KEEP_ALIVE in head.known:
                    self.owner.announced(head.idle_s)
                self._answer(head, data)
                return
            if head.status == 101:
                self._switch(head, data)
                return
            self._interim += end
            if self._interim > options.max_head:
                raise UpstreamFault("The instance sent too many interim responses.")
            if head.status != 100:  # nobody was asked to wait for that
                assert self.receiver is not None
                self.receiver.interim(head)

    def _date(self, head: ResponseHead) -> None:
        """Gives a head that says no date that of now."""
        now = self.owner.shared.date()
        if head.given != now:
            head.date(now)

    def _answer(self, head: ResponseHead, data: bytes) -> None:
        receiver = self.receiver
        assert receiver is not None
        now = self.owner.shared.now()
        length = head.length
        status = head.status
        if status >= 400 and self._speaks_of_time(head, now):
            return
        if status == 204 or status == 304 or receiver.method == b"HEAD":
            # A 204 that announces a body may send it a moment later, as the next one's answer.
            self._reusable = not head.close and not (status == 204 and head.length)
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
        try:
            payload = body.feed(data) if data else b""
        except ValueError as broken:
            raise UpstreamFault(f"The instance answered malformed HTTP: {broken}.") from None
        if body.done:
            self._release(not body.rest, now)
            receiver.answered(head, payload, True, True, now)
            return
        self._body = body
        self.state = BODY
        self.owner.shared.wheel.set(self, self._idle_deadline(now))
        receiver.answered(head, payload, False, True, now)

    def _speaks_of_time(self, head: ResponseHead, now: float) -> bool:
        """Whether the head is no answer, but says that a time is up which is counted here too: it
        was met as if that had been noticed here."""
        if head.status == 408 and head.close and self.is_reused:
            # The end of an idle connection, said at the moment of the next request: that
            # request was not read, and the words are about the silence before it.
            self._break("unread", "The instance closed an idle connection.")
            return True
        if head.status == 504 and self.request_done and now + TICK_S >= self.deadline:
            self.expired(now)
            return True
        return False

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        # Another protocol than the one asked for is as unasked as none.
        if not self.expects_upgrade or head.known.get(UPGRADE, b"").lower() != b"websocket":
            raise UpstreamFault("The instance switched protocols unasked.")
        receiver = self.receiver
        assert receiver is not None
        self.state = TUNNEL
        self.owner.shared.wheel.set(self, NEVER)
        receiver.switched(head, data)

    def _idle_deadline(self, now: float) -> float:
        return now + self.owner.timeouts.idle_s

    def _release(self, clean: bool, now: float) -> None:
        """The answer ended: back into the pool, or closed where it did not end cleanly."""
        self.receiver = None
        self._body = None
        if clean and self._reusable and self.request_done:
            if self.paused:  # by what came before the answer: the connection goes on
                self.resume()
            self.state = IDLE
            self.owner.put(self, now)
        else:
            self.state = CLOSED
            self.deadline = NEVER
            self.transport.abort()

    def _break(self, reason: str, detail: str) -> None:
        receiver = self.receiver
        self.abort()
        if receiver is not None:
            try:
                receiver.broke(reason, detail)
            except Exception:
                fault(receiver.give_up)

    def give_up(self) -> None:
        """A fault of ours: nothing more comes from here."""
        self._give_up(self.receiver)

    def _give_up(self, receiver: Receiver | None) -> None:
        self.abort()
        if receiver is not None:
            receiver.give_up()
