"""What does a worker answer, in plain values?

An answer or a problem as tuples that marshal can carry, and back. What a user's exception
says about itself is decided here; the exception never leaves the worker.
"""

import logging
import time
from asyncio import CancelledError, current_task
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from instance.core.errors import Fault, Problem, Refused
from instance.engine.frames import Body, found, place
from instance.surface.codec import UnencodableError

log = logging.getLogger("instance.model")
MAX_TRACEBACKS_PER_S = 5


@dataclass(slots=True)
class Answer:
    """One whole answer: status, media type, further headers, body."""

    body: Body
    content_type: str = "application/json"
    status: int = 200
    headers: list[tuple[str, str]] | None = None


Reply = Answer | Problem


def pack_reply(reply: Reply, blobs: list[Body]) -> tuple[Any, ...]:
    """`reply` as plain values; a large body goes to `blobs`."""
    if isinstance(reply, Answer):
        return (reply.status, reply.content_type, place(reply.body, blobs), reply.headers)
    faults = [(fault.pointer, fault.code, fault.detail) for fault in reply.faults]
    return (0, reply.code, reply.detail, reply.status, faults, list(reply.headers))


def unpack_reply(packed: tuple[Any, ...], blobs: list[Body]) -> Reply:
    """The reply that `pack_reply` was given."""
    if packed[0]:
        status, content_type, body, headers = packed
        return Answer(found(body, blobs), content_type, status, headers)
    _, code, detail, status, faults, headers = packed
    return Problem(code, detail, status, [Fault(*fault) for fault in faults], headers)


def _chosen(error: BaseException) -> Problem | None:
    """The answer that an exception with `status_code` and `detail` asks for."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or not 200 <= status <= 599 or not hasattr(error, "detail"):
        return None
    headers = getattr(error, "headers", None) or {}
    named = [(plain_text(str(name)), plain_text(str(value))) for name, value in headers.items()]
    code = "refused" if status < 500 else "model_error"
    return Problem(code, _plain_detail(error.detail), int(status), (), named)


def plain_text(text: str) -> str:
    """`text` as a str and no subclass, such as a member of an enumeration: only plain values
    cross to the HTTP process."""
    return str.__str__(text)


def _plain_detail(detail: Any) -> Any:
    if detail is None or type(detail) is str:
        return detail
    try:
        return orjson.loads(orjson.dumps(detail, default=str))
    except TypeError:
        return str(detail)


def raise_if_cancelled(error: BaseException) -> None:
    """Raises `error` again if it is how our own task comes to the end it was told to come to."""
    if isinstance(error, CancelledError):
        with suppress(RuntimeError):  # no loop: all hooks are plain
            task = current_task()
            if task is not None and task.cancelling():
                raise error


class Blame:
    """Turns exceptions of hooks into problems, and writes their tracebacks to the log, a few
    in a second at most: a flood of bad items must not become a flood of lines."""

    def __init__(self) -> None:
        self._second = 0
        self._written = 0

    def problem(self, error: BaseException) -> Problem:
        """What the client is told of `error`: nothing of the code that raised it. It need be no
        Exception: a `sys.exit()` deep in a library or a panic of one in Rust is the fault of one
        request as well, and must not end the worker. Only what ends our own task on
        purpose goes on."""
        raise_if_cancelled(error)
        if isinstance(error, Refused):
            return error.problem
        if isinstance(error, UnencodableError):
            return Problem("model_error", str(error))
        try:
            chosen = _chosen(error)
        except BaseException:  # an exception whose own attributes raise
            chosen = None
        if chosen is None:
            self._write(error)
            return Problem("model_error", "the model failed on this request; its log says why")
        return chosen

    def _write(self, error: BaseException) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        if self._written <= MAX_TRACEBACKS_PER_S:
            log.error("a hook raised %s", type(error).__name__, exc_info=error)
