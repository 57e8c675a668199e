"""Do the routes, backends and settings fit together?

Each check reads a document that may still be faulty elsewhere and reports what it can see,
so that one run names every fault. Shapes and single values are the schemas' business.
"""

import ipaddress
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.controlplane.configuration.references import missing
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.watch.resolver import is_name
from gateway.core.addresses import refusal
from gateway.core.deltas import Delta
from gateway.core.faults import Fault, did_you_mean, pointer
from gateway.core.placement import FLEET
from gateway.core.table import Instance, parse_instance
from gateway.processes.sockets import is_here

Json = Any
MOST_ROUTES = 50_000
MOST_BACKENDS = 5_000
MOST_INSTANCES = 10_000
MOST_KEYS = 100_000


def cross_faults(document: Json, settings: Settings | None = None) -> list[Fault]:
    """Every contradiction in `document`, and with the listeners and networks of `settings`."""
    if faults := size_faults(document):
        return faults
    routes, backends = _map(document, "routes"), _map(document, "backends")
    faults = list(_unknown_backends(routes, backends))
    faults += _same_match(routes, {})
    faults += _alone(backends, settings)
    faults += _served_twice(backends)
    keys = _map(document, "keys")
    faults += _unknown_routes(keys, routes)
    faults += _same_hash(keys, {})
    return faults


def size_faults(document: Json) -> list[Fault]:
    """That `document` is larger than what is served well: one fault with its size, or none."""
    routes, backends = _map(document, "routes"), _map(document, "backends")
    instances = sum(len(_list(spec, "instances")) for spec in backends.values())
    sizes = (
        ("routes", len(routes), MOST_ROUTES),
        ("backends", len(backends), MOST_BACKENDS),
        ("keys", len(_map(document, "keys")), MOST_KEYS),
        ("instances", instances, MOST_INSTANCES),
    )
    for what, size, most in sizes:
        if size > most:
            place = pointer("backends" if what == "instances" else what)
            detail = f"the table has {size:,} {what} and no more than {most:,} are served well"
            return [Fault(place, "too_large", detail, "split it over several gateways")]
    return []


def _alone(backends: Mapping[str, Json], settings: Settings | None) -> list[Fault]:
    """What is wrong with each of `backends`, whatever else there is."""
    faults = [*_instances(backends), *_fleets(backends)]
    if settings is not None:
        faults += _own_listeners(backends, settings)
        faults += _networks(backends, settings.instance_networks)
    return faults


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
        left = _map(document, "routes")
        widowed = {name: left[name] for name in users if name in left and name not in routes}
        faults = list(_unknown_backends({**widowed, **routes}, _map(document, "backends")))
        touched = set(delta.touched("routes"))
        faults += _same_match(routes, self._routes, touched)
        faults += _alone(backends, self._settings)
        faults += missing(backends, _map(self._sound, "backends"))
        changed = {*backends, *gone}
        served = {name: spec for name, spec in self._served.items() if name not in changed}
        if any(_map(spec, "serve") for spec in backends.values()):
            faults += _served_twice({**served, **backends})
        keys = delta.put.get("keys", {})
        named = _map(document, "keys") if delta.removed.get("routes") else keys
        faults += _unknown_routes(named, left)
        faults += _same_hash(keys, self._hashes, set(delta.touched("keys")))
        return faults

    def _note(self, delta: Delta, document: Json) -> None:
        before = _map(self._sound, "routes")
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
            if _map(spec, "serve"):
                self._served[name] = spec
        known = _map(self._sound, "keys")
        for name in delta.touched("keys"):
            for each in _list(known.get(name), "hashes"):
                self._hashes.pop(each, None)
        for name, spec in delta.put.get("keys", {}).items():
            self._hashes.update(dict.fromkeys(_list(spec, "hashes"), name))
        self._sound = document


def _matched(spec: Json) -> str | Mapping[str, Json]:
    """What a route matches; everything, while its own faults are still to be said."""
    match = _map({"": spec}, "").get("match")
    return match if isinstance(match, str | Mapping) else {}


def setting_faults(settings: Settings) -> list[Fault]:
    """What single settings cannot see of one another."""
    listen, admin = settings.listen_address, settings.admin_address
    faults = []
    if listen[1] == admin[1] != 0 and _overlap(listen[0], admin[0]):
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
        for index, route in enumerate(_list(spec, "routes")):
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
        for index, each in enumerate(_list(spec, "hashes")):
            if not isinstance(each, str):
                continue
            other = seen.get(each) or others.get(each)
            if other is not None and (each in seen or other not in but):
                place = pointer("keys", key, "hashes", index)
                yield Fault(place, "duplicate", f"is a hash of key {other!r} too")
            seen.setdefault(each, key)


def _places(spec: Json) -> Iterator[tuple[tuple[str, str], str]]:
    """Where a route's `spec` names a backend, and which."""
    for name in _map(spec, "split"):
        yield ("split", name), name
    for place in (("on_unavailable", "fallback"), ("mirror", "backend")):
        other = _map(spec, place[0]).get(place[1])
        if isinstance(other, str):
            yield place, other


