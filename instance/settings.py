"""What can be set for an instance, from where, and what holds if nothing is said?

Each setting is declared once, in `Settings`; its option, its variable of the environment, its help
and its line in the manual are made from that. Options of the command line win over variables of
the environment, which win over what a file gives its server and attributes of the model's class,
which win over the defaults here. None means: as the class says.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from instance.core.batching import Policy
from instance.devices import parse_devices

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB|)")
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SPECS = ("openai-chat", "openai-embeddings", "open-inference")
MIN_QUEUE = 64  # these wait however slow the model is
MAX_QUEUE = 1024
KEY_VARIABLE = "LIT_SERVER_API_KEY"
SHUTDOWN_VARIABLE = "LIT_SHUTDOWN_API_KEY"
VARIABLES = "HEADGATE_INSTANCE_"


def parse_duration(text: str) -> float:
    """Seconds in `2ms`, `0.5s`, `1m` or a bare number of seconds; ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 2ms, 1.5s or 1m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes in `64KiB`, `64MiB` or a bare number; ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write it like 64KiB or 64MiB")
    return int(match[1]) * _BYTES[match[2]]


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{text!r} is no port; use 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must start with /")
    return text


def _spec(text: str) -> str:
    if text not in SPECS:
        raise ValueError(f"{text!r} is no spec; use {', '.join(SPECS)}")
    return text


@dataclass(frozen=True, slots=True)
class Unit:
    """How a value is written: its name in the help, what reads it (ValueError says what is wrong
    with a text), and how a default is shown."""

    name: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str


def _args(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f'{text!r} must be a JSON object, such as {{"weights": "v2.pt"}}')
    return found


TEXT, PORT, PATH, COUNT = (
    Unit("TEXT", str), Unit("PORT", _port), Unit("PATH", _path), Unit("N", _positive),
)  # fmt: skip
SPEC, DEVICES = Unit("SPEC", _spec), Unit("DEVICE,…", parse_devices, ",".join)
DURATION = Unit("DURATION", parse_duration, lambda seconds: f"{seconds:g}s")
SIZE = Unit("SIZE", parse_size, lambda size: f"{size >> 20}MiB")
ARGS = Unit("JSON", _args, json.dumps)
SWITCH = Unit("", bool, lambda is_on: "yes" if is_on else "no")


@dataclass(frozen=True, slots=True)
class Option:
    """A setting as a person gives it."""

    setting: str
    flag: str
    unit: Unit
    help: str
    default: str

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return VARIABLES + self.flag.upper().replace("-", "_")


