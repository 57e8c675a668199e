"""The batches that one worker has, and what comes of them.

Which worker gets which batch is `driver`'s decision; how a worker is spoken to, and what is done
when it hangs or dies, `workers`'.
"""

import logging
import time
from itertools import chain, islice
from math import inf

from instance.core.errors import Problem
from instance.front.jobs import Job
from instance.telemetry.logs import concerning
from instance.wire.arena import Room
from instance.wire.frames import Body, found
from instance.wire.links import WINDOW
from instance.wire.messages import Answers, End, Item
from instance.wire.replies import unpack_reply

log = logging.getLogger("instance")
JSON_LINES = "application/x-ndjson"
UNENDED = Problem("model_error", "the model's stream was broken off")


class Batch:
    """Requests that were sent to a worker together; `progress` is when it last gave a sign."""

    __slots__ = ("cancelled", "id", "jobs", "progress")

    def __init__(self, id: int, jobs: list[Job], now: float) -> None:
        self.id = id
        self.jobs = jobs
        self.progress = now
        self.cancelled = False

    @property
    def client_is_slow(self) -> bool:
        """Whether a stream of it waits for its client rather than for the model."""
        return any(job.parts is not None and job.parts.size >= WINDOW // 2 for job in self.jobs)


class Batches(dict[int, Batch]):
    """By id, oldest first; `streams` are the jobs among them whose answers come in parts. While the
    answers of one are written so many are `answered_with` each of them: they are computed no more.
    """

    __slots__ = ("answered_with", "streams")

    def __init__(self) -> None:
        super().__init__()
        self.answered_with = 0
        self.streams: dict[int, tuple[Job, Batch]] = {}

    def take_all(self) -> list[Batch]:
        """All there are; none is left."""
        batches = list(self.values())
        self.clear()
        self.streams.clear()
        return batches

    @property
    def busy_since(self) -> float:
        """When its oldest batch last gave a sign."""
        return min((batch.progress for batch in self.values()), default=inf)

    @property
    def held(self) -> int:
        """Requests that it has."""
        return sum(len(batch.jobs) for batch in self.values())

    def late(self, now: float, *, first_only: bool) -> list[Job]:
        """The jobs without an answer, or the beginning of one, whose clients wait until `now`. With
        `first_only` those behind the first batch are not begun, and must be by their deadline."""
        return [
            job
            for place, batch in enumerate(self.values())
            for job in batch.jobs
            if job.deadline <= now and job.on_reply is not None
            if job.until <= now or (place and first_only)
        ]

    def is_under_way(self, job: Job, begun: int) -> bool:
        """Whether `begun`, which a worker computes, is of the batch of `job`."""
        mates = (batch.jobs for batch in self.values() if job in batch.jobs)
        return any(mate.id == begun for mate in chain.from_iterable(mates))

    def hung(self, now: float, timeout_s: float, *, first_only: bool) -> list[Batch]:
        """The batches that have given no sign for `timeout_s`; `first_only` where the others wait
        for the first."""
        able = islice(self.values(), 1 if first_only else None)
        return [b for b in able if now - b.progress > timeout_s and not b.client_is_slow]

    def answered(self, message: Answers, blobs: list[Body]) -> Batch | None:
        """The batch that came back, its jobs resolved; None if it is known no more."""
        _, id, _, packed = message
        batch = self.pop(id, None)
        if batch is None:
            return None
        self.answered_with = len(batch.jobs) - 1
        try:
            for job, reply in zip(batch.jobs, packed, strict=False):
                job.resolve(unpack_reply(reply, blobs))
        finally:
            self.answered_with = 0
        for job in batch.jobs:
            job.worker = None
            if self.streams.pop(job.id, None) is not None:
                log.error("a stream was left without an end", extra=concerning([job.request_id]))
                job.resolve(UNENDED)
        for follower in self.values():
            follower.progress = max(follower.progress, time.monotonic())
            break
        return batch

    def add_item(self, message: Item, blobs: list[Body]) -> None:
        if (stream := self.streams.get(message[1])) is not None:
            job, batch = stream
            batch.progress = time.monotonic()
            assert job.parts is not None
            item = found(message[2], blobs)
            # A copy: it may wait here for its client, and the worker's memory is for answers.
            job.parts.add(bytes(item.view) if isinstance(item, Room) else item)

    def end_stream(self, message: End, blobs: list[Body], media_type: str) -> None:
        """The stream that `message` names is over: its job gets the problem that ended it, or an
        end; where no item came, an answer without any is begun as `media_type`."""
        if (stream := self.streams.pop(message[1], None)) is None:
            return
        job = stream[0]
        job.worker = None
        reply = None if message[2] is None else unpack_reply(message[2], blobs)
        problem = reply if isinstance(reply, Problem) else None
        if job.parts is None:
            if problem is not None:
                job.resolve(problem)
                return
            job.begin("text/event-stream" if job.sse else media_type or JSON_LINES)
        assert job.parts is not None
        job.parts.end(problem)
