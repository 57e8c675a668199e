"""A worker's end of its connection to the HTTP process.

Two ends with one meaning: `BlockingLink` for models whose hooks are all plain, which need no
event loop, and `AsyncLink` for the others. Both count what a stream has sent and the client
has not taken yet, so that a slow client holds its generator and not memory.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from instance.wire import lifeline
from instance.wire.arena import Arena
from instance.wire.frames import Body, Decoder, Frame, pack
from instance.wire.messages import FromWorker, ToWorker

log = logging.getLogger("instance")
Sent = TypeVar("Sent", bound=tuple[Any, ...])
Received = TypeVar("Received", bound=tuple[Any, ...])
WINDOW = 256 << 10  # bytes of a stream that may be under way to its client
OVERHEAD = 64  # what an item counts besides its bytes


class Link(Protocol):
    """What the pipeline of a stream needs."""

    def send(self, message: FromWorker, blobs: list[Body] | None = None) -> None: ...

    def open(self, job: int) -> None: ...

    def close(self, job: int) -> None: ...

    def charge(self, job: int, size: int) -> None: ...

    def cancelled(self, job: int) -> bool: ...

    async def room(self, job: int) -> bool:
        """Waits until `job` may send one more item; False when its client has left."""


class Severed:
    """What a link has in place of its socket in a process that the model forked and that came
    back from its hook: the answer is its parent's to give, and so is all that comes."""

    def __getattr__(self, name: str) -> Any:
        log.warning("a process that the model forked came back from its hook; it ends here")
        os._exit(0)


class Credit:
    """What each stream may still send, and where large bodies lie: `theirs` is read, `ours` is
    written; None where there is no such memory."""

    __slots__ = ("_left", "ours", "theirs")

    def __init__(self, theirs: Arena | None, ours: Arena | None) -> None:
        self._left: dict[int, int] = {}
        self.theirs = theirs
        self.ours = ours

    def open(self, job: int) -> None:
        self._left[job] = WINDOW

    def close(self, job: int) -> None:
        self._left.pop(job, None)

    def charge(self, job: int, size: int) -> None:
        if job in self._left:
            self._left[job] -= size + OVERHEAD

    def acknowledge(self, job: int, size: int) -> None:
        if job in self._left:
            self._left[job] += size

    def cancelled(self, job: int) -> bool:
        return job not in self._left

    def leave(self, offset: int, size: int) -> None:
        if self.ours is not None:
            self.ours.leave(offset, size)

    def has_room(self, job: int) -> bool:
        """Whether the next item may go, also because nobody wants it any more."""
        return self._left.get(job, 1) > 0


class BlockingLink(Credit, Generic[Sent, Received]):
    """The end of a worker that computes in its only thread."""

    __slots__ = ("_decoder", "_frames", "_socket")

    def __init__(
        self, sock: socket.socket, theirs: Arena | None = None, ours: Arena | None = None
    ) -> None:
        super().__init__(theirs, ours)
        sock.setblocking(True)
        self._socket = sock
        self._decoder = Decoder(None if theirs is None else theirs.copy)
        self._frames: deque[Frame[Received]] = deque()

    def send(self, message: Sent, blobs: list[Body] | None = None) -> None:
        """Writes all of it; waits while the HTTP process is behind."""
        buffers = pack(message, blobs, self.ours)
        if len(buffers) == 1:
            self._socket.sendall(buffers[0])
            return
        views = [memoryview(buffer) for buffer in buffers]
        while views:
            sent = self._socket.sendmsg(views[:16])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def receive(self) -> Frame[Received] | None:
        """The next frame that is not about a stream; None when the other end is gone."""
        while not self._frames:
            if not self._read(0):
                return None
        return self._frames.popleft()

    def sever(self) -> None:
        """Ends this process, a fork, as soon as the link is used."""
        self._socket = cast(Any, Severed())

    async def room(self, job: int) -> bool:
        self._read(socket.MSG_DONTWAIT)
        while not self.has_room(job):
            if not self._read(0):
                lifeline.end_group()
        return not self.cancelled(job)

    def _read(self, flags: int) -> bool:
        """Takes what has come; False when the other end is gone."""
        try:
            count = self._socket.recv_into(self._decoder.buffer(), 0, flags)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not count:
            return False
        for frame in self._decoder.updated(count):
            message: ToWorker = frame[0]  # to other processes nothing comes of streams
            if message[0] == "ack":
                self.acknowledge(message[1], message[2])
            elif message[0] == "cancel":
                self.close(message[1])
            elif message[0] == "left":
                self.leave(message[1], message[2])
            else:
                self._frames.append(frame)
        return True


class AsyncLink(Credit, asyncio.BufferedProtocol, Generic[Sent, Received]):
    """The end of a worker that has an event loop."""

    def __init__(
        self,
        on_frame: Callable[[Frame[Received] | None], None],
        theirs: Arena | None = None,
        ours: Arena | None = None,
    ) -> None:
        super().__init__(theirs, ours)
        self._decoder: Decoder | Severed = Decoder(None if theirs is None else theirs.copy)
        self._on_frame = on_frame
        self._transport: asyncio.Transport | None = None
        self._waiters: dict[int, asyncio.Future[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape only

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_frame(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hands frames on, once what they say of running streams is noted."""
        for frame in self._decoder.updated(nbytes):
            message: ToWorker = frame[0]  # to other processes nothing comes of streams
            if message[0] == "ack":
                self.acknowledge(message[1], message[2])
                self._wake(message[1])
            elif message[0] == "cancel":
                self.close(message[1])
                self._wake(message[1])
                self._on_frame(frame)
            elif message[0] == "left":
                self.leave(message[1], message[2])
            else:
                self._on_frame(frame)

    def send(self, message: Sent, blobs: list[Body] | None = None) -> None:
        assert self._transport is not None
        self._transport.writelines(pack(message, blobs, self.ours))

    def sever(self) -> None:
        """As for `BlockingLink`."""
        self._transport = cast(Any, Severed())
        self._decoder = Severed()

    async def room(self, job: int) -> bool:
        while not self.has_room(job):
            waiter = self._waiters[job] = asyncio.get_running_loop().create_future()
            await waiter
        return not self.cancelled(job)

    def _wake(self, job: int) -> None:
        if self.has_room(job):
            waiter = self._waiters.pop(job, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
