"""What a worker answers, in plain values.

An answer or a problem as tuples that marshal can carry, and back.
"""

from dataclasses import dataclass

from instance.core.errors import Fault, Problem
from instance.wire.frames import Body, found, place
from instance.wire.messages import PackedReply


@dataclass(slots=True)
class Answer:
    """One whole answer: status, media type (empty where it has none), further headers, body."""

    body: Body
    content_type: str = "application/json"
    status: int = 200
    headers: list[tuple[str, str]] | None = None


Reply = Answer | Problem


def pack_reply(reply: Reply, blobs: list[Body]) -> PackedReply:
    """`reply` as plain values; a large body goes to `blobs`."""
    if isinstance(reply, Answer):
        return (reply.status, reply.content_type, place(reply.body, blobs), reply.headers)
    faults = [(fault.pointer, fault.code, fault.detail) for fault in reply.faults]
    return (0, reply.code, reply.detail, reply.status, faults, list(reply.headers), reply.bare)


def unpack_reply(packed: PackedReply, blobs: list[Body]) -> Reply:
    """The reply that `pack_reply` was given."""
    if len(packed) == 4:
        status, content_type, body, headers = packed
        return Answer(found(body, blobs), content_type, status, headers)
    _, code, detail, status, faults, headers, bare = packed
    return Problem(code, detail, status, [Fault(*fault) for fault in faults], headers, None, bare)
