"""What does a scrape of `/metrics` answer?

What all workers counted, and what is live now, in the format that the scraper asks for. A
series is written out again only when it changed, so that a scrape costs what happened since
the last one; the answer comes in pieces, so that nobody has to wait for all of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gateway.core.table import Table
from gateway.telemetry import prometheus_protobuf, prometheus_text
from gateway.telemetry.buckets import OVERHEAD, SECONDS, at_most
from gateway.telemetry.catalogue import METRICS, Metric
from gateway.telemetry.prometheus_text import Observed
from gateway.telemetry.series import TOTAL, Labels

CLASSIC = {"headgate_overhead_seconds": OVERHEAD}
AT_ONCE = 50
"""Series in a piece: two milliseconds where all of them changed."""

TEXT, OPEN, PROTOBUF = "text", "OpenMetrics", "protobuf"
_FORMS = {
    "text/plain": TEXT,
    "text/*": TEXT,
    "*/*": TEXT,
    "application/openmetrics-text": OPEN,
    "application/vnd.google.protobuf": PROTOBUF,
}
_DELIMITED = {"proto=io.prometheus.client.metricfamily", "encoding=delimited"}

T = TypeVar("T")


def form_for(accept: str) -> str:
    """The form that a scraper likes best by its header `Accept`: of equals the one that it names
    first, and TEXT where it names none."""
    best, best_quality = TEXT, 0.0
    for part in accept.lower().split(","):
        kind, *options = (each.replace(" ", "").replace("\t", "") for each in part.split(";"))
        form = _FORMS.get(kind)
        if form is None or (form == PROTOBUF and not _DELIMITED.issubset(options)):
            continue
        quality = _quality(options)
        if quality > best_quality:
            best, best_quality = form, quality
    return best


def _quality(options: Iterable[str]) -> float:
    for option in options:
        if option.startswith("q="):
            try:
                return float(option[2:])
            except ValueError:
                return 0.0
    return 1.0


class Tally(Protocol):
    """The counts of one series by what its keys mean; another `version` whenever one changed."""

    counts: dict[int | Labels, int | float]
    version: int

    @property
    def buckets(self) -> Mapping[int, int]: ...


class Totals(Protocol):
    """The series of all workers together."""

    def of(self, metric: str) -> Mapping[Labels, Tally]: ...


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is live beside the counters.

    `up`: backend → address → whether it gets requests. `effective`: route → backend → share.
    `in_flight`: backend → address → requests; `queue_depth`: backend → requests. `limits`:
    backend → address → the concurrency limit that was learned and holds. `counted`:
    metric → labels → what others than workers counted. `others`: gauge → labels → value.
    """

    table: Table
    up: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    effective: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    in_flight: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    queue_depth: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    counted: Mapping[str, Mapping[Labels, int]] = field(default_factory=dict)
    others: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)


class Exposition:
    """Writes out scrapes of `totals`."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._written: dict[tuple[str, str], dict[Labels, tuple[float, bytes]]] = {}

    def pieces(self, live: Gauges, accept: str = "") -> tuple[str, Iterator[bytes]]:
        """The content type and the content; `accept` is the scraper's header."""
        form = form_for(accept)
        if form == PROTOBUF:
            return prometheus_protobuf.CONTENT_TYPE, self._protobuf(live)
        is_open = form == OPEN
        return prometheus_text.content_type(is_open), self._text(live, is_open)

    def _text(self, live: Gauges, is_open: bool) -> Iterator[bytes]:
        for metric in METRICS:
            yield prometheus_text.head(metric, is_open)
            yield from self._series(metric, live, "text", prometheus_text)
        if is_open:
            yield b"# EOF\n"

    def _protobuf(self, live: Gauges) -> Iterator[bytes]:
        for metric in METRICS:
            pieces = []
            for piece in self._series(metric, live, "protobuf", prometheus_protobuf):
                pieces.append(piece)
                yield b""  # nothing yet: others may go on
            yield prometheus_protobuf.family(metric, b"".join(pieces))

    def _series(self, metric: Metric, live: Gauges, form: str, writer: "Writer") -> Iterator[bytes]:
        """All series of `metric`, AT_ONCE of them in a piece."""
        kept = self._written.setdefault((form, metric.name), {})
        if metric.kind == "gauge":
            values = _gauge(metric.name, live)
            yield from _pieces(
                kept,
                ((labels, value, value) for labels, value in values.items()),
                lambda labels, value: writer.gauge(metric, {labels: value}),
            )
            _forget(kept, values)
            return
        series = self._totals.of(metric.name)
        if metric.name in live.counted:
            counts = _together(metric, series, live.counted[metric.name])
            yield writer.counter(metric, (), counts)
            return
        if not metric.labels and not series:
            yield writer.counter(metric, (), {(): 0})
        yield from _pieces(
            kept,
            ((labels, tally.version, tally) for labels, tally in list(series.items())),
            lambda labels, tally: _written(metric, labels, tally, writer),
        )
        _forget(kept, series)


