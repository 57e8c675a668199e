"""What does a client ask for, as far as it has come?

The request's side of an exchange: limits, the body that is gathered or held back, the one
read of the snapshot, and the decision for route and backend. Nothing here knows how an
instance is asked or what it answers.
"""

from abc import abstractmethod
from typing import Final
from urllib.parse import unquote

import orjson
from mypy_extensions import mypyc_attr

from gateway.core.access import Forbidden, Unauthorized
from gateway.core.errors import ClientFault, GatewayError, NoRoom
from gateway.core.headers import (
    CONTINUE,
    client_timeout_s,
    forwarded,
    given_id,
    is_loop,
    message_start,
    trace_of_id,
    upstream_message,
)
from gateway.core.heads import CRLF, RequestHead
from gateway.core.lines import DEADLINE, EXPECT, TRACEPARENT, UPGRADE, VIA
from gateway.core.openai import Listing, as_list, as_model
from gateway.core.units import format_size
from gateway.dataplane import limiting
from gateway.dataplane.attempt import Attempt, Request
from gateway.dataplane.backend import LiveBackend, Waiter
from gateway.dataplane.buckets import Busy
from gateway.dataplane.connection import Connection
from gateway.dataplane.deadlines import NEVER, fault
from gateway.dataplane.deciding import Deciding
from gateway.dataplane.door import Admission
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.judge import Trial
from gateway.dataplane.limiting import Limited, Named
from gateway.dataplane.plane import Plane
from gateway.dataplane.replies import RESERVED
from gateway.dataplane.routing import BodyNeeded, LiveRoute, ModelsAsked, Snapshot
from gateway.telemetry.metrics import LIMITED

AGAIN_S: Final = 0.001  # between two looks for whether another worker has decided
BUSY_S: Final = 1.0  # for as long as a request may wait for that
LOOKS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
STATES: Final = ("gathering", "waiting", "trying", "answering", "tunnel", "over")
GATHERING: Final = 0
WAITING: Final = 1
TRYING: Final = 2
ANSWERING: Final = 3
TUNNEL: Final = 4
OVER: Final = 5
LEGAL: Final = {
    GATHERING: (WAITING, OVER),  # what of the request must be there to choose a backend
    WAITING: (TRYING, OVER),  # for an instance of it
    TRYING: (TRYING, ANSWERING, TUNNEL, OVER),  # for the head of an answer
    ANSWERING: (OVER,),  # for its body
    TUNNEL: (OVER,),
    OVER: (),
}