def _named(spec: Json) -> set[str]:
    return {name for _, name in _places(spec)}


def _same_match(
    routes: Mapping[str, Json], others: Mapping[Json, str], but: Container[str] = ()
) -> Iterator[Fault]:
    """Those of `routes` that ask for the same as one before them, or as one of `others` (by what
    they match), leaving out those that are `but`."""
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
        tuple(sorted({str(item) for item in _list(match, key)})) for key in ("hosts", "methods")
    ]
    headers = frozenset((k.lower(), str(v)) for k, v in _map(match, "headers").items())
    fields = frozenset((k, repr(v)) for k, v in _map(match, "json").items())
    return (str(exact), "" if exact is not None else str(path), *unordered, headers, fields)


def _instances(backends: Mapping[str, Json]) -> Iterator[Fault]:
    for backend, spec in backends.items():
        seen: set[str] = set()
        for place, instance in _parsed(backend, spec):
            if instance.address in seen:
                yield Fault(place, "duplicate", f"{instance.address} stands here twice")
            seen.add(instance.address)
        seen |= {instance.address for _, instance in _parsed(backend, spec, "placed")}
        for address in _map(spec, "states"):
            if address not in seen:
                yield Fault(
                    pointer("backends", backend, "states", address),
                    "unknown_instance",
                    f"the backend has no instance {address!r}",
                    did_you_mean(address, seen),
                )


def _served_twice(backends: Mapping[str, Json]) -> Iterator[Fault]:
    """Two processes of `headgate up` cannot listen on one port."""
    served: dict[int, list[tuple[str, str]]] = {}
    for backend, spec in backends.items():
        if not _map(spec, "serve"):
            continue
        own: set[str] = set()
        for place, instance in (*_parsed(backend, spec), *_parsed(backend, spec, "placed")):
            if instance.address in own:
                continue
            own.add(instance.address)
            if instance.dns or instance.secure:
                yield Fault(
                    place, "serve", "`serve` starts processes here and needs http://host:port"
                )
                continue
            others = served.setdefault(instance.port, [])
            for host, other in others:
                if _overlap(host, instance.host):
                    yield Fault(
                        place,
                        "same_port",
                        f"port {instance.port} is already served for backend {other!r}",
                        "give each instance its own port",
                    )
                    break
            others.append((instance.host, backend))


def _fleets(backends: Mapping[str, Json]) -> Iterator[Fault]:
    """A fleet has what `serve` starts under the name of its backend."""
    for backend, spec in backends.items():
        for index, url in enumerate(_list(spec, "instances")):
            if not _map(spec, "serve") or not str(url).startswith(FLEET):
                continue
            if url != f"{FLEET}{backend}" or len(_list(spec, "instances")) > 1:
                yield Fault(
                    pointer("backends", backend, "instances", index),
                    "fleet",
                    "what `serve` starts is known to its fleet by the name of its backend",
                    f"write {FLEET}{backend}, and no other instance",
                )


def _own_listeners(backends: Mapping[str, Json], settings: Settings) -> Iterator[Fault]:
    listeners = {"listen": settings.listen_address, "admin": settings.admin_address}
    for backend, spec in backends.items():
        for place, instance in _parsed(backend, spec):
            for key, (host, port) in listeners.items():
                if port and port == instance.port and _is_here(instance.host, host):
                    yield Fault(
                        place,
                        "own_listener",
                        f"{instance.address} is the gateway itself (gateway.{key})",
                        "name the instance's own port",
                    )


def _networks(backends: Mapping[str, Json], networks: Sequence[str]) -> Iterator[Fault]:
    for backend, spec in backends.items():
        for place, instance in _parsed(backend, spec):
            reason = refusal(instance.host, networks)
            if reason:
                yield Fault(place, "address", f"{instance.host} {reason}")


def _parsed(backend: str, spec: Json, key: str = "instances") -> Iterable[tuple[str, Instance]]:
    for index, url in enumerate(_list(spec, key)):
        try:
            instance = parse_instance(url)
        except (ValueError, AttributeError, TypeError):
            continue  # the schema says what is wrong with it
        if not instance.fleet:
            yield pointer("backends", backend, key, index), instance


def _overlap(one: str, other: str) -> bool:
    """Whether two listeners on one port would be in each other's way."""
    return one == other or _is_any(one) or _is_any(other) or (_is_local(one) and _is_local(other))


def _is_here(host: str, listener: str) -> bool:
    return (
        host == listener
        or _is_any(host)
        or (_is_local(host) and (_is_any(listener) or _is_local(listener)))
        or (_is_any(listener) and not is_name(host) and is_here(host))
    )


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _map(value: Json, key: str) -> Mapping[str, Json]:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _list(value: Json, key: str) -> Sequence[Json]:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, list) else ()
