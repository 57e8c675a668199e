"""What does an instance count, and how is it read?

Plain integers on the way of a request; names, labels and text are made when somebody asks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """Counts per bound, not cumulated, with one more for what is above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def family(self, name: str, help: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, help)
        buckets, sum_so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            sum_so_far += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(sum_so_far)))
        family.add_metric([], buckets, self.total)
        return family


class Metrics(Collector):
    """Everything of contract §6; gauges are set just before they are read."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.batch_size = Histogram(SIZES)
        self.queue_seconds = Histogram(SECONDS)
        self.predict_seconds = Histogram(SECONDS)
        self.restarts = 0
        self.log_dropped = 0
        self.queue_depth = 0
        self.running = 0
        self.gpu_memory: dict[str, tuple[int, int]] = {}

    def collect(self) -> Iterator[Metric]:
        """Every metric of the instance, for prometheus-client."""
        requests = CounterMetricFamily(
            "instance_requests", "Requests answered, by status.", labels=["code"]
        )
        for code, count in sorted(self.requests.items()):
            requests.add_metric([str(code)], count)
        yield requests
        yield GaugeMetricFamily(
            "instance_queue_depth", "Requests that wait.", value=self.queue_depth
        )
        yield GaugeMetricFamily(
            "instance_running", "Requests that are being computed.", value=self.running
        )
        yield self.batch_size.family("instance_batch_size", "Requests per batch.")
        yield self.queue_seconds.family("instance_queue_seconds", "Wait before the batch.")
        yield self.predict_seconds.family(
            "instance_predict_seconds", "Time of a batch in its worker, all hooks."
        )
        yield CounterMetricFamily(
            "instance_worker_restarts", "Workers started again after an end.", value=self.restarts
        )
        yield CounterMetricFamily(
            "instance_log_dropped", "Lines of the log that nobody read.", value=self.log_dropped
        )
        if self.gpu_memory:
            yield self._gpu("instance_gpu_memory_used_bytes", "GPU memory in use.", 0)
            yield self._gpu("instance_gpu_memory_total_bytes", "GPU memory in all.", 1)

    def _gpu(self, name: str, help: str, index: int) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, help, labels=["device"])
        for device, memory in sorted(self.gpu_memory.items()):
            family.add_metric([device], memory[index])
        return family

    def render(self) -> bytes:
        """The Prometheus text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)
