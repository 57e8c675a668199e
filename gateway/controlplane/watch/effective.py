"""Which share of a route's requests does each of its backends get now?

The configured weights, after who can serve. Asked every second and at every change of
somebody's health for all routes of a table: what did not change is not computed again.
"""

from collections.abc import Callable, Mapping
from itertools import compress
from operator import is_not

from gateway.core.table import Route

Shares = Mapping[str, float]


class Effective:
    """The shares of all routes, as they were computed last."""

    def __init__(self) -> None:
        self._routes: Mapping[str, Route] = {}
        self._serving: frozenset[str] = frozenset()
        self._working: frozenset[str] = frozenset()
        self._shares: dict[str, Shares] = {}

    def of(
        self,
        routes: Mapping[str, Route],
        serving: frozenset[str],
        working: frozenset[str],
        computed: Callable[[Route], Shares],
    ) -> Mapping[str, Shares]:
        """Route → backend → share; the same object again if nothing changed. `computed` gives
        those of one route and depends on nothing but the route and which of its backends are
        among `serving` and `working`."""
        changed = self._serving ^ serving | self._working ^ working
        if routes is self._routes and not changed:
            return self._shares
        before, known = self._routes, self._shares
        if changed:
            self._shares = {
                name: known[name]
                if before.get(name) is route and changed.isdisjoint(route.names)
                else computed(route)
                for name, route in routes.items()
            }
        else:
            differ = map(is_not, map(before.get, routes), routes.values())
            edited = {name: computed(route) for name, route in compress(routes.items(), differ)}
            self._shares = {**known, **edited}
            if len(self._shares) > len(routes):
                for name in self._shares.keys() - routes.keys():
                    del self._shares[name]
        self._routes, self._serving, self._working = routes, serving, working
        return self._shares


def shares(route: Route, available: frozenset[str]) -> dict[str, float]:
    """Backend → share of the route's requests, given which backends can serve at all."""
    policy = route.on_unavailable
    counted = dict.fromkeys((name for name, _ in route.split), 0.0)
    can = [(name, weight) for name, weight in route.split if name in available]
    whole = can if policy.policy == "redistribute" else route.split
    total = sum(weight for _, weight in whole) or 1
    for name, weight in can:
        counted[name] = weight / total
    fallback = policy.backend
    if policy.policy == "fallback" and fallback is not None and fallback in available:
        missing = sum(weight for name, weight in route.split if name not in available) / total
        counted[fallback] = counted.get(fallback, 0.0) + missing
    return counted
