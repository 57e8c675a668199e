"""How does one request go from its head to the last byte of its answer?

The walk: limits; match; backend; instance; attempt; perhaps another one; the account. From
the one read of the snapshot until an instance is chosen nothing awaits, hence no lock. The
client's connection is `listener`, the instance's `upstream`; this is what lies between.
"""

from typing import TYPE_CHECKING

import orjson

from gateway.core.errors import ClientFault, GatewayError, NoRoom, UpstreamFault
from gateway.core.framing import LAST_CHUNK, chunk
from gateway.core.headers import CONTINUE, forwarded, is_loop, patience_s, request_id
from gateway.core.heads import (
    CHUNKED,
    CRLF,
    DEADLINE,
    EXPECT,
    RETRY_AFTER,
    UPGRADE,
    VIA,
    RequestHead,
    ResponseHead,
)
from gateway.core.matching import Json, Unread
from gateway.core.retrying import IDEMPOTENT, may_retry
from gateway.dataplane.attempt import Attempt
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.current import BodyNeeded, LiveRoute, WrongMethodFault
from gateway.dataplane.deadlines import NEVER, Timed
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.mirroring import mirror
from gateway.dataplane.replies import RESERVED, problem, reply
from gateway.dataplane.tunnel import Tunnel
from gateway.telemetry.access_log import Entry

if TYPE_CHECKING:
    from gateway.dataplane.context import Plane
    from gateway.dataplane.listener import Client

GATHERING, WAITING, TRYING, ANSWERING, TUNNEL, OVER = range(6)
_RETRY_CODES = {"connect_failure": "connect_failed", "timeout": "response_timeout"}


