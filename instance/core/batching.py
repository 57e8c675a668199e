"""Which of the waiting requests are computed next, and is it worth waiting for more?

A bounded queue and two rules. Work conserving: without a window an idle worker takes what is
there. With a window (`window_s`) it waits, counted from the oldest arrival, but only for
company that can come: while fewer are here than were present at one time lately. A lone
client never waits for itself.

Pure: time is an argument, nothing here knows sockets, processes or asyncio. Requests that
expired or whose client left never get into a batch.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the queue must know of a request."""

    arrived: float
    deadline: float
    gone: bool


J = TypeVar("J", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_batch_size` at once, `max_queue` waiting, `window_s` of waiting for company."""

    max_batch_size: int = 1
    max_queue: int = 64
    window_s: float = 0.0


class Batcher(Generic[J]):
    """The queue of one instance, oldest first."""

    __slots__ = ("_before", "_peak", "_queue", "limit", "policy", "running", "waiting")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.limit = policy.max_batch_size
        self.waiting = 0
        self.running = 0
        self._queue: deque[J] = deque()
        self._peak = 0  # present at one time since the last batch was taken …
        self._before = 0  # … and between the last and the one before

    def offer(self, job: J) -> bool:
        """Whether there was room; `job` waits from now on if so."""
        if self.waiting >= self.policy.max_queue:
            return False
        self._queue.append(job)
        self.waiting += 1
        present = self.waiting + self.running
        if present > self._peak:
            self._peak = present
        return True

    def put_back(self, jobs: list[J]) -> None:
        """Jobs that were taken and never started wait again, first in line."""
        self._queue.extendleft(reversed(jobs))
        self.waiting += len(jobs)
        self.running -= len(jobs)

    def leave(self, job: J) -> None:
        """The client of a waiting job left: its place is free at once."""
        if not job.gone:
            job.gone = True
            self.waiting -= 1

    def finish(self, count: int) -> None:
        """`count` jobs that were taken are done, however they ended."""
        self.running -= count

    def delay(self, now: float) -> float | None:
        """Seconds an idle worker should wait before it takes; 0: now; None: nothing waits."""
        if not self.waiting:
            return None
        window_s = self.policy.window_s
        if window_s <= 0.0:
            return 0.0
        company = max(self._peak, self._before) - self.running
        if self.waiting >= min(self.limit, company):
            return 0.0
        return max(0.0, self._oldest().arrived + window_s - now)

    def take(self, now: float, most: int | None = None) -> tuple[list[J], list[J]]:
        """(the batch to run, those found expired): both leave the queue.

        The batch holds at most `most` jobs, `limit` by default, oldest first, none expired,
        none gone.
        """
        batch: list[J] = []
        expired: list[J] = []
        queue = self._queue
        limit = self.limit if most is None else most
        while queue and len(batch) < limit:
            job = queue.popleft()
            if job.gone:
                continue
            if job.deadline <= now:
                job.gone = True
                expired.append(job)
            else:
                batch.append(job)
        self.waiting -= len(batch) + len(expired)
        self.running += len(batch)
        self._before, self._peak = self._peak, self.waiting + self.running
        return batch, expired

    def expire(self, now: float) -> list[J]:
        """Those whose deadline passed while they waited; they leave the queue."""
        expired = [job for job in self._queue if job.deadline <= now and not job.gone]
        for job in expired:
            self.leave(job)
        return expired

    def clear(self) -> list[J]:
        """Everything that waits, oldest first; the queue is empty afterwards."""
        left = [job for job in self._queue if not job.gone]
        self._queue.clear()
        self.waiting = 0
        for job in left:
            job.gone = True
        return left

    def next_deadline(self) -> float | None:
        """The earliest deadline of a waiting job; None when none waits."""
        return min((job.deadline for job in self._queue if not job.gone), default=None)

    def _oldest(self) -> J:
        while self._queue[0].gone:
            self._queue.popleft()
        return self._queue[0]
