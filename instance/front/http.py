"""The HTTP surface of an instance, path by path.

Reads requests, queues them, answers them. Bodies are not looked into here: they are the
worker's, which has the model's types. Everything that is not the model's path is small.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any

import orjson

from instance.core.deadlines import HEADER, deadline_of
from instance.core.errors import Problem, RequestRefused, refuse
from instance.core.openai_errors import error_of
from instance.front import zipping
from instance.front.answers import BODILESS, JOIN_MAX, head, header_lines
from instance.front.connection import Incoming
from instance.front.door import NOT_TO_STOP, OPEN, OPEN_DOOR, WRONG_KEY, Door, question_of
from instance.front.driver import Driver
from instance.front.jobs import Job, Parts
from instance.front.middlewares import Middlewares
from instance.front.pages import Pages, model_paths, text_page
from instance.front.streaming import stream
from instance.telemetry.logs import concerning
from instance.telemetry.metrics import Metrics
from instance.wire.arena import Room
from instance.wire.frames import Body
from instance.wire.replies import Answer

log = logging.getLogger("instance")
Pairs = list[tuple[str, str]]
TIMEOUT = HEADER.lower().encode()
MAX_ID = 200  # characters of a request's id that go on
JSON = "application/json"
JSON_TYPE = JSON.encode()


class Surface:
    """The HTTP surface of one instance."""

    def __init__(
        self,
        driver: Driver,
        metrics: Metrics,
        door: Door = OPEN_DOOR,
        middlewares: Middlewares | None = None,
    ) -> None:
        self._driver = driver
        self._door = door
        self._middlewares = middlewares
        self.neighbours: Sequence[Surface] = ()  # of other models on the same port
        self._metrics = metrics
        self._max_body = driver.settings.max_body
        settings = driver.settings
        self._zips_from = settings.gzip_min if settings.gzip else sys.maxsize
        self._zip_level = settings.gzip_level
        self._shutdown_path = settings.shutdown_path
        self._shutdown_door = Door(b"Bearer " + settings.shutdown_key.encode(), b"authorization")
        self._path = ""  # until a worker has said which path the model wants
        self._target = b""  # the same as a request line has it
        self._tells = False  # whether callbacks want to know of requests
        self._versioned: str | None = (
            None  # the same by another path, where the model's spec has one
        )
        self._elsewhere = ""  # what else is said of where the model is
        self._wants_request = False
        self._request_timeout_s = inf  # longest wait in the queue, by the model's class
        self._loop = asyncio.get_running_loop()
        self._load: tuple[int, int, int, int] = (-1, 0, 0, 0)
        self._report = b""
        self._streams: set[asyncio.Task[None]] = set()
        self.pages = Pages(driver, metrics, self._secrets)

    # -- what a connection asks ------------------------------------------------------------

    def begin(self, incoming: Incoming) -> Problem | None:
        """Why a request is refused before its body has come: its announced length, or what
        it expects."""
        headers = incoming.headers
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > self._max_body:
            detail = f"the body is larger than {self._max_body} bytes (--max-body)"
            return Problem("body_too_large", detail)
        if self._middlewares is not None and not self._passes(incoming, self._middlewares):
            return None  # its answer is there
        if self._door.key and self._lacks_key(incoming):
            return WRONG_KEY
        expect = headers.get(b"expect")
        if expect is not None and incoming.version == "1.1" and expect.lower() != b"100-continue":
            return Problem("expectation_failed", "only 100-continue can be expected")
        return None

    def handle(self, incoming: Incoming) -> None:
        """Answers a whole request, now or when its model has."""
        incoming.arrived = time.monotonic()
        if incoming.ready is not None:
            self._answer(incoming, *incoming.ready)
            return
        if not self._path:
            self._learn()
        if self._door.key and self._lacks_key(incoming):  # that may be known only now
            self._problem(incoming, WRONG_KEY)
            return
        authorizer = self._driver.authorizer
        if authorizer is None or self._is_open(incoming) or not self._asks_class(incoming):
            if b"content-encoding" in incoming.headers:
                self._take(incoming)
            else:
                self._begin(incoming)
            return
        try:
            incoming.question = authorizer.ask(
                *question_of(incoming), partial(self._told, incoming)
            )
        except RequestRefused as refused:
            self._problem(incoming, refused.problem)

    def _passes(self, incoming: Incoming, middlewares: Middlewares) -> bool:
        """Whether the middlewares let it through; they may have headers for its answer then, and
        else have given it."""
        passes, status, headers, body = middlewares.ask(incoming)
        if passes:
            incoming.extra = header_lines(headers)
        else:
            kind = next((v for name, v in headers if name.lower() == "content-type"), "text/plain")
            incoming.ready = (status, kind, body, header_lines(headers))
        return passes

    def _lacks_key(self, incoming: Incoming) -> bool:
        """Whether the request needs the key of the environment and has not got it."""
        if self._door.lets_in(incoming):
            return False
        return not self._is_open(incoming) and not self._asks_class(incoming)

    def _is_open(self, incoming: Incoming) -> bool:
        """Whether anybody may ask for its path; what stops the instance has a key of its own."""
        path = incoming.target.partition(b"?")[0].decode("latin-1")
        return path in OPEN or path == self._shutdown_path

    def _asks_class(self, incoming: Incoming) -> bool:
        """Whether it is the model's own class that decides whether the request may come in. Of
        several models none decides that of what is asked of all."""
        if not self._driver.info.get("authorizes"):
            return False
        return not self.neighbours or self.has(incoming.target.partition(b"?")[0].decode("latin-1"))

    def _told(self, incoming: Incoming, problem: Problem | None, headers: Pairs) -> None:
        """Whether the request may come in."""
        incoming.question = None
        if problem is None:
            incoming.extra += header_lines(headers)
            self._take(incoming)
        else:
            self._problem(incoming, problem)

    def _take(self, incoming: Incoming) -> None:
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
            None, zipping.inflated, packed, encoding, self._max_body
        )
        work.add_done_callback(partial(self._unpacked, incoming))

    def _unpacked(self, incoming: Incoming, work: asyncio.Future[bytes]) -> None:
        if work.cancelled():  # the client left, or the loop ends
            return
        work.exception()  # looked at even where nobody is told
        if incoming.connection.transport is not None:
            self._begin(incoming)

    def _begin(self, incoming: Incoming) -> None:
        try:
            if incoming.target == self._target:  # what most ask for, as it stands
                self._predict(incoming, self._path)
                return
            path = incoming.target.partition(b"?")[0].decode("latin-1")
            if self._is_models(path):
                self._predict(incoming, path)
            else:
                self._page(incoming, path)
        except RequestRefused as refused:
            self._problem(incoming, refused.problem)

    def leave(self, incoming: Incoming) -> None:
        """The client left: its place is freed, its stream stopped, its body let go."""
        if incoming.question is not None and self._driver.authorizer is not None:
            self._driver.authorizer.forget(incoming.question)
            self._metrics.requests[499] += 1
        elif incoming.unpacked is not None and incoming.job is None:
            incoming.unpacked.cancel()
            self._metrics.requests[499] += 1
        elif incoming.job is not None:
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
        if not self._door.key:  # nor had we one; the model's code may have found it in a file
            self._door = Door(info["api_key"].encode())
        self._path, self._wants_request = info["path"], info["wants_request"]
        self._target = self._path.encode("latin-1", "replace")
        self._tells = info["tells"]
        self._request_timeout_s = info["request_timeout_s"]
        self.pages.learn()
        if info["spec"] == "open-inference":
            self._versioned = f"{model_paths(info)[-1]}/infer"
            self._elsewhere = f"; version {info['version']} of {info['name']} is served here"

    # -- the model's path ------------------------------------------------------------------

    def _predict(self, incoming: Incoming, path: str) -> None:
        if incoming.method != "POST":
            self._wrong_method(incoming, "POST")
            return
        job = self._job(incoming, path)
        self._driver.submit(job)
        incoming.job = job
        if self._tells:
            self._tell_request()

    def _tell_request(self) -> None:
        """Tells callbacks of a request, with the number of those under way in all models of this
        port where they are counted."""
        if (notifier := self._driver.notifier) is not None:
            active = None
            if self._driver.info["tracks_requests"]:
                active = sum(one._driver.active for one in (self, *self.neighbours))
            notifier.tell("on_request", active_requests=active)

    def _job(self, incoming: Incoming, path: str) -> Job:
        arrived, headers = incoming.arrived, incoming.headers
        deadline = arrived + self._request_timeout_s
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
            self._answer(incoming, reply.status, reply.content_type, reply.body, extra)
            if self._tells:
                self._tell_answer()
        elif isinstance(reply, Problem):
            self._problem(incoming, reply)
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
            stream(incoming, parts, self._driver, self._orca() + incoming.extra)
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

    def _shut_down(self, incoming: Incoming) -> None:
        """Stops the instance for a client that has the key, as the signal would."""
        if incoming.method != "POST":
            self._wrong_method(incoming, "POST")
        elif not self._shutdown_door.lets_in(incoming):
            self._problem(incoming, NOT_TO_STOP)
        else:
            log.info("a client asked for the end")
            self._answer(incoming, *text_page(200, "stopping"))
            signal.raise_signal(signal.SIGTERM)

    # -- other paths -----------------------------------------------------------------------

    def _page(self, incoming: Incoming, path: str) -> None:
        page = self.pages.at(path)
        if path == self._shutdown_path:
            self._shut_down(incoming)
            return
        if page is None:
            other = path[:-1] if path.endswith("/") else f"{path}/"
            models = (self, *self.neighbours)
            if self.pages.at(other) is not None or any(one._is_models(other) for one in models):
                self._redirect(incoming, other)
                return
            if not self._driver.info:
                raise refuse("not_ready", "the model is still loading", 1.0)
            paths = " and ".join(one._path for one in (self, *self.neighbours))
            where = f"the model is at {paths}{self._elsewhere}"
            raise refuse("not_found", f"there is no such path; {where}")
        if incoming.method not in ("GET", "HEAD"):
            self._wrong_method(incoming, "GET, HEAD")
            return
        status, content_type, body = page()
        self._answer(incoming, status, content_type, body)

    def _redirect(self, incoming: Incoming, path: str) -> None:
        """To the same without, or with, a slash at its end: as the path was meant."""
        _, mark, query = incoming.target.partition(b"?")
        location = b"Location: %b%b%b\r\n" % (path.encode("latin-1"), mark, query)
        self._answer(incoming, 307, "text/plain; charset=utf-8", b"", location)

    def _wrong_method(self, incoming: Incoming, allow: str) -> None:
        problem = Problem("method_not_allowed", f"use {allow}", headers=[("Allow", allow)])
        self._problem(incoming, problem)

    def has(self, path: str) -> bool:
        """Whether `path` is the model's, or a page of its own."""
        if self._is_models(path):
            return True
        return self.pages.owns(path)

    @property
    def ready(self) -> bool:
        return self._driver.ready

    def _secrets(self) -> dict[str, Any]:
        """What clients are asked for, as OpenAPI has it."""
        authorizer = self._driver.authorizer
        return self._door.secrets() if authorizer is None else authorizer.secrets

    # -- answers ---------------------------------------------------------------------------

    def _problem(self, incoming: Incoming, problem: Problem) -> None:
        if problem.code == "not_ready":
            # With its load report this tells a gateway that nothing is taken here; one that is
            # merely full keeps its connections.
            incoming.keep_alive = False
        job = incoming.job
        request_id = incoming.header(b"x-request-id") if job is None else job.request_id
        kind = "application/problem+json"
        document = problem.document(request_id)
        spec = self._driver.info.get("spec", "")
        if problem.bare:
            kind, document = "application/json", {"detail": problem.detail}
        elif spec.startswith("openai"):
            document["error"] = error_of(problem)
        elif spec == "open-inference":
            document["error"] = problem.message
        extra = header_lines(list(problem.headers)) if problem.headers else b""
        if problem.retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % max(1, round(problem.retry_after_s))
        body = orjson.dumps(document, default=str)
        self._answer(incoming, problem.status_code, kind, body, extra)

    def _answer(
        self,
        incoming: Incoming,
        status: int,
        content_type: str,
        body: Body,
        extra: bytes = b"",
    ) -> None:
        if len(body) >= self._zips_from and self._is_zipped(
            incoming, status, content_type, body, extra
        ):
            return
        self._metrics.requests[status] += 1
        if self._driver.draining:
            incoming.keep_alive = False
        close = not incoming.keep_alive
        extra = self._orca() + incoming.extra + extra
        if incoming.version == "1.0" and not close:
            extra += b"Connection: keep-alive\r\n"
        begin = head(status, content_type, len(body), extra, close)
        if incoming.method == "HEAD" or status in BODILESS:
            incoming.connection.reply(incoming, begin)
        elif len(body) <= JOIN_MAX and not isinstance(body, Room):
            incoming.connection.reply(incoming, begin + body)
        else:
            incoming.connection.reply(incoming, begin, body)

    def _is_zipped(
        self, incoming: Incoming, status: int, content_type: str, body: Body, extra: bytes
    ) -> bool:
        """Whether an answer goes out compressed: at once, or, if it is long, when a thread has done
        it: health is answered meanwhile."""
        accepted = incoming.headers.get(b"accept-encoding")
        if incoming.method == "HEAD" or not incoming.arrived:
            return False
        if not zipping.is_wanted(accepted, content_type, extra):
            return False
        extra += zipping.HEADERS  # by which it is known that it is packed already
        view = body.view if isinstance(body, Room) else body
        if len(body) <= zipping.AT_ONCE:
            packed = zipping.zipped(view, self._zip_level)
            self._answer(incoming, status, content_type, packed, extra)
            return True

        def write(done: asyncio.Future[bytes], room: Body = body) -> None:  # kept until then
            if not done.cancelled() and incoming.connection.transport is not None:
                self._answer(incoming, status, content_type, done.result(), extra)

        work = self._loop.run_in_executor(None, zipping.zipped, view, self._zip_level)
        work.add_done_callback(write)
        return True

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


def _ids(incoming: Incoming) -> list[str]:
    return [] if incoming.job is None else [incoming.job.request_id]
