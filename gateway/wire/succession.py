"""What do a gateway, its successor and whoever asks for one say to each other?

Over the socket `upgrade.sock` in the private directory of the gateway that runs. The successor asks
for what it takes over, and gets the descriptors of the sockets and of the state's lock beside the
`offer`; then for the state; then it says that it serves. Until then the one that runs can have
everything back.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import orjson

NAME = "upgrade.sock"
MEMORY = 1
"""The layout of what workers share: one more with each change of `telemetry.book`,
`dataplane.permits`, `dataplane.load_memory` or `dataplane.buckets`."""

_LENGTH = struct.Struct(">I")


class Upgrade(TypedDict):
    """Asks the gateway to start its successor: `program` with the arguments of a gateway, and
    `environment` beside its own. `done` or `failed` is the answer, after at most `within_s`."""

    type: Literal["upgrade"]
    program: Sequence[str]
    environment: Mapping[str, str]
    within_s: float


class TakeOver(TypedDict):
    """A successor asks what there is: `offer` is the answer, or `failed`. `memory` is its layout,
    `workers` how many it will have."""

    type: Literal["take_over"]
    pid: int
    memory: int
    workers: int


class Offer(TypedDict):
    """Comes with descriptors: `data` sockets for requests, that of the admin API, the state's lock,
    that at which the processes `workers` open their channels, and, with `shares`, the memory of
    loads and that of counters. `given`: the sockets for requests
    are a service manager's, whatever the file says, and so, with `gives_admin`, is the other one.
    `directory` is the private one of process `pid`."""

    type: Literal["offer"]
    pid: int
    data: int
    workers: Sequence[int]
    shares: bool
    given: bool
    gives_admin: bool
    directory: str


class Yield(TypedDict):
    """The successor asks for the state: nobody else writes to it from `yielded` on."""

    type: Literal["yield"]


class Yielded(TypedDict):
    type: Literal["yielded"]


class Serving(TypedDict):
    """The successor serves. `done` is the answer, and the end of the one before."""

    type: Literal["serving"]


class Done(TypedDict):
    """Process `pid` serves in place of process `before`."""

    type: Literal["done"]
    pid: int
    before: int


class Failed(TypedDict):
    """No successor will come, and `why`. Whoever is told it gives back what it has."""

    type: Literal["failed"]
    why: str


ToGateway: TypeAlias = Upgrade | TakeOver | Yield | Serving | Failed
FromGateway: TypeAlias = Offer | Yielded | Done | Failed


def frame(message: ToGateway | FromGateway) -> bytes:
    """`message` as a channel (`gateway.wire.channel`) carries it."""
    body = orjson.dumps(message)
    return _LENGTH.pack(len(body)) + body


def unframe(data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """The first message in `data` and the rest; None: it is not whole yet."""
    end = _LENGTH.size
    if len(data) < end or len(data) < (end := end + _LENGTH.unpack_from(data)[0]):
        return None, data
    return orjson.loads(data[_LENGTH.size : end]), data[end:]