class Exchange(Timed):
    """One request of one client. Its deadline is the queue's, or the request's own."""

    __slots__ = (
        "_chunked", "_kept", "_most", "_pending", "_pending_size", "_sent", "_status",
        "added", "attempt", "attempts", "backend", "client", "done", "first_at", "head",
        "head_sent", "ident", "patience_until", "plane", "ready_at", "received", "revision",
        "route", "started", "state", "target", "tried", "upgrades",
    )  # fmt: skip

    def __init__(self, plane: "Plane", client: "Client", head: RequestHead, now: float) -> None:
        self.deadline = self.armed = NEVER
        self.plane = plane
        self.client = client
        self.head = head
        self.started = self.ready_at = now
        self.ident = request_id(head, client.trusted, plane.fresh_id())
        self.state = GATHERING
        self.route: LiveRoute | None = None
        self.backend: LiveBackend | None = None
        self.attempt: Attempt | None = None
        self.attempts = 0
        self.tried: tuple[LiveInstance, ...] = ()
        self.target = b""
        self.added = b""
        self.revision = 0
        self.done = False
        self.received = 0
        self.patience_until = NEVER
        self.head_sent = False
        self.upgrades = False
        self.first_at = 0.0
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._kept: list[bytes] | None = []
        self._most = 0
        self._chunked = False
        self._sent = 0
        self._status = 0

    # the request comes in

    def start(self, body: bytes, done: bool) -> None:
        """Begins with the head and what there is of the body."""
        self.done = done
        if body:
            self._hold(body)
        head = self.head
        try:
            if head.target.startswith(RESERVED):
                self._reserved()
                return
            special = head.special
            if special:
                if VIA in special and is_loop(head, self.plane.node):
                    raise GatewayError("The request came through here before.", "loop_detected")
                if UPGRADE in special:
                    self.upgrades = head.upgrades
            if done:
                self._decide()
            else:
                self._foresee()
        except GatewayError as fault:
            self.refuse(fault)

    def feed(self, payload: bytes, done: bool) -> None:
        """Takes more of the body."""
        if self.state == OVER:
            return
        self.done = done
        attempt = self.attempt
        try:
            if self.state >= TRYING and attempt is not None and attempt.upstream is not None:
                self._keep(payload)
                self._check_size()
                attempt.write(payload, done)
                return
            self._hold(payload)
            if self.state == GATHERING:
                self._gathered()
            else:
                self._check_size()
                if self._pending_size > self.plane.options.buffer:
                    self.hold_client()
        except GatewayError as fault:
            self.fail(fault)

    def _hold(self, payload: bytes) -> None:
        if payload:
            self._pending.append(payload)
            self._pending_size += len(payload)
            self._keep(payload)

    def _keep(self, payload: bytes) -> None:
        """Counts, and keeps for another attempt what is small enough."""
        self.received += len(payload)
        if self._kept is not None:
            if self.received <= self.plane.options.replay:
                self._kept.append(payload)
            else:
                self._kept = None

    def take_pending(self) -> bytes:
        """What was held back of the body, in one piece."""
        pending = self._pending
        if not pending:
            return b""
        self._pending = []
        self._pending_size = 0
        self.release_client()
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def pending(self) -> list[bytes]:
        """What is held back of the body; it stays where it is."""
        return self._pending

    def _foresee(self) -> None:
        """Before the body is there: refuses early what will be refused, and asks for the rest.
        Nothing is decided yet unless the body is too large to be gathered."""
        head = self.head
        try:
            route, _ = self.plane.snapshot.find(head)
        except BodyNeeded as need:
            self._most = need.most
            gather = need.most
        else:
            self._most = route.route.max_body
            gather = self.plane.options.gather
            if EXPECT in head.special and not route.is_open():
                raise NoRoom("No instance can take the request now.")
        if head.length is not None and head.length > self._most:
            raise ClientFault("The body is larger than the route takes.", "body_too_large")
        if EXPECT in head.special and head.minor and not self.received:
            self.client.write(CONTINUE)
        if head.length is not None and head.length > gather:
            self._decide()

    def _gathered(self) -> None:
        self._check_size()
        if self.done or self.received > self.plane.options.gather:
            try:
                self.ready_at = self.plane.now()
                self._decide()
            except BodyNeeded as need:
                self._most = need.most

    def _check_size(self) -> None:
        if self._most and self.received > self._most:
            raise ClientFault("The body is larger than the route takes.", "body_too_large")

    # the decision: no await from here until an instance is chosen

    def _decide(self) -> None:
        plane, head = self.plane, self.head
        snapshot = plane.snapshot
        try:
            route, target = snapshot.find(head)
        except BodyNeeded:
            if not self.done:
                raise
            route, target = snapshot.find(head, self._json())
        self.route, self.target = route, target
        self.revision = snapshot.revision
        most = self._most = route.route.max_body
        if self.received > most:
            raise ClientFault("The body is larger than the route takes.", "body_too_large")
        now = self.ready_at
        plane.budget.note_request(now)
        self.added = forwarded(head, self.client.peer, self.client.trusted)
        limit_s = route.route.deadline_s
        if DEADLINE in head.special:
            said_s = patience_s(head)
            limit_s = min(limit_s or NEVER, said_s) if said_s else limit_s
        if limit_s is not None:
            self.patience_until = self.started + limit_s
            plane.wheel.set(self, self.patience_until)
        if route.mirror is not None:
            mirror(self, route)
        self._enter(route.choose(head), now)

    def _json(self) -> Json | Unread:
        try:
            return orjson.loads(b"".join(self._pending))
        except ValueError:
            return None

    def _enter(self, backend: LiveBackend, now: float) -> None:
        self.backend = backend
        self.state = WAITING
        backend.enter(self, now)

    def begin(self, instance: LiveInstance, now: float) -> None:
        """The chosen instance has room: one attempt."""
        self.state = TRYING
        if self.deadline != self.patience_until:
            self.plane.wheel.set(self, self.patience_until)
        self.attempts += 1
        self.attempt = attempt = Attempt(self, instance, now)
        attempt.begin(now)

    # the answer

    def answered(
        self,
        attempt: Attempt,
        head: ResponseHead,
        payload: bytes,
        done: bool,
        has_body: bool,
        now: float,
    ) -> None:
        """An instance's head came, with what there was of the body."""
        if attempt.failed and self._again(attempt, "", head.status, RETRY_AFTER in head.special):
            if not done:
                attempt.cancel()
            return
        assert self.route is not None
        self.state = ANSWERING
        self.first_at = now
        self._status = head.status
        self._kept = None
        self.head_sent = True
        client, plane = self.client, self.plane
        close = client.closes(self)
        framing = self._framing(head, payload, done, has_body)
        if self._chunked and payload:
            payload = chunk(payload)
        forward = head.forward
        client.write(
            b"".join(
                (
                    b"HTTP/1.1 ", head.status_line, CRLF,
                    CRLF.join(forward), CRLF if forward else b"",
                    self.route.expose(attempt.instance),
                    self.ident + CRLF if plane.options.expose else b"",
                    framing, b"Connection: close\r\n\r\n" if close else CRLF, payload,
                )
            )
        )  # fmt: skip
        self._sent = len(payload)
        if done:
            self._finish(now, "")

    def _framing(self, head: ResponseHead, payload: bytes, done: bool, has_body: bool) -> bytes:
        if not has_body:
            if head.length is None or head.length == CHUNKED or head.status == 204:
                return b""
            return b"Content-Length: %d\r\n" % head.length
        if done:
            return b"Content-Length: %d\r\n" % len(payload)
        if head.length is not None and head.length != CHUNKED:
            return b"Content-Length: %d\r\n" % head.length
        if self.head.minor == 0:
            return b""  # the end of the connection is the end of the body
        self._chunked = True
        return b"Transfer-Encoding: chunked\r\n"

    def body(self, payload: bytes, done: bool) -> None:
        """More of the instance's body came."""
        self._sent += len(payload)
        if self._chunked:
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if done else b"")
        if payload:
            self.client.write(payload)
        if done:
            self._finish(self.plane.now(), "")

    def switched(self, attempt: Attempt, head: ResponseHead, rest: bytes) -> None:
        """The instance took the upgrade: from here on bytes are passed both ways."""
        assert self.route is not None
        assert attempt.upstream is not None
        self.state = TUNNEL
        self._status = 101
        self.first_at = self.plane.now()
        self.head_sent = True
        self.plane.wheel.set(self, NEVER)
        lines = CRLF.join((b"HTTP/1.1 " + head.status_line, *head.forward)) + CRLF
        lines += self.route.expose(attempt.instance)
        if self.plane.options.expose:
            lines += self.ident + CRLF
        tunnel = Tunnel(self, attempt.upstream)
        self.client.tunnel(tunnel)
        self.client.write(lines + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        if rest:
            tunnel.tunnelled(rest)

    def tunnel_over(self, reason: str, sent: int) -> None:
        self._sent = sent
        now = self.plane.now()
        if self.attempt is not None:
            self.attempt.end_tunnel(now)
        self._finish(now, reason)

    # what goes wrong

    def attempt_failed(
        self, attempt: Attempt, reason: str, detail: str, was_reused: bool = False
    ) -> None:
        """The instance broke off. Another attempt only before any byte went to the client."""
        if self.state == OVER:
            return
        if self.head_sent:
            self.client.abort()
            self._finish(self.plane.now(), "upstream_broke")
            return
        if self._again(attempt, reason, None, False, was_reused):
            return
        self.refuse(UpstreamFault(detail, _RETRY_CODES.get(reason, "upstream_broke")))

    def _again(
        self,
        attempt: Attempt,
        reason: str,
        status: int | None,
        has_retry_after: bool,
        was_reused: bool = False,
    ) -> bool:
        """Begins another attempt at another instance if that is safe, wanted and paid for."""
        plane, route, backend = self.plane, self.route, self.backend
        assert route is not None
        assert backend is not None
        method = self.head.method.decode("latin-1")
        replayable = self._kept is not None and not self.upgrades
        if not may_retry(
            route.retries, method, reason, status, has_retry_after, self.attempts, replayable,
            self.head_sent,
        ):  # fmt: skip
            return False
        now = plane.now()
        self.tried = (*self.tried, attempt.instance)
        instance = backend.other(self.tried, now)
        if instance is None and was_reused and method in IDEMPOTENT:
            # The connection was stale, the instance need not be: on a fresh one, once more.
            attempt.instance.close_idle()
            instance = attempt.instance if attempt.instance in backend.serving else None
        if instance is None and route.route.on_unavailable.policy != "fail":
            try:
                other = route.choose(self.head, without=backend)
            except GatewayError:
                return False
            if other is backend:
                return False
            self.backend = other
            instance = other.other(self.tried, now)
        if instance is None:
            return False
        if not plane.budget.try_spend(now):
            plane.counters.retries_denied += 1
            return False
        plane.counters.retried(route.route.name, reason or str(status))
        self._pending = list(self._kept or ())
        self._pending_size = self.received
        self.begin(instance, now)
        return True

    def fail(self, fault: GatewayError) -> None:
        """Ends a request that may already be under way."""
        self._withdraw()
        if self.head_sent:
            self.client.abort()
            self._finish(self.plane.now(), fault.code)
        else:
            self.refuse(fault)

    def refuse(self, fault: GatewayError) -> None:
        """Answers `fault`. What of the request has not come is not waited for."""
        allow = fault.allow if isinstance(fault, WrongMethodFault) else None
        lines, body = problem(fault, self.ident, allow)
        if self.plane.options.expose:
            lines += b"X-Request-Id: %b\r\n" % self.ident
            if self.route is not None:
                lines += b"X-Headgate-Route: %b\r\n" % self.route.route.name.encode()
        self._reply(fault.kind.status, lines, body, fault.code)

    def _reply(self, status: int, lines: bytes, body: bytes, reason: str) -> None:
        self._status = status
        self.head_sent = True
        close = self.client.closes(self)
        self.client.write(reply(status, lines, body, close, self.head.method == b"HEAD"))
        self._sent = len(body)
        self.first_at = self.plane.now()
        self._finish(self.first_at, reason)

    def _reserved(self) -> None:
        path = self.head.target.partition(b"?")[0]
        if self.head.method not in (b"GET", b"HEAD"):
            raise WrongMethodFault(("GET", "HEAD"))
        if path == b"/-/health":
            if self.plane.lame:
                raise NoRoom("This worker is shutting down.", "draining")
            self._reply(
                200, b"Content-Type: text/plain\r\nCache-Control: no-store\r\n", b"ok\n", ""
            )
            return
        document = self.plane.documents.get(path)
        if document is None:
            raise ClientFault("There is nothing at this path.", "no_route")
        kind, body = document
        self._reply(200, b"Content-Type: %b\r\n" % kind, body, "")

    def client_left(self) -> None:
        """The client's connection ended: the instance is told at once."""
        if self.state == OVER:
            return
        self._withdraw()
        if not self.head_sent:
            self._status = 499
        self._finish(self.plane.now(), "client_left")

    def expired(self, now: float) -> None:
        if self.state == OVER:
            return
        if now >= self.patience_until:
            self.fail(UpstreamFault("The request's deadline passed.", "deadline"))
        elif self.state == WAITING:
            self.fail(NoRoom("The request waited too long in the queue.", "queue_timeout"))

    def _withdraw(self) -> None:
        if self.state == WAITING and self.backend is not None:
            self.backend.withdraw(self)
        attempt = self.attempt
        if attempt is not None:
            attempt.cancel()

    # back-pressure

    def hold_client(self) -> None:
        if not self.done:
            self.client.hold()

    def release_client(self) -> None:
        self.client.release()

    def hold_instance(self) -> None:
        """The client does not take what it gets."""
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.pause()

    def release_instance(self) -> None:
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.resume()

    # the account

    def _finish(self, now: float, reason: str) -> None:
        self.state = OVER
        self.deadline = NEVER
        plane, route, attempt = self.plane, self.route, self.attempt
        method = self.head.method
        instance = attempt.instance if attempt is not None else None
        if route is not None and instance is not None and attempt is not None:
            cell = route.cell(instance)
            times = cell.times
            times.request.observe(now - self.started)
            if self.first_at:
                times.first_byte.observe(self.first_at - self.started)
                if attempt.sent_at:
                    times.overhead.observe(attempt.sent_at - self.ready_at)
        else:
            backend = self.backend.name if self.backend is not None else ""
            cell = plane.counters.cell(route.route.name if route else "", backend, "")
        cell.count(method, self._status, reason)
        if plane.log.is_on:
            labels = cell.labels
            plane.log.note(
                Entry(
                    now, self.ident, self.client.address, method, self.head.target, self._status,
                    reason, labels[0], labels[1], labels[2], self.revision, self.attempts,
                    self.received, self._sent, now - self.started,
                )
            )  # fmt: skip
        self.client.finished(self)
