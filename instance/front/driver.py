"""The loop around the batcher: who computes what, and when.

Holds the queue and the workers, hands batches out and replies back, notices hung and dead
workers and starts new ones. Decisions are the core's; HTTP is the surface's.
"""

import asyncio
import itertools
import logging
import time
from math import ceil, inf
from secrets import token_hex
from typing import Any, cast

from instance.core.batching import Batcher, Policy
from instance.core.errors import Problem, RequestRefused, refuse
from instance.core.lifecycle import State, is_ready
from instance.front.authorizer import Authorizer
from instance.front.batches import Batch
from instance.front.companion import Companion
from instance.front.jobs import Job
from instance.front.load import Load
from instance.front.notifier import Notifier
from instance.front.workers import Dispatcher, Worker
from instance.settings import Settings
from instance.telemetry.metrics import Metrics
from instance.telemetry.outlet import Outlet
from instance.wire import arena
from instance.wire.arena import Arena
from instance.wire.messages import ModelInfo

log = logging.getLogger("instance")
SWEEP_S = 0.02  # how late a deadline may be noticed
CHECK_S = 2.0
GOING = Problem("not_ready", "the instance is shutting down", retry_after_s=1.0)
WAITED = Problem("deadline", "the deadline passed while the request waited")
LATE = Problem("deadline", "the deadline passed before the model had answered")
STUCK_S, STUCK_TIMES = 0.25, 5  # a batch that takes both this long and as often its time


class StartError(Exception):
    """The instance cannot start; the message is one line."""


