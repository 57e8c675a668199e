"""What happens at the model's path?

A request becomes a job that waits for its model, and what the model says the answer. Bodies are not
looked into here: they are the worker's, which has the model's types.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from math import inf

from instance.core.deadlines import HEADER, deadline_of
from instance.core.errors import Problem, refuse
from instance.front.answers import header_lines
from instance.front.bodies import whole
from instance.front.driver import Driver
from instance.front.incoming import Incoming
from instance.front.jobs import Job, Parts
from instance.front.pages import model_paths
from instance.front.streaming import stream
from instance.front.writing import MAX_ID, AnswerWriter
from instance.telemetry.logs import concerning
from instance.telemetry.metrics import Metrics
from instance.wire.replies import Answer

log = logging.getLogger("instance")
TIMEOUT = HEADER.lower().encode()
JSON = "application/json"
JSON_TYPE = JSON.encode()


class Endpoint:
    """One model's path; `path` is empty until a worker has said which the model wants."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self.answers = AnswerWriter(driver, metrics)
        self.neighbours: Sequence[Endpoint] = ()  # other models on the same port
        self.path = ""
        self.target = b""  # the same as a request line has it
        self._versioned = ""  # the same by another path, where the model's spec has one
        self._driver = driver
        self._metrics = metrics
        self._tells = False  # whether callbacks want to know of requests
        self._wants_request = False
        self._request_timeout_s = inf  # longest wait in the queue, by the model's class
        self._loop = asyncio.get_running_loop()
        self._streams: set[asyncio.Task[None]] = set()

    def serves(self, path: str) -> bool:
        """Whether `path` is the model's, as far as a worker has said it."""
        if not self.path:
            self._learn()
        return bool(self.path) and path in (self.path, self._versioned)

    def _learn(self) -> None:
        info = self._driver.info
        if not info:
            return
        self.path, self._wants_request = info["path"], info["wants_request"]
        self.target = self.path.encode("latin-1", "replace")
        self._tells = info["tells"]
        self._request_timeout_s = info["request_timeout_s"]
        if info["spec"] == "open-inference":
            self._versioned = f"{model_paths(info)[-1]}/infer"

    @property
    def where(self) -> str:
        """For who asks elsewhere."""
        paths = " and ".join(one.path for one in (self, *self.neighbours))
        info = self._driver.info
        version = f"; version {info['version']} of {info['name']} is served here"
        return f"the model is at {paths}{version if self._versioned else ''}"

    def predict(self, incoming: Incoming, path: str) -> None:
        """Queues the request; raises RequestRefused where it may not wait."""
        if incoming.method != "POST":
            self.answers.wrong_method(incoming, "POST")
            return
        job = self._job(incoming, path)
        self._driver.submit(job)
        incoming.job = job
        if self._tells:
            self._tell_request()

    def leave(self, incoming: Incoming) -> None:
        """The client left: its place is freed, its stream stopped."""
        job: Job = incoming.job
        self._driver.abandon(job)
        if job.parts is None:
            self._metrics.requests[499] += 1
        else:
            job.parts.end(None)

    async def finish(self) -> None:
        """Waits a moment for streams that have just ended to be written."""
        if self._streams:
            await asyncio.wait(self._streams, timeout=1.0)

    def _tell_request(self) -> None:
        """Tells callbacks of a request, with the number of those under way in all models of this
        port where they are counted."""
        if (notifier := self._driver.notifier) is not None:
            active = None
            if self._driver.info["tracks_requests"]:
                active = sum(one._driver.active for one in (self, *self.neighbours))
            notifier.tell("on_request", active_requests=active)

    def _job(self, incoming: Incoming, path: str) -> Job:
        arrived, headers, until = incoming.arrived, incoming.headers, inf
        deadline = arrived + self._request_timeout_s
        if TIMEOUT in headers:
            try:
                until = deadline_of(incoming.header(TIMEOUT), arrived)
                deadline = min(deadline, until)
            except ValueError as error:
                raise refuse("bad_request", str(error)) from None
            if deadline <= time.monotonic():
                raise refuse("deadline", "the deadline had passed on arrival")
        if incoming.unpacked is not None:
            incoming.body = whole(incoming.unpacked.result())
        meta = None
        if self._wants_request:
            query = incoming.target.partition(b"?")[2].decode("latin-1")
            named = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers.items()]
            meta = (incoming.method, path, query, named)
        driver = self._driver
        id, named_so = next(driver.ids), headers.get(b"x-request-id")
        kind = headers.get(b"content-type", b"")
        return Job(
            id,
            arrived,
            incoming.body,
            JSON if kind == JSON_TYPE else kind.decode("latin-1"),
            partial(self._replied, incoming),
            deadline,
            b"text/event-stream" in headers.get(b"accept", b""),
            meta,
            f"{driver.name}{id}" if named_so is None else named_so.decode("latin-1")[:MAX_ID],
            until,
        )

    def _replied(self, incoming: Incoming, reply: Answer | Problem | Parts) -> None:
        """As `_reply`. What fails here is this request's alone: who calls has others to tell."""
        try:
            self._reply(incoming, reply)
        except Exception:
            log.exception("an answer could not be written", extra=concerning(_ids(incoming)))
            incoming.connection.break_off(reset=True)

    def _reply(self, incoming: Incoming, reply: Answer | Problem | Parts) -> None:
        """What the model, or the queue, has said."""
        if isinstance(reply, Answer):
            extra = header_lines(reply.headers) if reply.headers else b""
            self.answers.answer(incoming, reply.status, reply.content_type, reply.body, extra)
            if self._tells:
                self._tell_answer()
        elif isinstance(reply, Problem):
            self.answers.problem(incoming, reply)
        else:
            self._stream(incoming, reply)

    def _tell_answer(self) -> None:
        if (notifier := self._driver.notifier) is not None:
            notifier.tell("on_response")

    def _stream(self, incoming: Incoming, parts: Parts) -> asyncio.Task[None]:
        """Begins to write a stream; the task that does it."""
        self._metrics.requests[200] += 1
        incoming.keep_alive = incoming.keep_alive and not self._driver.draining
        task = self._loop.create_task(
            stream(incoming, parts, self._driver, self.answers.load_report() + incoming.extra)
        )
        self._streams.add(task)
        task.add_done_callback(partial(self._streamed, incoming))
        return task

    def _streamed(self, incoming: Incoming, task: asyncio.Task[None]) -> None:
        self._streams.discard(task)
        if self._tells:
            self._tell_answer()
        if not task.cancelled() and (error := task.exception()) is not None:
            extra = concerning(_ids(incoming))
            log.error("a stream could not be written", exc_info=error, extra=extra)
            self._driver.abandon(incoming.job)
            incoming.connection.break_off(reset=True)


def _ids(incoming: Incoming) -> list[str]:
    return [] if incoming.job is None else [incoming.job.request_id]
