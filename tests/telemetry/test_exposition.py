"""What a scrape answers: the sums over workers, in a text that Prometheus reads."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.table import Table
from gateway.messages import Histogram, Metrics
from gateway.telemetry.catalogue import METRICS, page
from gateway.telemetry.exposition import Live, render

ROOT = Path(__file__).parents[2]
BOUNDS = [0.005, 0.05, 0.5]
DOCUMENT = {
    "backends": {
        "linear": {"instances": ["http://127.0.0.1:8001"]},
        "cnn": {"instances": ["http://127.0.0.1:8002"]},
    },
    "routes": {"digits": {"match": "/digits", "split": {"linear": 90, "cnn": 10}}},
}
LIVE = Live(
    table=Table.from_document(DOCUMENT, 43),
    up={"linear": {"127.0.0.1:8001": True}, "cnn": {"127.0.0.1:8002": False}},
    effective={"digits": {"linear": 1.0, "cnn": 0.0}},
)


def histogram(*series: tuple[list[str], list[int], float]) -> Histogram:
    return {"bounds": BOUNDS, "series": list(series)}


def metrics(**facts: Any) -> Metrics:
    """One worker's message, with `facts` in place of nothing."""
    nothing: dict[str, Any] = {
        "type": "metrics", "id": 1, "revision": 43, "requests": [], "retries": [],
        "retries_denied": 0, "ejections": [], "in_flight": [], "queue_depth": [], "live": {},
        "request_seconds": histogram(), "first_byte_seconds": histogram(),
        "overhead_seconds": histogram(),
    }  # fmt: skip
    return {**nothing, **facts}  # type: ignore[return-value]


def scraped(*workers: Metrics, live: Live = LIVE) -> dict[tuple[str, tuple[str, ...]], float]:
    """Name and labels, in the order of the contract, to the value that Prometheus reads."""
    _, content = render(workers, live)
    order = [*dict.fromkeys(label for metric in METRICS for label in metric.labels), "le"]
    return {
        (sample.name, tuple(sample.labels[label] for label in order if label in sample.labels)):
            sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }  # fmt: skip


def test_r70_counters_are_sums_over_all_workers() -> None:
    ok = ["digits", "linear", "127.0.0.1:8001", "POST", "200", ""]
    full = ["digits", "linear", "", "POST", "503", "queue_full"]
    found = scraped(
        metrics(requests=[(ok, 7), (full, 1)], retries=[(["digits", "reset"], 2)]),
        metrics(requests=[(ok, 5)], retries=[(["digits", "reset"], 1)], retries_denied=4),
    )
    assert found["headgate_requests_total", tuple(ok)] == 12
    assert found["headgate_requests_total", tuple(full)] == 1
    assert found["headgate_retries_total", ("digits", "reset")] == 3
    assert found["headgate_retries_denied_total", ()] == 4


def test_histograms_are_cumulated_and_their_count_is_their_last_bucket() -> None:
    series = (["digits", "linear"], [1, 2, 0, 1], 1.5)
    found = scraped(
        metrics(request_seconds=histogram(series)), metrics(request_seconds=histogram(series))
    )
    at = ("digits", "linear")
    buckets = [found["headgate_request_seconds_bucket", (*at, le)] for le in
               ("0.005", "0.05", "0.5", "+Inf")]  # fmt: skip
    assert buckets == [2, 6, 6, 8]
    assert found["headgate_request_seconds_count", at] == 8
    assert found["headgate_request_seconds_sum", at] == 3.0


def test_weights_health_and_revision_are_of_the_live_table() -> None:
    found = scraped()
    assert found["headgate_weight", ("digits", "cnn")] == 10
    assert found["headgate_effective_weight", ("digits", "linear")] == 1.0
    assert found["headgate_instance_up", ("cnn", "127.0.0.1:8002")] == 0
    assert found["headgate_instance_up", ("linear", "127.0.0.1:8001")] == 1
    assert found["headgate_revision", ()] == 43


def test_gauges_of_idle_instances_and_queues_are_zero_rather_than_missing() -> None:
    found = scraped(metrics(in_flight=[(["linear", "127.0.0.1:8001"], 3)]))
    assert found["headgate_in_flight", ("linear", "127.0.0.1:8001")] == 3
    assert found["headgate_in_flight", ("cnn", "127.0.0.1:8002")] == 0
    assert found["headgate_queue_depth", ("cnn",)] == 0


def test_a_worker_of_another_release_does_not_break_a_scrape() -> None:
    odd = metrics(
        requests=[(["too", "few"], 1)],
        request_seconds={"bounds": [1.0], "series": [(["digits", "linear"], [1, 1], 2.0)]},
    )
    good = metrics(request_seconds=histogram((["digits", "linear"], [1, 0, 0, 0], 0.001)))
    found = scraped(odd, good)
    assert found["headgate_request_seconds_count", ("digits", "linear")] == 1


def test_names_and_labels_are_exactly_those_of_the_catalogue() -> None:
    _, content = render([metrics()], LIVE)
    families = {family.name: family for family in text_string_to_metric_families(content.decode())}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_a_label_cannot_break_a_line() -> None:
    table = Table.from_document(
        {"backends": {'a"\n\\': {"instances": []}},
         "routes": {"r": {"match": "/", "split": {'a"\n\\': 1}}}}, 1,
    )  # fmt: skip
    found = scraped(live=Live(table))
    assert found["headgate_weight", ("r", 'a"\n\\')] == 1


def test_open_metrics_is_answered_to_who_asks_for_it() -> None:
    kind, content = render([metrics()], LIVE, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
    assert render([metrics()], LIVE)[0].startswith("text/plain")


def test_the_documentation_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page()
