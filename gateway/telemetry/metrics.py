"""What did this worker count?

Plain integers, added to where things happen and read when the control process scrapes.
Nothing is formatted or locked here, and label values come from the table, never from a
client: an unknown method counts as `other`.
"""

from bisect import bisect_left
from typing import Any

from gateway.messages import Histogram as HistogramMessage

METHODS = {
    method.encode(): method
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
OVERHEAD = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Histogram:
    """Counts per bound, not cumulated, one more for what is above, and the sum."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0


class Cell:
    """The counters of one route at one backend's instance."""

    __slots__ = ("counts", "labels", "times")

    def __init__(self, labels: tuple[str, str, str], times: "Times") -> None:
        self.labels = labels
        self.times = times
        self.counts: dict[tuple[bytes, int, str], int] = {}

    def count(self, method: bytes, code: int, reason: str) -> None:
        counts, key = self.counts, (method, code, reason)
        if key not in counts and method not in METHODS:
            key = (b"other", code, reason)
        counts[key] = counts.get(key, 0) + 1

    def time(self, request_s: float, first_byte_s: float, overhead_s: float) -> None:
        """Observes one answered request."""
        times = self.times
        request, first_byte, overhead = times.request, times.first_byte, times.overhead
        request.counts[bisect_left(SECONDS, request_s)] += 1
        request.total += request_s
        first_byte.counts[bisect_left(SECONDS, first_byte_s)] += 1
        first_byte.total += first_byte_s
        overhead.counts[bisect_left(OVERHEAD, overhead_s)] += 1
        overhead.total += overhead_s


class Times:
    """The histograms of one route at one backend."""

    __slots__ = ("first_byte", "overhead", "request")

    def __init__(self) -> None:
        self.request = Histogram(SECONDS)
        self.first_byte = Histogram(SECONDS)
        self.overhead = Histogram(OVERHEAD)


class Counters:
    """All counters of one worker since it started."""

    __slots__ = ("_cells", "_times", "ejections", "retries", "retries_denied")

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], Cell] = {}
        self._times: dict[tuple[str, str], Times] = {}
        self.retries: dict[tuple[str, str], int] = {}
        self.retries_denied = 0
        self.ejections: dict[tuple[str, str], int] = {}

    def cell(self, route: str, backend: str, instance: str) -> Cell:
        """The counters of these labels; "" where a request got no further."""
        key = (route, backend, instance)
        cell = self._cells.get(key)
        if cell is None:
            times = self._times.setdefault((route, backend), Times())
            cell = self._cells[key] = Cell(key, times)
        return cell

    def retried(self, route: str, reason: str) -> None:
        self.retries[(route, reason)] = self.retries.get((route, reason), 0) + 1

    def ejected(self, backend: str, instance: str) -> None:
        self.ejections[(backend, instance)] = self.ejections.get((backend, instance), 0) + 1

    def message(self) -> dict[str, Any]:
        """The counted part of gateway.messages.Metrics."""
        return {
            "requests": [
                ([*cell.labels, METHODS.get(method, "other"), str(code), reason], count)
                for cell in self._cells.values()
                for (method, code, reason), count in cell.counts.items()
            ],
            "request_seconds": self._histogram(SECONDS, "request"),
            "first_byte_seconds": self._histogram(SECONDS, "first_byte"),
            "overhead_seconds": self._histogram(OVERHEAD, "overhead"),
            "retries": [(list(labels), count) for labels, count in self.retries.items()],
            "retries_denied": self.retries_denied,
            "ejections": [(list(labels), count) for labels, count in self.ejections.items()],
        }

    def _histogram(self, bounds: tuple[float, ...], name: str) -> HistogramMessage:
        series = []
        for labels, times in self._times.items():
            histogram: Histogram = getattr(times, name)
            if any(histogram.counts):
                series.append((list(labels), histogram.counts, histogram.total))
        return {"bounds": list(bounds), "series": series}
