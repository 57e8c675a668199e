"""How does the admin API say that something is wrong?

One table owns code, status and title of each problem; every error becomes problem+json here
(RFC 9457, with `code`, `request_id` and, for faults, `errors`) and nowhere else. An error
that nobody foresaw is logged with its id and says nothing of itself.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from gateway.controlplane.admin.strict_json import NotJson
from gateway.controlplane.published import NotInForce, Stale
from gateway.controlplane.store.store import (
    DiskRefused,
    NotLetIn,
    StoreError,
    StoreFull,
    Unavailable,
)
from gateway.core.errors import Kind
from gateway.core.faults import Conflict, Fault, Invalid, Missing, readable

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"


KINDS: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("bad_request", 400, "Bad request"),
        Kind("not_json", 400, "The body cannot be read"),
        Kind("invalid", 400, "The edit has faults"),
        Kind("unauthorized", 401, "A valid token is required"),
        Kind("forbidden", 403, "Not allowed"),
        Kind("not_found", 404, "No such resource"),
        Kind("method_not_allowed", 405, "Method not allowed"),
        Kind("conflict", 409, "The edit contradicts what is configured"),
        Kind("precondition_failed", 412, "The resource has changed"),
        Kind("body_too_large", 413, "Body too large"),
        Kind("unsupported_media_type", 415, "Content type not accepted"),
        Kind("precondition_required", 428, "If-Match is required"),
        Kind("too_many_failures", 429, "Too many wrong tokens"),
        Kind("internal", 500, "Gateway fault"),
        Kind("store_failed", 500, "The edit could not be stored"),
        Kind("not_ready", 503, "Not ready"),
        Kind("not_in_force", 503, "The edit is stored, and not in force everywhere"),
        Kind("store_unavailable", 503, "The store of several gateways cannot be reached"),
        Kind("store_full", 507, "No space left for the edit"),
    )
}
_BY_STATUS = {kind.status: kind.code for kind in reversed(KINDS.values())}


class Problem(Exception):
    """An answer of the admin API; `code` is one of KINDS, `more` are further members."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.more = dict(more or {})
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> web.Response:
        """The answer for `problem`: problem+json (RFC 9457) with its headers."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.kind.code,
            "request_id": request_id,
            **self.more,
        }
        if self.errors:
            body["errors"] = [fault.as_json() for fault in self.errors]
        headers = {"X-Headgate-Error": self.kind.code, **self.headers}
        return web.Response(
            body=orjson.dumps(body),
            status=self.kind.status,
            content_type=CONTENT_TYPE,
            headers=headers,
        )


def problem_of(error: Exception, request_id: str) -> Problem:
    """The problem that `error` is to the client."""
    match error:
        case Problem():
            return error
        case Invalid():
            return _refused(error)
        case Missing():
            return Problem("not_found", str(error.args[0]))
        case Conflict():
            return Problem("conflict", str(error))
        case NotJson():
            return Problem("not_json", str(error))
        case Stale():
            return Problem("precondition_failed", str(error))
        case DiskRefused():
            log.error("%s (request %s)", error, request_id)
            code = "store_full" if isinstance(error, StoreFull) else "store_failed"
            return Problem(code, f"{error}; nothing was changed")
        case Unavailable() | NotLetIn():
            log.error("%s (request %s)", error, request_id)
            return Problem("store_unavailable", str(error))
        case StoreError():
            log.error("%s (request %s)", error, request_id)
            return Problem("store_failed", "the store failed; nothing was changed")
        case NotInForce():
            log.error("%s (request %s)", error, request_id)
            return Problem("not_in_force", str(error))
        case web.HTTPException():
            return _of_aiohttp(error)
    log.exception("request %s failed", request_id, exc_info=error)
    return Problem("internal", "an unexpected error; the log has it under the request's id")


def _refused(error: Invalid) -> Problem:
    count = len(error.faults)
    first = error.faults[0] if error.faults else Fault("", "invalid", "cannot be")
    named = f"{readable(first.pointer)}: " if first.pointer else ""
    more = f" (and {count - 1} more)" if count > 1 else ""
    return Problem("invalid", f"{named}{first.detail}{more}", errors=error.faults)


def _of_aiohttp(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem("method_not_allowed", f"allowed here: {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem("body_too_large", "the body is larger than gateway.max_edit")
    if error.status == 404:
        return Problem("not_found", "there is nothing here")
    code = _BY_STATUS.get(error.status, "bad_request" if error.status < 500 else "internal")
    return Problem(code, "the request cannot be served as it was sent")
