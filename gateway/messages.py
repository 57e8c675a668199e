"""What do the control process and a worker say to each other?

One channel per worker, opened by the worker; each message is one JSON object with a `type`.
Tables and health go down, observations come up. Both planes import these shapes and
neither imports the other. Nothing here blocks a request: a worker that has lost its channel
serves on with what it knows and opens the channel again.

Down: configure, table, endpoints, health, documents, loads, ejections, failures, scrape, relieved.
Up:   hello, applied, listening, leaving, signals, loads, ejections, failures, metrics.
"""

from typing import Any, Literal, NotRequired, TypedDict


class Hello(TypedDict):
    """First up: who this worker is, the revision it serves (0: none yet), and whether it
    accepts connections or was told to go already (`listening`, `leaving`)."""

    type: Literal["hello"]
    slot: int
    pid: int
    revision: int
    listening: bool
    leaving: bool


class Configure(TypedDict):
    """First down: the data plane's settings (`gateway.settings.Settings.dataplane`)."""

    type: Literal["configure"]
    settings: dict[str, Any]


class TableMessage(TypedDict):
    """A table to serve from now on; answered by `applied` once no new request is decided
    by the one before."""

    type: Literal["table"]
    revision: int
    document: dict[str, Any]
    endpoints: dict[str, dict[str, list[str]]]


class Applied(TypedDict):
    """The revision by which every new request of this worker is decided.

    `error` is set, and the revision is the old one, when the table could not be used.
    """

    type: Literal["applied"]
    revision: int
    error: NotRequired[str]


class Listening(TypedDict):
    """This worker accepts connections."""

    type: Literal["listening"]


class Leaving(TypedDict):
    """This worker was told to go. It accepts connections until it is `relieved`."""

    type: Literal["leaving"]


class Relieved(TypedDict):
    """The answer to `leaving`: another worker accepts connections in this one's place, or
    nobody shall."""

    type: Literal["relieved"]


class Endpoints(TypedDict):
    """Resolved names: backend → configured URL → the IP addresses behind its name.

    Workers never resolve names. A `dns+http` URL is one instance per IP address
    (`ip:port`); any other name is one instance, connected to at the first address.
    An IP literal needs no entry. The last known addresses stand while resolution fails.
    """

    type: Literal["endpoints"]
    endpoints: dict[str, dict[str, list[str]]]


HealthWord = Literal["starting", "up", "failing", "down"]
"""What the probes say of an instance.

starting: never ready since it was added or since its process was last seen gone; gets nothing.
up:       ready.
failing:  was ready, connects, but its probes fail; used only when no instance is up (fail open).
down:     cannot be connected to; gets nothing.
"""


class HealthMessage(TypedDict):
    """Backend → address → what the probes say; whole each time. Missing means starting."""

    type: Literal["health"]
    instances: dict[str, dict[str, HealthWord]]


class Signals(TypedDict):
    """Passive evidence that this worker saw: [backend, address, signal] in order; a signal is
    `connect_failure`, `reset`, `timeout`, `broken_head`, `gateway_error` or `success`
    (the first after a failure only)."""

    type: Literal["signals"]
    signals: list[tuple[str, str, str]]


class Ejections(TypedDict):
    """[backend, address, seconds left, times in a row]: up from the worker that ejected;
    down to all others, which follow it. 0 seconds: back in."""

    type: Literal["ejections"]
    ejections: list[tuple[str, str, float, int]]


class Failures(TypedDict):
    """[backend, address, failed answers in a row, whether a good one came before them]: up from
    the worker that saw them; down to all others, which count them as their own."""

    type: Literal["failures"]
    failures: list[tuple[str, str, int, bool]]


class LoadReport(TypedDict):
    """An instance's ORCA report as last read, and the in-flight count of one worker."""

    queue: float
    running: float
    slots: float
    wait_ms: float


class Loads(TypedDict):
    """Up: this worker's in-flight counts, backend → address → count, at most 4 a second and
    only when they changed. Down: the sums over all *other* workers."""

    type: Literal["loads"]
    in_flight: dict[str, dict[str, int]]


class Documents(TypedDict):
    """What workers serve below `/-/` of their own: path → [content type, text]. Whole each
    time; the documents change with the table and with what instances say of themselves."""

    type: Literal["documents"]
    documents: dict[str, tuple[str, str]]


class Scrape(TypedDict):
    """Asks for `metrics`, answered with the same id."""

    type: Literal["scrape"]
    id: int


class Histogram(TypedDict):
    """`bounds` are upper bounds in seconds; each series holds one count per bound and one
    more for +Inf, not cumulated, and the sum of what was observed."""

    bounds: list[float]
    series: list[tuple[list[str], list[int], float]]


class Metrics(TypedDict):
    """All counters of this worker since it started; labels in the contract's order.

    `in_flight`, `queue_depth` are gauges. `live` is per backend and address what only the
    worker knows: {"in_flight": n, "report": LoadReport | null, "ejected_s": seconds left}; the
    report is null where there was none lately.
    """

    type: Literal["metrics"]
    id: int
    revision: int
    requests: list[tuple[list[str], int]]
    request_seconds: Histogram
    first_byte_seconds: Histogram
    overhead_seconds: Histogram
    retries: list[tuple[list[str], int]]
    retries_denied: int
    ejections: list[tuple[list[str], int]]
    in_flight: list[tuple[list[str], int]]
    queue_depth: list[tuple[list[str], int]]
    live: dict[str, dict[str, dict[str, Any]]]
