"""What the control process and a worker say to each other.

One channel per worker, opened by the worker; each message is one JSON object with a `type`.
Tables and health go down, observations come up. Both planes import these shapes and
neither imports the other. Nothing here blocks a request: a worker that has lost its channel
serves on with what it knows and opens the channel again.

Counters are in no message: they are in memory that both sides see (`gateway.telemetry.book`). Nor
is the load of instances, which workers tell each other (`gateway.dataplane.load_memory`). What the
supervisor and the control process say to each other is in `gateway.wire.line`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

Seen: TypeAlias = tuple[str, float, str, str]
Signals: TypeAlias = Sequence[Seen]
"""What was seen of instances: [backend, monotonic seconds, address, signal]."""

Endpoints: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]
"""Backend → configured URL → the IP addresses behind its name."""


class Hello(TypedDict):
    """First up: who this worker is, the revision it serves (0: none yet), whether it accepts
    connections or was told to go already (`listening`, `leaving`), and what it saw since it last
    heard of a control process (as in Evidence)."""

    type: Literal["hello"]
    slot: int
    pid: int
    revision: int
    listening: bool
    leaving: bool
    signals: Signals


class Configure(TypedDict):
    """First down: the data plane's settings (`configuration.settings.Settings.dataplane`)."""

    type: Literal["configure"]
    settings: Mapping[str, Any]


class TableMessage(TypedDict):
    """One part of a table to serve from now on; the last one (`more` is false) is answered by
    `applied` once no new request is decided by the table before.

    `put` and `removed` are by section, as in `gateway.core.deltas.Delta`: what differs from
    revision `base`, or, where that is null, all there is, in the order of declaration, backends
    first. `part` counts from 0. `endpoints` come with the last part of a whole table, and with each
    what is known of the health of those of its backends that changed: between the table and that
    knowledge a request would find nobody at a backend whose instances are all new.
    """

    type: Literal["table"]
    revision: int
    base: int | None
    part: int
    more: bool
    put: Mapping[str, Mapping[str, Any]]
    removed: Mapping[str, Sequence[str]]
    endpoints: NotRequired[Endpoints]
    health: NotRequired[Sequence["HealthMessage"]]


class Applied(TypedDict):
    """The revision by which every new request of this worker is decided.

    `error` is set, and the revision is the old one, when the table could not be used: it is sent
    again, whole.
    """

    type: Literal["applied"]
    revision: int
    error: NotRequired[str]


class Taking(TypedDict):
    """So many parts of a table were taken: a large one takes its time, and nobody is stuck."""

    type: Literal["taking"]
    part: int


class Listening(TypedDict):
    """The worker accepts connections."""

    type: Literal["listening"]


class Leaving(TypedDict):
    """The worker was told to go. It accepts connections until it has `handed_over`."""

    type: Literal["leaving"]


class HandedOver(TypedDict):
    """The answer to `leaving`: another worker accepts connections in this one's place, or
    nobody shall."""

    type: Literal["handed_over"]


HAND_OVER_S = 10.0
"""What a successor may take to start before the worker that leaves stops to accept all the same."""


class Reopen(TypedDict):
    """Opens the access log anew: it was moved away."""

    type: Literal["reopen"]


class EndpointsMessage(TypedDict):
    """Resolved names.

    Workers never resolve names. A `dns+http` URL is one instance per IP address
    (`ip:port`); any other name is one instance, connected to at the first address that can be.
    An IP literal needs no entry. The last known addresses stand while resolution fails.
    """

    type: Literal["endpoints"]
    endpoints: Endpoints


class HealthMessage(TypedDict):
    """What the control process knows of the instances of some backends, for a worker that comes,
    and with a table that changed them: backend → address → the fields of
    `gateway.core.health.HealthState` as of some time ago, and the signals that came since. An
    address that a backend lacks means starting."""

    type: Literal["health"]
    states: dict[str, Mapping[str, Sequence[Any]]]
    signals: list[tuple[str, float, str, str]]


class Evidence(TypedDict):
    """What was seen of instances and changes what is known of them. Up from the worker that saw
    it; down to all others, and what the probes saw. Everybody replays it by
    `gateway.core.evidence`."""

    type: Literal["evidence"]
    signals: Signals


class LoadReport(TypedDict):
    """An instance's ORCA report as last read."""

    queue: float
    running: float
    slots: float
    wait_ms: float


