"""An event loop whose time is made, and connections and channels that are memory.

Nothing waits: where a loop would sleep until its next timer, time moves there. Threads are run at
once. So a minute passes in a second, and one seed gives one history. It refuses real sockets.
"""

import asyncio
import itertools
import selectors
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, cast

import orjson

from gateway.wire.channel import Channel


class Stuck(Exception):
    """Somebody waits for what will never happen."""


class _Jump(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """Instead of waiting for so long lets so long pass."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.now += timeout
        return cast(list[Any], ready)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`listeners` are the places that can be connected to: (host, port) → what makes a protocol
    there, or raises OSError."""

    def __init__(self, chance: Random) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.chance = chance
        self.listeners: dict[tuple[str, int], Callable[[], asyncio.Protocol]] = {}
        self.numbers = itertools.count()

    def time(self) -> float:
        return self._jump.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """The result of `func`, made at once."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(self, protocol_factory: Any, *args: Any, **more: Any) -> Any:
        """A connection to one of `listeners`."""
        await asyncio.sleep(self.delay())
        listener = self.listeners.get((args[0], args[1]))
        if listener is None:
            raise ConnectionRefusedError(111, "nobody listens there")
        return connected(self, protocol_factory(), listener())

    def delay(self) -> float:
        """How long the next thing that is sent is under way."""
        return self.chance.uniform(0.0001, 0.001)


class _NoSocket:
    def fileno(self) -> int:
        """None: it is made of memory."""
        return -1


class End(asyncio.Transport):
    """One end of a connection; what is written comes out at `other`, in order and later."""

    other: "End"

    def __init__(self, loop: VirtualLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "socket": _NoSocket()})
        self._loop, self.protocol = loop, protocol
        self.number = next(loop.numbers)  # gives an order that addresses of objects do not
        self._under_way: deque[Callable[[], None]] = deque()
        self._last = 0.0
        self._held: deque[Callable[[], None]] = deque()
        self._is_paused = self._is_closing = self._is_lost = self._is_dead = False
        self._has_sent_eof = False

    # asyncio.Transport

    def write(self, data: Any) -> None:
        piece = bytes(data)
        if piece and not self._is_closing and not self._has_sent_eof:
            self._send(lambda: self.other.come(lambda: self.other.protocol.data_received(piece)))

    def write_eof(self) -> None:
        if not self._is_closing and not self._has_sent_eof:
            self._has_sent_eof = True
            self._send(lambda: self.other.come(self.other.ended))

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._is_closing:
            self.write_eof()
            self._is_closing = True
            self._loop.call_soon(self.lost, None)

    def abort(self) -> None:
        if not self._is_lost:
            self._is_closing = True
            self._send(lambda: self.other.lost(ConnectionResetError(104, "reset")))
            self._loop.call_soon(self.lost, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        while self._held and not self._is_paused:
            self._held.popleft()()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    # what happens to it

    def die(self) -> None:
        """The process at this end is gone: nothing is told to it any more."""
        self.abort()
        self._is_dead = True

    def come(self, what: Callable[[], None]) -> None:
        if self._is_closing:
            return
        if self._is_paused:
            self._held.append(what)
        else:
            what()

    def ended(self) -> None:
        """The other end has said its last word."""
        if not self.protocol.eof_received():
            self.close()

    def lost(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            if not self._is_dead:
                self.protocol.connection_lost(error)

    def _send(self, what: Callable[[], None]) -> None:
        self._under_way.append(what)
        self._last = max(self._last, self._loop.time() + self._loop.delay())
        self._loop.call_at(self._last, self._arrive)

    def _arrive(self) -> None:
        self._under_way.popleft()()


def connected(
    loop: VirtualLoop, here: asyncio.Protocol, there: asyncio.Protocol
) -> tuple[End, asyncio.Protocol]:
    """A connection between two protocols: the end of `here`, and `here`."""
    ends = End(loop, here), End(loop, there)
    ends[0].other, ends[1].other = ends[1], ends[0]
    here.connection_made(ends[0])
    there.connection_made(ends[1])
    return ends[0], here


class MemoryChannel(Channel):
    """One end of a channel. What crosses it is JSON, as on the real one; `slow_s` is how much
    longer than usual everything is under way."""

    __slots__ = ("_came", "_is_closed", "_last", "_loop", "_ready", "_under_way", "other", "slow_s")
    other: "MemoryChannel"

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._came: deque[dict[str, Any] | None] = deque()
        self._under_way: deque[dict[str, Any] | None] = deque()
        self._ready = asyncio.Event()
        self._last = self.slow_s = 0.0
        self._is_closed = False

    @classmethod
    def pair(cls, loop: VirtualLoop) -> tuple["MemoryChannel", "MemoryChannel"]:
        one, two = cls(loop), cls(loop)
        one.other, two.other = two, one
        return one, two

    def send_soon(self, message: Any) -> None:
        if not self._is_closed:
            self._send(orjson.loads(orjson.dumps(message)))

    async def send(self, message: Any) -> None:
        self.send_soon(message)

    async def receive(self) -> dict[str, Any] | None:
        while not self._came:
            if self._is_closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._came.popleft()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._came.clear()
            self._ready.set()
            self._send(None)

    def _send(self, message: dict[str, Any] | None) -> None:
        # A loop keeps no order among timers of one moment: what arrives is what was sent first.
        self._under_way.append(message)
        self._last = max(self._last, self._loop.time() + self._loop.delay() + self.slow_s)
        self._loop.call_at(self._last, lambda: self.other.come(self._under_way.popleft()))

    def come(self, message: dict[str, Any] | None) -> None:
        if not self._is_closed:
            self._came.append(message)
            self._ready.set()
