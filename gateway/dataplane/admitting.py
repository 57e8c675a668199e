"""May this request come in, by its key and within its limits?

The first steps of a request's walk: a preflight of a browser, who asks, and how much they may. All
of it is asked before a body is read, and again when the body is there and the table may be
another one. Who is let in by which key is `door`, what is counted of limits `limiting`.
"""

from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.access import Forbidden, Unauthorized
from gateway.core.errors import GatewayError, NoRoom
from gateway.core.headers import given_id
from gateway.core.heads import RequestHead
from gateway.core.rate_limit import RateLimited
from gateway.dataplane import limiting
from gateway.dataplane.attempt import Request
from gateway.dataplane.bucket import Bucket, OverLimit
from gateway.dataplane.buckets import Busy
from gateway.dataplane.connection import Connection
from gateway.dataplane.deadlines import NEVER
from gateway.dataplane.deciding import Deciding
from gateway.dataplane.door import Admission
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.plane import Plane
from gateway.dataplane.route_table import Snapshot
from gateway.dataplane.waiter import Waiter
from gateway.telemetry.metrics import LIMITED

AGAIN_S: Final = 0.001  # between two looks for whether another worker has decided
BUSY_S: Final = 1.0  # for as long as a request may wait for that
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
class Admitting(Waiter, Request, Deciding):
    """A request that asks to come in. `state` is one of STATES, and moves as is LEGAL, never
    back."""

    __slots__ = (
        "admitted", "buckets", "client", "head", "plane", "request_id", "revision", "route",
        "shown", "started", "state",
    )  # fmt: skip

    def __init__(self, plane: Plane, client: Connection, head: RequestHead, now: float) -> None:
        self.deadline = self.armed = NEVER
        self.plane = plane
        self.client = client
        self.head = head
        self.started = now
        self.request_id = (client.trusted and given_id(head)) or plane.fresh_id()
        self.state = GATHERING
        self.route: LiveRoute | None = None
        self.admitted: Admission | None = None
        self.buckets: tuple[Bucket, ...] = ()  # in which it is in flight
        self.revision = 0
        self.shown = b""

    @property
    def consumer(self) -> str:
        return self.admitted.consumer if self.admitted is not None else ""

    @abstractmethod
    def fail(self, fault: GatewayError) -> None:
        """Ends a request that may already be under way."""

    @abstractmethod
    def decide_again(self) -> None:
        """Decides what could not be decided a moment ago."""

    def let_in(self, snapshot: Snapshot, live: LiveRoute) -> None:
        """Raises Unauthorized or Forbidden unless the request may have what it asks for."""
        head, door, route, last = self.head, snapshot.door, live.route, self.client.remembered
        known = head.admitted
        if (
            known is None
            and last.api_key == head.api_key
            and last.authorization == head.authorization
        ):
            known = last.admitted
        if known is not None and known[0] is door.mark and known[1] is live:
            admitted: Admission | None = known[2]
        else:
            try:
                admitted = door.admission(head, route)
            except Unauthorized:
                self._note_route(snapshot, live)
                raise
            known = (door.mark, live, admitted)
            last.authorization, last.api_key, last.admitted = (
                head.authorization, head.api_key, known,
            )  # fmt: skip
        head.admitted = known
        self.admitted = admitted
        if admitted is not None and admitted.is_bound:
            try:
                door.check(admitted, route)
            except Forbidden:
                self._note_route(snapshot, live)
                raise

    def let_in_somewhere(self, snapshot: Snapshot) -> None:
        """As `let_in`, while it is not known which route is meant, or once it is known that none
        is: a stranger learns of neither."""
        if snapshot.is_guarded:
            self.admitted = snapshot.check_some(self.head)

    @property
    def has_bucket(self) -> bool:
        """Whether its consumer has a limit."""
        return self.admitted is not None and len(self.admitted.buckets) > 0

    def _limits(self, live: LiveRoute | None) -> tuple[Bucket, ...]:
        """The buckets that it must pass: its own consumer's first, so that a flood takes nothing
        of what the route has for the others."""
        of_key = self.admitted.buckets if self.admitted is not None else ()
        return of_key if live is None or live.bucket is None else (*of_key, live.bucket)

    def check_limits(self, snapshot: Snapshot, live: LiveRoute | None) -> None:
        """Refuses before its body what would be refused after it, whichever route it is for where
        that is not known (None)."""
        try:
            limiting.check(self._limits(live), self.started, self.plane.now)
        except RateLimited as fault:
            if live is not None:
                self._note_route(snapshot, live)
            self._count_limited(fault, live)
            raise

    def is_within_limits(self, live: LiveRoute | None) -> bool:
        """Whether limits let the request go on; False: that is decided in a moment. Raises
        RateLimited."""
        buckets, now = self._limits(live), self.plane.now()
        try:
            if len(buckets) == 1:  # the usual case in short
                lines = buckets[0].enter(now)
            else:
                lines = limiting.enter(buckets, now, self.plane.now)
        except OverLimit as refused:
            fault = limiting.limited(buckets[0], refused.wait_s, now, self.plane.now)
            self._count_limited(fault, live)
            raise fault from None
        except RateLimited as fault:
            self._count_limited(fault, live)
            raise
        except Busy:
            if now - self.started > BUSY_S:
                raise NoRoom("The gateway could not count the request.", "overloaded") from None
            self.plane.later(AGAIN_S, self.decide_again)
            return False
        self.buckets = buckets
        self.shown = lines + self.shown
        return True

    def count_under_way(self) -> None:
        """Counts a request that is under way wherever there is a limit of `in_flight` now, also
        where there was none when it came in."""
        if self.route is None or self.state in (GATHERING, OVER):
            return
        plane, buckets, now = self.plane, list(self.buckets), self.plane.now()
        for bucket in self._flights_limited():
            same = [at for at, other in enumerate(buckets) if other.is_of(bucket)]
            if any(buckets[at].counts_flights for at in same):
                continue
            try:
                bucket.adopt(now)
            except Busy:  # as for who comes in: another worker takes a place at this moment
                plane.later(AGAIN_S, self.count_under_way)
                continue
            if same:
                buckets[same[0]] = bucket
            else:
                buckets.append(bucket)
        self.buckets = tuple(buckets)

    def _flights_limited(self) -> list[Bucket]:
        """The buckets by which the table limits now what may be in flight of its consumer and
        at its route."""
        assert self.route is not None
        snapshot, name = self.plane.snapshot, self.route.route.name
        of_key = snapshot.door.bucket(self.consumer) if self.consumer else None
        of_route = snapshot.route(name).bucket if name in snapshot.table.routes else None
        found = [bucket for bucket in (of_key, of_route) if bucket is not None]
        return [bucket for bucket in found if bucket.counts_flights]

    def leave_limits(self) -> None:
        """The request is over: it is in flight nowhere any more."""
        for bucket in self.buckets:
            bucket.leave()
        self.buckets = ()

    def _count_limited(self, fault: RateLimited, live: LiveRoute | None) -> None:
        name = live.route.name if live is not None else ""
        self.plane.counters.add(LIMITED, self.consumer, name, fault.limit)

    def _note_route(self, snapshot: Snapshot, live: LiveRoute) -> None:
        """Who is refused is counted and dressed as the route has it, and told by which revision."""
        self.route, self.revision, self.shown = live, snapshot.revision, snapshot.shown