class Driver(Dispatcher):
    """The queue and the workers of one instance."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        outlet: Outlet,
        neighbour: "Driver | None" = None,
    ) -> None:
        """`neighbour` is served on the same port: large bodies lie in one memory for both."""
        self._outlet = outlet
        # What ids of requests begin with that have none of their client's: two instances name
        # no two the same.
        self.name = f"{token_hex(4)}-"
        self.settings = settings
        self.metrics = metrics
        self.info = cast(ModelInfo, {})  # until a worker has said it
        self.draining = False
        self.changes = 0  # batches done and workers come or gone: what `report` depends on
        self.batcher: Batcher[Job] = Batcher(Policy())
        if neighbour is None:
            self.arena_file = arena.new_file()
            self.arena = None if self.arena_file is None else Arena(self.arena_file)
        else:
            self.arena_file, self.arena = neighbour.arena_file, neighbour.arena
        self.workers = [
            Worker(self, device, n) for n, device in enumerate(settings.worker_devices())
        ]
        self.load = Load(self.workers, self.batcher)
        self.authorizer: Authorizer | None = None  # where the model's class decides who comes in
        self._notifier: Notifier | None = None  # where callbacks want to know of requests
        self._neighbour = neighbour
        self.ids = itertools.count(1)
        self._was_ready = False
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._checker: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()  # by a fault of ours

    # -- life

    async def start(self) -> None:
        """Starts every worker; returns when all are warm. StartError when one cannot be."""
        for worker in self.workers:
            worker.start()
        results = await asyncio.gather(*(worker.first for worker in self.workers))
        for failure in results:
            if failure is not None:
                raise StartError(failure)
        for companion in self._companions():
            if (failure := await companion.first) is not None:
                raise StartError(failure)
        self._was_ready = True
        self._check()

    async def drain(self) -> None:
        """Takes nothing new, and returns when all that was taken is answered, or too late."""
        self.draining = True
        try:
            async with asyncio.timeout(self.settings.drain_s):
                while self.batcher.waiting or self.batcher.running:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            log.warning("%d requests were not finished in time", self.active)

    async def stop(self, hurry: asyncio.Future[None]) -> None:
        """Ends every worker, with its `teardown` where it can still run; none waits for what it
        does once `hurry` is done."""
        self.draining = True
        for handle in (self._timer, self._sweeper, self._checker):
            if handle is not None:
                handle.cancel()
        self.fail_waiting(GOING)
        all_of_them: list[Worker | Companion[Any, Any]] = [*self.workers, *self._companions()]
        await asyncio.gather(*(one.stop(hurry) for one in all_of_them))

    def _companions(self) -> list[Companion[Any, Any]]:
        return [one for one in (self.authorizer, self._notifier) if one is not None]

    @property
    def notifier(self) -> Notifier | None:
        """Who tells callbacks of requests: one for all that share the port."""
        return self._notifier if self._neighbour is None else self._neighbour.notifier

    @property
    def active(self) -> int:
        """Requests that wait or are computed."""
        return self.batcher.waiting + self.batcher.running

    def fail(self, what: str, error: BaseException) -> None:
        """A fault of ours: nobody knows what still works, so whoever started us ends it all."""
        log.critical("a fault in headgate itself: %s", what, exc_info=error)
        if not self.failed.done():
            self.failed.set_result(None)

    @property
    def ready(self) -> bool:
        """Whether requests are answered: by the model, and by whoever must be asked before."""
        if self.authorizer is not None and not self.authorizer.ready:
            return False
        if self._notifier is not None and not self._notifier.first.done():
            return False
        return is_ready(
            [worker.state for worker in self.workers if not worker.silent],
            was_ready=self._was_ready,
            draining=self.draining,
            healthy=all(worker.healthy for worker in self.workers),
        )

    def learn_model(self, info: ModelInfo) -> None:
        """A worker has said what the model is; the first to do so sets up the queue."""
        if self.info:
            return
        self.info = info
        if info["authorizes"]:
            self.authorizer = Authorizer(self.settings, self.fail)
        if info["tells"] and self._neighbour is None:
            self._notifier = Notifier(self.settings, self.fail)
        size = info["max_batch_size"]
        window_s = info["batch_timeout_s"] if size > 1 else 0.0
        self.batcher.adopt(self.settings.queue_policy(size, window_s))

    @property
    def log_dropped(self) -> int:
        """Lines of the log, of all processes, that nobody read in time."""
        return self._outlet.dropped + sum(worker.log_dropped for worker in self.workers)

    # -- requests

    def submit(self, job: Job) -> None:
        """Queues `job`; raises Refused when there is no room, or no use in waiting."""
        if self.draining:
            raise RequestRefused(GOING)
        if not self._was_ready:
            raise refuse("not_ready", "the model is still loading", 1.0)
        if (hopeless := self._hopeless()) is not None:
            raise RequestRefused(hopeless)
        if job.deadline != inf and self.load.is_hopeless(job):
            raise refuse(
                "queue_full", "the wait is longer than the deadline", self.load.retry_after()
            )
        if (lack := self.batcher.lacks(job.size, self.load.sure_wait_s)) is not None:
            self._dispatch()  # those that only wait for this turn of the loop to end
            lack = self.batcher.lacks(job.size, self.load.sure_wait_s)
            if lack is not None:
                raise refuse("queue_full", self.load.why_refused(lack), self.load.retry_after())
        self.batcher.offer(job)
        if not self._scheduled:
            # Not at once: requests that came in the same turn of the loop share a batch.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def abandon(self, job: Job) -> None:
        """Nobody waits for `job` any more: its place is free, what can be stopped of it is, and its
        body is kept no longer than a worker may still have to read it."""
        job.on_reply = None
        if job.taken:
            heeds = self.info["stream"] or self.info["is_async"] or self.info["prepares"]
            if job.worker is not None and heeds:
                job.worker.send(("cancel", job.id))
            if job.worker is None or job.worker.has_read(job):
                job.body = b""
        else:
            self.batcher.leave(job)
            self._notice_quiet()

    def acknowledge(self, job: Job, size: int) -> None:
        """`size` bytes of a stream, with what each item counts besides, were sent on."""
        if job.worker is not None:
            job.worker.send(("ack", job.id, size))

    # -- batches

    def dispatch_soon(self) -> None:
        """Looks at the queue in the next turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        try:
            self._hand_out(time.monotonic())
        except Exception as error:
            self.fail("handing out work failed", error)

    def _hand_out(self, now: float) -> None:
        while self.batcher.waiting:
            worker = self.load.idle_worker()
            if worker is None:
                worker = self.load.worker_ahead()
            elif (delay := self._delay(now)) and not self.draining:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_later(delay, self.dispatch_soon)
                return
            if worker is None:
                return
            jobs, expired = self.batcher.take(now, self.load.share())
            self._expire(expired)
            if jobs:
                worker.run(jobs, now)
                self.metrics.batch_size.observe(len(jobs))
                for job in jobs:
                    self.metrics.queue_seconds.observe(now - job.arrived)

    def _delay(self, now: float) -> float | None:
        """How long an idle worker should wait for more requests."""
        if not self.batcher.policy.window_s:
            return 0.0
        return self.batcher.delay(now, self.load.lead_s())

    def batch_done(self, batch: Batch, seconds: float) -> None:
        """A batch came back; `seconds` is what it took in the worker, 0 if it failed there."""
        self.batcher.finish(len(batch.jobs))
        self.changes += 1
        if seconds:
            self.metrics.predict_seconds.observe(seconds)
            self.load.pace.learn(len(batch.jobs), seconds)
            self.batcher.limit = self.load.limit(self.info, self.settings)
        if self.batcher.waiting:
            self.dispatch_soon()
        self._notice_quiet()

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs that their worker never began wait again, if their clients do."""
        wanted = [job for job in jobs if job.on_reply is not None]
        for job in wanted:
            job.taken, job.worker = 0.0, None
        self.batcher.finish(len(jobs) - len(wanted))
        self.batcher.put_back(wanted)

    def give_up_if_hopeless(self) -> None:
        """Answers all that wait where no worker will come for them soon."""
        if (hopeless := self._hopeless()) is not None:
            self.fail_waiting(hopeless)

    def _hopeless(self) -> Problem | None:
        """Why no request may wait, and until when; None if one may."""
        ready = self.workers[0].state is State.READY  # as mostly: the others need not be asked
        if ready or any(worker.hopeful for worker in self.workers):
            return None
        starts_in_s = min(worker.starts_in_s for worker in self.workers)
        say = "the model keeps failing to start"
        return Problem("not_ready", say, retry_after_s=ceil(starts_in_s))

    def fail_waiting(self, problem: Problem) -> None:
        """Answers all that wait."""
        for job in self.batcher.clear():
            job.resolve(problem)
        self._notice_quiet()

    def _notice_quiet(self) -> None:
        if not self.batcher.waiting and not self.batcher.running:
            self._quiet.set()

    # -- time

    def _sweep(self) -> None:
        """One timer for all deadlines and all hung batches; none while nothing is there."""
        self._sweeper = None
        try:
            self._look_around(time.monotonic())
        except Exception as error:
            self.fail("looking for what is late failed", error)
        if self.batcher.waiting or self.batcher.running:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        else:
            self._notice_quiet()

    def _look_around(self, now: float) -> None:
        self._expire(self.batcher.expire(now))
        expected_s = self.load.pace.seconds(self.batcher.limit)
        for worker in self.workers:
            for job in worker.late(now):
                job.resolve(LATE)
                self.abandon(job)
            if worker.notice_stuck(now, max(STUCK_S, STUCK_TIMES * expected_s)):
                self.changes += 1
            worker.end_if_hung(now)

    def _expire(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.resolve(WAITED)

    def _check(self) -> None:
        """Asks workers that are not busy how they are."""
        self._checker = self._loop.call_later(CHECK_S, self._check)
        for worker in self.workers:
            worker.check()
            if worker.gpu_memory is not None:
                self.metrics.gpu_memory[worker.device] = worker.gpu_memory
