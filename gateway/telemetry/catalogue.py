"""Which metrics does a gateway show?

The one list of names, labels and meanings: the exposition and the documentation are both made
from it, so that neither can promise what the other does not keep. Labels never hold what a
client sent. A counter that is named here is counted by `gateway.telemetry.metrics.Counters.add`
wherever that happens in a worker; it needs nothing else.
"""

from collections.abc import Mapping
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
        "`reason` is empty for an instance's own answer and else the error code of the gateway,"
        " `client_left`, or `idle` (a WebSocket that was silent for `gateway.stream_idle`); an"
        " answer that broke off after it had begun keeps its `code`. A label is empty where the"
        " request did not get as far. `code` 499 is a client that left before its answer; a method"
        " that HTTP does not know is `other`.",
    ),
    Metric(
        "headgate_consumer_requests_total",
        "counter",
        ("consumer", "route", "code"),
        "Requests that brought a key, by whose key it was",
        "These are counted above as well. Refused ones too (403, 429); who brings no key or a"
        " wrong one (401) is no consumer.",
    ),
    Metric(
        "headgate_limited_total",
        "counter",
        ("consumer", "route", "limit"),
        "Requests that were refused because a limit was reached (429)",
        "`limit` is `requests` or `in_flight` of the consumer's key, or `route_requests` or"
        " `route_in_flight` of the route.",
    ),
    Metric(
        "headgate_request_seconds",
        "histogram",
        ("route", "backend"),
        "From a request's head to the last byte of its answer",
        "Only of requests that an instance answered, here and in the next two; what the gateway"
        " answers itself, as where no connection was to be had, is in none of them.",
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
        "headgate_concurrency_limit",
        "gauge",
        ("backend", "instance"),
        "Requests that an instance gets at once at most, for more were seen to wait there",
        "Learned of instances that do not report their load, and shown only while it holds; see"
        " `limit` of a backend.",
    ),
    Metric(
        "headgate_instance_starts_total",
        "counter",
        ("backend",),
        "Processes of instances that `headgate up` has started",
        "Again after a death, too. With `start: demand` this counts the cold starts.",
    ),
    Metric(
        "headgate_instance_load_seconds",
        "gauge",
        ("backend",),
        "How long the last one of them took until it was ready",
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
        "headgate_log_dropped_total",
        "counter",
        ("process", "log"),
        "Lines that a log lost because nobody read it in time or the system refused them",
        "`process` is `worker` (all of them together), `control` or `supervisor` (with"
        " `headgate up` also what instances write); `log` is `access` or `messages`.",
    ),
    Metric(
        "headgate_tls_handshake_failures_total",
        "counter",
        ("reason",),
        "Connections by TLS to the data plane that failed before their first request",
        "`reason` is `no_certificate` or `certificate` (where `tls.client_ca` asks for one: there"
        " was none, or none that it vouches for), `revoked` or `no_crl` (that file has a list of"
        " those revoked: it names the client's, or there is none of its CA that holds), `alert`"
        " (the client refused: it does not trust the gateway's certificate, say), `version`,"
        " `cipher`, `no_tls`, `timeout` or `other`. Who leaves before saying anything, as a check"
        " of a port does, is not counted.",
    ),
    Metric(
        "headgate_certificate_expiry_seconds",
        "gauge",
        ("listener",),
        "When the certificate that a listener shows expires, in seconds since 1970",
        "`listener` is `tls` or `admin_tls`.",
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
    Metric(
        "headgate_rollout_step",
        "gauge",
        ("route", "backend"),
        "The step at which a rollout to a backend is, from 1; 0 once it has ended",
    ),
    Metric(
        "headgate_rollout_evidence",
        "gauge",
        ("route", "guard"),
        "What speaks against the canary of a rollout: 1 is nothing, 1/alpha fails the guard",
    ),
    Metric(
        "headgate_rollout_verdict_total",
        "counter",
        ("route", "guard", "verdict"),
        "Guards of rollouts that failed, and, with an empty `guard`, rollouts that ended",
        "`verdict` is `failed`, `done`, `rolled_back` or `aborted`. Counted since the control"
        " process started.",
    ),
    Metric(
        "headgate_gateways",
        "gauge",
        (),
        "With `store: etcd`: how many gateways hold their lease; limits are divided by it",
    ),
    Metric(
        "headgate_gateway_revision",
        "gauge",
        ("node",),
        "With `store: etcd`: the revision by which all workers of a gateway decide",
    ),
    Metric(
        "headgate_lease_held",
        "gauge",
        (),
        "With `store: etcd`: 1 while this gateway holds its lease, 0 while it is lost",
    ),
    Metric(
        "headgate_store_up",
        "gauge",
        (),
        "With `store: etcd`: 1 while etcd answers, 0 while it does not",
    ),
    Metric(
        "headgate_cluster_up",
        "gauge",
        (),
        "With `--on ray`: 1 while the cluster can be reached, 0 while it cannot: then nothing is"
        " placed, and requests go on",
    ),
    Metric(
        "headgate_mirror_compared_total",
        "counter",
        ("route", "backend", "verdict"),
        "Requests whose answer was to be compared with the one of a mirror, by what came of it",
        "`backend` is the mirror's; `verdict` is `agree`, `differ`, `unanswered` (the mirror gave"
        " no whole answer, or said that it had no room) or `dropped` (there was no place for the"
        " copy, the client's own answer did not come, too large, or more than could be taken)."
        " Each request that was to be copied is counted once.",
    ),
    Metric("headgate_revision", "gauge", (), "The revision of the table that is served"),
)
BY_NAME = {metric.name: metric for metric in METRICS}

