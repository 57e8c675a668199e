"""One worker as the HTTP process sees it: its batches, and what is done when it hangs or dies.

A `Worker` outlives its processes: it starts the next one after a back-off. Which batch it
gets is the dispatcher's decision.
"""

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import cast

from instance.core.errors import Problem
from instance.core.lifecycle import Backoff, Signal, State, after
from instance.front.batches import Batch, Batches
from instance.front.jobs import Job
from instance.front.process import WorkerProcess
from instance.settings import Settings
from instance.telemetry.logs import concerning
from instance.telemetry.metrics import Metrics
from instance.wire.arena import Room
from instance.wire.frames import Body, Frame, place
from instance.wire.marks import BEGUN, divide
from instance.wire.messages import Answers, FromWorker, ModelInfo, PackedJob, ToWorker, pass_over

log = logging.getLogger("instance")
JSON_LINES = "application/x-ndjson"
HEALTH_S = 120.0  # for `health()`, if the timeout is not shorter
SILENT_S = 5.0  # after which one that had nothing to do when it was asked is not counted on
GRACE_S = 5.0  # for a teardown, and for an async job to heed its cancellation
ALIVE = (State.STARTING, State.READY, State.STOPPING)
HOPELESS_AFTER = 3  # starts in a row that failed
DIED = Problem("model_error", "the model's process died while it computed this request")
UNENDED = Problem("model_error", "the model's stream was broken off")
UNFINISHED = Problem("deadline", "the instance ended before its model was done (--drain)")
REPLACED = Problem("deadline", "the model did not answer within its timeout (--timeout)")


class Dispatcher:
    """Who gives batches to workers: what a worker knows of it, and what it is told."""

    settings: Settings
    metrics: Metrics
    arena_file: int | None
    ids: Iterator[int]
    changes: int
    workers: "list[Worker]"

    @abstractmethod
    def learn_model(self, info: ModelInfo) -> None: ...
    @abstractmethod
    def dispatch_soon(self) -> None: ...
    @abstractmethod
    def batch_done(self, batch: Batch, seconds: float) -> None: ...
    @abstractmethod
    def put_back(self, jobs: list[Job]) -> None: ...
    @abstractmethod
    def give_up_if_hopeless(self) -> None: ...
    @abstractmethod
    def fail(self, what: str, error: BaseException) -> None: ...


