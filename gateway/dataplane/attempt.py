"""How does one attempt of one request at one instance go (what a retry repeats)?

An Attempt holds the in-flight guard from the moment the instance is chosen until the last
byte of its answer, whatever happens in between, and names what went wrong by blame. It
learns from the answer (speed, load report, health signals) and passes it on; whether another
attempt follows is the exchange's to say.
"""

from abc import abstractmethod
from typing import Any, Final

import msgspec
from mypy_extensions import mypyc_attr, trait

from gateway.core.framing import LAST_CHUNK, chunk
from gateway.core.headers import length_line, timeout_line
from gateway.core.heads import CHUNKED, RequestHead
from gateway.core.lines import RETRY_AFTER
from gateway.core.response_heads import ResponseHead
from gateway.dataplane.deadlines import NEVER, TICK_S
from gateway.dataplane.instance import REPORT, LiveInstance
from gateway.dataplane.upstream import Receiver, Upstream

_UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_METRICS: Any = msgspec.defstruct("Metrics", [(name, float) for name in REPORT])
_REPORT: Any = msgspec.defstruct("Report", [("named_metrics", _METRICS)])
_read: Final = msgspec.json.Decoder(_REPORT).decode
UNREAD_S: Final = 1.0  # what the instance said before it read us arrives within a network's delay


@mypyc_attr(allow_interpreted_subclasses=True)
@trait
class Request:
    """Whose attempt it is: what is sent, and who is told what became of it."""

    __slots__ = ()
    head: RequestHead
    done: bool
    received: int
    upgrades: bool
    head_sent: bool
    expires_at: float

    @abstractmethod
    def take_pending(self) -> bytes:
        """What was held back of the body, in one piece; it is held no more."""

    @abstractmethod
    def message(self, instance: LiveInstance, timeout: bytes, framing: bytes, body: bytes) -> bytes:
        """What `instance` gets: the head, and `body` as it is framed."""

    @abstractmethod
    def send_continue(self) -> None:
        """Asks, once, for a body that the client holds back."""

    @abstractmethod
    def interim(self, head: ResponseHead) -> None:
        """The instance said something before its answer (1xx)."""

    @abstractmethod
    def answered(
        self,
        attempt: "Attempt",
        head: ResponseHead,
        payload: bytes,
        done: bool,
        has_body: bool,
        now: float,
    ) -> None:
        """The head of an answer came, with `payload`, the start of its body; `done`: all of it.
        `now` is in monotonic seconds."""

    @abstractmethod
    def body(self, payload: bytes, done: bool, now: float) -> None:
        """More of the answer's body came; `done`: the last of it."""

    @abstractmethod
    def switched(self, attempt: "Attempt", head: ResponseHead, rest: bytes) -> None:
        """The instance took the upgrade; `rest` came behind its head."""

    @abstractmethod
    def attempt_failed(
        self, attempt: "Attempt", reason: str, detail: str, was_reused: bool = False
    ) -> None:
        """No whole answer comes of `attempt`: `reason` is one of Receiver's or
        `connect_failure`, `detail` the words for a client."""

    @abstractmethod
    def expired(self, now: float) -> None:
        """Its time is up: also where an instance says so, which counts to the same moment, before
        the timer does."""

    @abstractmethod
    def pause_client(self) -> None: ...
    @abstractmethod
    def resume_client(self) -> None: ...
    @abstractmethod
    def give_up(self) -> None: ...


