"""Which path of an instance does a route without `rewrite` lead to?

A model that `serve` starts answers at one path, its own; a route in front of it usually has
another. Where the route's path does not lead to the model's anyway, the model's path is the
default rewrite. What path that is, the instance says (`controlplane.served`): no model is
loaded to find out.
"""

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.table import Backend, Route, Table


def filled(table: Table, served: Mapping[str, str]) -> Table:
    """`table` with the default rewrites that follow from `served`, backend → its model's path."""
    rewrites = {
        name: path
        for name, route in table.routes.items()
        if (path := default_rewrite(route, table.backends, served)) is not None
    }
    if not rewrites:
        return table
    routes = {
        name: replace(route, rewrite=rewrites[name]) if name in rewrites else route
        for name, route in table.routes.items()
    }
    return replace(table, routes=routes)


def ways(route: Route) -> str:
    """Who answers on `route`, and at which path, for people: `a 90, b 10, at /predict`."""
    split = ", ".join(f"{name} {weight}" for name, weight in route.split)
    return split if route.rewrite is None else f"{split}, at {route.rewrite}"


def default_rewrite(
    route: Route, backends: Mapping[str, Backend], served: Mapping[str, str]
) -> str | None:
    """The rewrite that `route` has without naming one; None: the path goes as it came.

    Only where every backend of the split is one that `serve` starts and all answer at the same
    path, which is not reached by the path that the client asks for.
    """
    if not served or not is_led(route, backends):
        return None
    paths = {served.get(name) for name, _ in route.split}
    path = paths.pop() if len(paths) == 1 else None
    return None if path is None or _leads_to(route, path) else path


def is_led(route: Route, backends: Mapping[str, Backend]) -> bool:
    """Whether the models say where `route` leads: it does not, and `serve` starts them all."""
    return route.rewrite is None and all(
        backends[name].serve is not None for name, _ in route.split
    )


def _leads_to(route: Route, path: str) -> bool:
    """Whether a client on `route` can ask for `path`, or for something below it, as it is."""
    here = route.match.path
    if route.match.exact:
        return here == path
    return _is_below(path, here) or _is_below(here, path)


def _is_below(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix`, a prefix of whole segments, or begins with it."""
    stem = prefix.rstrip("/")
    return path.rstrip("/") == stem or path.startswith(f"{stem}/")
