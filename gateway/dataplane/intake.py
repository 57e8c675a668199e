"""What does a client ask for, as far as it has come?

The request's side of an exchange: the body that is gathered or held back, the one read of the
snapshot, and the decision for route and backend. Whether it may come in is `admitting`. Nothing
here knows how an instance is asked or what it answers.
"""

from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.errors import ClientFault, GatewayError, UpstreamFault
from gateway.core.headers import (
    CONTINUE,
    client_timeout_s,
    forwarded,
    is_loop,
    message_start,
    trace_of_id,
    upstream_message,
)
from gateway.core.heads import CRLF, RequestHead
from gateway.core.lines import DEADLINE, EXPECT, PREFLIGHT, UPGRADE, VIA
from gateway.core.openai import Listing
from gateway.core.units import format_size
from gateway.dataplane import limiting
from gateway.dataplane.admitting import GATHERING, OVER, TRYING, Admitting
from gateway.dataplane.attempt import Attempt
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.connection import Connection
from gateway.dataplane.deadlines import NEVER, fault
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.judge import Trial
from gateway.dataplane.model_listing import ModelsAsked
from gateway.dataplane.pairing import Pair
from gateway.dataplane.plane import Plane
from gateway.dataplane.replies import RESERVED
from gateway.dataplane.route_table import BodyNeeded, Snapshot

LOOKS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