class Attempt(Receiver):
    """One try. Ends exactly once: by `_end`."""

    __slots__ = (
        "_chunked", "_is_held", "_is_over", "_known", "failed", "instance", "is_ours", "is_well",
        "method", "request", "sent_at", "teaches", "upstream",
    )  # fmt: skip

    def __init__(self, request: Request, instance: LiveInstance, now: float) -> None:
        self.request = request
        self.instance = instance
        self.method = request.head.method
        self.upstream: Upstream | None = None
        self.sent_at = now  # or, once there is a connection, later
        self.failed = False
        self.is_ours = False
        self.teaches = False
        self.is_well = False
        self._is_over = False
        self._chunked = False
        self._is_held = False
        self._known = instance.load.sent(now)

    def begin(self, now: float) -> None:
        """Sends the request on a pooled connection, or opens one first."""
        upstream = self.instance.pool.take(now)
        if upstream is None:
            self.instance.pool.connect(self._connected, self._connect_failed, self.give_up)
        else:
            self._send(upstream, self.instance.shared.now())

    def cancel(self) -> None:
        """The answer is wanted no more: the instance learns it by the end of the connection."""
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None
        self._end(self.instance.shared.now(), learn=False)

    def write(self, payload: bytes, done: bool) -> None:
        """Sends on what came of the request body."""
        upstream = self.upstream
        if upstream is None:
            return
        if upstream.is_hung_up():
            # It answered without reading on and left. To write there would end the connection
            # before its answer is read.
            return
        if self._chunked:
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if done else b"")
        if payload:
            upstream.transport.write(payload)
        if done:
            upstream.request_done = True
            if upstream.is_answering:
                return  # its head is there already: the next part has `idle`
            shared = self.instance.shared
            response_s = self.instance.pool.timeouts.response_s
            shared.wheel.set(upstream, shared.now() + response_s)

    def _connected(self, upstream: Upstream) -> None:
        if self._is_over:
            self.instance.pool.put(upstream, self.instance.shared.now())
        else:
            self._send(upstream, self.instance.shared.now())

    def _connect_failed(self, signal: str, detail: str) -> None:
        if self._is_over:
            return
        # What we lack ourselves is nobody's fault, and more attempts make no more of it.
        self.is_ours = signal == "exhausted"
        self.failed = not self.is_ours
        now = self.instance.shared.now()
        self._end(now, learn=False)
        if self.failed:
            self.instance.note(signal, now)
        self.request.attempt_failed(self, "connect_failure", detail)

    def _send(self, upstream: Upstream, now: float) -> None:
        request, instance = self.request, self.instance
        head = request.head
        self.upstream = upstream
        self.sent_at = now
        timeouts = instance.pool.timeouts
        done = request.done
        length = head.length
        if done and length is not None:
            length = request.received
        self._chunked = length == CHUNKED
        timeout = instance.backend.timeout_line
        if request.expires_at != NEVER:
            timeout = timeout_line(min(request.expires_at - now, timeouts.response_s))
            timeout += instance.backend.met.lines
        framing = _UPGRADE if request.upgrades else length_line(length)
        payload = request.take_pending()
        if self._chunked and payload:
            payload = chunk(payload)
        data = request.message(instance, timeout, framing, payload)
        upstream.send(self, data, done, request.upgrades)
        if done:
            instance.shared.wheel.set(upstream, now + timeouts.response_s)
        else:
            instance.shared.wheel.set(upstream, NEVER)
            request.send_continue()

    # -- upstream.Receiver

    def interim(self, head: ResponseHead) -> None:
        self.request.interim(head)

    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None:
        """The instance's head came, with what there was of the body."""
        instance = self.instance
        status, load = head.status, head.load
        if load is not None:
            self._report(load, now)
        if instance.health.is_new:
            instance.note("answered", now)
        # Refusals and complaints are quick: they say nothing of how fast an instance works.
        self.teaches = status < 400
        self.is_well = status < 500
        if not self.is_well:
            if status == 504 and now + TICK_S >= self.request.expires_at:
                if done:
                    self.upstream = None  # is another's already
                self.request.expired(max(now, self.request.expires_at))
                return
            self.failed = not (status == 503 and RETRY_AFTER in head.known)
            if self.failed:
                self._blame("gateway_error" if 502 <= status <= 504 else "error", now)
        if done:
            self._complete(now)
        elif payload:
            self._begun(now)
        self.request.answered(self, head, payload, done, has_body, now)

    def received(self, payload: bytes, done: bool, now: float) -> None:
        if done:
            self._complete(now)
        elif payload and not self._is_held:
            self._begun(now)
        self.request.body(payload, done, now)

    def broke(self, reason: str, detail: str) -> None:
        """The connection failed; `reason` names by whose blame."""
        reused = self.upstream is not None and self.upstream.is_reused
        self.upstream = None
        now = self.instance.shared.now()
        if reason == "unread" and now - self.sent_at > UNREAD_S:
            reason = "reset"
        self.failed = reason != "unread"
        self._end(now, learn=False)
        if self.failed and (reason != "reset" or not reused or self.request.head_sent):
            self._blame(reason, now)
        self.request.attempt_failed(self, reason, detail, was_reused=reused)

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        if self.instance.is_suspect:
            self.instance.note("success", self.instance.shared.now())
        self._hold()
        self.request.switched(self, head, rest)

    def sending_paused(self) -> None:
        self.request.pause_client()
        if self.upstream is not None and not self.upstream.request_done:
            shared = self.instance.shared
            idle_s = self.instance.pool.timeouts.idle_s
            shared.wheel.set(self.upstream, shared.now() + idle_s)

    def sending_resumed(self) -> None:
        upstream = self.upstream
        if upstream is not None and not upstream.request_done and not upstream.is_answering:
            self.instance.shared.wheel.set(upstream, NEVER)
        self.request.resume_client()

    def give_up(self) -> None:
        """A fault of ours: the client is told."""
        self.request.give_up()

    # -- the guard

    def _complete(self, now: float) -> None:
        """The whole answer is there. Only now it is a success: a head is easily sent."""
        self.upstream = None
        if self.is_well and self.instance.is_suspect:
            self.instance.note("success", now)
        self._end(now, learn=self.teaches)

    def _begun(self, now: float) -> None:
        """The first byte of a body that goes on is there: nothing waits for it any more. How long
        the rest takes is the stream's own matter, unless its instance says what it computes."""
        load = self.instance.load
        if not load.slots:
            if self.teaches:
                load.answered(now, now - self.sent_at, self._known)
            self._hold()

    def _hold(self) -> None:
        """From here on the request is there without being computed."""
        if not self._is_held and not self._is_over:
            self._is_held = True
            self.instance.held()

    def overdue(self, now: float) -> None:
        """The route's own deadline passed while the instance had the request."""
        self.failed = True
        self.cancel()
        self._blame("timeout", now)

    def _blame(self, signal: str, now: float) -> None:
        """Gives evidence against the instance; none that is older than its return: what was
        sent to it while it hung says nothing of it now."""
        if not self._is_stale:
            self.instance.note(signal, now)

    @property
    def _is_stale(self) -> bool:
        """Whether this was sent before the instance came back."""
        return self.sent_at < self.instance.returned_at

    def _end(self, now: float, learn: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        instance = self.instance
        if learn and not self._is_held:
            instance.load.answered(now, now - self.sent_at, self._known)
        instance.freed(self._is_held)

    def end_tunnel(self, now: float) -> None:
        """A tunnel is over; it teaches nothing of speed."""
        self.upstream = None
        self._end(now, learn=False)

    def _report(self, value: bytes, now: float) -> None:
        """Takes an ORCA load report; one that is malformed is no report."""
        instance = self.instance
        if value != instance.reported:  # the answers of a batch say the same
            try:
                said = _read(value[5:] if value.startswith(b"JSON ") else value).named_metrics
            except ValueError:
                return
            instance.report = (said.queue, said.running, said.slots, said.wait_ms)
            instance.reported = value
        queue, running, slots, wait_ms = instance.report
        instance.load.reported(now, queue, running, slots, wait_ms)
