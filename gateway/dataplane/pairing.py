"""How do two answers to one request become a pair, and where does it go?

While a mirror's answers are compared, what a client gets is gathered beside what the mirror says,
and what the stable version says when it is asked again. Once all are there they go to the compare
process, which looks at them; here nothing is. Each answer is small and all of one worker together
are bounded: a pair that is too large, or that the other side does not take, is dropped and counted.
So is one of which an answer never came: each has one verdict, here or there. No client waits for
any of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.core.lines import RETRY_AFTER
from gateway.core.response_heads import ResponseHead
from gateway.telemetry.metrics import COMPARED, Counters
from gateway.wire.pairs import MAX_FRAME, Part, packed

WAITED_FOR: Final = 0
WHOLE: Final = 1
NONE: Final = 2
PAIR_BYTES: Final = 1024  # what a pair costs beside its bodies
TOGETHER_S: Final = 0.02  # pairs wait so long for others: each write wakes another process
AT_ONCE: Final = 1 << 16  # bytes that wait for no more
UNANSWERED: Final = "unanswered"
DROPPED: Final = "dropped"


class Outbox:
    """The way to the compare process. `held`: bytes of answers that are gathered; `wish` is set
    once there is anything to compare; `later` calls something after so many seconds."""

    __slots__ = (
        "_body", "_frames", "_later", "_memory", "_size", "counters", "held", "transport", "wish",
    )  # fmt: skip

    def __init__(
        self,
        counters: Counters,
        body: int,
        memory: int,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.counters = counters
        self._body, self._memory, self._later = body, memory, later
        self.held = 0
        self._frames: list[tuple[str, str, bytes]] = []
        self._size = 0  # of these
        self.transport: asyncio.WriteTransport | None = None
        self.wish = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether somebody would take a pair."""
        return self.transport is not None

    def fits(self, size: int, more: int) -> bool:
        """Whether an answer may grow to `size`, by `more`."""
        return size <= self._body and self._waiting + more <= self._memory

    @property
    def _waiting(self) -> int:
        """Bytes that are held here, gathered or on their way."""
        transport = self.transport
        on_its_way = 0 if transport is None else transport.get_write_buffer_size()
        return self.held + self._size + on_its_way

    def send(self, route: str, mirror: str, frame: bytes) -> bool:
        """Whether the pair goes on its way, soon; False: it is dropped."""
        transport = self.transport
        if transport is None or len(frame) > MAX_FRAME or self._waiting > self._memory:
            return False
        if transport.is_closing():
            return False  # it was lost just now, and is not opened again yet
        if not self._frames:
            self._later(TOGETHER_S, self.write)
        self._frames.append((route, mirror, frame))
        self._size += len(frame)
        if self._size >= AT_ONCE:
            self.write()
        return True

    def write(self) -> None:
        """Writes what waits, in one piece."""
        waiting, self._frames = self._frames, []
        if not waiting:
            return
        self._size = 0
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"".join([frame for _, _, frame in waiting]))
            return
        for route, mirror, _ in waiting:
            self.count(route, mirror, DROPPED)

    def count(self, route: str, mirror: str, verdict: str) -> None:
        """Counts a request that was to be compared, and of which no pair comes."""
        self.counters.add(COMPARED, route, mirror, verdict)


class Half:
    """One answer, as it comes in."""

    __slots__ = ("_head", "_pair", "_parts", "size", "state")

    def __init__(self, pair: "Pair") -> None:
        self._pair = pair
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []
        self.size = 0
        self.state = WAITED_FOR

    def begin(self, head: ResponseHead, payload: bytes) -> None:
        """The head came, and the start of the body."""
        self._head = head
        self.add(payload)

    def add(self, payload: bytes) -> None:
        """More of the body came."""
        if payload and self.state == WAITED_FOR and self._pair.takes(self, len(payload)):
            self._parts.append(payload)

    def end(self, is_whole: bool) -> None:
        """Ends the answer; `is_whole`: all of it came. Of one that is too busy to answer nothing
        did."""
        if self.state != WAITED_FOR:
            return
        head = self._head
        is_answer = is_whole and head is not None and not is_busy(head)
        self.state = WHOLE if is_answer else NONE
        self._pair.conclude()

    def drop(self) -> None:
        """Nobody waits for it any more; of the mirror's own the pair goes with it."""
        if self is self._pair.copy:
            self._pair.drop()
        else:
            self.end(False)

    def part(self) -> Part:
        """The answer, for the way."""
        head = self._head
        assert head is not None
        kind, coding = head.get("content-type") or "", head.get("content-encoding") or ""
        return head.status, kind, coding, b"".join(self._parts)

    def free(self) -> None:
        """Holds nothing any more."""
        self._parts.clear()
        self._head = None
        self.state = NONE


