"""What may one route, one backend and their parts say?

Values that validate themselves at construction: whoever holds one need not ask again. Which
backend a route may name, and what is written where nothing was said, is `table`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gateway.core.comparing import Compare
from gateway.core.compressing import Compress
from gateway.core.cors import Cors
from gateway.core.credentials import SetHeader, Tls
from gateway.core.header_fields import is_header_value, is_token
from gateway.core.header_rules import HeaderRules
from gateway.core.targets import normalise_host

MAX_WEIGHT = 1_000_000
MAX_COUNT = 1_000_000
MAX_RATE = 9_999_999
MAX_SECONDS = 366 * 86400.0
MAX_BYTES = 1 << 50
MAX_JSON_INTEGER = 2**53 - 1  # beyond it programs disagree about which number it is (RFC 7493)
BALANCES = ("least_loaded", "round_robin", "random")
RETRY_REASONS = ("connect_failure", "reset", "timeout")  # and statuses, as "503"
LIMITS = ("learned", "fixed")
INSTANCE_STATES = ("draining", "disabled")
ACCESS = ("keys", "open")
UNAVAILABLE = ("redistribute", "fail", "fallback")

NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"
METHOD = r"^[A-Z][A-Z0-9_-]{0,31}$"
DEVICE = r"cpu|mps|auto|cuda(:[0-9]+)?"
_PATH = re.compile(r"/[!$&'()*+,;=:@%A-Za-z0-9._~/-]*")
_HALF_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_name(text: Any) -> bool:
    """Whether a route or a backend may be called `text`."""
    return is_token(text, NAME, 128)


def is_path(text: Any) -> bool:
    """Whether `text` is a path as a URL may have it: nothing left to encode, no query, no dots."""
    return (
        isinstance(text, str)
        and _PATH.fullmatch(text) is not None
        and len(text) <= 2048
        and not ("%" in text and _HALF_ENCODED.search(text))
        and not ("/." in text and {".", ".."} & set(text.split("/")))
    )


def is_retry_reason(text: Any) -> bool:
    """Whether `text` is a reason for another try, or a status that is one."""
    return text in RETRY_REASONS or (
        isinstance(text, str) and re.fullmatch(r"[45][0-9]{2}", text) is not None
    )


def is_json_scalar(value: Any) -> bool:
    """Whether a condition on a JSON field may ask for `value`."""
    if type(value) is int:
        return abs(value) <= MAX_JSON_INTEGER
    return value is None or type(value) in (str, bool) or (type(value) is float and isfinite(value))


def _require(is_so: bool, detail: str) -> None:
    if not is_so:
        raise ValueError(detail)


def _whole(key: str, value: Any, minimum: int, maximum: int = MAX_COUNT) -> None:
    fits = type(value) is int and minimum <= value <= maximum
    _require(fits, f"{key} must be a whole number from {minimum} to {maximum:,}")


def _seconds(**durations: float) -> None:
    for key, value in durations.items():
        _require(0 < value <= MAX_SECONDS, f"{key} must be longer than 0, and a year at most")


def _truth(key: str, value: Any) -> None:
    _require(type(value) is bool, f"{key} must be true or false")


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `requests` in `per_s` seconds after a `burst`, and `in_flight` at once; None: any."""

    requests: int | None = None
    per_s: float = 1.0
    burst: int = 1
    in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.requests is not None:
            _whole("limits: requests", self.requests, 1, MAX_RATE)
        _whole("limits: burst", self.burst, 1)
        if self.in_flight is not None:
            _whole("limits: in_flight", self.in_flight, 1)

    @property
    def emission_s(self) -> float:
        """The time between two requests at the rate."""
        return self.per_s / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """What a client may ask for. `path` is a prefix of whole segments unless `exact`."""

    path: str
    exact: bool = False
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    json: tuple[tuple[str, str | int | float | bool | None], ...] = ()

    def __post_init__(self) -> None:
        _require(is_path(self.path), "match: the path is no path")
        _require(self.path != "/-" and self.path[:3] != "/-/", "match: /-/ is the gateway's own")
        _truth("exact", self.exact)
        for host in self.hosts:
            normalise_host(host.removeprefix("*."))
        methods = all(is_token(method, METHOD) for method in self.methods)
        _require(methods, "match: methods are in capitals")
        headers = all(is_token(name) and is_header_value(value) for name, value in self.headers)
        _require(headers, "match: a header has a name and a value of one line")
        fields = all(isinstance(n, str) and is_json_scalar(value) for n, value in self.json)
        _require(fields, "match: a JSON field has a text, number, true, false or null")


@dataclass(frozen=True, slots=True)
class Sticky:
    """Where the sticky key is read from: exactly one of a header or a cookie name."""

    header: str | None = None
    cookie: str | None = None

    def __post_init__(self) -> None:
        named = [each for each in (self.header, self.cookie) if each is not None]
        fits = len(named) == 1 and is_token(named[0])
        _require(fits, "sticky: names one header or one cookie")


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

    def __post_init__(self) -> None:
        _whole("retries: attempts", self.attempts, 1, 10)
        _require(all(map(is_retry_reason, self.on)), "retries: unknown reason for another try")
        _truth("retries: retry_safe", self.retry_safe)


