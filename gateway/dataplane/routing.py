"""Which table decides this request, and which backend does it choose?

A Snapshot is a table made ready for the request path: matcher, splits, prepared header
lines. It is read once per request and means the same for ever; the next table is another
snapshot, which shares with this one whatever the edit left alone. What changes with health
(which backends can serve) is a cache beside the split, renewed when the plane's generation has
moved. Choosing the instance inside the backend is not done here.
"""

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import ClassVar, Final

from gateway.core.errors import ClientFault, NoRoom
from gateway.core.header_rules import NO_RULES
from gateway.core.heads import RequestHead
from gateway.core.lines import OVERRIDE
from gateway.core.matching import (
    UNREAD,
    Found,
    Header,
    Json,
    Matched,
    Matcher,
    NeedsBody,
    Unread,
    WrongMethod,
    rewritten,
)
from gateway.core.openai import MODELS, Listing, Model, listing, models_of
from gateway.core.served import default_rewrite
from gateway.core.splitting import Split, Spread, sticky_backend
from gateway.core.table import EMPTY, Route, Sticky, Table
from gateway.core.targets import host_form, target_fault
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.door import Door, bucket_of
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.json_fields import FieldReader
from gateway.dataplane.shaping import Shape
from gateway.dataplane.shared import Shared
from gateway.telemetry.metrics import Cell

_MAX_GONE: Final = 64  # instances that a route remembers and that may be gone, before it looks
_MODELS: Final = MODELS.decode()
_MOST_SHOWN: Final = 100  # characters of what a client named
_FAULTS: Final = {
    "form": "The request target is no path.",
    "control": "The request target holds a control character.",
    "fragment": "The request target holds a fragment.",
    "dots": "The request target holds dot segments.",
}


class BodyNeeded(Exception):
    """No route can be chosen before the JSON body is there, up to `max_body` bytes, and
    `reader` has read it."""

    def __init__(self, max_body: int, reader: FieldReader) -> None:
        super().__init__(max_body)
        self.max_body = max_body
        self.reader = reader


class ModelsAsked(Exception):
    """It is asked which models there are: the gateway answers that itself."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing.wanted)
        self.listing = listing


class WrongMethodFault(ClientFault):
    """The path is known, the method is not; `allow` is the header's value."""

    usual: ClassVar[str] = "method_not_allowed"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(f"Allowed: {', '.join(allow)}.")
        self.allow = ", ".join(allow)


