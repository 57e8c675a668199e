"""Which instances of a document cannot be where it says?

Those that are there twice, that two processes would share, that are the gateway itself, or that are
where no instance may be. Names of routes, backends and keys are `checks`'.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.controlplane.configuration.settings import Settings, is_loopback
from gateway.controlplane.watch.resolver import is_name
from gateway.core.addresses import refusal
from gateway.core.faults import Fault, did_you_mean, pointer
from gateway.core.placement import FLEET
from gateway.core.table import Instance, parse_instance
from gateway.processes.sockets import is_here

Json = Any


def instance_faults(backends: Mapping[str, Json], settings: Settings | None) -> list[Fault]:
    """What is wrong with each of `backends`, whatever else there is."""
    faults = [*_instances(backends), *_fleets(backends)]
    if settings is not None:
        faults += _own_listeners(backends, settings)
        faults += _networks(backends, settings.instance_networks)
    return faults


def _instances(backends: Mapping[str, Json]) -> Iterator[Fault]:
    for backend, spec in backends.items():
        seen: set[str] = set()
        for place, instance in _parsed(backend, spec):
            if instance.address in seen:
                yield Fault(place, "duplicate", f"{instance.address} stands here twice")
            seen.add(instance.address)
        seen |= {instance.address for _, instance in _parsed(backend, spec, "placed")}
        for address in mapping(spec, "states"):
            if address not in seen:
                yield Fault(
                    pointer("backends", backend, "states", address),
                    "unknown_instance",
                    f"the backend has no instance {address!r}",
                    did_you_mean(address, seen),
                )


def served_twice(backends: Mapping[str, Json]) -> Iterator[Fault]:
    """Two processes of `headgate up` cannot listen on one port."""
    served: dict[int, list[tuple[str, str]]] = {}
    for backend, spec in backends.items():
        if not mapping(spec, "serve"):
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
                if overlap(host, instance.host):
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
        for index, url in enumerate(listed(spec, "instances")):
            if not mapping(spec, "serve") or not str(url).startswith(FLEET):
                continue
            if url != f"{FLEET}{backend}" or len(listed(spec, "instances")) > 1:
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
    for index, url in enumerate(listed(spec, key)):
        try:
            instance = parse_instance(url)
        except (ValueError, AttributeError, TypeError):
            continue  # the schema says what is wrong with it
        if not instance.fleet:
            yield pointer("backends", backend, key, index), instance


def overlap(one: str, other: str) -> bool:
    """Whether two listeners on one port would be in each other's way."""
    return (
        one == other or _is_any(one) or _is_any(other) or (is_loopback(one) and is_loopback(other))
    )


def _is_here(host: str, listener: str) -> bool:
    return (
        host == listener
        or _is_any(host)
        or (is_loopback(host) and (_is_any(listener) or is_loopback(listener)))
        or (_is_any(listener) and not is_name(host) and is_here(host))
    )


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound


def mapping(value: Json, key: str) -> Mapping[str, Json]:
    """The mapping at `key` of `value`; an empty one where neither is what it should be."""
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def listed(value: Json, key: str) -> Sequence[Json]:
    """The list there, likewise."""
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, list) else ()