class Pair:
    """The answers to one request: the client's, the mirror's, and the one to the same `question`
    asked `again`, where it is."""

    __slots__ = (
        "_is_over", "_key", "_mirror", "_outbox", "_request", "_route", "_size", "_stable", "_time",
        "again", "copy", "main", "question",
    )  # fmt: skip

    def __init__(
        self, outbox: Outbox, route: str, mirror: str, stable: str, key: int, request: str,
        time: float,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._route, self._mirror, self._stable = route, mirror, stable
        self._key, self._request, self._time = key, request, time
        self._size = PAIR_BYTES
        outbox.held += PAIR_BYTES
        self._is_over = False
        self.main, self.copy = Half(self), Half(self)
        self.again: Half | None = None
        self.question = b""

    def ask_again(self, question: bytes) -> None:
        """The stable version is to be asked the same once the client has its answer; what is asked
        is held until then, if there is room for it."""
        size = len(question)
        if not self._is_over and self._outbox.fits(0, size):
            self.again, self.question = Half(self), question
            self._size += size
            self._outbox.held += size

    @property
    def wants_again(self) -> bool:
        """Whether a second answer of the stable version is still of use."""
        return not self._is_over and self.again is not None and self.copy.state != NONE

    def takes(self, half: Half, more: int) -> bool:
        """Whether `half` may grow by `more` bytes; else the pair is dropped."""
        if self._is_over:
            return False
        if not self._outbox.fits(half.size + more, more):
            self.drop()
            return False
        half.size += more
        self._size += more
        self._outbox.held += more
        return True

    def drop(self) -> None:
        """No pair comes of it."""
        if not self._is_over:
            self._count(DROPPED)
            self._free()

    def answered_by(self, backend: str, is_whole: bool) -> None:
        """The client has its answer, of `backend`: one that came after a retry elsewhere is still
        an answer, but none to be compared with the mirror's own, or with another backend's."""
        if self._is_over:
            return
        if backend == self._mirror or not is_whole:
            self.drop()
            return
        if backend != self._stable:
            self.again = None
        self.main.end(True)

    def conclude(self) -> None:
        """One answer more is there, or will not come: sends the pair once it is all."""
        if self._is_over or self.main.state == WAITED_FOR or self.copy.state == WAITED_FOR:
            return
        if self.again is not None and self.again.state == WAITED_FOR:
            return
        if self.main.state != WHOLE:
            self._count(DROPPED)
        elif self.copy.state != WHOLE:
            self._count(UNANSWERED)
        else:
            self._send()
        self._free()

    def _send(self) -> None:
        halves = [self.main, self.copy]
        if self.again is not None and self.again.state == WHOLE:
            halves.append(self.again)
        parts = [half.part() for half in halves]
        self._outbox.held -= self._size  # it is on its way, or gone
        self._size = 0
        frame = packed(self._route, self._request, self._key, self._time, parts)
        if not self._outbox.send(self._route, self._mirror, frame):
            self._count(DROPPED)

    def _count(self, verdict: str) -> None:
        self._outbox.count(self._route, self._mirror, verdict)

    def _free(self) -> None:
        """Holds nothing any more, whoever is still asked."""
        self._is_over = True
        self._outbox.held -= self._size
        self._size = 0
        self.question = b""
        for half in (self.main, self.copy, self.again):
            if half is not None:
                half.free()


def is_busy(head: ResponseHead) -> bool:
    """Whether an answer is none: its instance has no room for the question."""
    return head.status == 429 or (head.status == 503 and RETRY_AFTER in head.known)