def _set(default: Any, unit: Unit, help: str, *, shown: str = "", flag: str = "") -> Any:
    """A setting that has an option; `shown` says in words what holds if nothing is said."""
    told = {"unit": unit, "help": help, "default": shown or unit.show(default), "flag": flag}
    return field(default=default, metadata=told)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an instance is started with."""

    model: str
    """`package.module:Name`, `path/to/file.py:Name`, or a file that runs a LitServer."""

    api: int = 0
    """Which of the APIs that a file's server has."""

    arguments: tuple[str, ...] = ()
    """What such a file finds in `sys.argv`, besides its name."""

    args: Mapping[str, Any] | None = _set(
        None, ARGS, "what the class's __init__ gets, by name", shown="nothing"
    )  # fmt: skip
    host: str = _set("127.0.0.1", TEXT, "address to listen on; 0.0.0.0 is every one")
    port: int = _set(8000, PORT, "port to listen on; 0 takes any, the log says which")
    path: str | None = _set(None, PATH, "where clients post", shown="the class's, else /predict")
    spec: str | None = _set(
        None, SPEC, f"the protocol that clients speak: {', '.join(SPECS)}", shown="the class's"
    )
    health_path: str = _set(
        "/health", PATH, "where health is asked for; /health/live and /health/ready stay"
    )
    info_path: str = _set("/info", PATH, "where the model describes itself")
    devices: tuple[str, ...] = _set(
        ("auto",), DEVICES, "cpu, cuda:N, mps or auto; several give a worker each", flag="device"
    )
    workers: int = _set(1, COUNT, "worker processes per device")
    threads: int = _set(
        0, COUNT, "CPU threads of a worker, for torch and BLAS", shown="cores / workers"
    )
    max_batch_size: int | None = _set(
        None, COUNT, "most requests in one predict", shown="the class's, else 1"
    )
    batch_timeout_s: float | None = _set(
        None,
        DURATION,
        "longest time to wait for more requests to fill a batch",
        shown="the class's, else 0",
    )
    target_latency_s: float = _set(
        0.0, DURATION, "batches are kept as small as a predict of at most this long needs",
        shown="none",
    )  # fmt: skip
    max_queue: int | None = _set(
        None, COUNT, "requests that may wait, however long",
        shown=f"as many as --max-wait allows: at least {MIN_QUEUE}, or twice the batch per worker,"
        f" at most {MAX_QUEUE:,}",
    )  # fmt: skip
    max_wait_s: float = _set(
        30.0, DURATION, "longest expected wait with which a request is taken; 0: any"
    )
    max_queue_bytes: int = _set(
        256 << 20, SIZE, "what the bodies of waiting requests may hold together"
    )
    timeout_s: float = _set(
        600.0, DURATION, "longest one predict, or one item of a stream, may take, then its worker"
        " is replaced; 0: for ever; health() has 120s at most",
    )  # fmt: skip
    max_body: int = _set(256 << 20, SIZE, "largest request body")
    stream_idle_s: float = _set(
        120.0, DURATION, "a client that has taken no byte of its answer for this long loses its"
        " connection, whether it is a stream or one piece; one that is slow keeps it; 0: none does",
    )  # fmt: skip
    # A network near by takes bytes faster than a processor saves more of them.
    gzip: bool = _set(
        True, SWITCH, "compress text and JSON of 1,000 bytes or more for clients that accept gzip;"
        " streams never are",
    )  # fmt: skip
    weights_only: bool = _set(
        False, SWITCH, "torch.load reads tensors and nothing else, even where the model says"
        " weights_only=False", shown="the model's choice",
    )  # fmt: skip
    stream: bool | None = _set(None, SWITCH, "send answers item by item", shown="the class's")
    drain_s: float = _set(30.0, DURATION, "after SIGTERM, longest wait for accepted requests")

    shutdown_path: str = ""
    shutdown_key: str = ""
    """Who posts there with this key stops the instance, as SIGTERM does; without a path nobody."""

    documents: bool = True
    """Whether there are /openapi.json and /docs."""

    model_metadata: str = "null"
    """JSON that /info shows of the model."""

    server: str = ""
    """JSON that /info shows of a file's LitServer, as that would, and then no more than that;
    nothing where there is none."""

    gzip_min: int = 1000
    gzip_level: int = 1
    """From how many bytes, and how well, what `gzip` asks for is compressed."""

    keep_alive_s: float = 90.0
    """An idle connection is closed after this; longer than the gateway keeps its own."""

    def attributes(self) -> dict[str, Any]:
        """What to set on the model in place of its class's own attributes."""
        given = {
            "api_path": self.path,
            "max_batch_size": self.max_batch_size,
            "batch_timeout": self.batch_timeout_s,
            "stream": self.stream,
            "spec": self.spec,
        }
        return {name: value for name, value in given.items() if value is not None}

    def worker_devices(self) -> tuple[str, ...]:
        """One device per worker process."""
        return tuple(device for device in self.devices for _ in range(self.workers))

    def worker_threads(self) -> int:
        """CPU threads per worker."""
        return self.threads or max(1, self.cores() // len(self.worker_devices()))

    def cores(self) -> int:
        """CPU cores that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cores or 1

    def queue_policy(self, max_batch_size: int, window_s: float) -> Policy:
        """What the queue keeps to, for a model with batches of `max_batch_size`."""
        sure = max(2 * max_batch_size * len(self.worker_devices()), MIN_QUEUE)
        most = max(sure, MAX_QUEUE)
        if self.max_queue is not None:
            sure = most = self.max_queue
        max_wait_s = self.max_wait_s or inf
        return Policy(max_batch_size, most, window_s, self.max_queue_bytes, sure, max_wait_s)


def options() -> Iterator[Option]:
    """Every setting that has an option, in order."""
    for each in fields(Settings):
        if told := each.metadata:
            flag = told["flag"] or each.name.removesuffix("_s").replace("_", "-")
            yield Option(each.name, flag, told["unit"], told["help"], told["default"])


def is_server_file(model: str) -> bool:
    """Whether `model` names a file and nothing in it."""
    return model.endswith(".py") and ":" not in Path(model).name
