"""Who is let in at a route (authentication), and how do instances and books come to know of it?

The Door is the keys of one snapshot, ready for the request path. What it found out about a head
is kept with that head, and by the lines that hold the key with the connection, on which most
clients send the same ones again and again; neither is kept longer than the connection. Of the key
nothing is kept beside. What opens what is `core.access`.
"""

from collections.abc import Sequence
from typing import Final

from gateway.core.access import (
    Forbidden,
    Key,
    Keyring,
    Unauthorized,
    check_opens,
    digest_of,
    secret_of,
    without_credentials,
)
from gateway.core.entries import Limits
from gateway.core.header_rules import HeaderEdit, Rules
from gateway.core.heads import CRLF, RequestHead
from gateway.core.rate_limit import read_limits
from gateway.core.table import Route, Table
from gateway.dataplane.bucket import Bucket
from gateway.dataplane.shared import Shared
from gateway.telemetry.access_log import of_consumer
from gateway.telemetry.metrics import Cell, Consumed

_MAX_CELLS: Final = 64
_MAX_MADE: Final = 100_000  # rules that are edited for ever leave no more behind


class Admission:
    """Somebody who may come in: what an instance is told of a consumer and how a route has it
    told, and where its requests are counted. Nobody's (`key` is None): somebody at a route that is
    open to all."""

    __slots__ = (
        "_cell", "_consumed", "_counted", "_counters", "_edit", "buckets", "consumer", "is_bound",
        "key", "line", "passes", "told",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        key: Key | None,
        passes: bool,
        limits: Limits | None,
        rules: Rules | None = None,
    ) -> None:
        # First what each request reads: of ten thousand consumers nothing is in a cache, and what
        # lies side by side comes at once.
        self.key = key
        self.is_bound = key is not None and (key.routes is not None or key.expires_at is not None)
        self.passes = passes
        bucket = None if key is None else bucket_of(shared, "key", key.name, limits)
        self.buckets: tuple[Bucket, ...] = () if bucket is None else (bucket,)
        self._edit = None if rules is None else HeaderEdit.of(rules)
        self.line = b"" if key is None else f"X-Headgate-Consumer: {key.name}\r\n".encode()
        self.told = b"" if key is None else of_consumer(key.name)
        # The last of `_counted`: most consumers ask where they asked before.
        self._cell: Cell | None = None
        self._consumed: Consumed | None = None
        self._counted: dict[Cell, Consumed] = {}
        self.consumer = "" if key is None else key.name
        self._counters = shared.counters

    def consumed(self, cell: Cell) -> Consumed:
        """Where a request that is counted in `cell` is counted under its consumer's name."""
        consumed = self._consumed
        if consumed is None or self._cell is not cell:
            consumed = self._counted.get(cell)
            if consumed is None:
                if len(self._counted) >= _MAX_CELLS:
                    self._counted.clear()
                consumed = self._counters.consumed(self.consumer, cell.labels[0])
                self._counted[cell] = consumed
            self._cell, self._consumed = cell, consumed
        return consumed

    def forward(self, head: RequestHead) -> list[bytes]:
        """The header lines of `head` that instances get."""
        lines = head.forward
        if not self.passes:
            has_key = self.key is not None
            lines = without_credentials(lines, head.authorization, head.api_key, has_key)
        return lines if self._edit is None else self._edit.apply(lines)

    def beside(self, added: bytes) -> bytes:
        """What of the lines that the gateway would add, `added`, instances get, and whose requests
        they are."""
        if self._edit is not None:  # what a proxy in front said is among them
            added = CRLF.join(self._edit.less(added.split(CRLF)))
        return added + self.line


Way = tuple[bool, Rules | None]
"""How a route has its instances told of a key: whether it passes, and by which rules."""


class Met:
    """A route, and who was found to come in there by which digest; or, where no key is asked for,
    as whom anybody does."""

    __slots__ = ("anybody", "known", "route")

    def __init__(
        self, route: Route | None, known: dict[bytes, Admission] | None, anybody: Admission | None
    ) -> None:
        self.route = route
        self.known = known
        self.anybody = anybody


_NOTHING_MET: Final = Met(None, None, None)


