"""What the control process keeps of the last hour: how much, how long, and how exact."""

import random
from typing import Any

import pytest

from gateway.controlplane.watch.last_hour import KEPT_S, STEP_S, LastHour, columns
from gateway.controlplane.watch.rates import GATEWAY, Sums, What, Window
from gateway.controlplane.watch.tallies import Change
from gateway.telemetry.buckets import BOUNDS, quantiles
from gateway.telemetry.metrics import REQUESTS


def route(counts: dict[What, int], name: str = "r") -> Sums:
    return {("route", name): counts, ("backend", "a"): counts, GATEWAY: counts}


def filled(each: list[dict[What, int]], **more: Any) -> LastHour:
    """The hour of a gateway that counted `each` in one second after the other."""
    hour = LastHour(**more)
    for second, counts in enumerate(each):
        hour.add(float(second), route(counts))
    hour.add(float(len(each)), {})
    return hour


def test_rates_are_of_ten_seconds_each_and_there_is_one_for_every_ten_seconds() -> None:
    hour = filled([{"2xx": 5} if second <= 10 else {"5xx": 2} for second in range(31)])
    found = columns(hour.steps(), ("route", "r"))
    assert found["requests_per_s"] == [5.0, 2.0, 2.0]
    assert found["answers_per_s"] == {"2xx": [5.0, 0.0, 0.0], "5xx": [0.0, 2.0, 2.0]}
    assert [step.until for step in hour.steps()] == [10.0, 20.0, 30.0]


def test_what_nothing_was_counted_of_has_no_percentile_and_no_rate_of_a_kind() -> None:
    hour = filled([{} for _ in range(21)])
    found = columns(hour.steps(), ("route", "nobody"))
    assert found["requests_per_s"] == [0.0, 0.0]
    assert found["answers_per_s"] == {}
    assert found["latency_ms"]["p99"] == [None, None]


def test_percentiles_of_longer_steps_are_those_of_all_that_was_counted_in_them() -> None:
    chance = random.Random(7)
    seconds = [
        {chance.randrange(200, 900): chance.randrange(1, 9) for _ in range(30)} for _ in range(61)
    ]
    (minute,) = filled(seconds).steps(60)
    every: dict[int, int] = {}
    for counts in seconds[1:]:  # those of the first second were counted before it began
        for bucket, count in counts.items():
            every[bucket] = every.get(bucket, 0) + count
    found = columns([minute], ("backend", "a"))["latency_ms"]
    exact = [1000 * at for at in quantiles(every, [0.5, 0.95, 0.99])]
    assert [found[p][0] for p in ("p50", "p95", "p99")] == pytest.approx(exact, rel=0.01)


def test_the_gateway_as_a_whole_is_all_of_its_routes_and_what_met_none() -> None:
    hour, window = LastHour(), Window()
    hour.add(0.0, window.beat(0.0))
    for second in range(1, 11):
        window.note([Change(REQUESTS, ("r", "a", "x:1"), ("GET", "200", ""), 3)])
        window.note([Change(REQUESTS, ("", "", ""), ("GET", "404", "no_route"), 1)])
        hour.add(float(second), window.beat(float(second)))
    assert window.of(*GATEWAY)["requests_per_s"] == 4.0
    found = columns(hour.steps(), GATEWAY)
    assert found["requests_per_s"] == [4.0]
    assert found["answers_per_s"] == {"2xx": [3.0], "4xx": [1.0]}


def test_an_hour_is_kept_and_no_more() -> None:
    hour = filled([{"2xx": 1}] * int(KEPT_S + 600))
    steps = hour.steps()
    assert len(steps) == KEPT_S / STEP_S
    assert steps[-1].until - steps[0].since == KEPT_S
    assert len(hour.steps(600)) == 6 or len(hour.steps(600)) == 7
    assert len(hour.steps(last_s=300)) == 30


def test_what_is_kept_is_bounded_in_bytes_and_the_oldest_goes_first() -> None:
    most = 20_000
    hour = LastHour(max_bytes=most)
    for second in range(2000):
        hour.add(float(second), {("route", f"r{n}"): {"2xx": 1, n: 1} for n in range(10)})
    assert hour.bytes <= most
    steps = hour.steps()
    assert 0 < len(steps) < 20
    assert steps[-1].until == 1990.0


def test_of_very_many_names_the_busiest_are_kept_and_the_whole_is_still_the_whole() -> None:
    hour = LastHour(max_names=3)
    hour.add(0.0, {})
    counted: Sums = {("route", f"r{n}"): {"2xx": 10 * n} for n in range(9)}
    hour.add(10.0, {**counted, GATEWAY: {"2xx": 360}})
    known = [columns(hour.steps(), ("route", f"r{n}"))["requests_per_s"][0] for n in range(9)]
    assert known == [0.0] * 6 + [6.0, 7.0, 8.0]
    assert columns(hour.steps(), GATEWAY)["requests_per_s"] == [36.0]


def test_a_clock_that_was_late_makes_a_longer_step_and_no_higher_rate() -> None:
    hour = LastHour()
    hour.add(0.0, {})
    hour.add(40.0, route({"2xx": 80}))
    found = columns(hour.steps(), ("route", "r"))
    assert found["requests_per_s"] == [2.0]


def test_counts_that_are_moved_to_another_name_never_make_a_rate_below_zero() -> None:
    hour = LastHour()
    hour.add(0.0, {})
    moved: Sums = {("route", "old"): {"2xx": -900, 700: -900}, ("route", "gone"): {"2xx": 900}}
    hour.add(10.0, moved)
    assert columns(hour.steps(), ("route", "old"))["requests_per_s"] == [0.0]
    assert columns(hour.steps(), ("route", "gone"))["requests_per_s"] == [90.0]


def test_counts_beyond_every_measure_are_kept_at_the_most_that_is_known() -> None:
    hour = LastHour()
    hour.add(0.0, {})
    hour.add(10.0, route({"2xx": 2**40, len(BOUNDS): 2**40}))
    assert columns(hour.steps(), ("route", "r"))["requests_per_s"][0] > 400_000_000
