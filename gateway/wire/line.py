"""What the supervisor and a control process say to each other.

On a *line*, a channel over a socket pair. The supervisor tells which processes there are; the
control process tells when the gateway serves, and which workers are to be replaced. Below
`headgate up` it also tells what is to be served, and hears which instances run. Also what the
supervisor starts both kinds of process with, as JSON in their one argument.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from gateway.wire.messages import Reopen


class ControlStart(TypedDict):
    """`file` is the supervisor's own copy of the file that is called `name`; `listen` is the data
    plane's address, as it was bound, and `directory` the gateway's private one; `again`: the
    gateway was ready before, and `late` says whether the file was still to be applied then.
    `began` is when (monotonic seconds) the process was started.
    `before_fd`: where the workers of the gateway that this one follows
    open their channels, while there are any. `placed`: backend → the URLs of the processes that
    were started for it; null where nobody starts any."""

    file: str
    name: str
    state_dir: str
    listen: str
    directory: str
    admin_fd: int
    channels_fd: int
    before_fd: int | None
    line_fd: int
    state_fd: int | None
    counters_fd: int
    certificates_fd: int
    workers: int
    again: bool
    late: bool
    began: float
    placed: Mapping[str, Sequence[str]] | None


class CompareStart(TypedDict):
    """What the compare process is started with: the socket at which it listens."""

    fd: int


class WorkerStart(TypedDict):
    """`channel` is the path at which to open one, `compare` that at which pairs of answers are
    taken; `permits_fd` and `counters_fd` are memory that
    all workers share, and `certificates_fd` is where their last certificate is kept."""

    slot: int
    data_fds: Sequence[int]
    permits_fd: int
    counters_fd: int
    certificates_fd: int
    channel: str
    compare: str


class WorkersMessage(TypedDict):
    """The process in each slot, null where there is none now; those that leave and have a
    successor; and whether all shall go. Whenever one of these changes."""

    type: Literal["workers"]
    pids: Sequence[int | None]
    leaving: Sequence[int]
    stopping: bool


class Dropped(TypedDict):
    """How many lines of the supervisor's own were dropped, nobody having read them."""

    type: Literal["dropped"]
    lines: int


class Reload(TypedDict):
    """Reads the file again, as `headgate apply` would, and opens the logs anew."""

    type: Literal["reload"]


class Ready(TypedDict):
    """Every worker serves the first table. `notes` are lines worth knowing about this start,
    `token` one that was made for it, `routes` paths and where each leads."""

    type: Literal["ready"]
    notes: Sequence[str]
    token: str | None
    routes: Sequence[tuple[str, str]]


class Late(TypedDict):
    """Whether the file of the start is still to be applied: a store that is shared was away."""

    type: Literal["late"]
    late: bool


class Replace(TypedDict):
    """A worker process no longer answers."""

    type: Literal["replace"]
    pid: int


class Leaving(TypedDict):
    """A worker process was told to go: it gets its successor while it finishes what it has."""

    type: Literal["leaving"]
    pid: int


class Serves(TypedDict):
    """The backends with `serve` of the table that is in force, as they are in its document. First
    of all, after each edit, and as the answer to each `place`. `out`: backend → those of its
    addresses that get no requests now, as they are not well."""

    type: Literal["serves"]
    revision: int
    backends: Mapping[str, Mapping[str, Any]]
    out: NotRequired[Mapping[str, Sequence[str]]]


class Place(TypedDict):
    """Makes `urls` the instances of a backend, unless it asks for another `version` by now. They
    are ready."""

    type: Literal["place"]
    backend: str
    version: str
    urls: Sequence[str]


class AskLogs(TypedDict):
    """Asks for the last `lines` lines that instances of a backend wrote, of those whose number is
    above `after`; `logs` with this id is the answer."""

    type: Literal["ask_logs"]
    id: int
    backend: str
    after: int
    lines: int


class Logs(TypedDict):
    """Lines as (number, address, text), the oldest first. Numbers count up for each backend."""

    type: Literal["logs"]
    id: int
    lines: Sequence[tuple[int, str, str]]