class Door:
    """The keys of one snapshot, and of the next ones until they are edited."""

    __slots__ = (
        "_last", "_limits", "_made", "_met", "_open", "_ring", "_shared", "_ways", "has_keys",
        "mark",
    )  # fmt: skip

    def __init__(self, table: Table, shared: Shared) -> None:
        self._ring = Keyring(table.keys)
        self._shared = shared
        self._limits = read_limits(table.default_limits) if table.default_limits else None
        self._made: dict[tuple[str, bool, Rules | None], Admission] = {}
        # The same by route and digest, which is found faster.
        self._met: dict[str, Met] = {}
        self._last = _NOTHING_MET  # most ask for what was asked for before
        self._ways: dict[Way, dict[bytes, Admission]] = {}
        self._open = Admission(shared, None, False, None)
        self.has_keys = bool(table.keys)
        self.mark = object()  # what is remembered names a door by it, and keeps no keys

    def admission(self, head: RequestHead, route: Route) -> Admission | None:
        """Who comes in at `route`, as `check` is to be asked; None: anybody, with all they bring.
        Raises Unauthorized."""
        met = self._last
        if met.route is not route:
            found = self._met.get(route.name)
            if found is None or found.route is not route:
                found = self._meet(route)
            met = self._last = found
        known = met.known
        if known is None:
            return met.anybody
        digest = digest_of(secret_of(head.authorization, head.api_key))
        admission = known.get(digest)
        if admission is None:
            key = self._ring.find(digest)
            if key is None:
                raise Unauthorized
            admission = self._admission(key, route.pass_credentials, _rules(route))
            known[digest] = admission
        return admission

    def _meet(self, route: Route) -> Met:
        """Who was found to come in at `route`, as at all that let keys in in the same way."""
        rules = _rules(route)
        known: dict[bytes, Admission] | None = None
        anybody: Admission | None = None
        if self._asks(route):
            known = self._ways.setdefault((route.pass_credentials, rules), {})
        else:
            passes = not self.has_keys or route.pass_credentials
            if rules is not None:
                anybody = self._admission(None, passes, rules)
            elif not passes:
                anybody = self._open
        if len(self._met) >= _MAX_MADE:
            self._met.clear()
        met = self._met[route.name] = Met(route, known, anybody)
        return met

    def _admission(self, key: Key | None, passes: bool, rules: Rules | None) -> Admission:
        wanted = ("" if key is None else key.name, passes, rules)
        found = self._made.get(wanted)
        if found is None:
            if len(self._made) >= _MAX_MADE:
                self._made.clear()
                self._ways.clear()
                self._met.clear()
                self._last = _NOTHING_MET
            limits = None if key is None else key.limits or self._limits
            found = self._made[wanted] = Admission(self._shared, key, passes, limits, rules)
        return found

    def bucket(self, consumer: str) -> Bucket | None:
        """Where is counted what `consumer` may have; None: it may have any, or is there no more."""
        key = self._ring.keys.get(consumer)
        limits = None if key is None else key.limits or self._limits
        return bucket_of(self._shared, "key", consumer, limits)

    def check(self, admission: Admission, route: Route) -> None:
        """Raises Forbidden if `admission` does not hold for `route` now."""
        if admission.is_bound and admission.key is not None:
            check_opens(admission.key, route, self._shared.wall())

    def check_some(self, head: RequestHead, routes: Sequence[Route]) -> Admission | None:
        """Who asks, whichever of `routes` is meant; None: one of them is open to anybody. Raises
        what `head` would be refused with at all of them, the first's."""
        refused: Unauthorized | Forbidden | None = None
        for route in routes:
            admission, fault = self._asked(head, route)
            if fault is None:
                return admission if all(map(self._asks, routes)) else None
            refused = refused or fault
        if refused is not None:
            raise refused
        return None

    def _asks(self, route: Route) -> bool:
        """Whether nobody comes in at `route` without a key."""
        return route.access == "keys" or (self.has_keys and not route.access)

    def _asked(
        self, head: RequestHead, route: Route
    ) -> tuple[Admission | None, Unauthorized | Forbidden | None]:
        """Who asks at `route`, if it matters, and with what `head` would be refused there."""
        try:
            if (admission := self.admission(head, route)) is not None:
                self.check(admission, route)
        except (Unauthorized, Forbidden) as fault:
            return None, fault
        return admission, None

    def opened(
        self, head: RequestHead, routes: Sequence[Route]
    ) -> tuple[frozenset[str], Admission | None]:
        """The names of those of `routes` that `head` may ask for, and who asks; None: anybody.
        Raises what it is refused with where that is none."""
        names: set[str] = set()
        who: Admission | None = None
        refused: Unauthorized | Forbidden | None = None
        for route in routes:
            admission, fault = self._asked(head, route)
            if fault is not None:
                refused = refused or fault
                continue
            names.add(route.name)
            if admission is not None and admission.key is not None:
                who = admission
        if refused is not None and not names:
            raise refused
        return frozenset(names), who


def _rules(route: Route) -> Rules | None:
    return route.headers.request if route.headers is not None else None


def bucket_of(shared: Shared, kind: str, name: str, limits: Limits | None) -> Bucket | None:
    """Where is counted what a key or a route may have; None: it may have any."""
    if limits is None or (limits.requests is None and limits.in_flight is None):
        return None
    return Bucket(shared.buckets, kind, name, limits)