@mypyc_attr(allow_interpreted_subclasses=True)
class Intake(Admitting):
    """The request's side."""

    __slots__ = (
        "_decides", "_has_continued", "_kept", "_max_body", "_pending", "_pending_size", "attempt",
        "blames_instance", "done", "pair", "received", "target", "trial", "upgrades", "whole_at",
    )  # fmt: skip

    def __init__(self, plane: Plane, client: Connection, head: RequestHead, now: float) -> None:
        Admitting.__init__(self, plane, client, head, now)
        self.ready_at = now
        self.whole_at = NEVER  # when the last byte of the request came
        self.attempt: Attempt | None = None
        self.trial: Trial | None = None
        self.pair: Pair | None = None
        self.target = b""
        self.done = False
        self.received = 0
        self.expires_at = NEVER
        self.upgrades = False
        self.blames_instance = True
        self._pending_size = self._max_body = 0
        self._has_continued = self._decides = False

    def too_late(self) -> UpstreamFault:
        """The answer once the request's deadline passed: the route's own, or its client's."""
        timer = "deadline" if self.blames_instance else "X-Request-Timeout"
        return UpstreamFault(f"The request's deadline passed ({timer}).", "deadline")

    @property
    def wakes(self) -> bool:
        """Whether it may be one for a prediction: what is only looked at (health, documents, lists)
        has no model loaded."""
        return self.upgrades or self.head.method not in LOOKS

    def loaded(self) -> None:
        """The model has been loaded that it waited for: only now may be known at which path it
        answers."""
        if self.route is not None and self.route.route.rewrite is None:
            target = self.head.target.decode("latin-1")
            self.target = self.plane.snapshot.led(self.route.route, target).encode("latin-1")

    # what follows, and how the request can end before

    @abstractmethod
    def enter(self, backend: LiveBackend, now: float) -> None:
        """A backend was chosen: on to an instance of it."""

    @abstractmethod
    def refuse(self, fault: GatewayError) -> None:
        """Answers `fault` to a request that is not under way."""

    @abstractmethod
    def answer_preflight(self) -> bool:
        """Answers a browser that asks whether it may ask; False if it is none of ours to answer."""

    @abstractmethod
    def answer_reserved(self) -> None:
        """Answers what is asked below `/-/`."""

    @abstractmethod
    def list_models(self, snapshot: Snapshot, asked: Listing) -> None:
        """Answers which of the models may be asked for with the key that came."""

    def pause_client(self) -> None:
        """Reads no more from the client until `resume_client`."""
        if not self.done:
            self.client.pause_reading()

    def resume_client(self) -> None:
        self.client.resume_reading()

    # -- the request comes in

    def start(self, body: bytes, done: bool) -> None:
        """Begins with the head and what there is of the body."""
        self.done = done
        if done:
            self.whole_at = self.started
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
            known = head.known
            if known:
                if VIA in known and is_loop(head, self.plane.node):
                    raise GatewayError("The request came through here before.", "loop_detected")
                if UPGRADE in known:
                    self.upgrades = head.upgrades
                if PREFLIGHT in known and self.answer_preflight():
                    return
            if done:
                self._decide()
            else:
                self._check_early()
        except GatewayError as refusal:
            self.refuse(refusal)
        except Exception:
            fault(self.give_up)

    def give_up(self) -> None:
        """A fault of ours: 500; or, where something was said already, the end of the connection."""
        if self.state == OVER:
            if not self.client.is_beyond(self):
                self.client.abort()
            return
        try:
            self.fail(GatewayError("The gateway failed.", "internal"))
        except Exception:
            self.client.abort()
            raise

    def feed(self, payload: bytes, done: bool) -> None:
        """Takes more of the body."""
        if self.state == OVER:
            return
        self.done = done
        if done:
            self.whole_at = self.plane.now()
        attempt = self.attempt
        try:
            if self.state >= TRYING and attempt is not None and attempt.upstream is not None:
                self._keep(payload)
                self._check_size()
                attempt.write(payload, done)
                return
            self._add_pending(payload)
            if self.state == GATHERING:
                self.gathered()
            else:
                self._check_size()
                if self._pending_size > self.plane.options.buffer:
                    self.pause_client()
        except GatewayError as refusal:
            self.fail(refusal)
        except Exception:
            fault(self.give_up)

    def _add_pending(self, payload: bytes) -> None:
        if payload:
            if self._decides:
                self.plane.deciding.add(self, len(payload))
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
        if self._decides:
            self.forgo_body()
        self.resume_client()
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def forgo_body(self) -> None:
        """What was held of a body to choose its route is held no more."""
        self._decides = False
        self.plane.deciding.drop(self)

    @property
    def is_gathering(self) -> bool:
        """Whether the body is still coming in and nothing is decided."""
        return self.state == GATHERING

    @property
    def is_replayable(self) -> bool:
        """Whether all that came of the body is still there for another attempt: it was kept, or
        nothing of it was sent."""
        return self._kept is not None or self._pending_size == self.received

    def _replay(self) -> None:
        if self._kept is not None:
            self._pending = list(self._kept)
            self._pending_size = self.received

    def message(self, instance: LiveInstance, timeout: bytes, framing: bytes, body: bytes) -> bytes:
        """What `instance` gets: the head, and `body` as it is framed."""
        head, request_id = self.head, self.request_id
        made = head.prepared
        if made is not None and made[0] == self.target and made[1] is self.admitted:
            start = made[2]
        else:
            start = self._open(instance)
        replaced = instance.backend.met.replaced
        if replaced is not None:  # what its backend sets, a client does not
            start = replaced.sub(b"", start)
        trace = request_id if head.traceparent is None else b""
        if trace and self.client.trusted:
            trace = trace_of_id(request_id)
        return upstream_message(start, request_id, trace, timeout, framing, body)

    def _open(self, instance: LiveInstance) -> bytes:
        """The first part of that; it is kept for the next request with the same head."""
        head, client, host = self.head, self.client, self.head.host
        if client.trusted or host is None:
            added = forwarded(head, client.peer, client.trusted, client.scheme)
        else:
            added = client.forwarding + host + CRLF
        forward, admitted = head.forward, self.admitted
        if admitted is not None:
            forward = admitted.forward(head)
            added = admitted.beside(added)
        label = host or instance.label
        start = message_start(head, self.target, label, forward, added, self.plane.node)
        if host:
            head.prepared = (self.target, admitted, start)
        return start

    def kept(self) -> list[bytes] | None:
        """All of the body, if it is still there for another attempt; it stays where it is."""
        return self._kept

    def _check_early(self) -> None:
        """Before the body is there: refuses early what will be refused, and asks for the rest.
        Nothing is decided yet unless the body is too large to be gathered."""
        head, snapshot = self.head, self.plane.snapshot
        self.revision = snapshot.revision
        try:
            route, _ = snapshot.find(head, self.client.remembered)
        except ModelsAsked:
            self._decide()
            return
        except BodyNeeded as need:
            self.let_in_somewhere(snapshot)
            if self.has_bucket:
                self.check_limits(snapshot, None)
            gather = need.max_body
            self._await_body(need)
            if DEADLINE in head.known:
                self._set_deadline(None)
        else:
            if snapshot.asks or route.asks:
                self.let_in(snapshot, route)
            if route.bucket is not None or self.has_bucket:
                self.check_limits(snapshot, route)
            self._note_route(snapshot, route)  # what it ends with before its body, ends there
            self._max_body = route.max_body
            gather = self.plane.options.gather
            self._set_deadline(route.deadline_s)
            if EXPECT in head.known:
                remaining_s = min(route.deadline_s or NEVER, client_timeout_s(head) or NEVER)
                route.check_open(head, remaining_s, self.started)
        if head.length is not None and head.length > self._max_body:
            raise self._too_large()
        self._check_size()
        if max(head.length or 0, self.received) > gather:
            self._decide()
        else:
            self.send_continue()

    def send_continue(self) -> None:
        """Asks, once, for a body that the client holds back until its request is taken."""
        head = self.head
        if EXPECT in head.known and not self._has_continued:
            self._has_continued = True
            if head.minor and not self.received:
                self.client.write(CONTINUE)

    def gathered(self) -> None:
        """Decides, once there is enough of the body to do so."""
        self._check_size()
        if self.done or self.received > self.plane.options.gather:
            try:
                self.ready_at = self.plane.now()
                self.route = self.admitted = None  # the table may be another one now
                self._decide()
            except BodyNeeded as need:
                self._await_body(need)

    def _await_body(self, need: BodyNeeded) -> None:
        """The body decides: it is held whole, as one of a bounded sum."""
        self._max_body = need.max_body
        if not self._decides:
            self._decides = True
            self.plane.deciding.add(self, self._pending_size)

    def _check_size(self) -> None:
        if self._max_body and self.received > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ClientFault:
        size = format_size(self._max_body)
        if self.route is None and self._decides and self._max_body == self.plane.options.match_body:
            detail = f"Only {size} of a body are read to choose a route by it (match_body)."
        else:
            detail = f"The body is larger than the route takes, {size} (max_body)."
        return ClientFault(detail, "body_too_large")

    def decide_again(self) -> None:
        """Decides what could not be decided a moment ago."""
        if self.state != GATHERING:
            return
        try:
            self._decide()
        except GatewayError as refusal:
            self.fail(refusal)
        except Exception:
            fault(self.give_up)

    def _set_deadline(self, limit_s: float | None) -> None:
        """From its head on the request has `limit_s`, or less where its client says so."""
        self.blames_instance = True
        known = self.head.known
        if known and DEADLINE in known:
            said_s = client_timeout_s(self.head)
            if said_s and said_s < (limit_s or NEVER):
                # A client may be impatient; that is no evidence about the instance.
                limit_s, self.blames_instance = said_s, False
        expires_at = NEVER if limit_s is None else self.started + limit_s
        if expires_at != self.expires_at:
            self.expires_at = expires_at
            self.plane.wheel.set(self, expires_at)

    # the decision: no await from here until an instance is chosen

    def _decide(self) -> None:
        plane, head = self.plane, self.head
        snapshot = plane.snapshot
        self.revision = snapshot.revision
        try:
            route, target = snapshot.find(head, self.client.remembered)
        except ModelsAsked as asked:
            self.list_models(snapshot, asked.listing)
            return
        except BodyNeeded as need:
            if not self.done:
                raise
            try:
                self._await_body(need)
                self._check_size()
                body = need.reader.read(b"".join(self._pending))
                route, target = snapshot.find(head, self.client.remembered, body)
            except GatewayError:
                self.let_in_somewhere(snapshot)
                raise
        self.route, self.target = route, target
        self.shown = snapshot.shown
        if snapshot.asks or route.asks:
            self.let_in(snapshot, route)
        limit = self._max_body = route.max_body
        if self.received > limit:
            raise self._too_large()
        admitted = self.admitted
        is_limited = route.bucket is not None or (admitted is not None and admitted.buckets != ())
        if is_limited and not self.is_within_limits(route):
            return
        now = self.ready_at
        self._set_deadline(route.deadline_s)
        if self.expires_at <= now:
            raise self.too_late()
        judge = route.judge
        if judge is None:
            self.enter(route.choose(head), now)
            return
        judge.forget()  # what is not drawn does not count
        backend = route.choose(head)
        self.trial = judge.decided
        self.enter(backend, now)

    def as_edited(self) -> LiveBackend | None:
        """The backend by the route as it is now, for a request that waited for one which went with
        an edit; None where the route has not changed, or is not as sure to be the one that is
        meant. Raises a GatewayError where nobody can take it, or it may not come in any more."""
        assert self.route is not None
        plane, before = self.plane, self.route.route
        snapshot = plane.snapshot
        now = snapshot.table.routes.get(before.name)
        if (
            now is None
            or now is before
            or (now.match, now.rewrite) != (before.match, before.rewrite)
        ):
            return None
        route = snapshot.route(before.name)
        self.route, self.revision, self.shown = route, snapshot.revision, snapshot.shown
        if snapshot.asks or route.asks:
            self.let_in(snapshot, route)
        if self.buckets:
            self.shown = limiting.standing(self.buckets, plane.now()) + self.shown
        backend = route.choose(self.head)
        self.loaded()
        return backend