class Restart(TypedDict):
    """Ends each instance of a backend and starts it again where it is, one after the other."""

    type: Literal["restart"]
    backend: str


class Wake(TypedDict):
    """A request waits for a backend that starts on demand."""

    type: Literal["wake"]
    backend: str


class ModelUse(TypedDict):
    """How a backend that starts on demand was used when it was looked at: `busy` while requests
    are there, else nobody has asked for `idle_s`; `kept`: it is not to be unloaded."""

    busy: bool
    idle_s: float
    kept: bool


class Sleep(TypedDict):
    """Unloads a backend that starts on demand, once it has finished what it has."""

    type: Literal["sleep"]
    backend: str


class Use(TypedDict):
    """How the backends that start on demand are used; each second."""

    type: Literal["use"]
    backends: Mapping[str, ModelUse]


class Endpoints(TypedDict):
    """The addresses, as `host:port`, of the fleet for a backend: no part of the document. The
    answer, `settled`, comes once no worker has a request at any other address."""

    type: Literal["endpoints"]
    backend: str
    addresses: Sequence[str]


class Settled(TypedDict):
    """The workers send requests of a backend to these addresses and have none anywhere else."""

    type: Literal["settled"]
    backend: str
    addresses: Sequence[str]


class InstanceProcess(TypedDict):
    """One process of a backend: starting, ready, failed or stopping; `error` is what a model said
    last that could not be started. `current`: it is of the version that is asked for; those of one
    `version` may stand for one another. `source` is where its code is, `started` when it began
    last, and `last_error` how it ended before that, at `last_error_at`. `memory` is
    what is counted of its devices, in bytes; null while it is measured, or nothing is counted.
    `is_here`: the `pid` is one of this machine."""

    address: str
    pid: int | None
    state: str
    model: str
    source: str
    version: str
    current: bool
    is_here: bool
    started: str | None
    restarts: int
    error: str | None
    last_error: str | None
    last_error_at: str | None
    devices: Sequence[str]
    memory: int | None


class ServedBackend(TypedDict):
    """How far the processes of a backend are what is asked for: starting, ready or failed, asleep
    or unloading where they start on demand. `waits`: for what it waits before it starts; `starts`
    counts the processes that were started for it, `load_s` is how long the last one took; null:
    none was ready yet. `addresses` are the fleet's for it, where those are not in the document."""

    state: str
    error: str | None
    waits: str | None
    starts: int
    load_s: float | None
    addresses: Sequence[str] | None
    processes: Sequence[InstanceProcess]


class DeviceMessage(TypedDict):
    """A device: its memory in all, what others use of it, and who of ours holds how much (null:
    not measured yet)."""

    name: str
    total: int
    others: int
    held: Sequence[tuple[str, int | None]]


class Fleet(TypedDict):
    """All processes, whenever one changed; `revision` is that of the table they are held to. One
    that `follows` tells of what another gateway's fleet starts and ends."""

    type: Literal["fleet"]
    revision: int
    backends: Mapping[str, ServedBackend]
    devices: Sequence[DeviceMessage]
    follows: NotRequired[bool]


class ClusterMessage(TypedDict):
    """Since when (UTC) the cluster cannot be reached that has the fleet's instances; null: it can.
    Whenever that changes, and to whoever comes anew."""

    type: Literal["cluster"]
    away_since: str | None


class Compare(TypedDict):
    """Whether there is a mirror whose answers are compared: a process for that runs while so; and
    whether the one that runs `hangs` and is to be replaced."""

    type: Literal["compare"]
    wanted: bool
    hangs: bool


class Alive(TypedDict):
    """The control process does not hang; each second."""

    type: Literal["alive"]


FromFleet: TypeAlias = Fleet | ClusterMessage | Place | Endpoints | Logs
ToControl: TypeAlias = WorkersMessage | Dropped | Reload | Reopen | FromFleet
ForFleet: TypeAlias = Serves | AskLogs | Restart | Wake | Sleep | Use | Settled
FromControl: TypeAlias = Ready | Late | Replace | Leaving | Alive | Compare | ForFleet
