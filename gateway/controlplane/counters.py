"""What did all workers count together, including those that are gone?

Counters are sums over workers and must never go back. A worker that ends takes its memory
with it, so what it said last is folded into one `Metrics` of the retired. Pure; gauges are
not folded, they ended with the worker.
"""

from collections.abc import Iterable
from typing import Any

from gateway.messages import Histogram, Metrics

Series = list[tuple[list[str], int]]

COUNTERS = ("requests", "retries", "ejections")
HISTOGRAMS = ("request_seconds", "first_byte_seconds", "overhead_seconds")


def nothing() -> Metrics:
    """The metrics of nobody: what is folded into first."""
    empty: Histogram = {"bounds": [], "series": []}
    return {
        "type": "metrics", "id": 0, "revision": 0, "requests": [], "request_seconds": empty,
        "first_byte_seconds": empty, "overhead_seconds": empty, "retries": [],
        "retries_denied": 0, "ejections": [], "in_flight": [], "queue_depth": [], "live": {},
    }  # fmt: skip


def fold(retired: Metrics, last: Metrics) -> Metrics:
    """`retired` with the counters of one more worker, as it said them last."""
    folded: dict[str, Any] = dict(nothing())
    folded["revision"] = max(retired["revision"], last["revision"])
    folded["retries_denied"] = retired["retries_denied"] + last["retries_denied"]
    for name in COUNTERS:
        folded[name] = _sum([*_series(retired, name), *_series(last, name)])
    for name in HISTOGRAMS:
        folded[name] = _merge(_histogram(retired, name), _histogram(last, name))
    return folded  # type: ignore[return-value]


def _series(metrics: Metrics, name: str) -> Series:
    return metrics.get(name) or []  # type: ignore[return-value]


def _histogram(metrics: Metrics, name: str) -> Histogram:
    return metrics.get(name) or {"bounds": [], "series": []}  # type: ignore[return-value]


def _sum(series: Iterable[tuple[list[str], int]]) -> Series:
    sums: dict[tuple[str, ...], int] = {}
    for labels, count in series:
        sums[tuple(labels)] = sums.get(tuple(labels), 0) + count
    return [(list(labels), count) for labels, count in sums.items()]


def _merge(one: Histogram, other: Histogram) -> Histogram:
    if not one["bounds"] or not other["bounds"]:
        return one if one["bounds"] else other
    if one["bounds"] != other["bounds"]:  # a worker of another release: its counts have no home
        return other
    merged: dict[tuple[str, ...], tuple[list[int], float]] = {}
    for labels, counts, total in (*one["series"], *other["series"]):
        key = tuple(labels)
        before, so_far = merged.get(key, ([0] * len(counts), 0.0))
        merged[key] = ([a + b for a, b in zip(before, counts, strict=True)], so_far + total)
    return {
        "bounds": one["bounds"],
        "series": [(list(labels), counts, total) for labels, (counts, total) in merged.items()],
    }
