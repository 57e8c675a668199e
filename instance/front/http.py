"""The HTTP surface of an instance: who may come in, and to what.

A request of the model's path is its `Endpoint`'s; everything else is small, and answered here.
"""

import asyncio
import logging
import signal
import time
from functools import partial
from typing import Any

from instance.core.errors import Problem, RequestRefused, refuse
from instance.front import zipping
from instance.front.answers import header_lines
from instance.front.bodies import lay
from instance.front.door import NOT_TO_STOP, OPEN, OPEN_DOOR, PROBED, WRONG_KEY, Door, question_of
from instance.front.driver import Driver
from instance.front.endpoint import Endpoint
from instance.front.incoming import Incoming
from instance.front.middlewares import Middlewares
from instance.front.pages import Pages, text_page
from instance.telemetry.metrics import Metrics
from instance.wire.arena import MIN_ROOM, Room

log = logging.getLogger("instance")
Pairs = list[tuple[str, str]]


class Surface:
    """The HTTP surface of one instance."""

    def __init__(
        self,
        driver: Driver,
        endpoint: Endpoint,
        metrics: Metrics,
        door: Door = OPEN_DOOR,
        middlewares: Middlewares | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.pages = Pages(driver, metrics, self._secrets)
        self._driver = driver
        self._answers = endpoint.answers
        self._metrics = metrics
        self._door = door
        self._middlewares = middlewares
        settings = driver.settings
        self._max_body = settings.max_body
        self._shutdown_path = settings.shutdown_path
        self._shutdown_door = Door(b"Bearer " + settings.shutdown_key.encode(), b"authorization")
        self._has_learned = False  # what a worker has said of the model

    # -- what a connection asks

    def begin(self, incoming: Incoming) -> Problem | None:
        """Why a request is refused before its body has come: its announced length, or what
        it expects."""
        headers = incoming.headers
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 18 or int(announced) > self._max_body:
            detail = f"the body is larger than {self._max_body} bytes (--max-body)"
            return Problem("body_too_large", detail)
        coding = headers.get(b"transfer-encoding")
        if coding is not None and incoming.version != "1.1":  # its framing is not to be believed
            return Problem("bad_request", "HTTP/1.0 has no transfer encodings")
        if coding is not None and coding.lower() != b"chunked":
            return Problem("bad_request", "of transfer encodings only chunked is read here")
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
            self._answers.answer(incoming, *incoming.ready)
            return
        if not self._has_learned:
            self._learn()
        if self._door.key and self._lacks_key(incoming):  # that may be known only now
            self._answers.problem(incoming, WRONG_KEY)
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
            self._answers.problem(incoming, refused.problem)

    def _passes(self, incoming: Incoming, middlewares: Middlewares) -> bool:
        """Whether the middlewares let it through; they may have headers for its answer then, and
        else have given it. A probe need know no name of the host, and no TLS."""
        passes, status, headers, body = middlewares.ask(incoming)
        if not passes and incoming.method in ("GET", "HEAD") and incoming.path in PROBED:
            return True
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
        path = incoming.path
        return path in OPEN or path == self._shutdown_path

    def _asks_class(self, incoming: Incoming) -> bool:
        """Whether it is the model's own class that decides whether the request may come in. Of
        several models none decides that of what is asked of all."""
        if not self._driver.info.get("authorizes"):
            return False
        return not self.endpoint.neighbours or self.has(incoming.path)

    def _told(self, incoming: Incoming, problem: Problem | None, headers: Pairs) -> None:
        """Whether the request may come in."""
        incoming.question = None
        if problem is None:
            incoming.extra += header_lines(headers)
            self._take(incoming)
        else:
            self._answers.problem(incoming, problem)

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
        incoming.unpacked = work = asyncio.get_running_loop().run_in_executor(
            None, zipping.inflated, packed, encoding, self._max_body
        )
        work.add_done_callback(partial(self._inflated, incoming))

    def _inflated(self, incoming: Incoming, work: asyncio.Future[list[bytes]]) -> None:
        """A large body is put where its worker reads it, by a thread too: to copy it here would
        keep health waiting."""
        arena = self._driver.arena
        if arena is None or work.cancelled() or work.exception() is not None:
            self._unpacked(incoming, work)
            return
        size = sum(map(len, work.result()))
        room = arena.take(size) if size >= MIN_ROOM else None
        if room is None:
            self._unpacked(incoming, work)
            return
        incoming.unpacked = laid = asyncio.get_running_loop().run_in_executor(
            None, lay, work.result(), room
        )
        laid.add_done_callback(partial(self._unpacked, incoming))

    def _unpacked(
        self, incoming: Incoming, work: asyncio.Future[list[bytes]] | asyncio.Future[Room]
    ) -> None:
        if work.cancelled():  # the client left, or the loop ends
            return
        work.exception()  # looked at even where nobody is told
        if incoming.connection.transport is not None:
            self._begin(incoming)

    def _begin(self, incoming: Incoming) -> None:
        try:
            endpoint = self.endpoint
            if incoming.target == endpoint.target:  # what most ask for, as it stands
                endpoint.predict(incoming, endpoint.path)
                return
            path = incoming.path
            if endpoint.serves(path):
                endpoint.predict(incoming, path)
            else:
                self._page(incoming, path)
        except RequestRefused as refused:
            self._answers.problem(incoming, refused.problem)

    def leave(self, incoming: Incoming) -> None:
        """The client left: its place is freed, its stream stopped, its body let go."""
        if incoming.question is not None and self._driver.authorizer is not None:
            self._driver.authorizer.forget(incoming.question)
            self._metrics.requests[499] += 1
        elif incoming.unpacked is not None and incoming.job is None:
            incoming.unpacked.cancel()
            self._metrics.requests[499] += 1
        elif incoming.job is not None:
            self.endpoint.leave(incoming)

    def refuse(self, incoming: Incoming, problem: Problem) -> None:
        self._answers.problem(incoming, problem)

    async def finish(self) -> None:
        """Waits a moment for streams that have just ended to be written."""
        await self.endpoint.finish()

    def _learn(self) -> None:
        info = self._driver.info
        if not info:
            return
        if not self._door.key:  # nor had we one; the model's code may have found it in a file
            self._door = Door(info["api_key"].encode())
        self.pages.learn()
        self._has_learned = True

    # -- other paths

    def _page(self, incoming: Incoming, path: str) -> None:
        page = self.pages.at(path)
        if path == self._shutdown_path:
            self._shut_down(incoming)
            return
        if page is None:
            other = path[:-1] if path.endswith("/") else f"{path}/"
            models = (self.endpoint, *self.endpoint.neighbours)
            if self.pages.at(other) is not None or any(one.serves(other) for one in models):
                self._answers.redirect(incoming, other)
                return
            if not self._driver.info:
                raise refuse("not_ready", "the model is still loading", 1.0)
            raise refuse("not_found", f"there is no such path; {self.endpoint.where}")
        if incoming.method not in ("GET", "HEAD"):
            self._answers.wrong_method(incoming, "GET, HEAD")
            return
        status, content_type, body = page()
        self._answers.answer(incoming, status, content_type, body)

    def _shut_down(self, incoming: Incoming) -> None:
        """Stops the instance for a client that has the key, as the signal would."""
        if incoming.method != "POST":
            self._answers.wrong_method(incoming, "POST")
        elif not self._shutdown_door.lets_in(incoming):
            self._answers.problem(incoming, NOT_TO_STOP)
        else:
            log.info("a client asked for the end")
            self._answers.answer(incoming, *text_page(200, "stopping"))
            signal.raise_signal(signal.SIGTERM)

    def has(self, path: str) -> bool:
        """Whether `path` is the model's, or a page of its own."""
        if not self._has_learned:
            self._learn()
        return self.endpoint.serves(path) or self.pages.owns(path)

    @property
    def ready(self) -> bool:
        return self._driver.ready

    def _secrets(self) -> dict[str, Any]:
        """What clients are asked for, as OpenAPI has it."""
        authorizer = self._driver.authorizer
        return self._door.secrets() if authorizer is None else authorizer.secrets
