"""What is configured: routes, backends and their instances, at one revision.

A `Table` is an immutable value made from a *document*, the JSON form that the file, the
store, the admin API and the channel to the workers share. Construction validates and fills
in defaults, so that nothing which reads a table has an error path. This module refuses to
know whether anything is alive: health, load and connections belong to the data plane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from gateway.core.units import parse_duration, parse_size

MAX_WEIGHT = 1_000_000
BALANCES = ("least_loaded", "round_robin", "random")
RETRY_REASONS = ("connect_failure", "reset", "timeout")  # and statuses, as "503"
INSTANCE_STATES = ("draining", "disabled")

Document = Mapping[str, Any]


class TableError(ValueError):
    """A document that no table can be made of; `pointer` is the JSON pointer of the fault."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Match:
    """What a client may ask for. `path` is a prefix of whole segments unless `exact`."""

    path: str
    exact: bool = False
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    json: tuple[tuple[str, str | int | float | bool | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Sticky:
    """Where the sticky key is read from: exactly one of a header or a cookie name."""

    header: str | None = None
    cookie: str | None = None


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` counts the first one; `on` names reasons or statuses as text.

    A connection that breaks is tried again by default because a dead instance breaks the
    ones in flight; what may have run by then is only repeated where that is harmless
    (`core.retrying.may_retry`).
    """

    attempts: int = 2
    on: tuple[str, ...] = ("connect_failure", "reset")
    retry_safe: bool = False


@dataclass(frozen=True, slots=True)
class OnUnavailable:
    """`redistribute`, `fail`, or `fallback` with the backend that takes over."""

    policy: str = "redistribute"
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of `percent` % of the requests goes to `backend`."""

    backend: str
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class Route:
    """What a client may ask for and which backends answer it, by weight."""

    name: str
    match: Match
    split: tuple[tuple[str, int], ...]
    rewrite: str | None = None
    sticky: Sticky | None = None
    retries: Retries = Retries()
    on_unavailable: OnUnavailable = OnUnavailable()
    override: bool = False
    mirror: Mirror | None = None
    max_body: int = 64 << 20
    deadline_s: float | None = None

    @property
    def weights(self) -> dict[str, int]:
        return dict(self.split)


@dataclass(frozen=True, slots=True)
class Instance:
    """One configured address. `dns` stands for every address its name resolves to.

    `host` and `port` are where to connect; `state` is "", "draining" or "disabled".
    """

    url: str
    host: str
    port: int
    dns: bool = False
    state: str = ""

    @property
    def address(self) -> str:
        """Its identity, `host:port`; IPv6 hosts are bracketed."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests that wait at the gateway for room at a backend."""

    size: int = 512
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """Active probes: `rise` successes bring an instance in, `fall` failures take it out."""

    path: str = "/health/ready"
    interval_s: float = 1.0
    timeout_s: float = 1.0
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class Eject:
    """Passive evidence: after `failures` in a row, out for `base_s` × n, at most `max_s`."""

    failures: int = 5
    base_s: float = 5.0
    max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """To connect, to the head of the answer, between its parts. There is no total timeout."""

    connect_s: float = 2.0
    response_s: float = 120.0
    idle_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Backend:
    """A named set of interchangeable instances: one model version."""

    name: str
    instances: tuple[Instance, ...] = ()
    serve: Mapping[str, Any] | None = None
    balance: str = "least_loaded"
    max_in_flight: int = 256
    queue: Queue = Queue()
    health: Health = Health()
    eject: Eject = Eject()
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True, slots=True)
class Table:
    """The immutable set of routes and backends, with its revision and its document."""

    revision: int
    routes: Mapping[str, Route]
    backends: Mapping[str, Backend]
    document: Document = field(repr=False, default_factory=dict)

    @classmethod
    def from_document(cls, document: Document, revision: int) -> "Table":
        """The table of `document` with defaults filled in.

        Raises TableError at the first fault that would leave a request without a meaning.
        Friendly, complete validation of what people write is the control plane's; this is
        the last line, so that whatever came through the store or the channel is sound.
        """
        backends = {
            name: _backend(name, spec) for name, spec in (document.get("backends") or {}).items()
        }
        routes = {
            name: _route(name, spec, backends)
            for name, spec in (document.get("routes") or {}).items()
        }
        return cls(revision, routes, backends, document)


EMPTY = Table(0, {}, {}, {"backends": {}, "routes": {}})


def parse_instance(url: str) -> Instance:
    """The instance that `url` names; ValueError says what is wrong with the URL."""
    return _parsed_instance(url)


@lru_cache(1 << 14)  # each edit reads every instance of the table several times over
def _parsed_instance(url: str) -> Instance:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "dns+http"):
        raise ValueError(f"{url!r} must start with http:// or dns+http://")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} must be just a scheme, a host and a port")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ValueError(f"{url!r} must name a host and a port from 1 to 65535")
    return Instance(url, parts.hostname, port, parts.scheme == "dns+http")


def _backend(name: str, spec: Mapping[str, Any]) -> Backend:
    pointer = f"/backends/{name}"
    states = spec.get("states") or {}
    instances = []
    for index, url in enumerate(spec.get("instances") or ()):
        try:
            instance = parse_instance(url)
        except ValueError as error:
            raise TableError(f"{pointer}/instances/{index}", str(error)) from None
        state = states.get(instance.address, "")
        instances.append(replace(instance, state=state) if state else instance)
    queue, health = spec.get("queue") or {}, spec.get("health") or {}
    eject, timeouts = spec.get("eject") or {}, spec.get("timeouts") or {}
    try:
        return Backend(
            name=name,
            instances=tuple(instances),
            serve=spec.get("serve"),
            balance=spec.get("balance", "least_loaded"),
            max_in_flight=spec.get("max_in_flight", 256),
            queue=Queue(**_values(queue, timeout=parse_duration)),
            health=Health(**_values(health, interval=parse_duration, timeout=parse_duration)),
            eject=Eject(**_values(eject, base=parse_duration, max=parse_duration)),
            timeouts=Timeouts(
                **_values(
                    timeouts,
                    connect=parse_duration,
                    response=parse_duration,
                    idle=parse_duration,
                )
            ),
        )
    except (TypeError, ValueError) as error:
        raise TableError(pointer, str(error)) from None


def _values(spec: Mapping[str, Any], **durations: Any) -> dict[str, Any]:
    """`spec` with each duration parsed and named `…_s`."""
    return {
        (f"{key}_s" if key in durations else key): (
            durations[key](value) if key in durations else value
        )
        for key, value in spec.items()
    }


def _route(name: str, spec: Mapping[str, Any], backends: Mapping[str, Backend]) -> Route:
    pointer = f"/routes/{name}"
    split = tuple((spec.get("split") or {}).items())
    if not split:
        raise TableError(f"{pointer}/split", "names no backend")
    for backend, weight in split:
        if backend not in backends:
            raise TableError(f"{pointer}/split/{backend}", "no such backend")
        if type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
            raise TableError(
                f"{pointer}/split/{backend}", f"must be a whole number from 0 to {MAX_WEIGHT}"
            )
    try:
        return Route(
            name=name,
            match=_match(spec["match"]),
            split=split,
            rewrite=spec.get("rewrite"),
            sticky=Sticky(**spec["sticky"]) if spec.get("sticky") else None,
            retries=_retries(spec.get("retries") or {}),
            on_unavailable=_on_unavailable(spec.get("on_unavailable", "redistribute"), backends),
            override=spec.get("override", False),
            mirror=Mirror(**spec["mirror"]) if spec.get("mirror") else None,
            max_body=parse_size(spec["max_body"]) if "max_body" in spec else 64 << 20,
            deadline_s=parse_duration(spec["deadline"]) if "deadline" in spec else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(pointer, str(error)) from None


def _match(spec: str | Mapping[str, Any]) -> Match:
    if isinstance(spec, str):
        return Match(path=spec)
    return Match(
        path=spec.get("exact", spec.get("path", "/")),
        exact="exact" in spec,
        hosts=tuple(spec.get("hosts") or ()),
        methods=tuple(spec.get("methods") or ()),
        headers=tuple((spec.get("headers") or {}).items()),
        json=tuple((spec.get("json") or {}).items()),
    )


def _retries(spec: Mapping[str, Any]) -> Retries:
    on: Sequence[str] = spec.get("on") or Retries().on
    return Retries(spec.get("attempts", 2), tuple(on), spec.get("retry_safe", False))


def _on_unavailable(
    spec: str | Mapping[str, Any], backends: Mapping[str, Backend]
) -> OnUnavailable:
    if isinstance(spec, str):
        return OnUnavailable(spec)
    backend = spec["fallback"]
    if backend not in backends:
        raise ValueError(f"on_unavailable: no such backend {backend!r}")
    return OnUnavailable("fallback", backend)
