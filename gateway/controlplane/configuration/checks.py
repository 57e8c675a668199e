"""Do the routes, backends and settings fit together?

Each check reads a document that may still be faulty elsewhere and reports what it can see,
so that one run names every fault. Shapes and single values are the schemas' business, and where
instances are is `instance_checks`'.
"""

from collections.abc import Container, Iterator, Mapping
from typing import Any

from gateway.controlplane.configuration.instance_checks import (
    instance_faults,
    listed,
    mapping,
    overlap,
    served_twice,
)
from gateway.controlplane.configuration.references import missing
from gateway.controlplane.configuration.settings import Settings
from gateway.core.deltas import Delta
from gateway.core.faults import Fault, did_you_mean, pointer

Json = Any
MAX_ROUTES = 50_000
MAX_BACKENDS = 5_000
MAX_INSTANCES = 10_000
MAX_KEYS = 100_000


def cross_faults(document: Json, settings: Settings | None = None) -> list[Fault]:
    """Every contradiction in `document`, and with the listeners and networks of `settings`."""
    if faults := size_faults(document):
        return faults
    routes, backends = mapping(document, "routes"), mapping(document, "backends")
    faults = list(_unknown_backends(routes, backends))
    faults += _same_match(routes, {})
    faults += instance_faults(backends, settings)
    faults += served_twice(backends)
    keys = mapping(document, "keys")
    faults += _unknown_routes(keys, routes)
    faults += _same_hash(keys, {})
    return faults


def size_faults(document: Json) -> list[Fault]:
    """One fault with its size where `document` is larger than what is served well, or none."""
    routes, backends = mapping(document, "routes"), mapping(document, "backends")
    instances = sum(len(listed(spec, "instances")) for spec in backends.values())
    sizes = (
        ("routes", len(routes), MAX_ROUTES),
        ("backends", len(backends), MAX_BACKENDS),
        ("keys", len(mapping(document, "keys")), MAX_KEYS),
        ("instances", instances, MAX_INSTANCES),
    )
    for what, size, most in sizes:
        if size > most:
            place = pointer("backends" if what == "instances" else what)
            detail = f"the table has {size:,} {what} and no more than {most:,} are served well"
            return [Fault(place, "too_large", detail, "split it over several gateways")]
    return []


