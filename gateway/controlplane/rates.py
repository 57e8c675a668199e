"""How many requests a second, how many of them failed, how slow were they, lately?

Counters grow; people want to know about the last seconds. `Window` keeps what the counters
said over those and tells the difference. Pure: the clock is an argument.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.messages import Metrics

LASTS_S = 10.0
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


@dataclass(frozen=True, slots=True)
class Totals:
    """What was counted for one backend or route so far."""

    requests: int = 0
    errors: int = 0
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What every worker together had counted at `time`, by (kind, name)."""

    time: float
    totals: Mapping[tuple[str, str], Totals]
    bounds: tuple[float, ...] = ()


@dataclass(slots=True)
class Window:
    """The samples of the last seconds."""

    samples: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        """Takes in `sample` and drops what is too old; one older sample stays as the base."""
        self.samples.append(sample)
        while len(self.samples) > 2 and sample.time - self.samples[1].time >= LASTS_S:
            self.samples.popleft()

    def of(self, kind: str, name: str) -> dict[str, Any]:
        """`requests_per_s`, `errors_per_s` and `latency_ms` of one backend or route."""
        rates: dict[str, Any] = {"requests_per_s": 0.0, "errors_per_s": 0.0, "latency_ms": {}}
        if len(self.samples) < 2:
            return rates
        first, last = self.samples[0], self.samples[-1]
        lasted_s = last.time - first.time
        was, now = first.totals.get((kind, name), Totals()), last.totals.get((kind, name), Totals())
        if lasted_s <= 0:
            return rates
        rates["requests_per_s"] = max(0, now.requests - was.requests) / lasted_s
        rates["errors_per_s"] = max(0, now.errors - was.errors) / lasted_s
        before = was.buckets or (0,) * len(now.buckets)
        if len(before) == len(now.buckets):
            counts = [max(0, b - a) for a, b in zip(before, now.buckets, strict=True)]
            rates["latency_ms"] = quantiles(last.bounds, counts)
        return rates


def quantiles(bounds: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
    """Milliseconds by quantile, straight lines inside each bucket; {} when nothing was seen.

    The last bucket has no upper bound; what falls into it is given as the last bound.
    """
    total = sum(counts)
    if not total:
        return {}
    found = {}
    for name, part in QUANTILES:
        rank, below = part * total, 0
        for index, count in enumerate(counts):
            if count and below + count >= rank:
                low = bounds[index - 1] if index else 0.0
                high = bounds[index] if index < len(bounds) else low
                found[name] = 1000 * (low + (high - low) * (rank - below) / count)
                break
            below += count
    return found


def sample(metrics: Sequence[Metrics], now: float) -> Sample:
    """What `metrics`, those of every worker and of the retired, say together."""
    requests: Counter[tuple[str, str]] = Counter()
    errors: Counter[tuple[str, str]] = Counter()
    buckets: dict[tuple[str, str], list[int]] = {}
    bounds: tuple[float, ...] = ()
    for each in metrics:
        for (route, backend, _, _, code, _), count in each["requests"]:
            for key in (("route", route), ("backend", backend)):
                requests[key] += count
                errors[key] += count if code >= "500" else 0
        bounds = tuple(each["request_seconds"]["bounds"]) or bounds
        for (route, backend, *_), counts, _ in each["request_seconds"]["series"]:
            for key in (("route", route), ("backend", backend)):
                so_far = buckets.setdefault(key, [0] * len(counts))
                for index, count in enumerate(counts):
                    so_far[index] += count
    totals = {
        key: Totals(requests[key], errors[key], tuple(buckets.get(key, ())))
        for key in requests.keys() | buckets.keys()
    }
    return Sample(now, totals, bounds)
