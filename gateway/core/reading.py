"""What does one entry of a document say?

Fills in what was not said and turns units into numbers. The values check themselves
(`entries`); a key that no entry has is refused here.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

from gateway.core.comparing import compare_of
from gateway.core.compressing import read_compress
from gateway.core.cors import read_cors
from gateway.core.credentials import Tls, read_set_headers, read_tls
from gateway.core.entries import (
    INSTANCE_STATES,
    MAX_WEIGHT,
    Backend,
    Eject,
    Health,
    Instance,
    Match,
    Mirror,
    OnUnavailable,
    Queue,
    Retries,
    Route,
    Sticky,
    Timeouts,
    is_name,
)
from gateway.core.header_rules import read_header_rules
from gateway.core.rate_limit import read_limits
from gateway.core.units import parse_duration, parse_size

_MATCH = frozenset({"path", "exact", "hosts", "methods", "headers", "json"})
SCHEMES = frozenset({"http", "https", "dns+http", "dns+https"})


class WeightError(ValueError):
    """A backend's weight that is none."""

    def __init__(self, backend: str) -> None:
        super().__init__(f"must be a whole number from 0 to {MAX_WEIGHT}")
        self.backend = backend


def parse_instance(url: str) -> Instance:
    """The instance that `url` names; ValueError says what is wrong with the URL."""
    parts = urlsplit(url)
    if parts.scheme == "fleet":
        name = url.removeprefix("fleet://")
        if not is_name(name):
            raise ValueError(f"{url!r} must be fleet:// and a name")
        return Instance(url, name, 0, fleet=True)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"{url!r} must start with http:// or https://, or dns+ and one of them, or fleet://"
        )
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} must be just a scheme, a host and a port")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ValueError(f"{url!r} must name a host and a port from 1 to 65535")
    is_dns, is_secure = parts.scheme.startswith("dns+"), parts.scheme.endswith("https")
    return Instance(url, parts.hostname, port, is_dns, secure=is_secure)


def read_backend(name: str, spec: Mapping[str, Any]) -> Backend:
    """The backend `name` that `spec` describes; ValueError, TypeError or KeyError if none."""
    _named(name)
    _known(spec, _BACKEND)
    said = dict(spec)
    states = said.pop("states", None) or {}
    written, placed = said.pop("instances", None), said.pop("placed", None)
    instances = tuple(parse_instance(url) for url in placed or written or ())
    addresses = {instance.address for instance in instances}
    if len(addresses) < len(instances):
        raise ValueError("an instance stands here twice")
    for address, state in states.items():
        if address not in addresses or state not in INSTANCE_STATES:
            raise ValueError(f"states: {address!r} cannot be {state!r}")
    if states:
        instances = tuple(
            replace(each, state=states[each.address]) if each.address in states else each
            for each in instances
        )
    parts = {key: read(said.pop(key) or {}) for key, read in _PARTS.items() if key in said}
    return Backend(name=name, instances=instances, **said, **parts)


def read_route(name: str, spec: Mapping[str, Any]) -> Route:
    """The route `name` that `spec` describes; ValueError, TypeError or KeyError if none."""
    _named(name)
    _known(spec, _ROUTE)
    split = tuple((spec.get("split") or {}).items())
    if not split:
        raise ValueError("split: names no backend")
    for backend, weight in split:
        if type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
            raise WeightError(backend)
    return Route(
        name=name,
        match=_match(spec["match"]),
        split=split,
        rewrite=spec.get("rewrite"),
        sticky=Sticky(**spec["sticky"]) if spec.get("sticky") else None,
        retries=_retries(spec["retries"]) if spec.get("retries") else _RETRIES,
        on_unavailable=_on_unavailable(spec.get("on_unavailable", "redistribute")),
        override=spec.get("override", False),
        mirror=_mirror(spec["mirror"]) if spec.get("mirror") else None,
        max_body=parse_size(spec["max_body"]) if "max_body" in spec else 64 << 20,
        deadline_s=parse_duration(spec["deadline"]) if "deadline" in spec else None,
        access=spec.get("access", ""),
        pass_credentials=spec.get("pass_credentials", False),
        limits=read_limits(spec["limits"]) if "limits" in spec else None,
        cors=read_cors(spec["cors"]) if "cors" in spec else None,
        headers=read_header_rules(spec["headers"]) if "headers" in spec else None,
        compress=read_compress(spec["compress"]) if "compress" in spec else None,
    )


_RETRIES = Retries()
_REDISTRIBUTE = OnUnavailable()


def _named(name: str) -> None:
    if not is_name(name):
        raise ValueError(f"{name!r} is no name")


def _known(spec: Mapping[str, Any], keys: frozenset[str]) -> None:
    for key in spec:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}")


def _keys(kind: Any, *more: str) -> frozenset[str]:
    """What may be written of a `kind`: its fields, durations without their unit."""
    return frozenset(each.name.removesuffix("_s") for each in fields(kind)) - {"name"} | {*more}


_BACKEND = _keys(Backend, "states", "placed")
_ROUTE = _keys(Route)


def _timed(kind: Any, *durations: str) -> Any:
    """Reads a `kind`, whose `durations` are written with their units."""

    def read(spec: Mapping[str, Any]) -> Any:
        _known(spec, keys)
        return kind(
            **{
                (f"{key}_s" if key in durations else key): (
                    parse_duration(value) if key in durations else value
                )
                for key, value in spec.items()
            }
        )

    keys = _keys(kind)
    return read


def _tls(spec: Mapping[str, Any]) -> Tls:
    _known(spec, _TLS)
    return read_tls(spec)


_TLS = _keys(Tls)
_PARTS = {
    "queue": _timed(Queue, "timeout"),
    "health": _timed(Health, "interval", "timeout"),
    "eject": _timed(Eject, "base", "max"),
    "timeouts": _timed(Timeouts, "connect", "response", "idle"),
    "tls": _tls,
    "headers": read_set_headers,
}


def _match(spec: str | Mapping[str, Any]) -> Match:
    if isinstance(spec, str):
        return Match(path=spec)
    _known(spec, _MATCH)
    if "exact" in spec and "path" in spec:
        raise ValueError("match: only one of path and exact")
    return Match(
        path=spec.get("exact", spec.get("path", "/")),
        exact="exact" in spec,
        hosts=_texts(spec.get("hosts") or ()),
        methods=_texts(spec.get("methods") or ()),
        headers=tuple((spec.get("headers") or {}).items()),
        json=tuple((spec.get("json") or {}).items()),
    )


def _texts(said: Any) -> tuple[str, ...]:
    if not isinstance(said, list | tuple):
        raise ValueError("must be a list")
    return tuple(said)


def _retries(spec: Mapping[str, Any]) -> Retries:
    return Retries(**{**spec, "on": _texts(spec["on"])} if "on" in spec else spec)


def _mirror(spec: Mapping[str, Any]) -> Mirror:
    return Mirror(**{**spec, "compare": compare_of(spec["compare"])} if "compare" in spec else spec)


def _on_unavailable(spec: str | Mapping[str, Any]) -> OnUnavailable:
    if isinstance(spec, str):
        return OnUnavailable(spec) if spec != "redistribute" else _REDISTRIBUTE
    if list(spec) != ["fallback"]:
        raise ValueError("on_unavailable must be redistribute, fail or {fallback: BACKEND}")
    return OnUnavailable("fallback", spec["fallback"])
