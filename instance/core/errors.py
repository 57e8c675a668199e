"""Which errors does an instance answer with, and what does their body say?

One table owns code, status and title. This module refuses to know where an error arose: the
model's process sends a code and a detail, never an exception, and never a traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """One error code: its status and its human title."""

    code: str
    status: int
    title: str


KINDS: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("bad_request", 400, "Bad request"),
        Kind("unauthorized", 401, "Not authorized"),
        Kind("forbidden", 403, "Forbidden"),
        Kind("not_found", 404, "No such path"),
        Kind("method_not_allowed", 405, "Method not allowed"),
        Kind("request_timeout", 408, "Request not received in time"),
        Kind("body_too_large", 413, "Body too large"),
        Kind("unsupported_media_type", 415, "Unsupported media type"),
        Kind("expectation_failed", 417, "Expectation cannot be met"),
        Kind("invalid_request", 422, "The request does not fit the model"),
        Kind("refused", 400, "The model refused the request"),
        Kind("head_too_large", 431, "Request head too large"),
        Kind("model_error", 500, "The model failed"),
        Kind("queue_full", 503, "The queue is full"),
        Kind("not_ready", 503, "Not ready"),
        Kind("deadline", 504, "The request's deadline passed"),
    )
}


def writable(text: str) -> str:
    """`text` as UTF-8 can carry it: half of a surrogate pair stays readable, as an escape."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Fault:
    """One field of a request that is wrong; `pointer` is its JSON pointer."""

    pointer: str
    code: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "pointer", writable(self.pointer))
        object.__setattr__(self, "detail", writable(self.detail))


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client will see it.

    `status` is 0 unless the model chose one itself; `detail` is shown to the client, and may
    be any JSON value where the model's own exception carried one.
    """

    code: str
    detail: Any
    status: int = 0
    faults: Sequence[Fault] = ()
    headers: Sequence[tuple[str, str]] = ()
    retry_after_s: float | None = None
    bare: bool = False
    """Whether nothing but `detail` is said, as FastAPI says what an HTTPException has to say."""

    def __post_init__(self) -> None:
        # The one place that all errors pass: what they say is a model's, and must not keep them
        # from being said.
        if isinstance(self.detail, str):
            object.__setattr__(self, "detail", writable(self.detail))

    @property
    def status_code(self) -> int:
        return self.status or KINDS[self.code].status

    @property
    def message(self) -> str:
        """What went wrong in one line, for people and for protocols that have no more room."""
        faults = "; ".join(f"{one.pointer or 'the body'}: {one.detail}" for one in self.faults[:3])
        return faults or str(self.detail)

    def document(self, request_id: str | None) -> dict[str, Any]:
        """The body as RFC 9457 has it, with our `code`, `request_id` and `errors`."""
        status = self.status_code
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": KINDS[self.code].title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
        }
        if request_id is not None:
            document["request_id"] = request_id
        if self.faults:
            document["errors"] = [
                {"pointer": fault.pointer, "code": fault.code, "detail": fault.detail}
                for fault in self.faults
            ]
        return document


class RequestRefused(Exception):
    """A request that is not taken; carries the problem to answer with."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def refuse(code: str, detail: str, retry_after_s: float | None = None) -> RequestRefused:
    """The exception to raise for `code`."""
    return RequestRefused(Problem(code, detail, retry_after_s=retry_after_s))
