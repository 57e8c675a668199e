"""Which of the waiting requests are computed next, and is it worth waiting for more?

A bounded queue and two rules. Work conserving: without a window an idle worker takes what is
there. With a window (`window_s`) it waits, counted from the oldest arrival, but only for
company that can come: while fewer are here than were present at one time lately. A lone
client never waits for itself, and nobody until it is too late.

Pure: time is an argument, nothing here knows sockets, processes or asyncio. Requests that
expired or whose client left never get into a batch, and nothing of them is kept: they leave
the queue at once, from whichever place in it, with all they hold.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Generic, Protocol, TypeVar

from instance.core.expiring import Expiring, Place


class Waiting(Protocol):
    """What the queue must know of a request; `size` is the bytes that it holds."""

    arrived: float
    deadline: float
    size: int


J = TypeVar("J", bound=Waiting)


class Lack(Enum):
    """What there is too little of for one more to wait."""

    PLACES = "places"
    BYTES = "bytes"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_batch_size` at once, `max_queue` waiting, which hold at most `max_bytes` together,
    `window_s` of waiting for company. Those beyond the first `sure_queue` wait only if they are
    expected to be taken within `max_wait_s`."""

    max_batch_size: int = 1
    max_queue: int = 64
    window_s: float = 0.0
    max_bytes: float = inf
    sure_queue: int = 64
    max_wait_s: float = inf


class Batcher(Generic[J]):
    """The queue of one instance, oldest first."""

    __slots__ = (
        "_before", "_peak", "_queue", "expiring", "held", "limit", "policy", "running",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.limit = policy.max_batch_size
        self.running = 0
        self.held = 0  # bytes of those that wait
        # Jobs and their places among the deadlines. In the order of arrival, and yet one can
        # leave from the middle for the same price.
        self._queue: OrderedDict[J, Place[J] | None] = OrderedDict()
        self.expiring: Expiring[J] = Expiring()
        self._peak = 0  # present at one time since the last batch was taken …
        self._before = 0  # … and between the last and the one before

    def adopt(self, policy: Policy) -> None:
        """Keeps to `policy` from now on; nothing has come yet."""
        self.policy = policy
        self.limit = policy.max_batch_size

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def lacks(self, size: int, wait_s: Callable[[], float]) -> Lack | None:
        """What keeps one more request, which holds `size` bytes, from waiting; None if it may. One
        alone always may. `wait_s` says how long it would be; it is asked only if that matters."""
        policy, waiting = self.policy, len(self._queue)
        if not waiting:
            return None
        if waiting >= policy.max_queue:
            return Lack.PLACES
        if self.held + size > policy.max_bytes:
            return Lack.BYTES
        if waiting >= policy.sure_queue and wait_s() > policy.max_wait_s:
            return Lack.TIME
        return None

    def offer(self, job: J) -> None:
        """`job` waits from now on."""
        deadline, queue = job.deadline, self._queue
        queue[job] = None if deadline == inf else self.expiring.add(deadline, job)
        self.held += job.size
        present = len(queue) + self.running
        if present > self._peak:
            self._peak = present

    def put_back(self, jobs: list[J]) -> None:
        """Jobs that were taken and never started wait again, first in line."""
        self.running -= len(jobs)
        for job in reversed(jobs):
            self.offer(job)
            self._queue.move_to_end(job, last=False)

    def leave(self, job: J) -> None:
        """The client of a waiting job left: its place is free at once."""
        if job in self._queue:
            self._left(job, self._queue.pop(job))

    def finish(self, count: int) -> None:
        """`count` jobs that were taken are done, however they ended."""
        self.running -= count

    def delay(self, now: float, lead_s: float = 0.0) -> float | None:
        """Seconds an idle worker should wait before it takes; 0: now; None: nothing waits. Whoever
        has a deadline is taken `lead_s` before it at the latest, as long as its answer needs."""
        queue = self._queue
        if not queue:
            return None
        window_s = self.policy.window_s
        if window_s <= 0.0:
            return 0.0
        company = max(self._peak, self._before) - self.running
        if len(queue) >= min(self.limit, company):
            return 0.0
        until = next(iter(queue)).arrived + window_s
        if (first := self.expiring.first()) is not None:
            latest = first.deadline - lead_s
            if latest <= first.arrived:  # too late at any rate, as far as is known
                latest = (first.arrived + first.deadline) / 2
            until = min(until, latest)
        return max(0.0, until - now)

    def take(self, now: float, size: int | None = None) -> tuple[list[J], list[J]]:
        """(the batch to run, those found expired): both leave the queue.

        The batch holds at most `size` jobs, `limit` by default, oldest first, none expired.
        """
        batch: list[J] = []
        expired: list[J] = []
        queue = self._queue
        limit = self.limit if size is None else size
        held = self.held
        while queue and len(batch) < limit:
            job, place = queue.popitem(last=False)
            held -= job.size
            if place is not None:
                self.expiring.leave(place)
            if job.deadline <= now:
                expired.append(job)
            else:
                batch.append(job)
        self.held = held
        self.running += len(batch)
        self._before, self._peak = self._peak, len(queue) + self.running
        return batch, expired

    def expire(self, now: float) -> list[J]:
        """The jobs whose deadline passed while they waited, the earliest first; they leave the
        queue."""
        expired = self.expiring.expired(now)
        for job in expired:
            del self._queue[job]
            self.held -= job.size
        return expired

    def clear(self) -> list[J]:
        """Everything that waits, oldest first; the queue is empty afterwards."""
        left = list(self._queue)
        self._queue.clear()
        self.expiring = Expiring()
        self.held = 0
        return left

    def _left(self, job: J, place: Place[J] | None) -> None:
        self.held -= job.size
        if place is not None:
            self.expiring.leave(place)