def _pieces(
    kept: dict[Labels, tuple[float, bytes]],
    series: Iterable[tuple[Labels, float, T]],
    written: Callable[[Labels, T], bytes],
) -> Iterator[bytes]:
    """Each of `series` (labels, what changes when it does, what it is) as it is in `kept`, or
    `written` anew and kept where it changed."""
    parts: list[bytes] = []
    for labels, mark, content in series:
        before = kept.get(labels)
        if before is None or before[0] != mark:
            before = kept[labels] = mark, written(labels, content)
        parts.append(before[1])
        if len(parts) == AT_ONCE:
            yield b"".join(parts)
            parts.clear()
    yield b"".join(parts)


def _forget(kept: dict[Labels, tuple[float, bytes]], series: Mapping[Labels, Any]) -> None:
    if len(kept) > len(series):
        for labels in kept.keys() - series.keys():
            del kept[labels]


class Writer(Protocol):
    """How one series looks in a format."""

    def counter(self, metric: Metric, labels: Labels, counts: Mapping[Labels, float]) -> bytes: ...

    def gauge(self, metric: Metric, values: Mapping[Labels, float]) -> bytes: ...

    def histogram(self, metric: Metric, labels: Labels, observed: Observed) -> bytes: ...


def _written(metric: Metric, labels: Labels, tally: Tally, writer: Writer) -> bytes:
    width = len(metric.labels) - len(labels)
    if metric.kind == "counter":
        named = [(key if isinstance(key, tuple) else (), n) for key, n in tally.counts.items()]
        counts = {more: n for more, n in named if len(more) == width}
        return writer.counter(metric, labels, counts)
    if width:  # of a worker of another release
        return b""
    buckets = tally.buckets
    bounds = CLASSIC.get(metric.name, SECONDS)
    seconds = tally.counts.get(TOTAL, 0.0)
    observed = Observed(bounds, at_most(buckets, bounds), seconds, buckets)
    return writer.histogram(metric, labels, observed)


def _together(
    metric: Metric, series: Mapping[Labels, Tally], counted: Mapping[Labels, int]
) -> dict[Labels, float]:
    """What workers counted and what others did, each series once."""
    found: dict[Labels, float] = dict(counted)
    for labels, tally in list(series.items()):
        for key, count in tally.counts.items():
            whole = (*labels, *key) if isinstance(key, tuple) else labels
            if len(whole) == len(metric.labels):
                found[whole] = found.get(whole, 0) + count
    return found


def _gauge(name: str, live: Gauges) -> dict[Labels, float]:
    """The values of a gauge; zero where there is nothing, so that series do not come and go."""
    if name == "headgate_in_flight":
        zeros = {(backend, one): 0.0 for backend, ones in live.up.items() for one in ones}
        return zeros | _nested(live.in_flight)
    if name == "headgate_queue_depth":
        names = dict.fromkeys([*live.table.backends, *live.queue_depth])
        return {(name,): float(live.queue_depth.get(name, 0)) for name in names}
    if name == "headgate_concurrency_limit":
        return _nested(live.limits)
    if name == "headgate_instance_up":
        return _nested(live.up)
    if name == "headgate_weight":
        return _nested({route.name: dict(route.split) for route in live.table.routes.values()})
    if name == "headgate_effective_weight":
        return _nested(live.effective)
    if name == "headgate_revision":
        return {(): live.table.revision}
    return dict(live.others.get(name, {}))


def _nested(values: Mapping[str, Mapping[str, float]]) -> dict[Labels, float]:
    return {(outer, inner): float(v) for outer, per in values.items() for inner, v in per.items()}


def render(totals: Totals, live: Gauges, accept: str = "") -> tuple[str, bytes]:
    """The content type and the whole content of one scrape."""
    kind, pieces = Exposition(totals).pieces(live, accept)
    return kind, b"".join(pieces)
