"""How many requests are admitted, and what is said of that?

A token bucket as the generic cell rate algorithm has it (ITU-T I.371, annex A): the moment at which
the bucket will be full again says how much is in it, and each request moves that moment on by
the time between two requests at the rate. So in any time t no more than `burst` + rate · t are
admitted. Where it is kept, and by whom, is `gateway.dataplane.buckets`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from gateway.core.entries import Limits
from gateway.core.errors import NoRoom

SMALL: Final = 100  # a limit of so many times what would be left unused is counted under a lock
RATE = r"^[1-9][0-9]{0,6}/(s|m)$"
_PER_S = {"s": 1.0, "m": 60.0}
_KEYS = frozenset({"requests", "burst", "in_flight"})
_ROUNDED_S: Final = 1e-6  # what sums of many seconds may be wrong by


def read_limits(spec: Mapping[str, Any]) -> Limits:
    """What `spec` limits; ValueError says what cannot be. A burst that is not named is what comes
    in a second, at least one request."""
    for key in spec:
        if key not in _KEYS:
            raise ValueError(f"limits: unknown key {key!r}")
    if "requests" not in spec:
        if "burst" in spec:
            raise ValueError("limits: a burst needs requests")
        return Limits(in_flight=spec.get("in_flight"))
    requests, per_s = parse_rate(spec["requests"])
    burst = spec.get("burst", math.ceil(requests / per_s))
    return Limits(requests, per_s, burst, spec.get("in_flight"))


def parse_rate(text: Any) -> tuple[int, float]:
    """How many in how many seconds `text` says, such as `100/s` or `30/m`; ValueError if none."""
    if not isinstance(text, str) or not re.fullmatch(RATE, text):
        raise ValueError(f"{text!r} is no rate; write it like 100/s or 30/m")
    number, _, unit = text.partition("/")
    return int(number), _PER_S[unit]


def part(limits: Limits, gateways: int) -> Limits:
    """What one of so many gateways admits of `limits`: its part of the rate, and of what may come
    at once, no less than one."""
    if gateways <= 1:
        return limits
    most = limits.in_flight
    return Limits(
        limits.requests,
        limits.per_s * gateways,
        max(1, limits.burst // gateways),
        None if most is None else max(1, most // gateways),
    )


def policy(limits: Limits, name: bytes) -> bytes:
    """The RateLimit-Policy line of a bucket (draft-ietf-httpapi-ratelimit-headers): a quota in a
    window that is as long as the bucket takes to fill."""
    window = max(1, math.ceil(limits.burst * limits.emission_s))
    return b'RateLimit-Policy: "%b";q=%d;w=%d\r\n' % (name, limits.burst, window)


def remaining(name: bytes, left: int, seconds: int) -> bytes:
    """The RateLimit line: how many are `left`, and in how many `seconds` there is one more."""
    return b'RateLimit: "%b";r=%d;t=%d\r\n' % (name, left, seconds)


class Terms:
    """What `limits` come to at one of so many `gateways`, whose workers leave `margin` of a bucket
    unused; and how clients of a `name` are told of it. The same for all buckets of these limits."""

    __slots__ = (
        "_depth_s", "_left", "_line", "_name", "_seconds", "burst", "cost_s", "has_rate",
        "is_locked", "most", "policy",
    )  # fmt: skip

    def __init__(self, limits: Limits, name: bytes, gateways: int, margin: int) -> None:
        limits = part(limits, gateways)
        few, most = SMALL * margin, limits.in_flight
        self.has_rate = limits.requests is not None
        self.is_locked = margin > 0 and (
            (self.has_rate and limits.burst <= few) or (most is not None and most <= few)
        )
        spared = 0 if self.is_locked else margin
        self.burst = limits.burst - spared
        self.most: int | None = None if most is None else most - spared
        self.cost_s = limits.emission_s
        self._depth_s = limits.burst * limits.emission_s
        self.policy = policy(limits, name) if self.has_rate else b""
        self._name = name
        self._left = self._seconds = -1
        self._line = b""

    def over_s(self, ahead_s: float) -> float:
        """How many of the seconds after which a bucket is full again, `ahead_s`, none of these
        limits can take: they were taken under others. To wait for them would keep everybody out
        for an hour after a rate was raised from so many a minute to so many a second."""
        over_s = ahead_s - self._depth_s
        return over_s if over_s > _ROUNDED_S else 0.0

    def lines(self, left: int, full_in_s: float) -> bytes:
        """The lines that tell a client that there are `left` of a bucket which is full in so many
        seconds, and when there is one more; of most buckets that is the same."""
        if not self.has_rate:
            return b""
        seconds = 0
        if full_in_s > 0.0:
            more_in_s = full_in_s - (self.burst - 1 - left) * self.cost_s
            seconds = 1 if more_in_s <= 1.0 else math.ceil(more_in_s - _ROUNDED_S)
        if left != self._left or seconds != self._seconds:
            self._left, self._seconds = left, seconds
            self._line = self.policy + remaining(self._name, left, seconds)
        return self._line


class RateLimited(NoRoom):
    """A request beyond a limit; `limit` is its name in metrics, and `lines` what the client is told
    of it beside."""

    usual: ClassVar[str] = "rate_limited"

    def __init__(self, detail: str, limit: str, retry_after_s: float, lines: bytes = b"") -> None:
        super().__init__(detail, retry_after_s=max(1, math.ceil(retry_after_s)))
        self.limit, self.lines = limit, lines