class LiveRoute:
    """One route of one snapshot, and of the next ones until it is edited, with all it needs to
    decide."""

    __slots__ = (
        "_generation", "_open", "_shared", "asks", "backends", "bucket", "cells", "exposed",
        "fallback", "judge", "mirror", "retries", "route", "shape", "split", "spread",
    )  # fmt: skip

    def __init__(
        self, shared: Shared, route: Route, spread: Spread, live: Mapping[str, LiveBackend]
    ) -> None:
        self._shared = shared
        self.route = route
        # Who is let in is told to instances as the route has it: that is asked where rules are.
        rules = route.headers
        self.asks = bool(route.access) or (rules is not None and rules.request != NO_RULES)
        self.shape = Shape.of(route)
        self.bucket = bucket_of(shared, "route", route.name, route.limits)
        self.retries = route.retries
        self.spread = spread
        self.split = Split.of(route.split)
        self.backends: dict[str, LiveBackend] = {name: live[name] for name, _ in route.split}
        fallback = route.on_unavailable.backend
        self.fallback = live[fallback] if fallback else None
        self.mirror = live.get(route.mirror.backend) if route.mirror else None
        if route.mirror is not None and route.mirror.compare is not None:
            shared.outbox.wish.set()
        self.cells: dict[LiveInstance, Cell] = {}
        self.exposed: dict[LiveInstance, bytes] = {}
        self.judge = shared.judges.get(route.name)
        self._open = self.split
        self._generation = 0

    def choose(self, head: RequestHead) -> LiveBackend:
        """The backend for one request, by override, sticky key or ticket; raises NoRoom."""
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        if self.route.override and OVERRIDE in head.known:
            return self._overridden(head.known[OVERRIDE])
        split = self._open
        name = None
        if self.route.sticky is not None:
            name = self._stuck(head, split)
        if name is None:
            name = split.pick(self.spread.next())
        if name is None:
            return self._nobody()
        if self.judge is not None:
            key = -1 if self.route.sticky is None else self.key_hash(head)
            self.judge.decide(name, split, key)
        return self._taker(self.backends[name])

    def key_hash(self, head: RequestHead) -> int:
        """What stands for the request's sticky key where keys are counted; -1 without one."""
        sticky = self.route.sticky
        key = sticky_key(head, sticky) if sticky is not None else None
        return int.from_bytes(blake2b(key, digest_size=6).digest()) if key else -1

    def _taker(self, backend: LiveBackend) -> LiveBackend:
        """Who takes what falls to `backend`; raises NoRoom."""
        if backend.vacant and self.fallback is not None and self.fallback.available:
            return self.fallback
        return backend if backend.available else self._unavailable()

    def after(self, failed: LiveBackend, head: RequestHead) -> LiveBackend | None:
        """Who gets a request at which `failed` has failed, as `on_unavailable` says; None: nobody.

        By chance, not by ticket: tickets that some requests take twice would be missing in the
        shares of the others.
        """
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        policy = self.route.on_unavailable.policy
        if policy == "fail" or (self.route.override and OVERRIDE in head.known):
            return None
        if policy == "fallback":
            fallback = self.fallback
            return fallback if fallback is not None and fallback is not failed else None
        others = frozenset(name for name, each in self.backends.items() if each is not failed)
        split = self._open.among(others)
        name = self._stuck(head, split) if self.route.sticky is not None else None
        if name is None:
            name = split.pick(self._shared.random())
        return self.backends[name] if name is not None else None

    def _stuck(self, head: RequestHead, split: Split) -> str | None:
        """The backend among those of `split` that the request's sticky key belongs to."""
        assert self.route.sticky is not None
        key = sticky_key(head, self.route.sticky)
        return sticky_backend(self.route.name, key, split.weights) if key else None

    def check_open(self, head: RequestHead, remaining_s: float, now: float) -> None:
        """Raises the NoRoom that a request would meet now, whatever its ticket: when nobody
        serves, and when everybody it may fall to would refuse it."""
        generation = self._shared.generation
        if self._generation != generation:
            self._renew(generation)
        refused: NoRoom | None = None
        for backend in self._possible(head):
            try:
                refused = self._taker(backend).would_refuse(remaining_s, now)
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
        if self.route.override and OVERRIDE in head.known:
            return [self._overridden(head.known[OVERRIDE])]
        name = self._stuck(head, self._open) if self.route.sticky is not None else None
        if name is not None:
            return [self.backends[name]]
        return [self.backends[each] for each, weight in self._open.weights if weight]

    def _renew(self, generation: int) -> None:
        self._generation = generation
        if self.route.on_unavailable.policy == "redistribute":
            serve = {name: each.vacant for name, each in self.backends.items() if each.available}
            takes = frozenset(name for name, is_vacant in serve.items() if not is_vacant)
            self._open = self.split.among(takes)
            if self._open.pick(0) is None:
                self._open = self.split.among(frozenset(serve))

    def _overridden(self, wanted: bytes) -> LiveBackend:
        backend = self.backends.get(wanted.decode("latin-1"))
        if backend is None:
            raise ClientFault("X-Headgate-Backend names no backend of this route.")
        if not backend.available:
            raise NoRoom("No instance of the backend asked for can take the request.")
        return backend

    def _nobody(self) -> LiveBackend:
        if self.split.pick(0) is None:
            raise NoRoom("Every backend of the route has weight 0.", "no_weight")
        return self._unavailable()

    def _unavailable(self) -> LiveBackend:
        fallback = self.fallback
        if fallback is not None and fallback.available:
            return fallback
        raise NoRoom("No instance can take the request now.")

    def cell(self, instance: LiveInstance) -> Cell:
        """Where this route's requests at `instance` are counted."""
        cell = self.cells.get(instance)
        if cell is None:
            if len(self.cells) >= _MAX_GONE:
                self.cells = {each: kept for each, kept in self.cells.items() if not each.gone}
            cell = self._shared.counters.cell(
                self.route.name, instance.backend.name, instance.address
            )
            self.cells[instance] = cell
        return cell

    def expose(self, instance: LiveInstance) -> bytes:
        """The response lines that say who answered, up to the revision."""
        lines = self.exposed.get(instance)
        if lines is None:
            if len(self.exposed) >= _MAX_GONE:
                self.exposed = {each: kept for each, kept in self.exposed.items() if not each.gone}
            shared = self._shared
            lines = b"Via: 1.1 %b\r\n" % shared.node
            if shared.options.expose:
                lines += (
                    f"X-Headgate-Route: {self.route.name}\r\n"
                    f"X-Headgate-Backend: {instance.backend.name}\r\n"
                    f"X-Headgate-Instance: {instance.address}\r\n"
                ).encode()
            self.exposed[instance] = lines
        return lines