@mypyc_attr(allow_interpreted_subclasses=True)
class Intake(Waiter, Request, Deciding):
    """The request's side. `state` is one of STATES, and moves as is LEGAL, never back."""

    __slots__ = (
        "_decides", "_has_continued", "_kept", "_max_body", "_pending", "_pending_size",
        "admitted", "attempt", "blames_instance", "buckets", "client", "done", "head", "plane",
        "received", "request_id", "revision", "route", "shown", "started", "state", "target",
        "trial",
        "upgrades",
    )  # fmt: skip

    def __init__(self, plane: Plane, client: Connection, head: RequestHead, now: float) -> None:
        self.deadline = self.armed = NEVER
        self.plane = plane
        self.client = client
        self.head = head
        self.started = self.ready_at = now
        self.request_id = (client.trusted and given_id(head)) or plane.fresh_id()
        self.state = GATHERING
        self.route: LiveRoute | None = None
        self.attempt: Attempt | None = None
        self.trial: Trial | None = None
        self.admitted: Admission | None = None
        self.buckets: tuple[Named, ...] = ()  # in which it is in flight
        self.target = b""
        self.revision = 0
        self.shown = b""
        self.done = False
        self.received = 0
        self.expires_at = NEVER
        self.upgrades = False
        self.blames_instance = True
        self._pending_size = self._max_body = 0
        self._has_continued = self._decides = False

    @property
    def consumer(self) -> str:
        return self.admitted.consumer if self.admitted is not None else ""

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
    def fail(self, fault: GatewayError) -> None:
        """Ends a request that may already be under way."""

    @abstractmethod
    def refuse(self, fault: GatewayError) -> None:
        """Answers `fault` to a request that is not under way."""

    @abstractmethod
    def answer_reserved(self) -> None:
        """Answers what is asked below `/-/`."""

    @abstractmethod
    def answer_models(self, body: bytes) -> None:
        """Answers with `body` what models there are."""

    def pause_client(self) -> None:
        """Reads no more from the client until `resume_client`."""
        if not self.done:
            self.client.pause_reading()

    def resume_client(self) -> None:
        self.client.resume_reading()

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
            known = head.known
            if known:
                if VIA in known and is_loop(head, self.plane.node):
                    raise GatewayError("The request came through here before.", "loop_detected")
                if UPGRADE in known:
                    self.upgrades = head.upgrades
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
        """Whether all that came of the body is still there for another attempt."""
        return self._kept is not None and not self.upgrades

    def _replay(self) -> None:
        self._pending = list(self._kept or ())
        self._pending_size = self.received

    def message(self, instance: LiveInstance, timeout: bytes, framing: bytes, body: bytes) -> bytes:
        """What `instance` gets: the head, and `body` as it is framed."""
        head, request_id = self.head, self.request_id
        made = head.prepared
        if made is not None and made[0] == self.target and made[1] is self.admitted:
            start = made[2]
        else:
            start = self._open(instance)
        trace = b"" if TRACEPARENT in head.known else request_id
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
            added += admitted.line
        label = host or instance.label
        start = message_start(head, self.target, label, forward, added, self.plane.node)
        if host:
            head.prepared = (self.target, admitted, start)
        return start

    def pending(self) -> list[bytes]:
        """What is held back of the body; it stays where it is."""
        return self._pending

    def _check_early(self) -> None:
        """Before the body is there: refuses early what will be refused, and asks for the rest.
        Nothing is decided yet unless the body is too large to be gathered."""
        head, snapshot = self.head, self.plane.snapshot
        try:
            route, _ = snapshot.find(head, self.client.remembered)
        except ModelsAsked:
            self._decide()
            return
        except BodyNeeded as need:
            if snapshot.is_guarded:
                snapshot.check_some(head)
            gather = need.max_body
            self._await_body(need)
        else:
            if snapshot.asks or route.access:
                self._let_in(snapshot, route)
            if route.bucket is not None or self._has_bucket:
                self._check_limits(snapshot, route)
            self._max_body = route.route.max_body
            gather = self.plane.options.gather
            if EXPECT in head.known:
                remaining_s = min(route.route.deadline_s or NEVER, client_timeout_s(head) or NEVER)
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

    def _let_in(self, snapshot: Snapshot, live: LiveRoute) -> None:
        """Raises Unauthorized or Forbidden unless the request may have what it asks for."""
        head, door, route = self.head, snapshot.door, live.route
        known = head.admitted
        if known is not None and known[0] is door.mark and known[1] is live:
            admitted: Admission | None = known[2]
        else:
            try:
                admitted = door.admission(head, route)
            except Unauthorized:
                self._note_refusal(snapshot, live)
                raise
            head.admitted = (door.mark, live, admitted)
        self.admitted = admitted
        if admitted is not None:
            try:
                door.check(admitted, route)
            except Forbidden:
                self._note_refusal(snapshot, live)
                raise

    @property
    def _has_bucket(self) -> bool:
        return self.admitted is not None and self.admitted.bucket is not None

    def _check_limits(self, snapshot: Snapshot, live: LiveRoute) -> None:
        """Refuses before its body what would be refused after it."""
        of_key = self.admitted.bucket if self.admitted is not None else None
        try:
            limiting.check(limiting.named(of_key, live.bucket), self.started)
        except Limited as fault:
            self._note_refusal(snapshot, live)
            self._count_limited(fault, live)
            raise

    def _within_limits(self, live: LiveRoute | None) -> bool:
        """Whether limits let the request go on; False: that is decided in a moment. Raises
        Limited."""
        of_key = self.admitted.bucket if self.admitted is not None else None
        of_route = live.bucket if live is not None else None
        buckets, now = limiting.named(of_key, of_route), self.plane.now()
        try:
            lines = limiting.enter(buckets, now)
        except Limited as fault:
            self._count_limited(fault, live)
            raise
        except Busy:
            if now - self.started > BUSY_S:
                raise NoRoom("The gateway could not count the request.", "overloaded") from None
            self.plane.later(AGAIN_S, self._decide_again)
            return False
        self.buckets = buckets
        self.shown = lines + self.shown
        return True

    def _count_limited(self, fault: Limited, live: LiveRoute | None) -> None:
        name = live.route.name if live is not None else ""
        self.plane.counters.add(LIMITED, self.consumer, name, fault.limit)

    def _decide_again(self) -> None:
        """What could not be decided a moment ago."""
        if self.state != GATHERING:
            return
        try:
            self._decide()
        except GatewayError as refusal:
            self.fail(refusal)
        except Exception:
            fault(self.give_up)

    def _note_refusal(self, snapshot: Snapshot, live: LiveRoute) -> None:
        """Who is refused is counted at the route, and told by which revision."""
        self.route, self.revision, self.shown = live, snapshot.revision, snapshot.shown

    def _list_models(self, snapshot: Snapshot, asked: Listing) -> None:
        """Answers which of the models may be asked for with the key that came."""
        self.revision = snapshot.revision
        open_to, self.admitted = snapshot.door.opened(
            self.head, [snapshot.table.routes[model.route] for model in asked.models]
        )
        names = {model.name: None for model in asked.models if model.route in open_to}
        if asked.wanted and unquote(asked.wanted) not in names:
            raise ClientFault("There is no such model, or none for this key.", "no_route")
        if self._has_bucket and not self._within_limits(None):
            return
        said = as_model(unquote(asked.wanted)) if asked.wanted else as_list(names)
        self.answer_models(orjson.dumps(said))

    # the decision: no await from here until an instance is chosen

    def _decide(self) -> None:
        plane, head = self.plane, self.head
        snapshot = plane.snapshot
        try:
            route, target = snapshot.find(head, self.client.remembered)
        except ModelsAsked as asked:
            self._list_models(snapshot, asked.listing)
            return
        except BodyNeeded as need:
            if not self.done:
                raise
            self._await_body(need)
            self._check_size()
            body = need.reader.read(b"".join(self._pending))
            route, target = snapshot.find(head, self.client.remembered, body)
        self.route, self.target = route, target
        self.revision = snapshot.revision
        self.shown = snapshot.shown
        if snapshot.asks or route.access:
            self._let_in(snapshot, route)
        limit = self._max_body = route.route.max_body
        if self.received > limit:
            raise self._too_large()
        if (route.bucket is not None or self._has_bucket) and not self._within_limits(route):
            return
        now = self.ready_at
        limit_s = route.route.deadline_s
        if DEADLINE in head.known:
            said_s = client_timeout_s(head)
            if said_s and said_s < (limit_s or NEVER):
                # A client may be impatient; that is no evidence about the instance.
                limit_s, self.blames_instance = said_s, False
        if limit_s is not None:
            self.expires_at = self.started + limit_s
            plane.wheel.set(self, self.expires_at)
        if route.judge is None:
            self.enter(route.choose(head), now)
            return
        route.judge.forget()
        backend = route.choose(head)
        self.trial = route.judge.decided
        self.enter(backend, now)
