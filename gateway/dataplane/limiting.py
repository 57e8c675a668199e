"""Is one more request within the limits of its key and its route, and what is the client told?

Each limit is a bucket (`dataplane.buckets`). A request is admitted by all of them or counted in
none; what it is told on the way are the fields of draft-ietf-httpapi-ratelimit-headers.
"""

from collections.abc import Sequence

from gateway.core.rate_limit import RateLimited, remaining
from gateway.dataplane.buckets import Bucket, OverLimit

OF_KEY, OF_ROUTE = (b"key", ""), (b"route", "route_")
"""How a bucket is called in RateLimit fields, and what comes before its limit's name in metrics."""

Named = tuple[Bucket, tuple[bytes, str]]


class Limited(RateLimited):
    """A request beyond a limit; `limit` is its name in metrics."""

    def __init__(self, detail: str, limit: str, retry_after_s: float, lines: bytes) -> None:
        super().__init__(detail, retry_after_s, lines)
        self.limit = limit


def named(of_key: Bucket | None, of_route: Bucket | None) -> tuple[Named, ...]:
    """The buckets that a request must pass: its own consumer's first, so that a flood takes
    nothing of what the route has for the others."""
    if of_route is None and of_key is not None:
        return ((of_key, OF_KEY),)
    both = ((of_key, OF_KEY), (of_route, OF_ROUTE))
    return tuple((bucket, names) for bucket, names in both if bucket is not None)


def enter(buckets: Sequence[Named], now: float) -> bytes:
    """Admits one request by all of `buckets`; the lines that tell its client what is left. It is
    in flight in each of them until `leave`. Raises Limited, or Busy, and then is in none."""
    if len(buckets) == 1:  # the usual case in short
        ((bucket, (name, prefix)),) = buckets
        try:
            bucket.enter(now)
        except OverLimit as refused:
            raise _limited(bucket, name, prefix, refused.wait_s, now) from None
        return _lines(bucket, name, now)
    entered: list[Bucket] = []
    try:
        for bucket, (name, prefix) in buckets:
            try:
                bucket.enter(now)
            except OverLimit as refused:
                raise _limited(bucket, name, prefix, refused.wait_s, now) from None
            entered.append(bucket)
    except Exception:
        for bucket in entered:
            bucket.undo()
        raise
    return b"".join([_lines(bucket, name, now) for bucket, (name, _) in buckets])


def check(buckets: Sequence[Named], now: float) -> None:
    """Raises the Limited that a request would meet if it entered now, as far as can be seen."""
    for bucket, (name, prefix) in buckets:
        wait_s = bucket.wait_s(now)
        if wait_s > 0.0:
            raise _limited(bucket, name, prefix, wait_s, now)


def standing(buckets: Sequence[Named], now: float) -> bytes:
    """The lines that tell a client of one of `buckets` what is left now. Takes nothing."""
    lines = b""
    for bucket, (name, _) in buckets:
        bucket.look(now)
        lines += _lines(bucket, name, now)
    return lines


def leave(buckets: Sequence[Named]) -> None:
    """A request that was admitted by `buckets` is over."""
    for bucket, _ in buckets:
        bucket.leave()


def _limited(bucket: Bucket, name: bytes, prefix: str, wait_s: float, now: float) -> Limited:
    if wait_s:
        lines = bucket.policy(name) + remaining(name, 0, now + wait_s, now)
        detail = f"The {name.decode()} may have no more requests now (limits.requests)."
        return Limited(detail, f"{prefix}requests", wait_s, lines)
    detail = f"The {name.decode()} has as many requests under way as it may (limits.in_flight)."
    return Limited(detail, f"{prefix}in_flight", 1.0, standing([(bucket, (name, prefix))], now))


def _lines(bucket: Bucket, name: bytes, now: float) -> bytes:
    if not bucket.has_rate:
        return b""
    return bucket.policy(name) + remaining(name, bucket.left, bucket.full_at, now)
