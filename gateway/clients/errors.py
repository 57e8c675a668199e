"""What can a client of a gateway raise?

One family for the admin API and for predictions, so that a program says once what it does about
a gateway that says no, is not there, or is late. Nothing here asks anybody anything.
"""

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, cast

import orjson

Json = dict[str, Any]


class Fault(TypedDict):
    """One thing wrong with what was sent; `pointer` is a JSON pointer into it."""

    pointer: str
    code: str
    detail: str


class ClientError(Exception):
    """What any call of a client may raise, whatever is the matter."""


class Unreachable(ClientError):
    """Nobody answered at the URL, what answered does not speak HTTP, or it broke off."""


class TimedOut(Unreachable, TimeoutError):
    """No whole answer in time, by the client's clock or by the gateway's."""


class Refused(ClientError):
    """The gateway, or the model behind it, said no.

    `status` is that of HTTP, `code` the error's name ("" where it has none), `detail` a sentence,
    and `faults` every fault that was named. `retry_after_s` is when to ask again, in seconds, and
    `request_id` what the gateway's log knows the request by: None and "" where they were not told.
    """

    def __init__(
        self,
        status: int,
        problem: Mapping[str, Any],
        *,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        self.status = status
        self.problem = dict(problem)
        self.retry_after_s = retry_after_s
        self.request_id = request_id or str(problem.get("request_id") or "")
        error = problem.get("error")  # as OpenAI's API says it, or the Open Inference Protocol
        inner: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
        self.code = str(problem.get("code") or inner.get("code") or "")
        detail = problem.get("detail") or inner.get("detail") or inner.get("message")
        detail = detail or problem.get("title") or f"status {status}"
        self.detail = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
        named = problem.get("errors")  # a model may mean something else by that
        listed = named if isinstance(named, list) else []
        self.faults: list[Fault] = [cast(Fault, one) for one in listed if isinstance(one, dict)]
        super().__init__(self.detail)


def refusal(
    status: int, reason: str, header: Callable[[str], str | None], content: bytes
) -> Refused:
    """What an answer with `status` says, whoever made it."""
    try:
        problem = orjson.loads(content)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": reason, "detail": f"{status} {reason}".strip()}
    wait = header("Retry-After") or ""
    return Refused(
        status,
        problem,
        retry_after_s=float(wait) if wait.isdecimal() else None,  # a date is no span
        request_id=header("X-Request-Id") or "",
    )


def no_answer(said: str, error: Exception) -> Unreachable:
    """`said`, and what went wrong with the connection in words."""
    kind = TimedOut if isinstance(error, TimeoutError) else Unreachable
    return kind(f"{said}: {words(error)}")


def words(error: Exception) -> str:
    """What went wrong in words: the name of the error where it brings none of its own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        said = error.reason.replace("_", " ").lower()
        _, is_alert, why = said.partition(" alert ")
        return f"it ended the TLS handshake: {why}" if is_alert else f"no TLS there ({said})"
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
            return error.strerror.lower()
        return os.strerror(error.errno).lower()  # asyncio's own text says where, and not what
    return str(error) or type(error).__name__
