"""Do the routes, backends and settings fit together?

Each check reads a document that may still be faulty elsewhere and reports what it can see,
so that one run names every fault. Shapes and single values are the schemas' business.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.core.addresses import refusal
from gateway.core.faults import Fault, did_you_mean, pointer
from gateway.core.table import Instance, parse_instance
from gateway.settings import Settings

Json = Any


def cross_faults(document: Json, settings: Settings | None = None) -> list[Fault]:
    """Every contradiction in `document`, and with the listeners and networks of `settings`."""
    routes, backends = _map(document, "routes"), _map(document, "backends")
    faults = list(_unknown_backends(routes, backends))
    faults += _same_match(routes)
    faults += _instances(backends)
    faults += _served_twice(backends)
    if settings is not None:
        faults += _own_listeners(backends, settings)
        faults += _networks(backends, settings.instance_networks)
    return faults


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
    if settings.token is not None and settings.viewer_token == settings.token:
        faults.append(Fault("/gateway/viewer_token", "token", "is the operators' token"))
    return faults


def _unknown_backends(routes: Mapping[str, Json], backends: Mapping[str, Json]) -> Iterator[Fault]:
    for route, spec in routes.items():
        named: list[tuple[tuple[str, str], Json]] = [
            (("split", name), name) for name in _map(spec, "split")
        ]
        fallback = _map(spec, "on_unavailable").get("fallback")
        named.append((("on_unavailable", "fallback"), fallback))
        named.append((("mirror", "backend"), _map(spec, "mirror").get("backend")))
        for place, name in named:
            if isinstance(name, str) and name not in backends:
                yield Fault(
                    pointer("routes", route, *place),
                    "unknown_backend",
                    f"no backend {name!r}",
                    did_you_mean(name, backends),
                )


def _same_match(routes: Mapping[str, Json]) -> Iterator[Fault]:
    seen: dict[Json, str] = {}
    for route, spec in routes.items():
        match = spec.get("match") if isinstance(spec, Mapping) else None
        if not isinstance(match, str | Mapping):
            continue
        key = _match_key({"path": match} if isinstance(match, str) else match)
        if key in seen:
            yield Fault(
                pointer("routes", route, "match"),
                "duplicate_match",
                f"asks for the same as route {seen[key]!r}",
            )
        seen.setdefault(key, route)


def _match_key(match: Mapping[str, Json]) -> Json:
    """Equal for matches that the same requests satisfy, whatever order they are written in."""
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
        for place, instance in _parsed(backend, spec):
            if instance.dns:
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


def _parsed(backend: str, spec: Json) -> Iterable[tuple[str, Instance]]:
    for index, url in enumerate(_list(spec, "instances")):
        try:
            yield pointer("backends", backend, "instances", index), parse_instance(url)
        except (ValueError, AttributeError, TypeError):
            continue  # the schema says what is wrong with it


def _overlap(one: str, other: str) -> bool:
    """Whether two listeners on one port would be in each other's way."""
    return one == other or _is_any(one) or _is_any(other) or (_is_local(one) and _is_local(other))


def _is_here(host: str, listener: str) -> bool:
    return (
        host == listener
        or _is_any(host)
        or (_is_local(host) and (_is_any(listener) or _is_local(listener)))
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
