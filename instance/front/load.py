"""How busy are the workers: who takes the next batch, how long would one more request wait?

Estimates and choices; nothing here is sent, queued or refused.
"""

from math import ceil

from instance.core.batching import Batcher, Lack
from instance.core.lifecycle import State
from instance.core.pacing import Pace
from instance.front.jobs import Job
from instance.front.workers import Worker
from instance.settings import Settings
from instance.wire.messages import ModelInfo

TRAIN_S = 0.002  # work that a model without batches may be sent in one message
MAX_TRAIN = 32  # requests of it
LATE_S = 0.02  # that a timer and the way to a worker may take on a busy machine


class Load:
    """What the queue and the workers of one instance have to do, and at which `pace` they do it."""

    def __init__(self, workers: list[Worker], batcher: Batcher[Job]) -> None:
        self.pace = Pace()
        self._workers = workers
        self._batcher = batcher

    def idle_worker(self) -> Worker | None:
        """The ready worker with most room; None when all are busy."""
        best, most = None, 0
        for worker in self._workers:
            if worker.room > most:
                best, most = worker, worker.room
        return best

    def worker_ahead(self) -> Worker | None:
        """The busy worker that may have one further batch: a full one, which cannot grow, and
        only if a full one is left for every other worker, so that none becomes idle for it."""
        if self._batcher.waiting < self._batcher.limit * self.lanes()[0]:
            return None
        able = [worker for worker in self._workers if worker.can_take_ahead]
        return min(able, key=lambda worker: worker.batches.busy_since, default=None)

    def share(self) -> int:
        """What one worker may take of a train: not what others, idle now, could do as well."""
        if self._batcher.policy.max_batch_size > 1 or len(self._workers) == 1:
            return self._batcher.limit
        idle = sum(worker.room > 0 for worker in self._workers)
        return min(self._batcher.limit, ceil(self._batcher.waiting / max(idle, 1)))

    def lanes(self) -> tuple[int, int]:
        """(batches that can be computed at once, requests that no lane will come to soon): a
        worker that is stuck is no lane, as long as there is another."""
        ready = [worker for worker in self._workers if worker.state is State.READY]
        if len(ready) == 1:
            return ready[0].capacity, 0
        moving = [worker for worker in ready if not worker.stuck] or ready
        held = sum(worker.batches.held for worker in ready if worker not in moving)
        return sum(worker.capacity for worker in moving), held

    @property
    def running(self) -> int:
        """Requests that are being computed, also by a worker that is not counted on."""
        return self.report()[1] + self.lanes()[1]

    def wait_s(self) -> float:
        """How long the next request is expected to wait."""
        batcher = self._batcher
        lanes, held = self.lanes()
        return self.pace.wait_s(batcher.waiting, batcher.running - held, lanes, batcher.limit)

    def sure_wait_s(self) -> float:
        """The same where enough is known to refuse somebody for it: one batch tells little."""
        return self.wait_s() if self.pace.batches > 1 else 0.0

    def report(self) -> tuple[int, int, int, float]:
        """(queue, running, slots, expected wait in milliseconds), as ORCA carries them.

        A batch sent ahead to a busy worker waits there, so it counts as waiting. The answers of a
        batch are written together and say the same: each counts itself and none of the others, for
        who reads them takes them one by one out of what it has here.
        """
        batcher = self._batcher
        lanes, held = self.lanes()
        held += sum(worker.batches.answered_with for worker in self._workers)
        slots = lanes * min(batcher.limit, batcher.policy.max_batch_size)
        waiting, taken = batcher.waiting, batcher.running - held
        running = min(taken, slots)
        wait_s = self.pace.wait_s(waiting, taken, lanes, batcher.limit)
        return waiting + taken - running, running, slots, wait_s * 1000.0

    def lead_s(self) -> float:
        """How long before its deadline a waiting request must be taken to be answered in time."""
        return self.pace.seconds(self._batcher.waiting) + LATE_S

    def is_hopeless(self, job: Job) -> bool:
        """Whether it would be taken too late, or its answer, after its own batch, come too late."""
        if not self._batcher.waiting:
            return False
        taken = job.arrived + self.wait_s()
        return taken > job.deadline or taken + self.pace.seconds(self._batcher.limit) > job.until

    def why_refused(self, lack: Lack) -> str:
        """Why one more request may not wait, and which setting says so."""
        batcher, policy = self._batcher, self._batcher.policy
        if lack is Lack.PLACES:
            return f"{batcher.waiting} requests wait already (--max-queue)"
        if lack is Lack.BYTES:
            return f"the waiting requests hold {batcher.held} bytes already (--max-queue-bytes)"
        say = f"the wait would be longer than {policy.max_wait_s:g} s (--max-wait), behind"
        return f"{say} {batcher.waiting} requests"

    def retry_after(self) -> float:
        """Seconds after which a refused client may find room."""
        return float(max(1, ceil(self.wait_s())))

    def limit(self, info: ModelInfo, settings: Settings) -> int:
        """How many jobs go into one message from now on.

        A model without batches computes one by one; where that takes microseconds, several
        share a message all the same, as long as all of it is done in TRAIN_S.
        """
        size = self._batcher.policy.max_batch_size
        if size == 1 and not info["stream"] and not info["is_async"]:
            return self.pace.largest_within(TRAIN_S, MAX_TRAIN)
        if settings.target_latency_s:
            return self.pace.largest_within(settings.target_latency_s, size)
        return size
