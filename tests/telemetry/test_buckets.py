"""Where times are counted, and how near what is read off the counts is to them."""

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

import pytest

from gateway.telemetry.buckets import (
    BOUNDS,
    OVERHEAD,
    SECONDS,
    at_most,
    bucket_of,
    native,
    quantiles,
)

PARTS = (0.5, 0.95, 0.99)
SHAPES: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda chance: chance.uniform(0.03, 1.0),
    "microseconds": lambda chance: chance.uniform(5e-6, 9e-5),
    "hours": lambda chance: chance.uniform(3600, 36000),
    "lognormal": lambda chance: chance.lognormvariate(-2, 2),
    "pareto": lambda chance: 0.01 * chance.paretovariate(1.5),
    "two kinds": lambda chance: chance.choice((0.05, 2.0)) * chance.uniform(0.9, 1.1),
}


def counted(times: list[float]) -> Counter[int]:
    return Counter(bisect_left(BOUNDS, time) for time in times)


def test_a_time_is_counted_in_the_first_bucket_whose_bound_it_does_not_pass() -> None:
    chance = random.Random(1)
    beside = [math.nextafter(bound, way) for bound in BOUNDS for way in (0.0, math.inf)]
    others = [chance.lognormvariate(-4, 5) for _ in range(10_000)]
    for time in (0.0, -1.0, 1e300, math.inf, *BOUNDS, *beside, *others):
        assert bucket_of(time) == bisect_left(BOUNDS, time), time


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_are_exact_to_two_percent_at_any_scale(shape: str) -> None:
    chance = random.Random(shape)
    times = sorted(SHAPES[shape](chance) for _ in range(20_000))
    found = quantiles(counted(times), PARTS)
    true = [times[int(part * len(times)) - 1] for part in PARTS]
    assert found == pytest.approx(true, rel=0.02)


def test_the_quantiles_of_one_request_are_its_time() -> None:
    assert quantiles(counted([0.25]), PARTS) == pytest.approx([0.25] * 3, rel=0.02)
    assert quantiles({}, PARTS) == []


def test_counts_of_workers_add_up_to_the_quantiles_of_all() -> None:
    chance = random.Random(1)
    one = [chance.uniform(0.01, 0.02) for _ in range(500)]
    other = [chance.uniform(1, 2) for _ in range(500)]
    assert quantiles(counted(one) + counted(other), PARTS) == quantiles(counted(one + other), PARTS)


@pytest.mark.parametrize("bounds", [SECONDS, OVERHEAD])
def test_classic_buckets_are_exact(bounds: tuple[float, ...]) -> None:
    chance = random.Random(2)
    times = [*bounds, *(chance.lognormvariate(-3, 3) for _ in range(5000))]
    exact = [sum(time <= bound for time in times) for bound in bounds]
    assert at_most(counted(times), bounds) == [*exact, len(times)]


def test_native_buckets_hold_what_prometheus_would_count_in_them() -> None:
    times = [0.001, 0.0123, 0.5, 0.51, 1.0, 1.5, 100.0]
    found = native(counted(times))
    assert sum(found.values()) == len(times)
    for time in times:
        assert any(2 ** ((i - 1) / 32) < time <= 2 ** (i / 32) for i in found)
