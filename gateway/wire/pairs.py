"""What workers, the control process and the compare process say to each other.

All over one socket, whose path every worker knows. A connection begins with a message that says who
it is. A worker sends `pairs` and then nothing but pairs of answers: frames of a length, a head in
JSON and the bodies, as they came. The control process sends which mirrors there are, whole each
time, and hears what is known of each, and that the process does not hang. Nobody waits for an
answer.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import orjson

NAME = "compare.sock"
MAX_FRAME = 64 << 20
"""Bytes of a frame."""
_LENGTHS = struct.Struct(">II")  # of all that follows the first number, and of its head

Part: TypeAlias = tuple[int, str, str, bytes]
"""One answer: its status, Content-Type and Content-Encoding, and its body."""


class Pairs(TypedDict):
    """The first word of a worker: what follows are pairs."""

    type: Literal["pairs"]


class MirrorSpec(TypedDict):
    """A mirror to compare: its backend, `compare` as the document has it, an `id` that is another
    one when any of these is, since when it is asked for, and what was known of it by the last word
    of a process before."""

    id: str
    since: str
    backend: str
    compare: Mapping[str, Any]
    known: Mapping[str, Any] | None


class MirrorsMessage(TypedDict):
    """The mirrors that are compared, by route. Whole each time."""

    type: Literal["mirrors"]
    mirrors: Mapping[str, MirrorSpec]


class Compared(TypedDict):
    """What is known of the mirror `id` of a route, when it changed (`core.mirrored`), and since
    when it was first asked for."""

    type: Literal["compared"]
    route: str
    id: str
    since: str
    state: Mapping[str, Any]


class Alive(TypedDict):
    """The compare process does not hang; every other second."""

    type: Literal["alive"]


ToCompare: TypeAlias = Pairs | MirrorsMessage
FromCompare: TypeAlias = Compared | Alive


class PairHead(TypedDict):
    """What is said of a pair beside its bodies: `key` is the hash of a sticky key, -1 without one,
    `time` seconds since 1970; `parts` are status, Content-Type, Content-Encoding and length of the
    stable version's answer, the mirror's, and that of the stable version asked again, if it was."""

    route: str
    request: str
    key: int
    time: float
    parts: Sequence[tuple[int, str, str, int]]


def hello() -> bytes:
    """How a worker begins, as a frame of `wire.channel`."""
    message = orjson.dumps(Pairs(type="pairs"))
    return struct.pack(">I", len(message)) + message


def packed(route: str, request: str, key: int, time: float, parts: Sequence[Part]) -> bytes:
    """A pair as it crosses."""
    sizes = [(status, kind, coding, len(body)) for status, kind, coding, body in parts]
    head = orjson.dumps(PairHead(route=route, request=request, key=key, time=time, parts=sizes))
    bodies = [part[3] for part in parts]
    length = _LENGTHS.size - 4 + len(head) + sum(map(len, bodies))
    return b"".join((_LENGTHS.pack(length, len(head)), head, *bodies))


def unpacked(frame: bytes) -> tuple[PairHead, list[Part]]:
    """The pair of a frame, without its first length; ValueError if it is none."""
    (size,) = struct.unpack_from(">I", frame)
    head: PairHead = orjson.loads(frame[4 : 4 + size])
    at, parts = 4 + size, []
    for status, kind, coding, length in head["parts"]:
        parts.append((status, kind, coding, frame[at : at + length]))
        at += length
    if at != len(frame) or not 2 <= len(parts) <= 3:
        raise ValueError("a pair that is not as long as it says")
    return head, parts
