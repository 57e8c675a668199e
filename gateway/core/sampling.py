"""Which requests are written to the access log?

All that went wrong, were refused or were slow, and of the ordinary ones a share that depends
on the request's id alone: every gateway on the way of a request decides alike, and so does
OpenTelemetry's `traceidratio` of the same share where the trace has the request's id. Nothing
is counted here: what is left out of the log is in the metrics all the same.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from gateway.core.tracing import trace_of

HEALTH: Final = b"/-/health"
_WHOLE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """`percent` of the ordinary requests are written; from `slow_s` on none is ordinary."""

    percent: float = 100.0
    slow_s: float = 1.0

    def percent_of(
        self, request_id: bytes, target: bytes, status: int, reason: str, seconds: float
    ) -> float:
        """How many of 100 requests like this are written, if this one is; else 0.

        A line stands for 100 / percent requests, so that counts can be rebuilt. A good answer
        to a health probe is never written: it says nothing, once a second and balancer.
        """
        if reason or status >= 500:
            return 100.0
        if target.startswith(HEALTH) and target[len(HEALTH) :][:1] in (b"", b"?"):
            return 0.0
        percent = self.percent
        if percent >= 100.0 or seconds >= self.slow_s:
            return 100.0
        return percent if draw(request_id) < percent / 100.0 * _WHOLE else 0.0


EVERY: Final = Sampling()


def draw(request_id: bytes) -> int:
    """The number in [0, 2^64) that decides for the request of that id."""
    trace = trace_of(request_id)
    if trace:
        return trace % _WHOLE
    return int.from_bytes(blake2b(request_id, digest_size=8).digest())