class Remembered:
    """What one client asked for last, and what it got from the snapshot of this `mark`: the
    outcome for the whole target, and `led`, to which its path alone led. And the form of the host
    that it named last, which is the same for most of what it asks."""

    __slots__ = ("form", "host", "led", "mark", "method", "outcome", "path", "target", "written")
    outcome: tuple[LiveRoute, bytes]
    led: bytes

    def __init__(self) -> None:
        self.mark: object = None
        self.method = self.target = self.path = b""
        self.host: bytes | None = None
        self.written: bytes | None = None
        self.form = ""


class Snapshot:
    """A table, ready. `find` is the route of a request; `shown` are the response lines that name
    the revision, up to the request id."""

    __slots__ = (
        "_is_guarded", "_live", "_models", "_readers", "_routes", "_shared", "asks", "door", "mark",
        "matcher", "revision", "shown", "table",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        live: Mapping[str, LiveBackend],
        table: Table,
        matcher: Matcher,
        routes: dict[str, LiveRoute],
        readers: dict[frozenset[str], FieldReader],
        door: Door,
        models: tuple[Model, ...] | None = None,
    ) -> None:
        self._shared = shared
        self._live = live
        self.table = table
        self.revision = table.revision
        self.shown = b""
        if shared.options.expose:
            self.shown = b"X-Headgate-Revision: %d\r\nX-Request-Id: " % table.revision
        self.matcher = matcher
        self.mark = object()  # what is remembered names a snapshot by it, and keeps no table
        self._routes = routes
        self._readers = readers
        self._models = models
        self.door = door
        self.asks = door.has_keys
        self._is_guarded: bool | None = None

    @classmethod
    def empty(cls, shared: Shared, live: Mapping[str, LiveBackend]) -> "Snapshot":
        """The one of no table; `live` are the backends that are there, now and later."""
        return cls(shared, live, EMPTY, Matcher.of(()), {}, {}, Door(EMPTY, shared))

    def next(
        self, table: Table, matcher: Matcher, changed: Collection[str] | None = None
    ) -> "Snapshot":
        """The snapshot of `table`, whose routes are found by `matcher`. Routes that are what they
        were go on as they are; an edited one keeps its tickets. `changed` names those of which
        the object is another one, or gone; None: any may be."""
        routes = self._routes.copy()
        for name in self._routes if changed is None else self._routes.keys() & changed:
            live, route = routes[name], table.routes.get(name)
            if route is None:
                del routes[name]
            elif route is not live.route:
                routes[name] = LiveRoute(self._shared, route, live.spread, self._live)
        is_alike = matcher is self.matcher
        readers, models = (self._readers, self._models) if is_alike else ({}, None)
        before = self.table
        is_same = table.keys is before.keys and table.default_limits is before.default_limits
        door = self.door if is_same else Door(table, self._shared)
        return Snapshot(self._shared, self._live, table, matcher, routes, readers, door, models)

    @property
    def is_guarded(self) -> bool:
        """Whether any route asks for a key."""
        if self._is_guarded is None:
            routes = self.table.routes.values()
            self._is_guarded = self.asks or any(route.access == "keys" for route in routes)
        return self._is_guarded

    def check_some(self, head: RequestHead) -> None:
        """Raises what a request is refused with whatever its body says: the body of one that no
        route lets in is not read to find its route."""
        target = head.target.decode("latin-1")
        names = self.matcher.candidates(host_of(head), target, head.get)
        self.door.check_some(head, (self.table.routes[name] for name in names))

    def cors_route(self, head: RequestHead, method: bytes) -> LiveRoute | None:
        """The route whose `cors` speaks for what `head` asks for, by `method`; None: no route's."""
        target = head.target.decode("latin-1")
        if not target or target_fault(target) is not None:
            return None
        origin, found = head.get("origin"), None
        host = host_of(head)
        for name in self.matcher.whatever_else(method.decode("latin-1"), host, target):
            live = self.route(name)
            cors = live.shape.cors if live.shape is not None else None
            if cors is not None and (found is None or cors.names(origin)):
                found = live
                if cors.names(origin):
                    break
        return found

    def judge(self) -> None:
        """Has each route count for the rollout that it has now, if it has one."""
        judges = self._shared.judges
        for name, live in self._routes.items():
            live.judge = judges.get(name)

    def route(self, name: str) -> LiveRoute:
        """The live side of a route, which is made when it is first asked for."""
        found = self._routes.get(name)
        if found is None:
            route, spread = self.table.routes[name], Spread(self._shared.random)
            found = self._routes[name] = LiveRoute(self._shared, route, spread, self._live)
        return found

    def find(
        self, head: RequestHead, last: Remembered, body: Json | Unread = UNREAD
    ) -> tuple[LiveRoute, bytes]:
        """The route and the target to ask its instances for.

        Raises BodyNeeded, ModelsAsked, or the ClientFault that it is answered with. What depends
        on method, host and target alone is remembered in `last` for the client's next request,
        and for nobody else: a target may hold a secret.
        """
        is_alike = last.mark is self.mark and last.host == head.host and last.method == head.method
        if is_alike and last.target == head.target:
            return last.outcome
        path, mark, query = head.target.partition(b"?")
        # What else a query must not hold, no request line does.
        if is_alike and last.path == path and b"%00" not in query:
            last.target = head.target
            last.outcome = outcome = (last.outcome[0], last.led + mark + query)
            return outcome
        target = head.target.decode("latin-1")
        fault = target_fault(target)
        if fault is not None:
            raise ClientFault(_FAULTS[fault])
        asked = False

        def header(name: str) -> str | None:
            nonlocal asked
            asked = True
            return head.get(name)

        if last.written is None or last.written != head.host:
            last.form, last.written = host_of(head), head.host
        method, host = head.method.decode("latin-1"), last.form
        matched = self.matcher.match(method, host, target, header, body)
        if MODELS in path and method in ("GET", "HEAD"):
            self._check_models(matched, path.decode("latin-1"), host, header)
        if not isinstance(matched, Found):
            if isinstance(matched, NeedsBody):
                max_body = min(matched.max_body, self._shared.options.match_body)
                raise BodyNeeded(max_body, self._reader(matched.fields))
            if isinstance(matched, WrongMethod):
                raise WrongMethodFault(matched.allow)
            raise ClientFault(f"No route matches the request{_named(body)}.", "no_route")
        live = self.route(matched.route)
        outcome = (live, self.led(live.route, matched.forwarded_path).encode("latin-1"))
        if body is UNREAD and not asked:
            last.mark, last.outcome = self.mark, outcome
            last.method, last.host, last.target = head.method, head.host, head.target
            last.path, last.led = path, outcome[1].partition(b"?")[0]
        return outcome

    def _check_models(self, matched: Matched, path: str, host: str, header: Header) -> None:
        """Raises ModelsAsked where `path` is that of a list. A route that names it goes first."""
        if isinstance(matched, Found):
            named = self.table.routes[matched.route].match.path
            if named.startswith(path[: path.index(_MODELS) + len(_MODELS)]):
                return
        if self._models is None:
            entries = self.matcher.index.entries.values()
            order = sorted(entries, key=lambda entry: entry.order)
            self._models = models_of((entry.route, entry.match) for entry in order)
        found = listing(self._models, path, host, header)
        if found is not None:
            raise ModelsAsked(found)

    def led(self, route: Route, target: str) -> str:
        """`target`, or what the default rewrite makes of it where `route` names none."""
        if route.rewrite is not None or not self._shared.served:
            return target
        rewrite = default_rewrite(route, self.table.backends, self._shared.served)
        if rewrite is None:
            return target
        path, mark, query = target.partition("?")
        return rewritten(route.match, rewrite, path) + mark + query

    def _reader(self, names: frozenset[str]) -> FieldReader:
        reader = self._readers.get(names)
        if reader is None:
            reader = self._readers[names] = FieldReader(names)
        return reader


def _named(body: Json | Unread) -> str:
    """What a request with `body` named in vain, as far as a person would want to be told."""
    model = body.get("model") if isinstance(body, dict) else None
    if not isinstance(model, str):
        return ""
    return f": no model is called {model[:_MOST_SHOWN]!r} here"


def host_of(head: RequestHead) -> str:
    """The host that `head` asks for in its one form, "" for none; ClientFault if it is no host."""
    if head.host is None:
        return ""
    try:
        return host_form(head.host)
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
