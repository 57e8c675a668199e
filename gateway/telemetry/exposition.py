"""What does a scrape of `/metrics` answer?

The sum of what all workers counted, and what is live now, in the text format that
prometheus_client writes. Pure: it asks nobody and keeps nothing. A series that a worker of
another release sends in a form that is not known is left out; a scrape never fails for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.core.table import Table
from gateway.messages import Histogram, Metrics
from gateway.telemetry.catalogue import BY_NAME

Labels = tuple[str, ...]
Counts = Iterable[tuple[Sequence[str], int]]


@dataclass(frozen=True, slots=True)
class Live:
    """What is live beside the counters.

    `up`: backend → address → whether it gets requests. `effective`: route → backend → share.
    """

    table: Table
    up: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    effective: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def render(metrics: Sequence[Metrics], live: Live, accept: str = "") -> tuple[str, bytes]:
    """The content type and the content of a scrape.

    `metrics` are those of every worker, running or retired; `accept` is the scraper's header,
    which chooses between the Prometheus text format and OpenMetrics.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sum(metrics, live))
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class _Sum(Collector):
    """One scrape's families, in the order of the catalogue."""

    def __init__(self, metrics: Sequence[Metrics], live: Live) -> None:
        self._metrics = metrics
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Every family of the catalogue, for prometheus-client."""
        workers, live = self._metrics, self._live
        yield _counter("headgate_requests_total", _each(m["requests"] for m in workers))
        yield _histogram("headgate_request_seconds", [m["request_seconds"] for m in workers])
        yield _histogram("headgate_first_byte_seconds", [m["first_byte_seconds"] for m in workers])
        yield _histogram("headgate_overhead_seconds", [m["overhead_seconds"] for m in workers])
        yield _gauge("headgate_in_flight", _summed("headgate_in_flight", self._in_flight()))
        yield _gauge("headgate_queue_depth", _summed("headgate_queue_depth", self._queues()))
        yield _counter("headgate_retries_total", _each(m["retries"] for m in workers))
        denied = sum(m["retries_denied"] for m in workers)
        yield _counter("headgate_retries_denied_total", [((), denied)])
        yield _counter("headgate_ejections_total", _each(m["ejections"] for m in workers))
        yield _gauge("headgate_instance_up", _nested(live.up))
        yield _gauge("headgate_weight", _weights(live.table))
        yield _gauge("headgate_effective_weight", _nested(live.effective))
        yield _gauge("headgate_revision", {(): live.table.revision})

    def _in_flight(self) -> Counts:
        """Zero for every instance that is there, so that a series does not come and go."""
        zeros = [((backend, one), 0) for backend, ones in self._live.up.items() for one in ones]
        return [*zeros, *_each(m["in_flight"] for m in self._metrics)]

    def _queues(self) -> Counts:
        zeros = [((backend,), 0) for backend in self._live.table.backends]
        return [*zeros, *_each(m["queue_depth"] for m in self._metrics)]


def _each(of_workers: Iterable[Counts]) -> Counts:
    return [one for counts in of_workers for one in counts]


def _summed(name: str, counts: Counts) -> dict[Labels, int]:
    """The counts added up per labels; those with another number of labels have no meaning."""
    sums: dict[Labels, int] = {}
    width = len(BY_NAME[name].labels)
    for labels, count in counts:
        if len(labels) == width:
            sums[tuple(labels)] = sums.get(tuple(labels), 0) + count
    return sums


def _nested(values: Mapping[str, Mapping[str, float]]) -> dict[Labels, float]:
    return {(outer, inner): float(v) for outer, per in values.items() for inner, v in per.items()}


def _weights(table: Table) -> dict[Labels, float]:
    return _nested({name: dict(route.split) for name, route in table.routes.items()})


def _counter(name: str, counts: Counts) -> CounterMetricFamily:
    metric = BY_NAME[name]
    family = CounterMetricFamily(name, metric.meaning, labels=metric.labels)
    for labels, count in _summed(name, counts).items():
        family.add_metric(labels, count)
    return family


def _gauge(name: str, values: Mapping[Labels, float]) -> GaugeMetricFamily:
    metric = BY_NAME[name]
    family = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, of_workers: Sequence[Histogram]) -> HistogramMetricFamily:
    metric = BY_NAME[name]
    family = HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
    bounds = max((h["bounds"] for h in of_workers), key=len, default=[])
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for labels, (counts, total) in _observed(of_workers, bounds).items():
        if len(labels) == len(metric.labels):
            buckets = list(zip(names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, total)
    return family


def _observed(
    of_workers: Iterable[Histogram], bounds: Sequence[float]
) -> dict[Labels, tuple[list[int], float]]:
    """Counts per bucket, not cumulated, and the sum, added up over the workers."""
    sums: dict[Labels, tuple[list[int], float]] = {}
    for histogram in of_workers:
        if histogram["bounds"] != bounds:
            continue
        for labels, counts, total in histogram["series"]:
            before, so_far = sums.get(tuple(labels), ([0] * len(counts), 0.0))
            added = [one + other for one, other in zip(before, counts, strict=True)]
            sums[tuple(labels)] = (added, so_far + total)
    return sums