class Worker:
    """One device's place: the process that serves it now, and the batches it has."""

    def __init__(self, dispatcher: Dispatcher, device: str, number: int) -> None:
        self.device = device
        self._number = number
        self.state = State.DOWN
        self.info = cast(ModelInfo, {})  # until a process has said it
        self.capacity = 1
        self.healthy = True
        self.stuck = False  # it has given no sign for much longer than its batch should take
        self.silent = False  # nor does it say how it is: it is stopped, as far as can be known
        self.batches = Batches()
        self.gpu_memory: tuple[int, int] | None = None
        self.first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._dispatcher = dispatcher
        self._process: WorkerProcess[ToWorker, FromWorker] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready_at = 0.0
        self._failure = ""
        self._end = DIED
        self._backoff = Backoff()
        self._checking = False
        self._asked_at = 0.0
        self._asked_idle = False
        self._starts_at = 0.0
        self._log_dropped = 0  # by earlier processes

    @property
    def log_dropped(self) -> int:
        """Lines of its processes' logs that nobody read in time."""
        now = self._process.log_dropped if self._process is not None and self.state in ALIVE else 0
        return self._log_dropped + now

    # -- life

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._live())
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """Nothing but a fault of ours ends it with an exception."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not self.first.done():
            self.first.set_result(f"a fault in headgate itself: {error!r}")
        self._dispatcher.fail("keeping a worker failed", error)

    async def _live(self) -> None:
        """Process after process, until told to stop."""
        while self.state is State.DOWN:
            self.state = after(self.state, Signal.START)
            self._process = WorkerProcess(self._on_frame)
            self._ready_at = 0.0
            try:
                await self._process.start(
                    self._dispatcher.settings,
                    self.device,
                    self._dispatcher.arena_file,
                    self._number,
                )
                how = await self._process.gone()
            except OSError as error:  # the machine has no process or file left
                how = f"no process: {error}"
            self.state = after(self.state, Signal.EXIT)
            if not self.first.done():  # never ready: whoever started us is told, once
                self.first.set_result(self._failure or f"the model's process ended with {how}")
                return
            self._bury(how)
            if self.state is State.DOWN:
                await asyncio.sleep(self._backoff.delay_s)
                self._dispatcher.metrics.restarts += 1

    def _bury(self, how: str) -> None:
        """What the dead process was computing has failed; what it had not begun waits again."""
        batches = self.batches.take_all()
        divided = self._divided([batch.jobs for batch in batches])
        if self.state is State.DOWN:
            lived_s = time.monotonic() - self._ready_at if self._ready_at else 0.0
            self._backoff = self._backoff.failed(lived_s)
            self._starts_at = time.monotonic() + self._backoff.delay_s
            why = self._failure or how
            lost = concerning([job.request_id for begun, _ in divided for job in begun])
            log.error("worker on %s ended (%s); starting again", self.device, why, extra=lost)
        self._dispatcher.changes += 1
        self._log_dropped += self._process.log_dropped if self._process is not None else 0
        self._dispatcher.put_back([job for _, waits in divided for job in waits])
        for batch, (begun, _) in zip(batches, divided, strict=True):
            batch.jobs = begun
            for job in begun:
                job.resolve(self._end)
            self._dispatcher.batch_done(batch, 0.0)
        self._end = DIED
        self._failure = ""
        self._dispatcher.give_up_if_hopeless()

    def _divided(self, batches: list[list[Job]]) -> list[tuple[list[Job], list[Job]]]:
        """Of each batch: (what the dead process had begun, what it had not)."""
        if self.info.get("is_async"):
            return [(jobs, []) for jobs in batches]
        marks = self._process.marks if self._process is not None else None
        if marks is None:  # only what it was sent ahead is known
            return [(jobs, []) for jobs in batches[:1]] + [([], jobs) for jobs in batches[1:]]
        return divide(batches, marks)

    async def stop(self, hurry: asyncio.Future[None]) -> None:
        """Asks it to end, and ends it when it takes too long, or there is a `hurry`."""
        if self._task is None:
            return
        was = self.state
        self.state = after(self.state, Signal.STOP)
        if was is State.DOWN:
            self._task.cancel()
        elif self._process is not None:
            if was is State.READY:
                self._give_up()
                self.send(("stop",))
            else:
                self._process.kill()
            either = [self._task, hurry]
            await asyncio.wait(either, timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            self._process.kill()
        # Killed, it is gone in no time; whatever else may hold the task must not hold the exit.
        await asyncio.wait([self._task], timeout=GRACE_S)
        self._task.cancel()

    def _give_up(self) -> None:
        """Answers what it has not finished, and has it leave off where it can: a generator is then
        closed, and `teardown` called."""
        heeds = self.info["stream"] or self.info["is_async"] or self.info["prepares"]
        for job in [job for batch in self.batches.values() for job in batch.jobs]:
            job.resolve(UNFINISHED)
            if heeds:
                self.send(("cancel", job.id))

    @property
    def hopeful(self) -> bool:
        """Whether requests may wait for it."""
        return self.state is State.READY or self._backoff.never_ready < HOPELESS_AFTER

    @property
    def starts_in_s(self) -> float:
        """Until its next start, 0 where it is under way."""
        return max(0.0, self._starts_at - time.monotonic()) if self.state is State.DOWN else 0.0

    # -- batches

    @property
    def room(self) -> int:
        """Batches it could begin now."""
        if self.state is not State.READY or self.silent:
            return 0
        return self.capacity - len(self.batches)

    @property
    def can_take_ahead(self) -> bool:
        return (
            self.state is State.READY
            and not self.stuck
            and len(self.batches) == 1
            and not self.info["is_async"]
            and not self.info["stream"]
        )

    def notice_stuck(self, now: float, limit_s: float) -> bool:
        """Whether it is stuck is another answer than before. One that is cannot be counted on,
        though it may still come back: it is replaced only after the timeout."""
        was, plain = self.stuck, not (self.info["is_async"] or self.info["stream"])
        self.stuck = self.silent or (plain and now - self.batches.busy_since > limit_s)
        return self.stuck is not was

    def late(self, now: float) -> list[Job]:
        """The jobs that it has and whose clients shall wait no longer: those sent ahead it will not
        run, and what it computes is for nobody."""
        if not self.batches:
            return []
        return self.batches.late(now, first_only=not self.info["is_async"])

    def has_read(self, job: Job) -> bool:
        """Whether it has surely read the body of `job`, which is computed: a body in a frame was
        handed over, one in the arena is copied before any of its batch is begun."""
        if not isinstance(job.body, Room):
            return True
        marks = self._process.marks if self._process is not None else None
        if marks is None or self.info["is_async"]:
            return False
        return self.batches.is_under_way(job, marks[BEGUN])

    def run(self, jobs: list[Job], now: float) -> None:
        """Sends `jobs` as one batch."""
        blobs: list[Body] = []
        packed: list[PackedJob] = []
        batch = Batch(next(self._dispatcher.ids), jobs, now)
        stream = self.info["stream"]
        for job in jobs:
            job.taken, job.worker, job.batch = now, self, len(jobs)
            body = place(job.body, blobs)
            packed.append(
                (job.id, job.content_type, body, job.deadline, job.sse, job.meta, job.request_id)
            )
            if stream:
                self.batches.streams[job.id] = (job, batch)
        self.batches[batch.id] = batch
        self.send(("batch", batch.id, packed), blobs)

    def send(self, message: ToWorker, blobs: list[Body] | None = None) -> None:
        if self._process is not None:
            self._process.send(message, blobs)

    def check(self) -> None:
        """Asks for health and memory, unless it computes or has not answered yet. One that had
        nothing to do and does not answer is silent, and replaced after the timeout, or HEALTH_S."""
        if self.state is not State.READY:
            return
        now, timeout_s = time.monotonic(), min(self._dispatcher.settings.timeout_s, HEALTH_S)
        has_health = self.info["has_health"]
        if self._checking:
            waited_s = now - self._asked_at
            if timeout_s and waited_s > (timeout_s if has_health else max(timeout_s, SILENT_S)):
                self._end_hung("health() of the " if has_health else "", timeout_s)
            elif self._asked_idle and waited_s > SILENT_S and not self.silent:
                log.warning("worker on %s gives no sign; it is not counted on", self.device)
                self._hear(silent=True)
            return
        idle = not self.batches
        # One that computes on its loop may be long in answering, and is well.
        if idle or (self.info["is_async"] and has_health):
            self._checking, self._asked_at, self._asked_idle = True, now, idle
            self.send(("check",))

    def _hear(self, *, silent: bool) -> None:
        """It has become silent, or gives a sign again."""
        self.silent = self.stuck = silent
        self._dispatcher.changes += 1
        self._dispatcher.dispatch_soon()

    def end_if_hung(self, now: float) -> None:
        """Replaces a worker whose batch has given no sign for the timeout."""
        timeout_s = self._dispatcher.settings.timeout_s
        if not timeout_s:
            return
        for batch in self.batches.hung(now, timeout_s, first_only=not self.info["is_async"]):
            if batch.cancelled or not self.info["is_async"]:
                self._end_hung("", timeout_s)
                return
            batch.cancelled = True
            batch.progress = now - timeout_s + GRACE_S
            late = concerning([job.request_id for job in batch.jobs])
            log.error("cancelling what is hung for %.1f s (--timeout)", timeout_s, extra=late)
            for job in batch.jobs:
                job.resolve(REPLACED)
                self.send(("cancel", job.id))

    def _end_hung(self, what: str, timeout_s: float) -> None:
        if self._end is REPLACED:  # killed already, and not gone yet
            return
        log.error(
            "%sworker on %s is hung for %.1f s (--timeout); replacing it",
            what, self.device, timeout_s,
        )  # fmt: skip
        self._end = REPLACED
        assert self._process is not None
        self._process.kill()

    # -- messages

    def _on_frame(self, frame: Frame[FromWorker]) -> None:
        message, blobs = frame
        if message[0] == "answers":
            self._on_answers(message, blobs)
        elif message[0] == "item":
            self.batches.add_item(message, blobs)
        elif message[0] == "head":
            if (stream := self.batches.streams.get(message[1])) is not None:
                stream[0].begin(message[2])
        elif message[0] == "end":
            self.batches.end_stream(message, blobs, self.info["media_type"])
        elif message[0] == "checked":
            self._checking = False
            if self.silent:
                self._hear(silent=False)
            self.healthy = message[1]
            self.gpu_memory = (message[2], message[3]) if message[3] else None
        elif message[0] == "loaded":
            self.info = message[1]
            self.capacity = self.info["concurrency"]
            self._dispatcher.learn_model(self.info)
        elif message[0] == "ready":
            self._on_ready()
        elif message[0] == "sign":
            if (stream := self.batches.streams.get(message[1])) is not None:
                stream[1].progress = time.monotonic()
        elif message[0] == "failed":
            self._failure = message[1]
        else:
            pass_over(message)

    def _on_ready(self) -> None:
        if self.state is not State.STARTING:
            return
        self.state = after(self.state, Signal.WARM)
        self._dispatcher.changes += 1
        self.healthy, self._checking, self.silent, self.stuck = True, False, False, False
        self._ready_at = time.monotonic()
        if not self.first.done():
            self.first.set_result(None)
        self._dispatcher.dispatch_soon()

    def _on_answers(self, message: Answers, blobs: list[Body]) -> None:
        self._dispatcher.changes += 1
        if (batch := self.batches.answered(message, blobs)) is not None:
            self.stuck = False
            self._dispatcher.batch_done(batch, message[2])
