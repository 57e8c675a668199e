"""Which metrics does a gateway show?

The one list of names, labels and meanings: the exposition and the documentation are both made
from it, so that neither can promise what the other does not keep. Labels never hold what a
client sent.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, whether it is a counter, gauge or histogram, and its labels."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    note: str = ""


METRICS: tuple[Metric, ...] = (
    Metric(
        "headgate_requests_total",
        "counter",
        ("route", "backend", "instance", "method", "code", "reason"),
        "Requests answered, each once, as the client saw it",
        "`reason` is empty for an instance's own answer and else the error code of the gateway;"
        " a label is empty where the request did not get as far. `code` 499 is a client that"
        " left; a method that HTTP does not know is `other`.",
    ),
    Metric(
        "headgate_request_seconds",
        "histogram",
        ("route", "backend"),
        "From a request's head to the last byte of its answer",
        "Only of requests that an instance answered, here and in the next two.",
    ),
    Metric(
        "headgate_first_byte_seconds",
        "histogram",
        ("route", "backend"),
        "From a request's head to the first byte of its answer",
    ),
    Metric(
        "headgate_overhead_seconds",
        "histogram",
        ("route", "backend"),
        "From a whole request to its being sent to the instance that answers it",
        "The gateway's own share: deciding, waiting in its queue, connecting, and attempts that"
        " failed before.",
    ),
    Metric(
        "headgate_in_flight",
        "gauge",
        ("backend", "instance"),
        "Requests that an instance has now",
    ),
    Metric(
        "headgate_queue_depth",
        "gauge",
        ("backend",),
        "Requests that wait at the gateway for room at a backend",
    ),
    Metric(
        "headgate_retries_total",
        "counter",
        ("route", "reason"),
        "Further attempts after a first that failed, by why it failed",
    ),
    Metric(
        "headgate_retries_denied_total",
        "counter",
        (),
        "Further attempts that the retry budget did not pay for",
    ),
    Metric(
        "headgate_ejections_total",
        "counter",
        ("backend", "instance"),
        "Times an instance was taken out because its requests failed",
    ),
    Metric(
        "headgate_instance_up",
        "gauge",
        ("backend", "instance"),
        "1 while an instance gets requests, 0 while it does not",
        "An instance that is starting, down, ejected, draining or disabled is 0.",
    ),
    Metric(
        "headgate_weight",
        "gauge",
        ("route", "backend"),
        "The weight of a backend in a split, as configured",
    ),
    Metric(
        "headgate_effective_weight",
        "gauge",
        ("route", "backend"),
        "The share of new requests that a backend gets after health, from 0 to 1",
    ),
    Metric("headgate_revision", "gauge", (), "The revision of the table that is served"),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def page() -> str:
    """`docs/metrics.md`, whole."""
    return "\n".join([_HEAD, *(_section(metric) for metric in METRICS)])


_HEAD = """\
# Metrics

<!-- Rendered by `python -m gateway.telemetry.catalogue > docs/metrics.md`; a test compares. -->

`GET /metrics` on the admin listener answers in the Prometheus text format (OpenMetrics where the
scraper asks for it). Counters are sums over all workers since the gateway started, also over
workers that are gone: they equal what clients saw. (A worker that is killed takes along what it
counted since it was last asked, at most a second before.) A label never holds what a client
sent, so their number is bounded by the table. `docker/observability/` has a Prometheus
configuration and a Grafana dashboard.
"""


def _section(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    note = f" {metric.note}" if metric.note else ""
    return f"## `{metric.name}`\n\n{metric.kind}; labels: {labels}\n\n{metric.meaning}.{note}\n"


if __name__ == "__main__":
    print(page(), end="")
