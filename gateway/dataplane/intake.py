"""What does a client ask for, as far as it has come?

The request's side of an exchange: limits, the body that is gathered or held back, the one
read of the snapshot, and the decision for route and backend. Nothing here knows how an
instance is asked or what it answers.
"""

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING

import orjson

from gateway.core.errors import ClientFault, GatewayError
from gateway.core.headers import (
    CONTINUE,
    forwarded,
    given_id,
    is_loop,
    opening,
    patience_s,
    trace_of_id,
    upstream_message,
)
from gateway.core.heads import CRLF, RequestHead
from gateway.core.lines import DEADLINE, EXPECT, TRACEPARENT, UPGRADE, VIA
from gateway.core.matching import Json
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.current import BodyNeeded, LiveRoute
from gateway.dataplane.deadlines import NEVER, Timed
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.replies import RESERVED

if TYPE_CHECKING:
    from gateway.dataplane.attempt import Attempt
    from gateway.dataplane.context import Plane
    from gateway.dataplane.listener import Client

log = logging.getLogger(__name__)
GATHERING, WAITING, TRYING, ANSWERING, TUNNEL, OVER = range(6)


class Intake(Timed):
    """The request's side. `state` is one of the above, in this order."""

    __slots__ = (
        "_invited", "_kept", "_most", "_pending", "_pending_size", "attempt", "blames_instance",
        "client", "done", "head",
        "ident", "patience_until", "plane", "ready_at", "received", "revision", "route", "started",
        "state", "target", "upgrades",
    )  # fmt: skip

    def __init__(self, plane: "Plane", client: "Client", head: RequestHead, now: float) -> None:
        self.deadline = self.armed = NEVER
        self.plane = plane
        self.client = client
        self.head = head
        self.started = self.ready_at = now
        self.ident = (client.trusted and given_id(head)) or plane.fresh_id()
        self.state = GATHERING
        self.route: LiveRoute | None = None
        self.attempt: Attempt | None = None
        self.target = b""
        self.revision = 0
        self.done = False
        self.received = 0
        self.patience_until = NEVER
        self.upgrades = False
        self.blames_instance = True
        self._pending_size = self._most = 0
        self._invited = False

    # what follows, and how the request can end before

    @abstractmethod
    def enter(self, backend: LiveBackend, now: float) -> None:
        """A backend was chosen: on to an instance of it."""

    @abstractmethod
    def fail(self, fault: GatewayError) -> None:
        """Ends a request that may already be under way."""

    @abstractmethod
    def refuse(self, fault: GatewayError) -> None:
        """Answers `fault` to a request that is not under way."""

    @abstractmethod
    def answer_reserved(self) -> None:
        """Answers what is asked below `/-/`."""

    def hold_client(self) -> None:
        """Reads no more from the client until `release_client`."""
        if not self.done:
            self.client.hold()

    def release_client(self) -> None:
        self.client.release()

    # the request comes in

    def start(self, body: bytes, done: bool) -> None:
        """Begins with the head and what there is of the body."""
        self.done = done
        self.received = self._pending_size = size = len(body)
        self._pending: list[bytes] = [body] if size else []
        self._kept: list[bytes] | None = None
        if size <= self.plane.options.replay:
            self._kept = [body] if size else []
        head = self.head
        try:
            if head.target.startswith(RESERVED):
                self.answer_reserved()
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
        except Exception:
            log.exception("fault in the gateway")
            self.fail(GatewayError("The gateway failed.", "internal"))

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

    @property
    def is_replayable(self) -> bool:
        """Whether all that came of the body is still there for another attempt."""
        return self._kept is not None and not self.upgrades

    def _replay(self) -> None:
        self._pending = list(self._kept or ())
        self._pending_size = self.received

    def message(self, instance: LiveInstance, timeout: bytes, framing: bytes, body: bytes) -> bytes:
        """What `instance` gets: the head, and `body` as it is framed."""
        head, ident = self.head, self.ident
        made = head.opening
        start = made[1] if made is not None and made[0] == self.target else self._open(instance)
        trace = b"" if TRACEPARENT in head.special else ident
        if trace and self.client.trusted:
            trace = trace_of_id(ident)
        return upstream_message(start, ident, trace, timeout, framing, body)

    def _open(self, instance: LiveInstance) -> bytes:
        """The first part of that; it is kept for the next request with the same head."""
        head, client, host = self.head, self.client, self.head.host
        if client.trusted or host is None:
            added = forwarded(head, client.peer, client.trusted)
        else:
            added = client.forwarding + host + CRLF
        start = opening(head, self.target, host or instance.label, added, self.plane.node)
        if host:
            head.opening = (self.target, start)
        return start

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
            if EXPECT in head.special:
                patience = min(route.route.deadline_s or NEVER, patience_s(head) or NEVER)
                route.check_open(head, patience, self.started)
        if head.length is not None and head.length > self._most:
            raise ClientFault("The body is larger than the route takes.", "body_too_large")
        self._check_size()
        if max(head.length or 0, self.received) > gather:
            self._decide()
        else:
            self.invite()

    def invite(self) -> None:
        """Asks, once, for a body that the client holds back until its request is taken."""
        head = self.head
        if EXPECT in head.special and not self._invited:
            self._invited = True
            if head.minor and not self.received:
                self.client.write(CONTINUE)

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
        limit_s = route.route.deadline_s
        if DEADLINE in head.special:
            said_s = patience_s(head)
            if said_s and said_s < (limit_s or NEVER):
                # A client may be impatient; that is no evidence about the instance.
                limit_s, self.blames_instance = said_s, False
        if limit_s is not None:
            self.patience_until = self.started + limit_s
            plane.wheel.set(self, self.patience_until)
        self.enter(route.choose(head), now)

    def _json(self) -> Json:
        try:
            return orjson.loads(b"".join(self._pending))
        except ValueError:
            return None
