"""A learned concurrency limit never costs an answer that the instance had room for."""

import itertools
import math

import pytest

from benchmarks.simulate_limits import Case, cases, late, refused, run
from gateway.core.concurrency_limit import ConcurrencyLimit
from gateway.core.crowding import hiccup_at
from gateway.core.instance_load import Load
from gateway.core.shared_load import Sample

CASES = {case.name: case for case in cases()}
NOW = 1000.0


def of(*names: str) -> list[Case]:
    return [CASES[name] for name in names]


MIXES = of(
    "two kinds",
    "two kinds, 4 workers",
    "two kinds, reports",
    "5 s and 200 ms",
    "three kinds",
    "few short",
    "lognormal 2.0",
    "lognormal 2.0, 4 workers",
    "pareto",
)
CHANGES = of(
    "short kind away",
    "short, then long",
    "lognormal 0.5, changes",
    "lognormal 2.0, changes",
    "pareto, changes",
    "slower and slower",
    "slower at once",
    "short, then long, 4 workers",
    "slower and slower, 4 workers",
    "slower at once, 4 workers",
)
HICCUPS = of(
    "slow moment, 8 held, 20/s",
    "slow moment, 8 held, 20/s, 4 workers",
    "slow moment, 100 held, 20/s",
    "pause, 8 held, 20/s",
    "pause, 100 held, 20/s, 4 workers",
    "2 slots at 65 %, pause",
    "2 slots at 65 %, pause, reports",
    "8 slots at 65 %, pause",
    "1 slots at 65 %, pause, reports",
    "8 slots at 65 %, pause, 4 workers",
    "25 slots at 65 %, pause, 4 workers",
)


@pytest.mark.parametrize("case", MIXES, ids=lambda case: case.name)
def test_variety_is_not_taken_for_waiting(case: Case) -> None:
    for seed in (1, 2):
        assert refused(run(case, seed)[0]) == 0


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
def test_what_comes_may_change_without_a_refusal(case: Case) -> None:
    for seed in (1, 2):
        assert refused(run(case, seed)[0]) == 0


@pytest.mark.parametrize("case", HICCUPS, ids=lambda case: case.name)
def test_after_a_hiccup_all_is_as_before_and_none_was_refused(case: Case) -> None:
    for seed in (1, 2):
        requests, _ = run(case, seed)
        assert refused(requests) == 0
        assert late(case, requests) == 0


def test_what_gathers_in_a_pause_is_no_overload_while_it_goes() -> None:
    case = CASES["25 slots at 65 %, pause"]
    assert refused(run(case, 224)[0]) == 0


def test_a_pause_among_answers_is_told_from_their_usual_distance() -> None:
    def answers(*gaps: float) -> list[Sample]:
        return [Sample(at, 0.1, 1.0, 1.0, 1.0) for at in itertools.accumulate(gaps, initial=NOW)]

    assert hiccup_at(answers(*[0.01] * 20)) == -math.inf
    assert hiccup_at(answers(*[0.5] * 20)) == -math.inf
    assert hiccup_at(answers(*[0.01] * 10, 1.0, *[0.01] * 10)) == pytest.approx(NOW + 1.1)
    assert hiccup_at(answers(0.01, 1.0)) == -math.inf  # too few to say what is usual


def feel(
    limit: ConcurrencyLimit,
    took_s: float,
    among: float,
    times: int,
    now: float = NOW,
    room: float = 1.0,
) -> float:
    """So many answers, a millisecond apart; when the last one came."""
    for _ in range(times):
        now += 0.001
        limit.answered(now, Sample(now, took_s, among, room, among))
    return now


def swamp(limit: ConcurrencyLimit, slots: int = 2, service_s: float = 0.02) -> float:
    """Much more comes than an instance of so many slots computes; when a limit is tried."""
    now = feel(limit, service_s, among=1, times=20)
    for among in range(5 * slots, 100 * slots):
        now += service_s / slots
        took_s = among * service_s / slots
        limit.answered(now, Sample(now, took_s, float(among), 1.0, 2.5 * among))
        if limit.limit < math.inf:
            return now
    raise AssertionError("nothing was tried")


def follow(limit: ConcurrencyLimit, now: float, slots: int = 2, service_s: float = 0.02) -> float:
    """What is sent among as many as the limit lets in waits accordingly; when all has come."""
    took_s = max(service_s, limit.limit * service_s / slots)
    return feel(limit, took_s, limit.limit, times=12, now=now + took_s)


def test_a_crowd_that_is_answered_as_soon_as_a_lone_request_is_not_limited() -> None:
    limit = ConcurrencyLimit()
    now = feel(limit, 0.5, among=1, times=20)
    feel(limit, 0.6, among=200, times=1000, now=now)
    assert limit.limit == math.inf


def test_a_limit_is_tried_when_waiting_grows_and_refuses_nobody_until_it_is_proven() -> None:
    limit = ConcurrencyLimit()
    now = swamp(limit)
    assert not limit.is_proven(now)
    assert limit.limit_rather_than_refuse(now) > 2.5 * limit.limit
    now = follow(limit, now)
    assert limit.is_proven(now)
    assert limit.limit_rather_than_refuse(now) == limit.limit < 15


def test_one_that_answers_in_batches_is_found_to_be_full_though_it_pauses_between_them() -> None:
    limit, service_s, size = ConcurrencyLimit(), 0.4, 16
    now = feel(limit, service_s, among=1, times=20)
    for number in range(1, 100):
        now += service_s
        among = float(size * (number + 1))  # three times as many come as go
        for _ in range(size):
            limit.answered(now, Sample(now, number * service_s, among, 1.0, 3.0 * among))
        if limit.limit < math.inf:
            break
    assert limit.limit < math.inf


def test_a_limit_that_the_answers_do_not_follow_is_undone_and_they_are_usual_from_now_on() -> None:
    limit = ConcurrencyLimit()
    now = swamp(limit)
    now = feel(limit, 3.0, limit.limit, times=12, now=now + 3.0)
    assert limit.limit == math.inf
    feel(limit, 3.0, among=200, times=1000, now=now + 3.0)
    assert limit.limit == math.inf


def test_a_proven_limit_lapses_without_any_answer() -> None:
    limit = ConcurrencyLimit()
    now = follow(limit, swamp(limit))
    assert not limit.lapse(now)
    assert limit.lapse(now + 60.0)
    assert limit.limit == math.inf


def test_a_limit_is_never_below_the_room_that_was_proven() -> None:
    limit = ConcurrencyLimit()
    now = feel(limit, 0.02, among=1, times=20)
    now = feel(limit, 0.02, among=30, times=1, now=now, room=25.0)
    for among in range(40, 300):
        now += 0.01
        limit.answered(now, Sample(now, among * 0.01, float(among), 1.0, 2.5 * among))
    assert 25 <= limit.limit < math.inf


def test_what_is_held_takes_no_room_but_counts_for_the_configured_limit() -> None:
    load = Load(limit=4)
    for _ in range(3):
        load.sent(NOW)
        load.stop_computing()
    assert load.occupied(NOW) == 0
    assert load.in_flight == 3
    load.done(is_held=True)
    assert (load.in_flight, load.held) == (2, 2)
