"""Is one more request within the rate limits of its key and route, and what is the client told?

Each limit is a bucket (`dataplane.bucket`). A request is admitted by all of them or counted in
none; what it is told on the way are the fields of draft-ietf-httpapi-ratelimit-headers.
"""

from collections.abc import Callable, Sequence

from gateway.core.rate_limit import RateLimited
from gateway.dataplane.bucket import Bucket, OverLimit


def enter(buckets: Sequence[Bucket], now: float, clock: Callable[[], float]) -> bytes:
    """Admits one request by all of `buckets`; the lines that tell its client what is left. It is in
    flight in each of them until that is left. Raises RateLimited, or Busy, and then is in none."""
    entered: list[Bucket] = []
    lines = b""
    try:
        for bucket in buckets:
            try:
                lines += bucket.enter(now)
            except OverLimit as refused:
                raise limited(bucket, refused.wait_s, now, clock) from None
            entered.append(bucket)
    except Exception:
        for bucket in entered:
            bucket.undo()
        raise
    return lines


def check(buckets: Sequence[Bucket], now: float, clock: Callable[[], float]) -> None:
    """Raises the RateLimited that a request would meet if it entered now, as far as can be seen."""
    for bucket in buckets:
        wait_s = bucket.wait_s(now)
        if wait_s > 0.0:
            raise limited(bucket, wait_s, now, clock)


def standing(buckets: Sequence[Bucket], now: float) -> bytes:
    """The lines that tell a client of one of `buckets` what is left now. Takes nothing."""
    lines = b""
    for bucket in buckets:
        bucket.look(now)
        lines += bucket.lines(now)
    return lines


def limited(bucket: Bucket, wait_s: float, now: float, clock: Callable[[], float]) -> RateLimited:
    """What a request meets that `bucket` refuses, as OverLimit has it."""
    terms = bucket.terms
    if wait_s and terms.over_s(wait_s + (terms.burst - 1.0) * terms.cost_s):
        wait_s = bucket.forgive(clock) or wait_s
    kind = bucket.kind
    prefix = "" if kind == "key" else f"{kind}_"  # of a limit's name in metrics
    if wait_s:
        detail = f"The {kind} may have no more requests now (limits.requests)."
        lines = terms.lines(0, wait_s + (terms.burst - 1.0) * terms.cost_s)
        return RateLimited(detail, f"{prefix}requests", wait_s, lines)
    detail = f"The {kind} has as many requests under way as it may (limits.in_flight)."
    return RateLimited(detail, f"{prefix}in_flight", 1.0, standing((bucket,), now))
