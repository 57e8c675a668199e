"""How is a table built a part at a time, so that its parts can cross to a worker one by one?

A worker gets a new table in parts, each of which is small enough to be taken in between two
requests: what differs from the table it serves, or all of it when it serves none. Nothing of
a draft is seen before it is complete.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.core.deltas import Delta
from gateway.core.index import EMPTY_INDEX, Building
from gateway.core.matching import Matcher
from gateway.core.table import (
    Backend,
    Key,
    Route,
    Table,
    TableError,
    make_backend,
    make_default_limits,
    make_key,
    make_route,
)

T = TypeVar("T")


class Draft:
    """A table on its way from `served`, whose matcher is `matcher`: the `is_whole` one, or one
    that differs from it. Entries that turn out to be equal to what is served are those; `changed`
    are the names of routes that are not, or that are gone."""

    def __init__(self, served: Table, matcher: Matcher, *, is_whole: bool) -> None:
        self._served = served
        self._before = matcher
        self.backends: dict[str, Backend] = {} if is_whole else dict(served.backends)
        self._routes: dict[str, Route] = {} if is_whole else dict(served.routes)
        self._keys: dict[str, Key] | None = {} if is_whole else None  # as served until touched
        self._limits: Mapping[str, Any] = {} if is_whole else served.default_limits
        self._building = Building(EMPTY_INDEX if is_whole else matcher.index)
        # Of a whole table, all that are not found again.
        self.changed: set[str] = set(served.routes) if is_whole else set()

    def take(self, part: Delta) -> None:
        """Takes in one part, backends before the routes that name them. Raises TableError."""
        for name in part.removed.get("backends", ()):
            self.backends.pop(name, None)
        for name in part.removed.get("routes", ()):
            self._routes.pop(name, None)
            self._building.remove(name)
            self.changed.add(name)
        for name, spec in part.put.get("backends", {}).items():
            self.backends[name] = _kept(self._served.backends, name, make_backend(name, spec))
        for name, spec in part.put.get("routes", {}).items():
            made = make_route(name, spec, self.backends)
            route = self._routes[name] = _kept(self._served.routes, name, made)
            self._building.put(route)
            (self.changed.add if route is made else self.changed.discard)(name)
        self._limits = make_default_limits(part, self._limits)
        if part.removed.get("keys") or part.put.get("keys"):
            self._take_keys(part)

    def done(self, revision: int) -> tuple[Table, Matcher]:
        """The table and its matcher. Raises TableError where a route names what is gone."""
        if self._served.backends.keys() - self.backends.keys():
            for route in self._routes.values():
                if missing := [name for name in route.names if name not in self.backends]:
                    raise TableError(f"/routes/{route.name}", f"no such backend {missing[0]!r}")
        if self._building.is_different:
            self._before = Matcher(self._building.done())
        keys: Mapping[str, Key] | None = self._keys
        if keys is None or keys == self._served.keys:
            keys = self._served.keys  # the very same: who was let in is not asked again
        limits = self._limits
        if limits == self._served.default_limits:
            limits = self._served.default_limits
        table = Table(revision, self._routes, self.backends, keys=keys, default_limits=limits)
        return table, self._before

    def _take_keys(self, part: Delta) -> None:
        keys = dict(self._served.keys) if self._keys is None else self._keys
        self._keys = keys
        for name in part.removed.get("keys", ()):
            keys.pop(name, None)
        for name, spec in part.put.get("keys", {}).items():
            keys[name] = _kept(self._served.keys, name, make_key(name, spec))


def _kept(served: Mapping[str, T], name: str, made: T) -> T:
    known = served.get(name)
    return known if known is not None and known == made else made
