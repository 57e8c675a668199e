"""What a scrape answers: what was counted and is live, in texts that Prometheus reads."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from gateway.controlplane.watch.counters import Totals
from gateway.core.table import Table
from gateway.telemetry.book import Book
from gateway.telemetry.buckets import SECONDS
from gateway.telemetry.catalogue import METRICS, page
from gateway.telemetry.exposition import Exposition, Gauges, render
from gateway.telemetry.metrics import COMPARED, RETRIES, RETRIES_DENIED, Counters

ROOT = Path(__file__).parents[2]
DOCUMENT = {
    "backends": {
        "linear": {"instances": ["http://127.0.0.1:8001"]},
        "cnn": {"instances": ["http://127.0.0.1:8002"]},
    },
    "routes": {"digits": {"match": "/digits", "split": {"linear": 90, "cnn": 10}}},
}
LIVE = Gauges(
    table=Table.from_document(DOCUMENT, 43),
    up={"linear": {"127.0.0.1:8001": True}, "cnn": {"127.0.0.1:8002": False}},
    effective={"digits": {"linear": 1.0, "cnn": 0.0}},
)
AT = ("digits", "linear")


class House:
    """A worker that counts, and who reads it."""

    def __init__(self) -> None:
        self.counters = Counters(Book())
        self.cell = self.counters.cell("digits", "linear", "127.0.0.1:8001")
        self.totals = Totals(self.counters.book.memory)
        self.exposition = Exposition(self.totals)

    def scraped(self, live: Gauges = LIVE) -> dict[tuple[str, tuple[str, ...]], float]:
        """Name and labels, in the order of the contract, to the value that Prometheus reads."""
        self.totals.read()
        return self.exposed(live)

    def exposed(self, live: Gauges = LIVE) -> dict[tuple[str, tuple[str, ...]], float]:
        """The same of what was read."""
        content = b"".join(self.exposition.pieces(live)[1])
        order = [*dict.fromkeys(label for metric in METRICS for label in metric.labels), "le"]
        return {
            (
                sample.name,
                tuple(sample.labels[label] for label in order if label in sample.labels),
            ): sample.value
            for family in text_string_to_metric_families(content.decode())
            for sample in family.samples
        }


def scraped(live: Gauges = LIVE) -> dict[tuple[str, tuple[str, ...]], float]:
    return House().scraped(live)


def test_a_scrape_in_the_midst_of_a_look_leaves_nothing_out_of_the_next_one() -> None:
    house = House()
    for code in range(200, 300):  # in blocks of several pages
        for number in range(20):
            house.counters.cell(f"r{number}", "linear", "127.0.0.1:8001").count(b"GET", code, "")
    house.scraped()
    for code in range(200, 300):
        for number in range(20):
            house.counters.cell(f"r{number}", "linear", "127.0.0.1:8001").count(b"GET", code, "")
    for _ in house.totals.reading():
        house.exposed()
    requests = [n for (name, _), n in house.exposed().items() if name == "headgate_requests_total"]
    assert requests == [2] * 2000


def test_counters_are_shown_by_all_their_labels() -> None:
    house = House()
    for _ in range(7):
        house.cell.count(b"POST", 200, "")
    house.counters.cell("digits", "linear", "").count(b"POST", 503, "queue_full")
    house.counters.add(RETRIES, "digits", "reset", count=3)
    house.counters.add(RETRIES_DENIED, count=4)
    found = house.scraped()
    ok = ("digits", "linear", "127.0.0.1:8001", "POST", "200", "")
    assert found["headgate_requests_total", ok] == 7
    full = ("digits", "linear", "", "POST", "503", "queue_full")
    assert found["headgate_requests_total", full] == 1
    assert found["headgate_retries_total", ("digits", "reset")] == 3
    assert found["headgate_retries_denied_total", ()] == 4


def test_a_scrape_shows_what_was_counted_since_the_last_one() -> None:
    house = House()
    house.cell.count(b"GET", 200, "")
    house.cell.times.count(0.1, 0.1, 0.001)
    key = "headgate_requests_total", (*AT, "127.0.0.1:8001", "GET", "200", "")
    assert house.scraped()[key] == house.scraped()[key] == 1
    house.cell.count(b"GET", 200, "")
    house.cell.times.count(0.3, 0.1, 0.001)
    found = house.scraped()
    assert found[key] == 2
    assert found["headgate_request_seconds_count", AT] == 2


def test_histograms_are_cumulated_and_their_count_is_their_last_bucket() -> None:
    house = House()
    for seconds in (0.001, 0.0012, 0.05, 0.0501, 7000.0):
        house.cell.times.count(seconds, seconds, 0.0001)
    found = house.scraped()
    buckets = {le: found["headgate_request_seconds_bucket", (*AT, str(le))] for le in SECONDS}
    assert buckets[0.001] == 1
    assert buckets[0.0015] == 2
    assert (buckets[0.035], buckets[0.05], buckets[0.07]) == (2, 3, 4)
    assert buckets[600.0] == 4
    assert found["headgate_request_seconds_bucket", (*AT, "+Inf")] == 5
    assert found["headgate_request_seconds_count", AT] == 5
    assert abs(found["headgate_request_seconds_sum", AT] - 7000.1023) < 1e-6


def test_what_workers_and_others_counted_of_one_series_is_one_line() -> None:
    house = House()
    for verdict, count in (("dropped", 3), ("unanswered", 2)):
        house.counters.add(COMPARED, "digits", "cnn", verdict, count=count)
    others = {("digits", "cnn", "agree"): 5, ("digits", "cnn", "dropped"): 4}
    live = replace(LIVE, counted={COMPARED: others})
    house.totals.read()
    text = b"".join(house.exposition.pieces(live)[1]).decode()
    lines = [line for line in text.splitlines() if line.startswith(COMPARED + "{")]
    assert sorted(line.partition("verdict=")[2] for line in lines) == [
        '"agree"} 5', '"dropped"} 7', '"unanswered"} 2',
    ]  # fmt: skip


def test_a_counter_that_counted_nothing_is_zero_where_it_has_no_labels() -> None:
    assert scraped()["headgate_retries_denied_total", ()] == 0


def test_weights_health_and_revision_are_of_the_live_table() -> None:
    found = scraped()
    assert found["headgate_weight", ("digits", "cnn")] == 10
    assert found["headgate_effective_weight", ("digits", "linear")] == 1.0
    assert found["headgate_instance_up", ("cnn", "127.0.0.1:8002")] == 0
    assert found["headgate_instance_up", ("linear", "127.0.0.1:8001")] == 1
    assert found["headgate_revision", ()] == 43


def test_gauges_of_idle_instances_and_queues_are_zero_rather_than_missing() -> None:
    found = scraped(replace(LIVE, in_flight={"linear": {"127.0.0.1:8001": 3}}))
    assert found["headgate_in_flight", ("linear", "127.0.0.1:8001")] == 3
    assert found["headgate_in_flight", ("cnn", "127.0.0.1:8002")] == 0
    assert found["headgate_queue_depth", ("cnn",)] == 0


def test_a_worker_of_another_release_does_not_break_a_scrape() -> None:
    house = House()
    house.counters.add("headgate_requests_total", "too", "few")
    house.counters.add("headgate_request_seconds", "digits")
    house.counters.add("headgate_of_tomorrow_total", "digits")
    house.cell.count(b"GET", 200, "")
    found = house.scraped()
    assert found["headgate_requests_total", (*AT, "127.0.0.1:8001", "GET", "200", "")] == 1
    house.counters.book.words[0] = 99
    later = House()
    later.totals = Totals(house.counters.book.memory)
    later.exposition = Exposition(later.totals)
    assert later.scraped()["headgate_revision", ()] == 43


def test_names_and_labels_are_exactly_those_of_the_catalogue() -> None:
    house = House()
    house.cell.count(b"GET", 200, "")
    house.cell.times.count(0.1, 0.1, 0.001)
    house.totals.read()
    content = render(house.totals, LIVE)[1].decode()
    families = {family.name: family for family in text_string_to_metric_families(content)}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_a_label_cannot_break_a_line() -> None:
    odd = 'a"\n\\'
    found = scraped(replace(LIVE, effective={"r": {odd: 1.0}}))
    assert found["headgate_effective_weight", ("r", odd)] == 1


def test_open_metrics_is_answered_to_who_asks_for_it() -> None:
    house = House()
    house.cell.count(b"GET", 200, "")
    house.cell.times.count(0.1, 0.1, 0.001)
    house.totals.read()
    accept = "application/openmetrics-text; version=1.0.0"
    kind, content = render(house.totals, LIVE, accept)
    assert kind.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
    families = {family.name: family for family in open_metrics_families(content.decode())}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    assert families["headgate_requests"].samples[0].value == 1
    assert render(house.totals, LIVE)[0].startswith("text/plain")


DELIMITED = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
OPEN_METRICS = "application/openmetrics-text;version=1.0.0"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "text/plain"),
        (f"text/plain;q=0.6,{OPEN_METRICS};q=0.5", "text/plain"),
        (f"{OPEN_METRICS};q=0.1,*/*", "text/plain"),
        (f"{OPEN_METRICS}; q=0", "text/plain"),
        (f"{DELIMITED};q=0", "text/plain"),
        (f"{DELIMITED};q=0.3, {OPEN_METRICS};q=0.6, text/plain;q=0.3", "application/openmetrics"),
        ("Application/OpenMetrics-Text; Q=0.9, text/plain; q=0.8", "application/openmetrics"),
        (f"{OPEN_METRICS};escaping=allow-utf-8;q=0.6,text/plain;q=0.4,*/*;q=0.2", "application/op"),
        (f"{DELIMITED};q=0.6,{OPEN_METRICS};q=0.5,*/*;q=0.2", "application/vnd"),
        ("application/vnd.google.protobuf,text/plain;q=0.1", "text/plain"),
    ],
)
def test_a_scraper_gets_the_format_that_it_likes_best(accept: str, kind: str) -> None:
    assert render(House().totals, LIVE, accept)[0].startswith(kind)


def test_the_documentation_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page()
