"""How does an answer get onto a connection?

Its head with the load report, its body compressed where the client takes that; a problem in the
form that the model's spec has for it. Streams are written by `streaming`.
"""

import asyncio
import sys
from urllib.parse import quote

import orjson

from instance.core.errors import Problem
from instance.core.openai_errors import error_of
from instance.front import zipping
from instance.front.answers import BODILESS, MAX_JOINED, head, header_lines
from instance.front.driver import Driver
from instance.front.incoming import Incoming
from instance.telemetry.metrics import Metrics
from instance.wire.arena import Room
from instance.wire.frames import Body

MAX_ID = 200  # characters of a request's id that go on


def _id_of(incoming: Incoming, driver: Driver) -> str:
    """The id of a request that was refused before its model was asked."""
    named_so = incoming.header(b"x-request-id")
    return f"{driver.name}{next(driver.ids)}" if named_so is None else named_so[:MAX_ID]


class AnswerWriter:
    """Writes the answers of one instance, and counts them."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self._driver = driver
        self._metrics = metrics
        settings = driver.settings
        self._zips_from = settings.gzip_min if settings.gzip else sys.maxsize
        self._zip_level = settings.gzip_level
        self._load: tuple[int, int, int, int] = (-1, 0, 0, 0)
        self._report = b""

    def answer(
        self, incoming: Incoming, status: int, content_type: str, body: Body, extra: bytes = b""
    ) -> None:
        """Answers `incoming` and counts it, with the load report, and compressed where that was
        asked for and pays; `extra` are whole header lines."""
        if len(body) >= self._zips_from and zipping.is_offered(content_type, extra):
            extra += zipping.VARY
            if self._is_zipped(incoming, status, content_type, body, extra):
                return
        self._metrics.requests[status] += 1
        if self._driver.draining:
            incoming.keep_alive = False
        close = not incoming.keep_alive
        extra = self.load_report() + incoming.extra + extra
        if incoming.version == "1.0" and not close:
            extra += b"Connection: keep-alive\r\n"
        begin = head(status, content_type, len(body), extra, close)
        if incoming.method == "HEAD" or status in BODILESS:
            incoming.connection.reply(incoming, begin)
        elif len(body) <= MAX_JOINED and not isinstance(body, Room):
            incoming.connection.reply(incoming, begin + body)
        else:
            incoming.connection.reply(incoming, begin, body)

    def _is_zipped(
        self, incoming: Incoming, status: int, content_type: str, body: Body, extra: bytes
    ) -> bool:
        """Whether an answer goes out compressed: at once, or, if it is long, when a thread has done
        it: health is answered meanwhile."""
        if incoming.method == "HEAD" or not incoming.arrived:
            return False
        if not zipping.is_taken(incoming.headers.get(b"accept-encoding")):
            return False
        extra += zipping.ENCODED  # by which it is known that it is packed already
        view = body.view if isinstance(body, Room) else body
        if len(body) <= zipping.AT_ONCE:
            packed = zipping.zipped(view, self._zip_level)
            self.answer(incoming, status, content_type, packed, extra)
            return True

        def write(done: asyncio.Future[bytes], room: Body = body) -> None:  # kept until then
            if not done.cancelled() and incoming.connection.transport is not None:
                self.answer(incoming, status, content_type, done.result(), extra)

        work = asyncio.get_running_loop().run_in_executor(
            None, zipping.zipped, view, self._zip_level
        )
        work.add_done_callback(write)
        return True

    def problem(self, incoming: Incoming, problem: Problem) -> None:
        """Answers with `problem`, in the form that clients of the model's protocol read."""
        if problem.code == "not_ready":
            # With its load report this tells a gateway that nothing is taken here; one that is
            # merely full keeps its connections.
            incoming.keep_alive = False
        job = incoming.job
        request_id = _id_of(incoming, self._driver) if job is None else job.request_id
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
        self.answer(incoming, problem.status_code, kind, body, extra)

    def wrong_method(self, incoming: Incoming, allow: str) -> None:
        problem = Problem("method_not_allowed", f"use {allow}", headers=[("Allow", allow)])
        self.problem(incoming, problem)

    def redirect(self, incoming: Incoming, path: str) -> None:
        """To the same without, or with, a slash at its end: as the path was meant."""
        _, mark, query = incoming.target.partition(b"?")
        location = b"Location: %b%b%b\r\n" % (quote(path).encode(), mark, query)
        self.answer(incoming, 307, "text/plain; charset=utf-8", b"", location)

    def load_report(self) -> bytes:
        """The load report; the answers of one batch, written together, share its text."""
        driver = self._driver
        batcher = driver.batcher
        load = (batcher.waiting, batcher.running, batcher.limit, driver.changes)
        if load != self._load:
            self._load = load
            self._report = (
                b'endpoint-load-metrics: JSON {"named_metrics": {"queue": %d, "running": %d, '
                b'"slots": %d, "wait_ms": %.1f}}\r\n' % driver.load.report()
            )
        return self._report
