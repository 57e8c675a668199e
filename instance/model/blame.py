"""What is told of an exception that a hook raised, and to whom?

What a user's exception says about itself is decided here; the exception never leaves the worker.
"""

import logging
import time
from asyncio import CancelledError, current_task
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import CodeType
from typing import Any, Protocol

import orjson

from instance.core.errors import Problem, RequestRefused
from instance.model.codec import UnencodableError
from instance.telemetry.logs import concerning

log = logging.getLogger("instance.model")
MAX_TRACEBACKS_PER_S = 5


def is_litserves(api: Any) -> bool:
    """Whether a model was written for LitServe."""
    return any(kind.__module__.partition(".")[0] == "litserve" for kind in type(api).__mro__)


def _chosen(error: BaseException, bare: bool) -> Problem | None:
    """The answer that an exception with `status_code` and `detail` asks for."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or not 200 <= status <= 599 or not hasattr(error, "detail"):
        return None
    headers = getattr(error, "headers", None) or {}
    named = [(plain_text(str(name)), plain_text(str(value))) for name, value in headers.items()]
    code = "refused" if status < 500 else "model_error"
    return Problem(code, _plain_detail(error.detail), int(status), (), named, None, bare)


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


class CountError(Exception):
    """predict or unbatch gave another number of outputs than there were inputs."""


class Concerned(Protocol):
    """A request, by the id that its client knows; empty for one of nobody."""

    request_id: str


class Blame:
    """Turns exceptions of hooks into problems, and writes their tracebacks to the log, a few
    in a second at most: a flood of bad items must not become a flood of lines. `codes` names the
    hooks by their code. Around a class `of_litserve` what hooks raise for clients is sent bare, and
    the detail of a failure is the text that LitServe's clients know."""

    def __init__(
        self, codes: Mapping[CodeType, str] | None = None, of_litserve: bool = False
    ) -> None:
        self._codes = codes or {}
        self._of_litserve = of_litserve
        self._second = 0
        self._written = 0
        self._left_out = 0

    def problem(self, error: BaseException, hook: str, works: Sequence[Concerned] = ()) -> Problem:
        """What the clients of `works` are told of `error`: nothing of the code that raised it. It
        need be no Exception: a `sys.exit()` deep in a library or a panic of one in Rust is the
        fault of one request as well, and must not end the worker. Only what ends our own task on
        purpose goes on. `hook` is where it arose if the traceback does not tell."""
        raise_if_cancelled(error)
        if isinstance(error, RequestRefused):
            return error.problem
        if isinstance(error, UnencodableError):
            return Problem("model_error", str(error))
        try:
            chosen = _chosen(error, self._of_litserve)
        except BaseException:  # an exception whose own attributes raise
            chosen = None
        if chosen is None:
            self._write(error, "%s() raised %s", hook, works)
            return Problem("model_error", self._said(error))
        return chosen

    def _said(self, error: BaseException) -> str:
        """What all may know of a failure."""
        if not self._of_litserve:
            return "the model failed on this request; its log says why"
        return "Batch size mismatch" if isinstance(error, CountError) else "Internal server error"

    def batch(self, error: BaseException, hook: str, works: Sequence[Concerned]) -> None:
        """Notes that a batch failed, whose items are now computed one by one."""
        self._write(error, "%s() raised %s on a batch; its items run alone", hook, works)

    def _write(self, error: BaseException, say: str, hook: str, works: Sequence[Concerned]) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        if self._written > MAX_TRACEBACKS_PER_S:
            self._left_out += 1
            return
        hook = self._hook_of(error) or hook
        facts = {"hook": hook, **({"left_out": self._left_out} if self._left_out else {})}
        self._left_out = 0
        ids = list(dict.fromkeys(work.request_id for work in works if work.request_id))
        extra = concerning(ids, **facts)
        log.error(say, hook, type(error).__name__, exc_info=error, extra=extra)

    def _hook_of(self, error: BaseException) -> str:
        """The innermost hook of its traceback, or nothing."""
        found, at = "", error.__traceback__
        while at is not None:
            found = self._codes.get(at.tb_frame.f_code, found)
            at = at.tb_next
        return found
