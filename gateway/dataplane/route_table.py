"""Which table decides this request, and which of its routes?

A Snapshot is a route table made ready for the request path: matcher, splits, prepared header
lines. It is read once per request and means the same for ever; the next table is another
snapshot, which shares with this one whatever the edit left alone.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar, Final

from gateway.core.errors import ClientFault
from gateway.core.heads import RequestHead
from gateway.core.matching import (
    UNREAD,
    Found,
    Header,
    Json,
    Matcher,
    NeedsBody,
    Unread,
    WrongMethod,
    rewritten,
)
from gateway.core.openai import LISTED_BY, MODELS, Listing
from gateway.core.served import default_rewrite
from gateway.core.splitting import Spread
from gateway.core.table import EMPTY, Route, Table
from gateway.core.targets import host_form, read_target_fault, target_fault
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.door import Admission, Door
from gateway.dataplane.json_fields import FieldReader
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.match_memory import Remembered
from gateway.dataplane.model_listing import ModelListing, ModelsAsked
from gateway.dataplane.shared import Shared

_QUESTION_MARK: Final = 0x3F
_PERCENT: Final = 0x25
_LISTS: Final = MODELS.decode()
_MAX_SHOWN: Final = 100  # characters of what a client named
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


class WrongMethodFault(ClientFault):
    """The path is known, the method is not; `allow` is the header's value."""

    usual: ClassVar[str] = "method_not_allowed"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(f"Allowed: {', '.join(allow)}.")
        self.allow = ", ".join(allow)


class Snapshot:
    """A table, ready. `find` is the route of a request; `shown` are the response lines that name
    the revision, up to the request id."""

    __slots__ = (
        "_has_cors", "_is_guarded", "_listing", "_live", "_readers", "_routes", "_shared", "asks",
        "door", "limits_more", "mark", "matcher", "revision", "shown", "table",
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
        listing: ModelListing,
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
        self._listing = listing
        self.door = door
        self.limits_more = False  # than the one before it, of what is under way
        self.asks = door.has_keys
        self._is_guarded: bool | None = None
        self._has_cors: bool | None = None

    @classmethod
    def empty(cls, shared: Shared, live: Mapping[str, LiveBackend]) -> "Snapshot":
        """The one of no table; `live` are the backends that are there, now and later."""
        matcher, door = Matcher.of(()), Door(EMPTY, shared)
        return cls(shared, live, EMPTY, matcher, {}, {}, door, ModelListing(matcher))

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
        readers = self._readers if is_alike else {}
        listing = self._listing if is_alike else ModelListing(matcher)
        before = self.table
        is_same = table.keys is before.keys and table.default_limits is before.default_limits
        door = self.door if is_same else Door(table, self._shared)
        made = Snapshot(self._shared, self._live, table, matcher, routes, readers, door, listing)
        names = table.routes if changed is None else changed
        made.limits_more = not is_same or any(
            _limits_flights(table, name) and not _limits_flights(before, name) for name in names
        )
        return made

    @property
    def is_guarded(self) -> bool:
        """Whether any route asks for a key."""
        if self._is_guarded is None:
            routes = self.table.routes.values()
            self._is_guarded = self.asks or any(route.access == "keys" for route in routes)
        return self._is_guarded

    @property
    def has_cors(self) -> bool:
        """Whether any route says which pages may ask."""
        if self._has_cors is None:
            self._has_cors = any(route.cors is not None for route in self.table.routes.values())
        return self._has_cors

    def check_some(self, head: RequestHead) -> Admission | None:
        """Who asks, whatever the body says that would have to be read to find the route; None:
        that depends on it. Raises what a request is refused with that no route lets in."""
        target = head.target.decode("latin-1")
        names = self.matcher.candidates(host_of(head), target, head.get)
        return self.door.check_some(head, [self.table.routes[name] for name in names])

    def cors_route(self, head: RequestHead, method: bytes) -> LiveRoute | None:
        """The route whose `cors` speaks for what `head` asks for, by `method`; None: no route's."""
        target = head.target.decode("latin-1")
        if not target or target_fault(target) is not None:
            return None
        names = self.matcher.whatever_else(method.decode("latin-1"), host_of(head), target)
        return self._speaking(names, head.get("origin"))

    def lists(self, head: RequestHead, method: bytes, header: Header | None) -> Listing | None:
        """Which list of models a request with `head` by `method` asks for; None: for none.
        `header` is None for a preflight, which has not those of its request."""
        target, said = head.target.decode("latin-1"), method.decode("latin-1")
        if MODELS not in head.target or said not in LISTED_BY or target_fault(target) is not None:
            return None
        path, host = target.partition("?")[0], host_of(head)
        if _LISTS not in path:
            return None
        matched = self.matcher.match(said, host, target, head.get, UNREAD)
        return self._listing.asked(self.table, matched, path, host, header)

    def list_cors(self, asked: Listing, origin: str | None) -> LiveRoute | None:
        """The route whose `cors` speaks for a list: one that has a model in it."""
        return self._speaking([model.route for model in asked.models], origin)

    def _speaking(self, names: Iterable[str], origin: str | None) -> LiveRoute | None:
        """The first route of these whose `cors` names `origin`, or else that has any."""
        found = None
        for name in names:
            live = self.route(name)
            cors = live.shape.cors if live.shape is not None else None
            if cors is not None and cors.names(origin):
                return live
            if cors is not None and found is None:
                found = live
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
        target = head.target
        if not is_alike:
            return self._find(head, last, body)
        if last.target == target:
            return last.outcome
        end = len(last.path)
        # What else a query must not hold, no request line does; one byte is found much sooner.
        if (
            target.startswith(last.path)
            and (len(target) == end or target[end] == _QUESTION_MARK)
            and (_PERCENT not in target or target.find(b"%00", end) < 0)
        ):
            last.target = target
            asked = target if last.led == last.path else last.led + target[end:]
            last.outcome = outcome = (last.outcome[0], asked)
            return outcome
        return self._find(head, last, body)

    def _find(
        self, head: RequestHead, last: Remembered, body: Json | Unread
    ) -> tuple[LiveRoute, bytes]:
        """As `find`, by the table: apart, for what is compiled makes room for what a function
        inside of it sees at each call."""
        target = head.target.decode("latin-1")
        fault = read_target_fault(target)
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
        path = target.partition("?")[0]
        if method in LISTED_BY and _LISTS in path:
            listing = self._listing.asked(self.table, matched, path, host, header)
            if listing is not None:
                raise ModelsAsked(listing)
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
            last.path, last.led = path.encode("latin-1"), outcome[1].partition(b"?")[0]
        return outcome

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


def _limits_flights(table: Table, name: str) -> bool:
    """Whether `table` has a route `name` that only so many may be under way at."""
    route = table.routes.get(name)
    return route is not None and route.limits is not None and route.limits.in_flight is not None


def _named(body: Json | Unread) -> str:
    """What a request with `body` named in vain, as far as a person would want to be told."""
    model = body.get("model") if isinstance(body, dict) else None
    if not isinstance(model, str):
        return ""
    return f": no model is called {model[:_MAX_SHOWN]!r} here"


def host_of(head: RequestHead) -> str:
    """The host that `head` asks for in its one form, "" for none; ClientFault if it is no host."""
    if head.host is None:
        return ""
    try:
        return host_form(head.host)
    except ValueError:
        raise ClientFault("The Host is no host.") from None
