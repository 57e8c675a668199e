"""What do clients of an instance see, path by path?

Reads requests, queues them, answers them. Bodies are not looked into here: they are the
worker's, which has the model's types. Everything that is not the model's path is small.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_request import BaseRequest

from instance.core.deadlines import HEADER, deadline_of
from instance.core.errors import Problem, Refused, refuse
from instance.engine.driver import Driver
from instance.engine.jobs import Job, Parts
from instance.specs.openai_errors import error_of
from instance.surface.answers import WholeAnswer, header_lines
from instance.surface.docs import docs_page
from instance.surface.openapi import openapi
from instance.surface.pages import pages_of
from instance.surface.streaming import StreamAnswer
from instance.telemetry.metrics import Metrics

BODY_IDLE_S = 30.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Surface:
    """The HTTP surface of one instance."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self._driver = driver
        self._metrics = metrics
        self._max_body = driver.settings.max_body
        self._path = ""  # until a worker has said which path the model wants
        self._wants_request = False
        self._loop = asyncio.get_running_loop()
        self._load: tuple[int, int, int, int] = (-1, 0, 0, 0)
        self._report = b""
        self._pages: dict[str, Callable[[], WholeAnswer]] = {
            "/health": self._health,
            "/health/ready": self._ready,
            "/health/live": lambda: self._text(200, "ok"),
            "/info": lambda: self._json(200, self._info()),
            "/metrics": self._metrics_page,
            "/openapi.json": lambda: self._json(200, openapi(self._driver.info)),
            "/docs": lambda: self._answer(200, "text/html; charset=utf-8", docs_page()),
        }

    async def __call__(self, request: BaseRequest) -> web.StreamResponse:
        """The answer to any request; nothing but a cancellation leaves it."""
        try:
            path = request._message.path.partition("?")[0]
            if path == self._path or (not self._path and self._learn(path)):
                return await self._predict(request)
            return self._page(request, path)
        except Refused as refused:
            return self._problem(request, refused.problem)

    def _learn(self, path: str) -> bool:
        """Whether `path` is the model's, once a worker has said so."""
        info = self._driver.info
        if not info:
            return False
        self._path, self._wants_request = info["path"], info["wants_request"]
        for page, document in pages_of(info).items():
            self._pages[page] = partial(self._json, 200, document)
        if info["spec"] == "open-inference":
            self._pages["/v2/health/live"] = self._pages["/health/live"]
            self._pages["/v2/health/ready"] = self._ready
            self._pages[f"/v2/models/{info['name']}/ready"] = self._ready
        return path == self._path

    # -- the model's path ------------------------------------------------------------------

    async def _predict(self, request: BaseRequest) -> web.StreamResponse:
        if request._message.method != "POST":
            return self._wrong_method(request, "POST")
        job = await self._job(request)
        driver = self._driver
        driver.submit(job)
        try:
            reply = await job.future
        except asyncio.CancelledError:
            driver.abandon(job)
            self._metrics.requests[499] += 1
            raise
        if isinstance(reply, Problem):
            return self._problem(request, reply)
        if isinstance(reply, Parts):
            self._metrics.requests[200] += 1
            extra = self._orca()
            return StreamAnswer(job, reply, driver, extra, driver.draining)
        extra = header_lines(reply.headers) if reply.headers else b""
        return self._answer(reply.status, reply.content_type, reply.body, extra)

    async def _job(self, request: BaseRequest) -> Job:
        arrived = time.monotonic()
        driver = self._driver
        headers = request.headers
        try:
            deadline = deadline_of(headers.get(HEADER), arrived)
        except ValueError as error:
            raise refuse("bad_request", str(error)) from None
        if driver.draining:
            raise refuse("not_ready", "the instance is shutting down", 1.0)
        body = await self._body(request)
        if deadline <= arrived:
            raise refuse("deadline", "the deadline had passed on arrival")
        meta = None
        if self._wants_request:
            path, _, query = request._message.path.partition("?")
            # Plain text: names come as a subclass that cannot cross to the worker.
            meta = ("POST", path, query, [(str(name), value) for name, value in headers.items()])
        return Job(
            next(driver.ids),
            arrived,
            body,
            headers.get("Content-Type", ""),
            self._loop.create_future(),
            deadline,
            "text/event-stream" in headers.get("Accept", ""),
            meta,
        )

    async def _body(self, request: BaseRequest) -> bytes | bytearray:
        """The whole body; refused by its announced length, or as soon as it is too long."""
        content = request.content
        if content.is_eof() and "Expect" not in request.headers:
            body = content.read_nowait()
            if len(body) > self._max_body:
                raise self._too_large()
            return body
        announced = request.headers.get("Content-Length")
        if announced is not None and int(announced) > self._max_body:
            raise self._too_large()
        self._expect(request)
        whole = bytearray()
        try:
            async with asyncio.timeout(BODY_IDLE_S) as patience:
                while part := await content.readany():
                    patience.reschedule(self._loop.time() + BODY_IDLE_S)
                    whole += part
                    if len(whole) > self._max_body:
                        raise self._too_large()
        except TimeoutError:
            raise refuse("request_timeout", "the body stopped coming") from None
        return whole

    def _expect(self, request: BaseRequest) -> None:
        expect = request.headers.get("Expect")
        if expect is None or request._message.version < (1, 1):
            return
        if expect.lower() != "100-continue":
            raise refuse("expectation_failed", "only 100-continue can be expected")
        if request.transport is not None:
            request.transport.write(CONTINUE)

    def _too_large(self) -> Refused:
        return refuse("body_too_large", f"the body is larger than {self._max_body} bytes")

    # -- other paths -----------------------------------------------------------------------

    def _page(self, request: BaseRequest, path: str) -> WholeAnswer:
        page = self._pages.get(path)
        if page is None:
            if not self._path and not self._driver.info:
                raise refuse("not_ready", "the model is still loading", 1.0)
            raise refuse("not_found", f"there is no such path; the model is at {self._path}")
        if request._message.method not in ("GET", "HEAD"):
            return self._wrong_method(request, "GET, HEAD")
        return page()

    def _wrong_method(self, request: BaseRequest, allow: str) -> WholeAnswer:
        problem = Problem("method_not_allowed", f"use {allow}", headers=[("Allow", allow)])
        return self._problem(request, problem)

    def _health(self) -> WholeAnswer:
        ready = self._driver.ready
        return self._text(200 if ready else 503, "ok" if ready else "not ready")

    def _ready(self) -> WholeAnswer:
        return self._health()

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

    def _metrics_page(self) -> WholeAnswer:
        queue, running, _, _ = self._driver.report()
        self._metrics.queue_depth, self._metrics.running = queue, running
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return self._answer(200, kind, self._metrics.render())

    # -- answers ---------------------------------------------------------------------------

    def _problem(self, request: BaseRequest, problem: Problem) -> WholeAnswer:
        document = problem.document(request.headers.get("X-Request-Id"))
        if self._driver.info.get("spec", "").startswith("openai"):
            document["error"] = error_of(problem)
        extra = header_lines(list(problem.headers)) if problem.headers else b""
        if problem.retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % max(1, round(problem.retry_after_s))
        body = orjson.dumps(document, default=str)
        # A body that was refused unread would have to be read to its end: close instead.
        close = not request.content.is_eof()
        return self._answer(problem.status_code, "application/problem+json", body, extra, close)

    def _answer(
        self,
        status: int,
        content_type: str,
        body: bytes | bytearray | memoryview,
        extra: bytes = b"",
        close: bool = False,
    ) -> WholeAnswer:
        self._metrics.requests[status] += 1
        close = close or self._driver.draining
        return WholeAnswer(status, content_type, body, self._orca() + extra, close)

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

    def _text(self, status: int, text: str) -> WholeAnswer:
        return self._answer(status, "text/plain; charset=utf-8", text.encode())

    def _json(self, status: int, value: Any) -> WholeAnswer:
        return self._answer(status, "application/json", orjson.dumps(value))