class Checks:
    """`cross_faults` of one document after another, at the price of what differs: of entries
    that are the same objects as in the last sound document nothing is asked again."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._sound: Json = None
        self._keys: dict[str, Json] = {}  # route → what it matches, and back
        self._routes: dict[Json, str] = {}
        self._users: dict[str, set[str]] = {}  # backend → the routes that name it
        self._served: dict[str, Json] = {}  # the backends with `serve`
        self._hashes: dict[str, str] = {}  # hash → its key

    def __call__(self, document: Json) -> list[Fault]:
        """Every contradiction in `document`; a clash is said of the entry that is new."""
        if self._sound is None:
            faults = cross_faults(document, self._settings)
            delta = Delta.between({}, document)
        else:
            delta = Delta.between(self._sound, document)
            faults = self.faults(delta, document)
        if not faults:
            self._note(delta, document)
        return faults

    def faults(self, delta: Delta, document: Json) -> list[Fault]:
        """What is wrong with `document`, which `delta` makes of the one that was sound; only what
        the difference touches is looked at."""
        routes, backends = delta.put.get("routes", {}), delta.put.get("backends", {})
        gone = set(delta.removed.get("backends", ()))
        users = set().union(*(self._users.get(name, ()) for name in gone))
        left = mapping(document, "routes")
        widowed = {name: left[name] for name in users if name in left and name not in routes}
        faults = list(_unknown_backends({**widowed, **routes}, mapping(document, "backends")))
        touched = set(delta.touched("routes"))
        faults += _same_match(routes, self._routes, touched)
        faults += instance_faults(backends, self._settings)
        faults += missing(backends, mapping(self._sound, "backends"))
        changed = {*backends, *gone}
        served = {name: spec for name, spec in self._served.items() if name not in changed}
        if any(mapping(spec, "serve") for spec in backends.values()):
            faults += served_twice({**served, **backends})
        keys = delta.put.get("keys", {})
        named = mapping(document, "keys") if delta.removed.get("routes") else keys
        faults += _unknown_routes(named, left)
        faults += _same_hash(keys, self._hashes, set(delta.touched("keys")))
        return faults

    def _note(self, delta: Delta, document: Json) -> None:
        before = mapping(self._sound, "routes")
        for name in delta.touched("routes"):
            key = self._keys.pop(name, None)
            if self._routes.get(key) == name:
                del self._routes[key]
            for backend in _named(before.get(name)):
                self._users[backend].discard(name)
        for name, spec in delta.put.get("routes", {}).items():
            key = self._keys[name] = _match_key(_matched(spec))
            self._routes[key] = name
            for backend in _named(spec):
                self._users.setdefault(backend, set()).add(name)
        for name in delta.touched("backends"):
            self._served.pop(name, None)
        for name, spec in delta.put.get("backends", {}).items():
            if mapping(spec, "serve"):
                self._served[name] = spec
        known = mapping(self._sound, "keys")
        for name in delta.touched("keys"):
            for each in listed(known.get(name), "hashes"):
                self._hashes.pop(each, None)
        for name, spec in delta.put.get("keys", {}).items():
            self._hashes.update(dict.fromkeys(listed(spec, "hashes"), name))
        self._sound = document


def _matched(spec: Json) -> str | Mapping[str, Json]:
    """What a route matches; everything, while its own faults are still to be said."""
    match = mapping({"": spec}, "").get("match")
    return match if isinstance(match, str | Mapping) else {}


def setting_faults(settings: Settings) -> list[Fault]:
    """What single settings cannot see of one another."""
    listen, admin = settings.listen_address, settings.admin_address
    faults = []
    if listen[1] == admin[1] != 0 and overlap(listen[0], admin[0]):
        faults.append(
            Fault(
                "/gateway/admin",
                "same_port",
                f"listen and admin are both on port {admin[1]}",
                "give the admin listener its own port",
            )
        )
    if settings.store == "etcd" and settings.etcd is None:
        hint = "say `etcd: {endpoints: [http://10.0.0.1:2379]}` beside it"
        faults.append(Fault("/gateway/store", "etcd", "does not say where etcd is", hint))
    if settings.token is not None and settings.viewer_token == settings.token:
        faults.append(Fault("/gateway/viewer_token", "token", "is the operators' token"))
    return faults


def _unknown_backends(routes: Mapping[str, Json], backends: Mapping[str, Json]) -> Iterator[Fault]:
    for route, spec in routes.items():
        for place, name in _places(spec):
            if name not in backends:
                yield Fault(
                    pointer("routes", route, *place),
                    "unknown_backend",
                    f"no backend {name!r}",
                    did_you_mean(name, backends),
                )


def _unknown_routes(keys: Mapping[str, Json], routes: Mapping[str, Json]) -> Iterator[Fault]:
    for key, spec in keys.items():
        for index, route in enumerate(listed(spec, "routes")):
            if isinstance(route, str) and route not in routes:
                yield Fault(
                    pointer("keys", key, "routes", index),
                    "unknown_route",
                    f"no route {route!r}",
                    did_you_mean(route, routes),
                )


def _same_hash(
    keys: Mapping[str, Json], others: Mapping[str, str], but: Container[str] = ()
) -> Iterator[Fault]:
    """Secrets that two keys, or one twice, would have: whose a request is would not be clear."""
    seen: dict[str, str] = {}
    for key, spec in keys.items():
        for index, each in enumerate(listed(spec, "hashes")):
            if not isinstance(each, str):
                continue
            other = seen.get(each) or others.get(each)
            if other is not None and (each in seen or other not in but):
                place = pointer("keys", key, "hashes", index)
                yield Fault(place, "duplicate", f"is a hash of key {other!r} too")
            seen.setdefault(each, key)


def _places(spec: Json) -> Iterator[tuple[tuple[str, str], str]]:
    """Where a route's `spec` names a backend, and which."""
    for name in mapping(spec, "split"):
        yield ("split", name), name
    for place in (("on_unavailable", "fallback"), ("mirror", "backend")):
        other = mapping(spec, place[0]).get(place[1])
        if isinstance(other, str):
            yield place, other


def _named(spec: Json) -> set[str]:
    return {name for _, name in _places(spec)}


def _same_match(
    routes: Mapping[str, Json], others: Mapping[Json, str], but: Container[str] = ()
) -> Iterator[Fault]:
    """A fault for each of `routes` that asks for the same as one before it, or as one of `others`
    (by what they match), leaving out those that are `but`."""
    seen: dict[Json, str] = {}
    for route, spec in routes.items():
        match = spec.get("match") if isinstance(spec, Mapping) else None
        if not isinstance(match, str | Mapping):
            continue
        key = _match_key(match)
        other = seen.get(key) or others.get(key)
        if other is not None and (key in seen or other not in but):
            yield Fault(
                pointer("routes", route, "match"),
                "duplicate_match",
                f"asks for the same as route {other!r}",
            )
        seen.setdefault(key, route)


def _match_key(match: str | Mapping[str, Json]) -> Json:
    """Equal for matches that the same requests satisfy, whatever order they are written in."""
    if isinstance(match, str):
        match = {"path": match}
    path = match.get("path", "/")
    if isinstance(path, str) and len(path) > 1:
        path = path.rstrip("/")  # a prefix of whole segments
    exact = match.get("exact")
    unordered = [
        tuple(sorted({str(item) for item in listed(match, key)})) for key in ("hosts", "methods")
    ]
    headers = frozenset((k.lower(), str(v)) for k, v in mapping(match, "headers").items())
    fields = frozenset((k, repr(v)) for k, v in mapping(match, "json").items())
    return (str(exact), "" if exact is not None else str(path), *unordered, headers, fields)
