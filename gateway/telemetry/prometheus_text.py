"""How do series look in the text formats of Prometheus and OpenMetrics?

prometheus_client writes these too, but every line of a scrape anew: 0.4 s for a thousand
routes, ten times a second. Its parser reads what is written here in the tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.telemetry.catalogue import Metric
from gateway.telemetry.series import Labels

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Observed:
    """What a histogram saw: how many were at most each bound, then how many in all; the sum;
    and the counts of its buckets (`gateway.telemetry.buckets`)."""

    bounds: Sequence[float]
    at_most: Sequence[int]
    seconds: float
    buckets: Mapping[int, int]


def content_type(is_open: bool) -> str:
    if is_open:
        return "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return "text/plain; version=0.0.4; charset=utf-8"


def head(metric: Metric, is_open: bool) -> bytes:
    """The lines before a family."""
    name = metric.name.removesuffix("_total") if is_open else metric.name
    meaning = metric.meaning.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {meaning}\n# TYPE {name} {metric.kind}\n".encode()


def counter(metric: Metric, labels: Labels, counts: Mapping[Labels, float]) -> bytes:
    """A line per further labels."""
    lines = [
        f"{metric.name}{_braces(metric, (*labels, *more))} {n}\n" for more, n in counts.items()
    ]
    return "".join(lines).encode()


def gauge(metric: Metric, values: Mapping[Labels, float]) -> bytes:
    lines = [f"{metric.name}{_braces(metric, labels)} {v}\n" for labels, v in values.items()]
    return "".join(lines).encode()


def histogram(metric: Metric, labels: Labels, observed: Observed) -> bytes:
    """Buckets, count and sum."""
    name, inside = metric.name, _pairs(metric, labels)
    bounds = (*observed.bounds, "+Inf")
    lines = [
        f'{name}_bucket{{{inside},le="{bound}"}} {count}\n'
        for bound, count in zip(bounds, observed.at_most, strict=True)
    ]
    lines.append(f"{name}_count{{{inside}}} {observed.at_most[-1]}\n")
    lines.append(f"{name}_sum{{{inside}}} {observed.seconds}\n")
    return "".join(lines).encode()


def _braces(metric: Metric, labels: Labels) -> str:
    return f"{{{_pairs(metric, labels)}}}" if labels else ""


def _pairs(metric: Metric, labels: Labels) -> str:
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"'
        for name, value in zip(metric.labels, labels, strict=True)
    )