class Documents(TypedDict):
    """A piece of one of the documents that workers serve below `/-/` of their own, the next one
    of the same document while there is `more`. They change with the table and with what
    instances say of themselves."""

    type: Literal["documents"]
    path: str
    content_type: str
    text: str
    more: bool


class Welcome(TypedDict):
    """All that is known was told: whoever has only begun accepts connections from now on. Before
    that it would refuse what others answer, for it knows of no instance that it is up."""

    type: Literal["welcome"]


class Served(TypedDict):
    """Backend → the path at which its model answers, of those that `serve` starts and that said
    so: where a route names no rewrite (`core.served`). Whole each time."""

    type: Literal["served"]
    paths: Mapping[str, str]


class Demand(TypedDict):
    """Of the backends that start on demand, for how many seconds each loads (0: not known), and
    whether it cannot be loaded. Whole each time."""

    type: Literal["demand"]
    backends: Mapping[str, tuple[float, bool]]


class Asked(TypedDict):
    """Backends that start on demand, and that requests wait for."""

    type: Literal["asked"]
    backends: Sequence[str]


class Lease(TypedDict):
    """Until when (monotonic seconds, which all processes of a machine share) this gateway is one of
    those that edits wait for, whether it ever `was`, and how many there are. Only where several
    share a table."""

    type: Literal["lease"]
    until: float
    was: bool
    gateways: int


class Look(TypedDict):
    """Asks a worker to count what has ended and to say what is live: `observed` with this id
    comes when both is done. Load reports are said only where `reports` asks for them."""

    type: Literal["look"]
    id: int
    reports: bool


class Observed(TypedDict):
    """What is live in this worker, as far as it differs from what it said before on this
    channel: backend → address → requests in flight, and the concurrency limit that was learned
    and holds requests back, backend → requests waiting, backend → address → the load report, null
    where there is none lately. What is not there any more is 0
    or null. `id` is 0 where nobody asked."""

    type: Literal["observed"]
    id: int
    in_flight: dict[str, dict[str, int]]
    limits: dict[str, dict[str, int]]
    queue_depth: dict[str, int]
    reports: dict[str, dict[str, LoadReport | None]]


class Retire(TypedDict):
    """What is gone for good, as [route, name], [backend, name] or [instance, backend, address] with
    the kind as a word: what was counted at them is from now on counted under `name`, all together.
    """

    type: Literal["retire"]
    gone: Sequence[tuple[str, ...]]
    name: str
    more: bool


class Judging(TypedDict):
    """What a worker does for the rollout `id` of a route: it tells the requests that fall to
    backend `to` from those that fall to others. An answer after `slow_s` (0: not known) is slow;
    while `warming`, those of `to` are counted and nothing else is. At the JSON pointer `field` of
    an answer, where there is one, is what was predicted; numbers are told apart by `edges`."""

    id: str
    to: str
    slow_s: float
    warming: bool
    field: str
    edges: Sequence[float]


class Rollouts(TypedDict):
    """The rollouts there are, by route. Whole each time."""

    type: Literal["rollouts"]
    routes: Mapping[str, Judging]


class JudgedMessage(TypedDict):
    """What the worker of that name counted for the rollout `id` since it began, when it changed
    (`gateway.dataplane.judge`); one that begins again has another name: the canary's share as
    `weight/all` → first attempts that ended, failed, were timed, were slow, of the canary and then
    of the others; the others' answers by bucket of their time; the canary's requests while it was
    warming; share → how many the canary refused as busy, and the others, which are in no other
    count; told once on each channel, guard → hash of a sticky key that had its first event, the
    share, 0 for the canary's arm, and the kind of answer where that is the event; kind of answer →
    share → how many of the canary and of the others; and some numbers that the others answered
    since the last report."""

    type: Literal["judged"]
    id: str
    worker: str
    counts: Mapping[str, Sequence[int]]
    times: Mapping[str, int]
    warmed: int
    refused: Mapping[str, Sequence[int]]
    keys: Mapping[str, Sequence[tuple[int, str, int, str]]]
    answers: Mapping[str, Mapping[str, Sequence[int]]]
    numbers: Sequence[float]


ToWorker: TypeAlias = (
    Configure | Served | Demand | Rollouts | TableMessage | EndpointsMessage | HealthMessage
    | Evidence | Documents | Welcome | Lease | Look | Retire | Reopen | HandedOver
)  # fmt: skip
FromWorker: TypeAlias = (
    Hello | Taking | Applied | Listening | Leaving | Evidence | Asked | Observed | JudgedMessage
)
