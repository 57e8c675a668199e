"""Large bodies between a socket and the memory where a worker has them, without a copy.

While one comes, `Receiving` has a connection's place at its transport and lets the kernel
write into the body's room. While one goes, `Sending` keeps the room until the transport has
read all of it.
"""

import asyncio
from collections.abc import Callable

from instance.front.incoming import Incoming
from instance.wire.arena import MIN_ROOM, Arena, Room


def room_for(incoming: Incoming, arena: Arena | None) -> Room | None:
    """Where the body of `incoming` goes if much of it is missing, with what has come of it; None
    where it is gathered in parts."""
    length = int(incoming.headers.get(b"content-length", 0))
    if arena is None or length - incoming.size < MIN_ROOM or b"upgrade" in incoming.headers:
        return None
    if (room := arena.take(length)) is not None:
        room.view[: incoming.size] = b"".join(incoming.parts)
        incoming.parts.clear()
        incoming.body = room
    return room


def lay(pieces: list[bytes], room: Room) -> Room:
    """`room`, filled with `pieces`, which are let go of one after the other: for a thread."""
    at = 0
    for number, piece in enumerate(pieces):
        room.view[at : at + len(piece)] = piece
        at += len(piece)
        pieces[number] = b""
    return room


def whole(body: list[bytes] | Room) -> bytes | Room:
    """A body in one piece."""
    return body if isinstance(body, Room) else b"".join(body)


class Receiving(asyncio.BufferedProtocol):
    """Fills `room` from byte `filled` on and reads nothing beyond it. Calls `progressed` with
    each part, and `received` when the room is full; all else is the connection's."""

    def __init__(
        self,
        connection: asyncio.Protocol,
        room: Room,
        filled: int,
        progressed: Callable[[], None],
        received: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._room = room
        self._filled = filled
        self._progressed = progressed
        self._received = received

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room.view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._progressed()
        if self._filled == len(self._room):
            self._received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


def read_with(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """Lets `transport` hand what comes to another protocol; how it reads depends on which kind
    that is, so it has to begin anew."""
    transport.pause_reading()
    transport.set_protocol(protocol)
    transport.resume_reading()


class Sending:
    """The room that a transport still reads from, if any."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        self._room: Room | None = None

    def write(self, transport: asyncio.Transport, head: bytes, room: Room) -> None:
        """Writes a whole answer; its room is kept as long as some of it waits."""
        transport.set_write_buffer_limits(high=0)  # so that we hear when none does
        transport.writelines([head, room.view])
        if transport.get_write_buffer_size():
            self._room = room
        else:
            transport.set_write_buffer_limits()

    def over(self, transport: asyncio.Transport | None) -> None:
        """Nothing waits any more, or nobody will read it."""
        if self._room is not None:
            self._room = None
            if transport is not None and not transport.is_closing():
                transport.set_write_buffer_limits()