TIMES = "times"
"""The series of a book that holds all histograms of one route at one backend: a request then
touches one place where it would touch three (`gateway.telemetry.metrics.Times`)."""

_LABELS = {TIMES: ("route", "backend"), **{name: each.labels for name, each in BY_NAME.items()}}


Gone = tuple[str, ...]
"""What is there no more: ("route", name), ("backend", name), ("consumer", name) or
("instance", backend, address)."""


def retired_labels(
    metric: str, labels: tuple[str, ...], retired: Mapping[Gone, str]
) -> tuple[str, ...] | None:
    """`labels` with the name that `retired` gives what they name in its place; None where it
    gives none. A backend takes its instances with it."""
    known = _LABELS.get(metric)
    if known is None or not retired:
        return None
    into, backend = list(labels), ""
    for at, (label, value) in enumerate(zip(known, labels, strict=False)):
        if not value:
            continue
        if label == "backend":
            backend = value
        if label in ("route", "backend", "consumer") and (label, value) in retired:
            into[at] = shown_as(label, retired[label, value])
        elif label == "instance":
            into[at] = retired.get(("backend", backend)) or retired.get(
                (label, backend, value), value
            )
    return None if into == list(labels) else tuple(into)


def shown_as(label: str, name: str) -> str:
    """How `name`, for which many are counted that are gone, looks as a `label`: as no route,
    backend, instance or consumer can be called."""
    return name if label == "instance" else f"({name})"


def stands_for_many(label: str, value: str) -> bool:
    """Whether `value` of `label` is what `shown_as` makes of a name."""
    return ":" not in value if label == "instance" else value.startswith("(")


def page() -> str:
    """`docs/metrics.md`, whole."""
    return "\n".join([_HEAD, *(_section(metric) for metric in METRICS)])


_HEAD = """\
# Metrics

<!-- Rendered by `python -m gateway.telemetry.catalogue > docs/metrics.md`; a test compares. -->

`GET /metrics` on the admin listener answers in the Prometheus text format (OpenMetrics where the
scraper asks for it, protobuf with native histograms where it prefers that). Counters are sums
over all workers since the gateway started, also over workers that are gone: they equal what
clients saw, whoever is killed. They are lost with the supervisor alone. A label never holds what
a client sent, so their number is bounded by the table. `docker/observability/` has a Prometheus
configuration and a Grafana dashboard.

What has been gone for ten minutes is counted together: routes as route `(retired-1)`, backends
as backend `(retired-1)`, consumers as consumer `(retired-1)`, instances of a backend that goes
on as its instance `retired-1`. When more go, those series end and others (`retired-2`) begin
with what was counted at all of them: no sum goes back, no `rate()` takes old requests for new
ones, and scrapes are as long as the table that is served, however much came and went. What comes
back under its old name begins anew.

Scraping costs the workers next to nothing: they count in memory that the control process reads.
Scrapes that arrive together are answered by one look.

## Histograms

Inside, times are counted in buckets that grow by a 32nd of an octave: what the dashboard,
`headgate status` and `headgate top` show as p50, p95 and p99 is off by 1.1 % at most, from a
microsecond to twelve days. Prometheus gets the same buckets as a native histogram (schema 5) if
it scrapes with `--enable-feature=native-histograms`, or `scrape_native_histograms: true` from
its version 3.8 on, and `histogram_quantile` over it is as exact. The classic buckets that every
Prometheus reads are coarser, for each of them is a series; `histogram_quantile` draws straight
lines inside them and may be off by a fifth. One query reads either:

```
histogram_quantile(0.99, sum(rate(headgate_request_seconds[1m])))
or histogram_quantile(0.99, sum by (le) (rate(headgate_request_seconds_bucket[1m])))
```
"""


def _section(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    note = f" {metric.note}" if metric.note else ""
    return f"## `{metric.name}`\n\n{metric.kind}; labels: {labels}\n\n{metric.meaning}.{note}\n"


if __name__ == "__main__":
    print(page(), end="")