@dataclass(frozen=True, slots=True)
class OnUnavailable:
    """`redistribute`, `fail`, or `fallback` with the backend that takes over."""

    policy: str = "redistribute"
    backend: str | None = None

    def __post_init__(self) -> None:
        fits = self.policy in UNAVAILABLE and (self.policy == "fallback") == bool(self.backend)
        _require(fits, "on_unavailable must be redistribute, fail or {fallback: BACKEND}")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of `percent` % of the requests goes to `backend`; `compare` says how its answers are
    compared, None where they are dropped."""

    backend: str
    percent: float = 100.0
    compare: Compare | None = None

    def __post_init__(self) -> None:
        is_number = type(self.percent) in (int, float)
        _require(is_number and 0 <= self.percent <= 100, "mirror: percent must be from 0 to 100")


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
    access: str = ""
    pass_credentials: bool = False
    limits: Limits | None = None
    cors: Cors | None = None
    headers: HeaderRules | None = None
    compress: Compress | None = None

    @property
    def weights(self) -> dict[str, int]:
        return dict(self.split)

    @property
    def backends(self) -> list[str]:
        """The backends that have a share of its requests."""
        return [name for name, weight in self.split if weight]

    @property
    def names(self) -> list[str]:
        """Every backend that this route names."""
        named = [name for name, _ in self.split]
        if self.on_unavailable.backend is not None:
            named.append(self.on_unavailable.backend)
        return [*named, self.mirror.backend] if self.mirror is not None else named

    def __post_init__(self) -> None:
        _require(self.rewrite is None or is_path(self.rewrite), "rewrite is no path")
        _truth("override", self.override)
        _require(0 <= self.max_body <= MAX_BYTES, "max_body must be a pebibyte at most")
        if self.deadline_s is not None:
            _seconds(deadline=self.deadline_s)
        _require(self.access in ("", *ACCESS), f"access must be one of {', '.join(ACCESS)}")
        _truth("pass_credentials", self.pass_credentials)


@dataclass(frozen=True, slots=True)
class Instance:
    """One configured address. `dns` stands for every address its name resolves to.

    `host` and `port` are where to connect, by TLS if `secure`; `state` is "", "draining" or
    "disabled". With `fleet` it stands for the addresses that a fleet has under the name `host`,
    ports and all.
    """

    url: str
    host: str
    port: int
    dns: bool = False
    state: str = ""
    secure: bool = False
    fleet: bool = False

    @property
    def address(self) -> str:
        """The identity, `host:port`; IPv6 hosts are bracketed. Of a fleet's, its name."""
        if self.fleet:
            return self.url
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests that wait at the gateway for room at a backend."""

    size: int = 512
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        _whole("queue: size", self.size, 0)
        _seconds(timeout=self.timeout_s)


@dataclass(frozen=True, slots=True)
class Health:
    """Active probes: `rise` successes bring an instance in, `fall` failures take it out."""

    path: str = "/health/ready"
    interval_s: float = 1.0
    timeout_s: float = 1.0
    rise: int = 2
    fall: int = 3

    def __post_init__(self) -> None:
        _require(is_path(self.path), "health: the path is no path")
        _seconds(interval=self.interval_s, timeout=self.timeout_s)
        _whole("health: rise", self.rise, 1, 100)
        _whole("health: fall", self.fall, 1, 100)


@dataclass(frozen=True, slots=True)
class Eject:
    """Passive evidence: after `failures` in a row, out for `base_s` × n, at most `max_s`."""

    failures: int = 5
    base_s: float = 5.0
    max_s: float = 60.0

    def __post_init__(self) -> None:
        _whole("eject: failures", self.failures, 1)
        _seconds(base=self.base_s, max=self.max_s)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """To connect, to the head of the answer, between its parts. There is no total timeout."""

    connect_s: float = 2.0
    response_s: float = 120.0
    idle_s: float = 300.0

    def __post_init__(self) -> None:
        _seconds(connect=self.connect_s, response=self.response_s, idle=self.idle_s)


@dataclass(frozen=True, slots=True)
class Backend:
    """A named set of interchangeable instances: one model version."""

    name: str
    instances: tuple[Instance, ...] = ()
    serve: Mapping[str, Any] | None = None
    balance: str = "least_loaded"
    max_in_flight: int = 256
    limit: str = "learned"
    queue: Queue = Queue()
    health: Health = Health()
    eject: Eject = Eject()
    timeouts: Timeouts = Timeouts()
    tls: Tls | None = None
    headers: tuple[SetHeader, ...] = ()

    @property
    def on_demand(self) -> bool:
        """Whether the first request has it started, by the fleet that says where it is then."""
        is_asked = self.serve is not None and self.serve.get("start") == "demand"
        return is_asked and any(each.fleet for each in self.instances)

    @property
    def is_to_be_placed(self) -> bool:
        """Whether it runs, and the fleet that starts it says where."""
        is_asked = self.serve is not None and self.serve.get("replicas") != 0
        return is_asked and any(each.fleet for each in self.instances)

    def __post_init__(self) -> None:
        _require(self.balance in BALANCES, f"balance must be one of {', '.join(BALANCES)}")
        _require(self.limit in LIMITS, f"limit must be one of {', '.join(LIMITS)}")
        _whole("max_in_flight", self.max_in_flight, 1)
