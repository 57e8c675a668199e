"""Which table decides this request, and which backend does it choose?

A Snapshot is a table made ready for the request path: matcher, splits, prepared header
blocks. It is read once per request and never changed; the next table is another snapshot.
What changes with health (which backends can serve) is a cache beside the split, renewed when
the plane's generation has moved. Choosing the instance inside the backend is not done here.
"""

from typing import TYPE_CHECKING, Any

from gateway.core.errors import ClientFault, NoRoom
from gateway.core.heads import RequestHead
from gateway.core.lines import OVERRIDE
from gateway.core.matching import (
    UNREAD,
    Found,
    Json,
    Matcher,
    NeedsBody,
    Unread,
    WrongMethod,
)
from gateway.core.splitting import Split, Spread, sticky_backend
from gateway.core.table import Route, Sticky, Table
from gateway.core.targets import normalise_host, target_fault
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.instance import LiveInstance
from gateway.telemetry.metrics import Cell

if TYPE_CHECKING:
    from gateway.dataplane.context import Plane

_MOST_CACHED = 1024
_LONGEST_CACHED = 256
_FAULTS = {
    "form": "The request target is no path.",
    "control": "The request target holds a control character.",
    "fragment": "The request target holds a fragment.",
    "dots": "The request target holds dot segments.",
}


class BodyNeeded(Exception):
    """No route can be chosen before the JSON body is there, up to `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most


class WrongMethodFault(ClientFault):
    """The path is known, the method is not; `allow` is the header's value."""

    code = "method_not_allowed"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(f"Allowed: {', '.join(allow)}.")
        self.allow = ", ".join(allow)


class LiveRoute:
    """One route of one snapshot with all it needs to decide."""

    __slots__ = (
        "_generation", "_open", "_snapshot", "backends", "cells", "exposed", "fallback", "mirror",
        "retries", "route", "split", "spread",
    )  # fmt: skip

    def __init__(self, snapshot: "Snapshot", route: Route, spread: Spread) -> None:
        self._snapshot = snapshot
        self.route = route
        self.retries = route.retries
        self.spread = spread
        self.split = Split.of(route.split)
        live = snapshot.plane.instances.backends
        self.backends: dict[str, LiveBackend] = {name: live[name] for name, _ in route.split}
        fallback = route.on_unavailable.backend
        self.fallback = live[fallback] if fallback else None
        self.mirror = live.get(route.mirror.backend) if route.mirror else None
        self.cells: dict[LiveInstance, Cell] = {}
        self.exposed: dict[LiveInstance, bytes] = {}
        self._open = self.split
        self._generation = 0

    def choose(self, head: RequestHead) -> LiveBackend:
        """The backend for one request, by override, sticky key or ticket; raises NoRoom."""
        plane = self._snapshot.plane
        if self._generation != plane.generation:
            self._renew(plane.generation)
        if self.route.override and OVERRIDE in head.special:
            return self._overridden(head.special[OVERRIDE])
        split = self._open
        name = None
        if self.route.sticky is not None:
            name = self._stuck(head, split)
        if name is None:
            name = split.pick(self.spread.next())
        if name is None:
            return self._nobody()
        return self._taker(self.backends[name])

    def _taker(self, backend: LiveBackend) -> LiveBackend:
        """Who takes what falls to `backend`; raises NoRoom."""
        if backend.vacant and self.fallback is not None and self.fallback.serving:
            return self.fallback
        return backend if backend.serving else self._unavailable()

    def after(self, failed: LiveBackend, head: RequestHead) -> LiveBackend | None:
        """Who gets a request at which `failed` has failed, as `on_unavailable` says; None: nobody.

        By chance, not by ticket: tickets that some requests take twice would be missing in the
        shares of the others.
        """
        plane = self._snapshot.plane
        if self._generation != plane.generation:
            self._renew(plane.generation)
        policy = self.route.on_unavailable.policy
        if policy == "fail" or (self.route.override and OVERRIDE in head.special):
            return None
        if policy == "fallback":
            fallback = self.fallback
            return fallback if fallback is not None and fallback is not failed else None
        others = frozenset(name for name, each in self.backends.items() if each is not failed)
        split = self._open.among(others)
        name = self._stuck(head, split) if self.route.sticky is not None else None
        if name is None:
            name = split.pick(plane.random())
        return self.backends[name] if name is not None else None

    def _stuck(self, head: RequestHead, split: Split) -> str | None:
        """The backend among those of `split` that the request's sticky key belongs to."""
        assert self.route.sticky is not None
        key = sticky_key(head, self.route.sticky)
        return sticky_backend(self.route.name, key, split.weights) if key else None

    def check_open(self, head: RequestHead, patience_s: float, now: float) -> None:
        """Raises the NoRoom that a request would meet now, whatever its ticket: when nobody
        serves, and when everybody it may fall to would refuse it."""
        generation = self._snapshot.plane.generation
        if self._generation != generation:
            self._renew(generation)
        refused: NoRoom | None = None
        for backend in self._possible(head):
            try:
                refused = self._taker(backend).foresee(patience_s, now)
            except NoRoom as fault:
                refused = fault
            if refused is None:
                return
        if refused is None:
            self._nobody()
        else:
            raise refused

    def _possible(self, head: RequestHead) -> list[LiveBackend]:
        """The backends that a request may fall to, as far as known without a ticket."""
        if self.route.override and OVERRIDE in head.special:
            return [self._overridden(head.special[OVERRIDE])]
        name = self._stuck(head, self._open) if self.route.sticky is not None else None
        if name is not None:
            return [self.backends[name]]
        return [self.backends[each] for each, weight in self._open.weights if weight]

    def _renew(self, generation: int) -> None:
        self._generation = generation
        if self.route.on_unavailable.policy == "redistribute":
            serve = {name: each.vacant for name, each in self.backends.items() if each.serving}
            takes = frozenset(name for name, is_vacant in serve.items() if not is_vacant)
            self._open = self.split.among(takes)
            if self._open.pick(0) is None:
                self._open = self.split.among(frozenset(serve))

    def _overridden(self, wanted: bytes) -> LiveBackend:
        backend = self.backends.get(wanted.decode("latin-1"))
        if backend is None:
            raise ClientFault("X-Headgate-Backend names no backend of this route.")
        if not backend.serving:
            raise NoRoom("No instance of the backend asked for can take the request.")
        return backend

    def _nobody(self) -> LiveBackend:
        if self.split.pick(0) is None:
            raise NoRoom("Every backend of the route has weight 0.", "no_weight")
        return self._unavailable()

    def _unavailable(self) -> LiveBackend:
        fallback = self.fallback
        if fallback is not None and fallback.serving:
            return fallback
        raise NoRoom("No instance can take the request now.")

    def cell(self, instance: LiveInstance) -> Cell:
        cell = self.cells.get(instance)
        if cell is None:
            counters = self._snapshot.plane.counters
            cell = counters.cell(self.route.name, instance.backend.name, instance.address)
            self.cells[instance] = cell
        return cell

    def expose(self, instance: LiveInstance) -> bytes:
        """The response lines that say who answered, up to the request id."""
        lines = self.exposed.get(instance)
        if lines is None:
            plane = self._snapshot.plane
            lines = b"Via: 1.1 %b\r\n" % plane.node
            if plane.options.expose:
                lines += (
                    f"X-Headgate-Route: {self.route.name}\r\n"
                    f"X-Headgate-Backend: {instance.backend.name}\r\n"
                    f"X-Headgate-Instance: {instance.address}\r\n"
                    f"X-Headgate-Revision: {self._snapshot.revision}\r\n"
                    "X-Request-Id: "
                ).encode()
            self.exposed[instance] = lines
        return lines


