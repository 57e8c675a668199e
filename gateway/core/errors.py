"""Which errors does the gateway make itself, and who is to blame?

One table owns code, status and title of each. Classes are divided by blame: the client's
fault, the upstream's, or the gateway's own lack of room. What an instance answers, whatever
its status, is the instance's answer and never appears here.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Kind:
    """One error code of the contract, or of the admin API: its status and its human title."""

    code: str
    status: int
    title: str
    retry_after: bool = False


KINDS: dict[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("bad_request", 400, "Bad request"),
        Kind("unauthorized", 401, "A valid key is required"),
        Kind("forbidden", 403, "The key does not allow this"),
        Kind("no_route", 404, "No route matches"),
        Kind("method_not_allowed", 405, "Method not allowed"),
        Kind("request_timeout", 408, "Request not received in time"),
        Kind("body_too_large", 413, "Body too large"),
        Kind("uri_too_long", 414, "Request target too long"),
        Kind("expectation_failed", 417, "Expectation cannot be met"),
        Kind("rate_limited", 429, "Too many requests", retry_after=True),
        Kind("head_too_large", 431, "Request head too large"),
        Kind("internal", 500, "Gateway fault"),
        Kind("connect_failed", 502, "Connection to the instance failed"),
        Kind("upstream_broke", 502, "The instance broke off or answered malformed HTTP"),
        Kind("no_backend", 503, "No instance can take the request", retry_after=True),
        Kind("no_weight", 503, "Every backend of the route has weight 0", retry_after=True),
        Kind("queue_full", 503, "The queue is full", retry_after=True),
        Kind("overloaded", 503, "The gateway has no memory for the request", retry_after=True),
        Kind("queue_timeout", 503, "Waited too long in the queue", retry_after=True),
        Kind("store_lost", 503, "The gateway may know an old table only", retry_after=True),
        Kind("draining", 503, "Shutting down", retry_after=True),
        Kind("response_timeout", 504, "The instance did not answer in time"),
        Kind("deadline", 504, "The request's deadline passed"),
        Kind("loop_detected", 508, "The request came through this gateway before"),
    )
}


class GatewayError(Exception):
    """An answer that the gateway makes itself; `code` is one of KINDS.

    `detail` is shown to the client: it holds no stack, path or secret.
    """

    usual: ClassVar[str] = "internal"  # the code where none is said

    def __init__(self, detail: str, code: str | None = None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.code = code or self.usual
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.lines = b""  # of the answer's head, beside those that every error has

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]


class ClientFault(GatewayError):
    """The request cannot be served as it was sent; sending it again changes nothing."""

    usual: ClassVar[str] = "bad_request"


class UpstreamFault(GatewayError):
    """An instance failed: evidence about its health, perhaps a reason to try another."""

    usual: ClassVar[str] = "upstream_broke"


class NoRoom(GatewayError):
    """Nothing can take the request now; a later try may succeed."""

    usual: ClassVar[str] = "no_backend"
