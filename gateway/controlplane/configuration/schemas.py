"""What may people write about routes and backends, and what of it is kept?

Models that turn untrusted JSON into the canonical document which `gateway.core.table` reads:
shorthands are expanded, only what was said is kept, and defaults stay unsaid. The field
descriptions are the manual of the file. Whether the parts fit together is `checks`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.answer_schemas import (
    Compression,
    CorsSpec,
    HeaderRulesSpec,
)
from gateway.controlplane.configuration.comparing import CompareSpec
from gateway.controlplane.configuration.fields import (
    Duration,
    HeaderName,
    HeaderValue,
    Host,
    InstanceUrl,
    JsonScalar,
    MatchPath,
    Method,
    Name,
    Path,
    Pause,
    Size,
    Spec,
    Time,
    Variable,
    fault,
    one_of,
    passed_on,
)
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.configuration.upstream_specs import InstanceTlsSpec, SetHeaders
from gateway.core.access import HASH, MOST_HASHES
from gateway.core.entries import (
    ACCESS,
    BALANCES,
    DEVICE,
    INSTANCE_STATES,
    LIMITS,
    MAX_COUNT,
    MAX_JSON_INTEGER,
    MAX_WEIGHT,
    RETRY_REASONS,
    is_retry_reason,
)
from gateway.core.rate_limit import RATE
from gateway.core.units import parse_size

MAX_REPLICAS = 256


def _weight(value: Any) -> Any:
    if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
        raise fault("weight", f"must be a whole number from 0 to {MAX_WEIGHT:,}")
    return value


_SHOWN_WEIGHT = {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT}
Weight = Annotated[Any, AfterValidator(_weight), Shown(_SHOWN_WEIGHT)]


def _said(description: str, **more: Any) -> Any:
    """A field that may be left out and may not be null."""
    return Field(default=None, description=description, **more)


class MatchSpec(Spec):
    """What a client must ask for. All conditions hold; the most specific route wins."""

    path: MatchPath = _said("A prefix of whole path segments.")
    exact: MatchPath = _said("The whole path; instead of `path`.")
    hosts: list[Host] = _said("Any of these; `*.example.com` is every name below.", min_length=1)
    methods: list[Method] = _said("Any of these.", min_length=1)
    headers: dict[HeaderName, HeaderValue] = _said("Header fields with exactly these values.")
    json_fields: dict[str, JsonScalar] = _said(
        "Top-level fields of a JSON body with exactly these values; see `match_body`.",
        alias="json",
    )

    @model_validator(mode="after")
    def _has_one_path(self) -> "MatchSpec":
        if {"path", "exact"} <= self.model_fields_set:
            raise fault("one_of", "must have only one of path and exact")
        return self


def _expanded(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class StickySpec(Spec):
    """Where the key is read from that keeps a client with its backend."""

    header: HeaderName = _said("A request header.")
    cookie: HeaderName = _said("A cookie.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "StickySpec":
        one_of(dict.fromkeys(self.model_fields_set), "header", "cookie")
        return self


def _retry_reason(text: str) -> str:
    if not is_retry_reason(text):
        raise fault(
            "retry_reason", f'must be {", ".join(RETRY_REASONS)} or a status in quotes, like "503"'
        )
    return text


RetryReason = Annotated[
    str,
    AfterValidator(_retry_reason),
    Shown({"type": "string", "pattern": f"^({'|'.join(RETRY_REASONS)}|[45][0-9]{{2}})$"}),
]


class RetriesSpec(Spec):
    """When a request is tried again, on another instance, before any byte was answered."""

    attempts: int = _said("Tries in all, the first included (2).", ge=1, le=10)
    on: list[RetryReason] = _said("What is worth another try ([connect_failure, reset]).")
    retry_safe: bool = _said("Whether running a POST twice does no harm (false).")


class MirrorSpec(Spec):
    """A copy of requests, whose answers the client never sees."""

    backend: Name = Field(description="Who gets the copies.")
    percent: float = _said("How many of 100 requests are copied (100).", ge=0, le=100)
    compare: CompareSpec = _said("How its answers are compared; left out: they are dropped.")


def _on_unavailable(value: Any) -> Any:
    if isinstance(value, Mapping):
        if list(value) == ["fallback"] and isinstance(value["fallback"], str):
            return dict(value)
    elif value in ("redistribute", "fail"):
        return value
    raise fault("on_unavailable", "must be redistribute, fail or {fallback: BACKEND}")


OnUnavailable = Annotated[
    Any,
    AfterValidator(_on_unavailable),
    Shown(
        {
            "anyOf": [
                {"enum": ["redistribute", "fail"]},
                {
                    "type": "object",
                    "properties": {"fallback": {"type": "string"}},
                    "required": ["fallback"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


def _rate(text: str) -> str:
    if not re.fullmatch(RATE, text):
        raise fault("rate", f"{text!r} is no rate; write it like 100/s or 30/m")
    return text


Rate = Annotated[str, AfterValidator(_rate), Shown({"type": "string", "pattern": RATE})]


class LimitsSpec(Spec):
    """How much may be asked, over all workers of the gateway."""

    requests: Rate = _said("At most so many a second or a minute: 100/s, 30/m.")
    burst: int = _said(
        "So many at once after a pause; left out: what comes in a second, at least one.",
        ge=1,
        le=MAX_COUNT,
    )
    in_flight: int = _said("At most so many under way at once.", ge=1, le=MAX_COUNT)

    @model_validator(mode="after")
    def _bursts_at_a_rate(self) -> "LimitsSpec":
        if "burst" in self.model_fields_set and "requests" not in self.model_fields_set:
            raise fault("missing", "a burst needs `requests`")
        return self


class RouteSpec(Spec):
    """What a client may ask for and which backends answer it, by weight."""

    match: Annotated[
        MatchSpec, BeforeValidator(_expanded, json_schema_input_type=MatchPath | MatchSpec)
    ] = Field(description="What a client asks for; a path alone is a prefix.")
    split: dict[Name, Weight] = Field(
        description=f"Backend → weight, a whole number from 0 to {MAX_WEIGHT:,}.", min_length=1
    )
    rewrite: Path = _said(
        "Replaces the matched path; left out: the path goes as it came, or to the model's own "
        "where `serve` starts it and the match leads elsewhere."
    )
    sticky: StickySpec = _said("Keeps a client with its backend.")
    retries: RetriesSpec = _said("When a request is tried again.")
    on_unavailable: OnUnavailable = _said(
        "What becomes of the share of a backend that cannot serve (redistribute)."
    )
    override: bool = _said("Whether the header X-Headgate-Backend may choose the backend (false).")
    mirror: MirrorSpec = _said("Copies requests to another backend.")
    max_body: Size = _said("Largest request body (64MiB).")
    deadline: Duration = _said("When an answer must be complete; left out: never.")
    access: Literal[ACCESS] = _said(  # type: ignore[valid-type]
        "Who may ask: `keys` (whoever has one of `keys`) or `open`; left out: keys, as soon as one"
        " is configured."
    )
    pass_credentials: bool = _said(
        "Whether instances get the header with the client's key (false)."
    )
    limits: LimitsSpec = _said("How much all who ask for it may together.")
    cors: CorsSpec = _said("Which web pages of other origins may ask.")
    headers: HeaderRulesSpec = _said(
        "Headers that are set, added and removed; none that frames a message or belongs to one"
        " connection."
    )
    compress: Compression = _said(
        "Whether JSON and text that instances leave plain is compressed for clients that take it"
        " (false)."
    )


def _device(text: str) -> str:
    if not re.fullmatch(DEVICE, text):
        raise fault("device", f"{text!r} is no device; write cpu, cuda:N, mps or auto")
    return text


Device = Annotated[
    str, AfterValidator(_device), Shown({"type": "string", "pattern": f"^({DEVICE})$"})
]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Devices = Annotated[
    list[Device], BeforeValidator(_listed, json_schema_input_type=Device | list[Device])
]


def _memory(value: Any) -> Any:
    try:
        is_one = isinstance(value, str) and (value == "auto" or parse_size(value) > 0)
    except ValueError:
        is_one = False
    if not is_one:
        raise fault("memory", f"{value!r} is no amount of memory; write auto, or like 8GiB")
    return value


Memory = Annotated[
    Any,
    AfterValidator(_memory),
    Shown({"type": "string", "pattern": "^(auto|[0-9]+(B|KiB|MiB|GiB))$"}),
]


def _variable_value(value: Any) -> Any:
    if isinstance(value, str) and "\0" not in value:
        return value
    if isinstance(value, Mapping) and list(value) == ["env"] and isinstance(value["env"], str):
        return {"env": passed_on(value["env"])}
    raise fault("variable", "must be text in quotes, or {env: NAME}")


VariableValue = Annotated[
    Any,
    AfterValidator(_variable_value),
    Shown(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"env": {"type": "string"}},
                    "required": ["env"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class ScaleSpec(Spec):
    """More replicas while requests wait, fewer after ten quiet minutes."""

    min: int = _said("Never fewer (1).", ge=1, le=MAX_REPLICAS)
    max: int = Field(description="Never more.", ge=1, le=MAX_REPLICAS)
    wait: Duration = _said("How long a request may have to wait (50ms).")

    @model_validator(mode="after")
    def _is_a_range(self) -> "ScaleSpec":
        if (self.min or 1) > self.max:
            raise fault("scale", f"max must be {self.min} or more, as min is")
        return self


class ServeSpec(Spec):
    """How `headgate up` starts the instances of a backend."""

    model: str = Field(description="package.module:Name or path/to/file.py:Name.", min_length=1)
    devices: Devices = _said(
        "cpu, cuda:N, mps or auto; one worker process each. Or just auto: each replica gets the"
        " GPU with most room, or the CPU where there is none.",
        min_length=1,
    )
    memory: Memory = _said(
        "What a replica takes of its device (8GiB), or auto: measured when it was loaded on a GPU."
        " What is said is counted, and two that do not fit are not put on one device. In a cluster"
        " (`--on ray`) it is memory of the host."
    )
    gpus: int = _said(
        "In a cluster (`--on ray`): GPUs of a replica (0). On one machine `devices` says which.",
        ge=0,
        le=64,
    )
    cpus: int = _said(
        "In a cluster (`--on ray`): CPUs that are kept for a replica (1), and its `threads`.",
        ge=1,
        le=1024,
    )
    python: str = _said(
        "The interpreter that runs the instances, like /opt/venv/bin/python (the gateway's own).",
        min_length=1,
    )
    start: Literal["boot", "demand"] = _said(
        "When it is started: with the gateway (boot), or by the first request (demand)."
    )
    idle: Duration = _said(
        "After how long without a request it is unloaded; left out: never, but for another model"
        " that needs the room. Needs `start: demand`."
    )
    args: dict[str, Any] = _said("What the class's `__init__` gets, by name.")
    env: dict[Variable, VariableValue] = _said(
        "Variables of its environment: a text, or {env: NAME} for one that `headgate up` has."
    )
    replicas: int = _said(
        "How many instances (as many as `instances` has, or 1). Those without an address in"
        " `instances` get a port that is free.",
        ge=1,
        le=MAX_REPLICAS,
    )
    scale: ScaleSpec = _said(
        "How many replicas, by the load: `replicas` is written for it then, from `min` on."
    )
    threads: int = _said(
        "CPU threads of a worker process (a fair part of all CPUs).", ge=1, le=1024
    )
    generation: int = _said(
        "Another number asks for new processes of the same version; `headgate reload` counts it"
        " up.",
        ge=1,
        le=MAX_JSON_INTEGER,
    )
    path: Path = _said("Where the instance answers (its class's api_path, or /predict).")
    workers: int = _said("Worker processes per device (1).", ge=1, le=256)
    max_batch_size: int = _said("Most inputs in one batch.", ge=1, le=MAX_COUNT)
    batch_timeout: Pause = _said("Longest time to wait for more requests to fill a batch.")
    max_queue: int = _said("Most requests that wait in the instance.", ge=1, le=MAX_COUNT)
    timeout: Duration = _said("How long one prediction may take.")

    @model_validator(mode="after")
    def _idles_on_demand(self) -> "ServeSpec":
        if "idle" in self.model_fields_set and self.start != "demand":
            raise fault(
                "idle", "idle needs `start: demand`: nothing else starts it again once unloaded"
            )
        return self


class QueueSpec(Spec):
    """Requests that wait at the gateway for room at the backend."""

    size: int = _said("Most requests that wait (512).", ge=0, le=MAX_COUNT)
    timeout: Duration = _said("How long one waits (5s).")


class HealthSpec(Spec):
    """How the instances are probed."""

    path: Path = _said("What is asked for (/health/ready).")
    interval: Duration = _said("Between two probes (1s).")
    timeout: Duration = _said("How long a probe may take (1s).")
    rise: int = _said("Good probes that bring an instance in (2).", ge=1, le=100)
    fall: int = _said("Bad probes that take it out (3).", ge=1, le=100)


class EjectSpec(Spec):
    """When failed requests alone take an instance out for a while."""

    failures: int = _said("Failures in a row (5).", ge=1, le=MAX_COUNT)
    base: Duration = _said("For how long, times the ejections in a row (5s).")
    max: Duration = _said("For how long at most (60s).")


class TimeoutsSpec(Spec):
    """How long the gateway waits for an instance. There is no total timeout."""

    connect: Duration = _said("To connect (2s).")
    response: Duration = _said("To the head of the answer (120s).")
    idle: Duration = _said("Between two parts of the answer (300s).")


class BackendSpec(Spec):
    """A named set of interchangeable instances: one model version."""

    instances: list[InstanceUrl] = _said(
        "http://host:port or https://host:port; dns+ before it for every address behind a name;"
        " fleet://NAME for those that a fleet has under its name. With `serve` it may be left out:"
        " a port is chosen."
    )
    states: dict[str, Literal[INSTANCE_STATES]] = _said(  # type: ignore[valid-type]
        "host:port → draining or disabled."
    )
    placed: list[InstanceUrl] = _said(
        "Where `headgate up` has the instances, while that is not where `instances` says. It writes"
        " this itself; of what a file says here nothing is kept."
    )
    serve: ServeSpec = _said("How `headgate up` starts the instances.")
    balance: Literal[BALANCES] = _said(  # type: ignore[valid-type]
        "How an instance is chosen (least_loaded)."
    )
    max_in_flight: int = _said(
        "Requests per instance; beyond it they queue (256).", ge=1, le=MAX_COUNT
    )
    limit: Literal[LIMITS] = _said(  # type: ignore[valid-type]
        "What holds requests back before that: what an instance reports or shows that it can"
        " compute at once (learned), or nothing (fixed)."
    )
    queue: QueueSpec = _said("Who waits for room.")
    health: HealthSpec = _said("How the instances are probed.")
    eject: EjectSpec = _said("When failed requests take an instance out.")
    timeouts: TimeoutsSpec = _said("How long the gateway waits for an instance.")
    tls: InstanceTlsSpec = _said("How instances at https:// are met, and by which certificates.")
    headers: SetHeaders = _said(
        "Header fields that are set on all requests to the instances, probes too: a text, or"
        " {env: NAME} or {file: PATH} for what is not to be written down."
    )


def _hash(text: str) -> str:
    if not re.fullmatch(HASH, text):
        raise fault("hash", "is sha256: and 64 hexadecimal digits, as `headgate key add` makes it")
    return text


Hash = Annotated[str, AfterValidator(_hash), Shown({"type": "string", "pattern": HASH})]


class KeySpec(Spec):
    """A consumer: the name behind a client's key. The key itself is nowhere."""

    hashes: list[Hash] = Field(
        description="SHA-256 of its key, or of several while one takes another's place.",
        min_length=1,
        max_length=MOST_HASHES,
    )
    routes: list[Name] = _said("The routes that it opens; left out: all.")
    expires: Time = _said("When it opens nothing any more; left out: never.")
    limits: LimitsSpec = _said("How much it may; left out: what `default_limits` says.")


class File(Spec):
    """A Headgate configuration file."""

    gateway: Settings = _said("How the gateway itself is set up; read at start.")
    backends: dict[Name, BackendSpec] = _said("Model versions and where their instances are.")
    routes: dict[Name, RouteSpec] = _said("What clients may ask for, and who answers.")
    keys: dict[Name, KeySpec] = _said("Who may ask, by name.", min_length=1)
    default_limits: LimitsSpec = _said("How much each key may that has no limits of its own.")