class Snapshot:
    """A table, ready. `find` is the route of a request."""

    __slots__ = ("_cache", "_matcher", "plane", "revision", "routes")

    def __init__(self, plane: "Plane", table: Table, before: "Snapshot | None") -> None:
        self.plane = plane
        self.revision = table.revision
        self._matcher = Matcher.of(table.routes.values())
        self._cache: dict[tuple[Any, ...], tuple[LiveRoute, bytes]] = {}
        known = before.routes if before is not None else {}
        self.routes: dict[str, LiveRoute] = {
            name: LiveRoute(
                self, route, known[name].spread if name in known else Spread(plane.random())
            )
            for name, route in table.routes.items()
        }

    def find(self, head: RequestHead, body: Json | Unread = UNREAD) -> tuple[LiveRoute, bytes]:
        """The route and the target to ask its instances for.

        Raises BodyNeeded, or the ClientFault that the request is answered with. What depends
        on method, host and target alone is remembered.
        """
        key = (head.target, head.host, head.method)
        found = self._cache.get(key)
        if found is not None:
            return found
        target = head.target.decode("latin-1")
        fault = target_fault(target)
        if fault is not None:
            raise ClientFault(_FAULTS[fault])
        asked = False

        def header(name: str) -> str | None:
            nonlocal asked
            asked = True
            return head.get(name)

        method, host = head.method.decode("latin-1"), host_of(head)
        matched = self._matcher.match(method, host, target, header, body)
        if not isinstance(matched, Found):
            if isinstance(matched, NeedsBody):
                raise BodyNeeded(matched.max_body)
            if isinstance(matched, WrongMethod):
                raise WrongMethodFault(matched.allow)
            raise ClientFault("No route matches the request.", "no_route")
        found = (self.routes[matched.route.name], matched.forwarded_path.encode("latin-1"))
        if body is UNREAD and not asked and len(target) + len(host) <= _LONGEST_CACHED:
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            self._cache[key] = found
        return found


def host_of(head: RequestHead) -> str:
    """The host that `head` asks for in its one form, "" for none; ClientFault if it is no host."""
    if head.host is None:
        return ""
    try:
        return normalise_host(head.host.decode("latin-1"))
    except ValueError:
        raise ClientFault("The Host is no host.") from None


def sticky_key(head: RequestHead, sticky: Sticky) -> bytes | None:
    """What the split of this request sticks to; None when the client did not send it."""
    if sticky.header is not None:
        value = head.get(sticky.header)
        return value.encode("latin-1") if value else None
    wanted = sticky.cookie
    for pair in (head.get("cookie") or "").replace(",", ";").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == wanted and value:
            return value.encode("latin-1")
    return None
