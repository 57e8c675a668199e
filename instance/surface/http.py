"""What do clients of an instance see, path by path?

Reads requests, queues them, answers them. Bodies are not looked into here: they are the
worker's, which has the model's types. Everything that is not the model's path is small.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import orjson

from instance.core.deadlines import HEADER, deadline_of
from instance.core.errors import Problem, Refused, refuse
from instance.engine.arena import Room
from instance.engine.driver import Driver
from instance.engine.frames import Body
from instance.engine.jobs import Job, Parts
from instance.engine.replies import Answer
from instance.specs.openai_errors import error_of
from instance.surface.answers import BODILESS, JOIN_MAX, Buffer, head, header_lines
from instance.surface.connection import Incoming
from instance.surface.docs import docs_page
from instance.surface.openapi import openapi
from instance.surface.pages import model_paths, pages_of
from instance.surface.streaming import stream
from instance.telemetry.metrics import Metrics

Page = tuple[int, str, bytes]  # status, media type, body
TIMEOUT = HEADER.lower().encode()


class Surface:
    """The HTTP surface of one instance."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self._driver = driver
        self._metrics = metrics
        self._max_body = driver.settings.max_body
        self._path = ""  # until a worker has said which path the model wants
        self._versioned: str | None = (
            None  # the same by another path, where the model's spec has one
        )
        self._elsewhere = ""  # what else is said of where the model is
        self._wants_request = False
        self._patience_s = inf  # longest wait in the queue, by the model's class
        self._loop = asyncio.get_running_loop()
        self._load: tuple[int, int, int, int] = (-1, 0, 0, 0)
        self._report = b""
        self._streams: set[asyncio.Task[None]] = set()
        self._pages: dict[str, Callable[[], Page]] = {
            "/health": self._ready,
            "/health/ready": self._ready,
            "/health/live": partial(text_page, 200, "ok"),
            "/info": lambda: json_page(self._info()),
            "/metrics": self._metrics_page,
            "/openapi.json": lambda: json_page(openapi(self._driver.info)),
            "/docs": lambda: (200, "text/html; charset=utf-8", docs_page()),
        }

    # -- what a connection asks ------------------------------------------------------------

    def begin(self, incoming: Incoming) -> Problem | None:
        """Why a request is refused before its body has come: its announced length, or what
        it expects."""
        headers = incoming.headers
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > self._max_body:
            detail = f"the body is larger than {self._max_body} bytes"
            return Problem("body_too_large", detail)
        expect = headers.get(b"expect")
        if expect is not None and incoming.version == "1.1" and expect.lower() != b"100-continue":
            return Problem("expectation_failed", "only 100-continue can be expected")
        return None

    def handle(self, incoming: Incoming) -> None:
        """Answers a whole request, now or when its model has."""
        incoming.arrived = time.monotonic()
        if incoming.body and b"content-encoding" in incoming.headers:
            self._unpack(incoming)
        else:
            self._begin(incoming)

    def _unpack(self, incoming: Incoming) -> None:
        """Goes on once a thread has unpacked the body: a small one can become a large one, and
        health is answered meanwhile."""
        body, encoding = incoming.body, incoming.headers[b"content-encoding"].decode("latin-1")
        packed = body.view if isinstance(body, Room) else body
        incoming.unpacked = work = self._loop.run_in_executor(
            None, inflate, packed, encoding, self._max_body
        )
        work.add_done_callback(partial(self._unpacked, incoming))

    def _unpacked(self, incoming: Incoming, work: asyncio.Future[bytes]) -> None:
        if work.cancelled():  # the loop ends
            return
        work.exception()  # looked at even where nobody is told
        if incoming.connection.transport is None:
            self._metrics.requests[499] += 1
        else:
            self._begin(incoming)

    def _begin(self, incoming: Incoming) -> None:
        path = incoming.target.partition(b"?")[0].decode("latin-1")
        try:
            if self._is_models(path):
                self._predict(incoming, path)
            else:
                self._page(incoming, path)
        except Refused as refused:
            self._problem(incoming, refused.problem)

    def leave(self, incoming: Incoming) -> None:
        """The client left: its place is freed, its stream stopped."""
        if incoming.job is not None:
            self._driver.abandon(incoming.job)
            if incoming.job.parts is None:
                self._metrics.requests[499] += 1
            else:
                incoming.job.parts.end(None)

    def refuse(self, incoming: Incoming, problem: Problem) -> None:
        self._problem(incoming, problem)

    async def finish(self) -> None:
        """Waits a moment for streams that have just ended to be written."""
        if self._streams:
            await asyncio.wait(self._streams, timeout=1.0)

    def _is_models(self, path: str) -> bool:
        """Whether `path` is the model's, as far as a worker has said it."""
        if path == self._path:
            return True
        if not self._path:
            self._learn()
        return bool(self._path) and path in (self._path, self._versioned)

    def _learn(self) -> None:
        info = self._driver.info
        if not info:
            return
        self._path, self._wants_request = info["path"], info["wants_request"]
        self._patience_s = info["request_timeout_s"]
        for page, document in pages_of(info).items():
            self._pages[page] = partial(json_page, document)
        if info["spec"] == "open-inference":
            self._learn_protocol(info)

    def _learn_protocol(self, info: dict[str, Any]) -> None:
        """The paths of the Open Inference Protocol that are no documents."""
        self._pages["/v2/health/live"] = lambda: json_page({"live": True})
        self._pages["/v2/health/ready"] = self._ready_as_json
        for model in model_paths(info):
            self._pages[f"{model}/ready"] = partial(self._ready_as_json, name=info["name"])
        self._versioned = f"{model}/infer"
        self._elsewhere = f"; version {info['version']} of {info['name']} is served here"

    # -- the model's path ------------------------------------------------------------------

    def _predict(self, incoming: Incoming, path: str) -> None:
        if incoming.method != "POST":
            self._wrong_method(incoming, "POST")
            return
        job = self._job(incoming, path)
        self._driver.submit(job)
        incoming.job = job

    def _job(self, incoming: Incoming, path: str) -> Job:
        arrived, headers = incoming.arrived, incoming.headers
        deadline = arrived + self._patience_s
        if TIMEOUT in headers:
            try:
                deadline = min(deadline, deadline_of(incoming.header(TIMEOUT), arrived))
            except ValueError as error:
                raise refuse("bad_request", str(error)) from None
            if deadline <= time.monotonic():
                raise refuse("deadline", "the deadline had passed on arrival")
        if incoming.unpacked is not None:
            incoming.body = incoming.unpacked.result()
        meta = None
        if self._wants_request:
            query = incoming.target.partition(b"?")[2].decode("latin-1")
            named = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers.items()]
            meta = (incoming.method, path, query, named)
        return Job(
            next(self._driver.ids),
            arrived,
            incoming.body,
            headers.get(b"content-type", b"").decode("latin-1"),
            partial(self._reply, incoming),
            deadline,
            b"text/event-stream" in headers.get(b"accept", b""),
            meta,
        )

    def _reply(self, incoming: Incoming, reply: Answer | Problem | Parts) -> None:
        """What the model, or the queue, has said."""
        if isinstance(reply, Answer):
            extra = header_lines(reply.headers) if reply.headers else b""
            self._answer(incoming, reply.status, reply.content_type, reply.body, extra)
        elif isinstance(reply, Problem):
            self._problem(incoming, reply)
        else:
            self._stream(incoming, reply)

    def _stream(self, incoming: Incoming, parts: Parts) -> asyncio.Task[None]:
        """Begins to write a stream; the task that does it."""
        self._metrics.requests[200] += 1
        incoming.keep_alive = incoming.keep_alive and not self._driver.draining
        task = self._loop.create_task(stream(incoming, parts, self._driver, self._orca()))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return task

    # -- other paths -----------------------------------------------------------------------

    def _page(self, incoming: Incoming, path: str) -> None:
        page = self._pages.get(path)
        if page is None:
            if not self._driver.info:
                raise refuse("not_ready", "the model is still loading", 1.0)
            where = f"the model is at {self._path}{self._elsewhere}"
            raise refuse("not_found", f"there is no such path; {where}")
        if incoming.method not in ("GET", "HEAD"):
            self._wrong_method(incoming, "GET, HEAD")
            return
        status, content_type, body = page()
        self._answer(incoming, status, content_type, body)

    def _wrong_method(self, incoming: Incoming, allow: str) -> None:
        problem = Problem("method_not_allowed", f"use {allow}", headers=[("Allow", allow)])
        self._problem(incoming, problem)

    def _ready(self) -> Page:
        ready = self._driver.ready
        return text_page(200 if ready else 503, "ok" if ready else "not ready")

    def _ready_as_json(self, **named: str) -> Page:
        """As the Open Inference Protocol has it."""
        ready = self._driver.ready
        return json_page({**named, "ready": ready}, 200 if ready else 503)

    def _info(self) -> dict[str, Any]:
        driver = self._driver
        info = driver.info
        shown = ("name", "path", "max_batch_size", "batch_timeout_s", "stream", "concurrency")
        return {
            **{key: info[key] for key in shown if key in info},
            "max_queue": driver.batcher.policy.max_queue,
            "timeout_s": driver.settings.timeout_s,
            "ready": driver.ready,
            "workers": [
                {"device": worker.info.get("device", worker.device), "state": worker.state.value}
                for worker in driver.workers
            ],
        }

    def _metrics_page(self) -> Page:
        queue, running, _, _ = self._driver.report()
        self._metrics.queue_depth, self._metrics.running = queue, running
        return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.render()

    # -- answers ---------------------------------------------------------------------------

    def _problem(self, incoming: Incoming, problem: Problem) -> None:
        if problem.code == "not_ready":
            # With its load report this tells a gateway that nothing is taken here; one that is
            # merely full keeps its connections.
            incoming.keep_alive = False
        document = problem.document(incoming.header(b"x-request-id"))
        spec = self._driver.info.get("spec", "")
        if spec.startswith("openai"):
            document["error"] = error_of(problem)
        elif spec == "open-inference":
            document["error"] = str(problem.detail)
        extra = header_lines(list(problem.headers)) if problem.headers else b""
        if problem.retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % max(1, round(problem.retry_after_s))
        body = orjson.dumps(document, default=str)
        self._answer(incoming, problem.status_code, "application/problem+json", body, extra)

    def _answer(
        self,
        incoming: Incoming,
        status: int,
        content_type: str,
        body: Body,
        extra: bytes = b"",
    ) -> None:
        self._metrics.requests[status] += 1
        if self._driver.draining:
            incoming.keep_alive = False
        close = not incoming.keep_alive
        extra = self._orca() + extra
        if incoming.version == "1.0" and not close:
            extra += b"Connection: keep-alive\r\n"
        begin = head(status, content_type, len(body), extra, close)
        if incoming.method == "HEAD" or status in BODILESS:
            incoming.connection.reply(incoming, begin)
        elif len(body) <= JOIN_MAX and not isinstance(body, Room):
            incoming.connection.reply(incoming, begin + body)
        else:
            incoming.connection.reply(incoming, begin, body)

    def _orca(self) -> bytes:
        """The load report; the answers of one batch, written together, share its text."""
        driver = self._driver
        batcher = driver.batcher
        load = (batcher.waiting, batcher.running, batcher.limit, driver.changes)
        if load != self._load:
            self._load = load
            self._report = (
                b'endpoint-load-metrics: JSON {"named_metrics": {"queue": %d, "running": %d, '
                b'"slots": %d, "wait_ms": %.1f}}\r\n' % driver.report()
            )
        return self._report


def text_page(status: int, text: str) -> Page:
    return status, "text/plain; charset=utf-8", text.encode()


def json_page(value: Any, status: int = 200) -> Page:
    return status, "application/json", orjson.dumps(value)


def inflate(body: Buffer, encoding: str, limit: int) -> bytes:
    """A compressed body, as long as it is within `limit`; else the refusal is raised."""
    if encoding.lower() == "identity":
        return bytes(body)
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise refuse("unsupported_media_type", f"the content encoding {encoding} is not known")
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise refuse("bad_request", f"the body is not {encoding}: {error}") from None
    if len(plain) > limit:
        raise refuse("body_too_large", f"the body is larger than {limit} bytes")
    if not decoder.eof or decoder.unused_data:
        raise refuse("bad_request", f"the body is not {encoding}: it ends early, or goes on")
    return plain
