"""The instance with the least expected delay, from what is known of each."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balancing import (
    ALIKE,
    ALIKE_S,
    JUDGED,
    choose,
    is_on_trial,
    usual_service_s,
    usual_target,
)
from gateway.core.health import HealthState
from gateway.core.instance_load import FADE_S, FORGET_S, Load, target_of
from gateway.core.table import Eject, Health

NOW = 1000.0


def load(in_flight: int = 0, slots: float = 0.0, service_s: float = 0.02, **more: Any) -> Load:
    made = Load(in_flight, slots=slots, service_s=service_s, **more)
    made.learned_at, made.is_new, made.samples = NOW, False, 100
    return made


def picks(loads: list[Load], balance: str = "least_loaded", turns: int = 120) -> Counter[int]:
    return Counter(choose(balance, loads, turn, NOW) for turn in range(turns))


def test_equal_instances_take_turns() -> None:
    assert picks([load() for _ in range(4)]) == dict.fromkeys(range(4), 30)
    assert picks([load(1, 2) for _ in range(3)]) == dict.fromkeys(range(3), 40)


def test_of_instances_that_are_about_as_fast_the_least_busy_is_chosen_and_a_slow_one_spared() -> (
    None
):
    alike = [load(service_s=0.020), load(service_s=0.024)]
    assert picks(alike) == {0: 60, 1: 60}
    assert set(picks([*alike, load(service_s=0.1)])) == {0, 1}
    assert picks([load(service_s=0.0004), load(service_s=0.0013)]) == {0: 60, 1: 60}
    assert set(picks([load(2, 4, 0.020), load(1, 4, 0.024), load(0, 4, 0.1)])) == {1}


def test_an_idle_instance_is_not_judged_by_its_first_answers() -> None:
    cold = load(service_s=0.5)
    cold.samples = 1
    assert picks([load(), cold]) == {0: 60, 1: 60}
    cold.samples = JUDGED
    assert set(picks([load(), cold])) == {0}


def test_the_one_with_least_to_do_is_chosen() -> None:
    assert set(picks([load(2), load(1), load(3)])) == {1}
    assert set(picks([load(5, 8), load(3, 2), load(9, 8)])) == {0}


def test_a_fast_instance_with_a_queue_may_be_sooner_than_a_slow_one_without() -> None:
    fast, slow = load(4, 2, 0.02), load(0, 2, 0.1)
    fast.target = slow.target = 99
    assert set(picks([fast, slow])) == {0}
    fast.in_flight = 10
    assert set(picks([fast, slow])) == {1}


def test_r30_one_that_refused_a_connection_gets_nothing_for_a_moment_that_others_can_take() -> None:
    gone, busy = load(), load(3)
    gone.avoid_until = NOW + 0.5
    assert set(picks([gone, busy])) == {1}
    later = NOW + 0.5
    assert {choose("least_loaded", [gone, busy], turn, later) for turn in range(9)} == {0}
    busy.avoid_until = NOW + 0.5
    assert set(picks([gone, busy])) == {0}  # better than nothing


def test_what_other_workers_sent_counts() -> None:
    assert set(picks([load(0, others=2.0), load(1)])) == {1}


def test_an_instance_says_that_it_is_busy_with_others_and_the_news_fades() -> None:
    busy, idle = load(1, 2), load(1, 2)
    busy.reported(NOW, queue=6, running=2, slots=2, wait_ms=0)
    assert busy.occupied(NOW) == 8
    assert picks([busy, idle]).keys() == {1}
    assert busy.occupied(NOW + FADE_S / 2) == pytest.approx(1 + 7 / 2)
    assert busy.occupied(NOW + FADE_S) == 1


def test_a_fresh_report_is_believed_over_what_other_workers_said() -> None:
    told = load(1, 2, others=9.0)
    told.reported(NOW, queue=0, running=1, slots=2, wait_ms=0)
    assert told.occupied(NOW + 0.05) == 1
    assert told.occupied(NOW + 0.5) == 10


def test_an_estimated_wait_runs_down_as_time_passes() -> None:
    waits = load(0, 2, 0.02)
    waits.reported(NOW, queue=0, running=0, slots=2, wait_ms=300)
    assert waits.delay(NOW, 0, 1.0) == pytest.approx(0.32)
    assert waits.delay(NOW + 0.2, 0, 1.0) == pytest.approx(0.12)
    assert waits.delay(NOW + 0.4, 0, 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "report",
    [(math.nan, 0, 1, 0), (-1, 0, 1, 0), (0, math.inf, 1, 0), (0, 0, 0, 0), (0, 0, -3, 0),
     (0, 0, 1e300, 0), (0, 0, 1, math.nan), (0, 0, 1, -5), (0, 0, math.nan, 0)],
)  # fmt: skip
def test_a_report_that_makes_no_sense_is_not_believed(report: tuple[float, ...]) -> None:
    told = load(1, 4)
    told.reported(NOW, *report)
    assert (told.slots, told.occupied(NOW), told.wait_until) == (4, 1, 0.0)


def test_a_wait_of_hours_keeps_nobody_away_for_longer_than_seconds() -> None:
    told = load()
    told.reported(NOW, 0, 0, 1, 1e8)
    assert told.wait_until <= NOW + 5


def answer(load: Load, took_s: float, times: int = 1) -> None:
    for _ in range(times):
        load.answered(NOW, took_s, load.sent(NOW))
        load.done()


def test_the_service_time_is_learned_from_answers() -> None:
    fresh = Load(slots=1)
    answer(fresh, 0.1)
    assert fresh.service_s == 0.1
    answer(fresh, 0.3)
    assert fresh.service_s == pytest.approx(0.2)
    answer(fresh, 0.02, times=200)
    assert fresh.service_s == pytest.approx(0.02, rel=0.01)


def test_waiting_inside_an_instance_is_not_taken_for_slowness() -> None:
    busy = Load(slots=2)
    for _ in range(7):
        busy.sent(NOW)
    busy.answered(NOW, 0.08, busy.sent(NOW))
    assert busy.service_s == pytest.approx(0.02)


def test_r31_five_failures_in_a_row_keep_requests_away() -> None:
    loads, states = [load(0, 2) for _ in range(3)], [HealthState("up")] * 3
    sent: Counter[int] = Counter()
    for turn in range(300):
        index = choose("least_loaded", loads, turn, NOW)
        sent[index] += 1
        signal = "success" if index else "error"
        states[index] = states[index].after(signal, NOW, Health(), Eject())
        loads[index].avoid_until = states[index].avoid_until
        if index:
            answer(loads[index], 0.02)
    assert sent[0] == Eject().failures


def test_r31_when_all_fail_all_are_used() -> None:
    loads = [load(0, 2) for _ in range(3)]
    for each in loads:
        each.avoid_until = NOW + 5
    assert picks(loads) == dict.fromkeys(range(3), 40)


def test_r31_after_a_while_one_failing_instance_is_tried_once_more() -> None:
    bad, good = load(0, 2), load(1, 2)
    bad.avoid_until = NOW + 5
    assert choose("least_loaded", [bad, good], 0, NOW + 4.9) == 1
    assert choose("least_loaded", [bad, good], 0, NOW + 5.1) == 0


@pytest.mark.parametrize("balance", ["least_loaded", "round_robin", "random"])
def test_r31_who_is_tried_again_takes_one_of_all_that_wait_for_the_others(balance: str) -> None:
    """It has failed before the others have room: it would fail whatever waits, all at once."""
    bad, full = load(0, 2), load(9, slots=4)
    bad.avoid_until = NOW - 0.1
    assert choose(balance, [bad, full], 0, NOW) == 0
    bad.in_flight = 1
    assert choose(balance, [bad, full], 0, NOW) == -1
    bad.avoid_until = 0.0  # it answered well
    assert choose(balance, [bad, full], 0, NOW) == 0
    bad.avoid_until = full.avoid_until = NOW - 0.1
    full.in_flight = 1
    assert choose(balance, [full, bad], 1, NOW) in (0, 1)  # all alike: nobody is spared


def test_r24_slow_start_gives_a_part_of_the_usual_load() -> None:
    loads = [load(slots=8), load(slots=8, weight=0.25)]
    for turn in range(10):
        loads[choose("least_loaded", loads, turn, NOW)].in_flight += 1
    assert loads[0].in_flight == 8
    assert loads[1].in_flight == 2


def test_an_unknown_instance_is_thought_as_fast_as_the_known_ones() -> None:
    known, unknown = load(1, 1, 0.02), load(0, 0, 0.0)
    assert usual_service_s([known, unknown]) == 0.02
    assert usual_service_s([unknown]) == 1.0
    assert set(picks([known, unknown])) == {1}


def test_what_was_slow_long_ago_is_asked_again() -> None:
    slow, fast = load(0, 2, 1.0), load(1, 2, 0.02)
    assert choose("least_loaded", [slow, fast], 0, NOW + FORGET_S - 1) == 1
    fast.learned_at = NOW + FORGET_S
    assert choose("least_loaded", [slow, fast], 0, NOW + FORGET_S + 1) == 0
    slow.in_flight += 1  # one is enough to find out
    assert choose("least_loaded", [slow, fast], 0, NOW + FORGET_S + 1) == 1
    slow.samples = 100
    slow.answered(NOW + FORGET_S + 2, 0.02, (1.0, 0.0))
    assert slow.service_s == pytest.approx(0.51)


def test_slots_are_filled_and_short_work_is_sent_ahead() -> None:
    assert target_of(0, 0.1) == math.inf
    assert target_of(2, 0.02) == 2
    assert target_of(4, 0.0) == 4
    assert target_of(1, 0.001) == 3  # 2 ms of work for the time of a turnaround
    assert target_of(1, 0.0001) == 9
    assert target_of(32, 0.004) == 48


def test_nobody_is_chosen_when_nobody_has_room() -> None:
    loads = [load(2, 2), load(2, 2)]
    assert choose("least_loaded", loads, 0, NOW) == -1
    assert choose("least_loaded", loads, 0, NOW, ahead=1) in (0, 1)
    assert choose("round_robin", [load(3, limit=3), load(4, limit=3)], 1, NOW) == -1
    assert choose("least_loaded", [], 0, NOW) == -1


def test_a_worker_may_always_have_one_request_at_an_instance() -> None:
    assert choose("least_loaded", [load(0, 2, others=50.0)], 0, NOW) == 0


def test_round_robin_takes_turns_whatever_the_load() -> None:
    loads = [load(9), load(0), load(0, service_s=5.0)]
    assert [choose("round_robin", loads, turn, NOW) for turn in range(6)] == [0, 1, 2, 0, 1, 2]


def test_random_looks_like_chance() -> None:
    loads = [load() for _ in range(4)]
    turns = [choose("random", loads, turn, NOW) for turn in range(4000)]
    assert all(900 < count < 1100 for count in Counter(turns).values())
    pairs = Counter(pairwise(turns))
    assert len(pairs) == 16
    assert all(170 < count < 330 for count in pairs.values())


LOADS = st.lists(
    st.builds(
        load,
        in_flight=st.integers(0, 300),
        slots=st.sampled_from([0.0, 1.0, 2.0, 64.0]),
        service_s=st.sampled_from([0.0, 0.001, 0.02, 3.0]),
        others=st.floats(0, 100),
        weight=st.floats(0.1, 1.0),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("balance", ["least_loaded", "round_robin", "random"])
def test_who_is_to_be_avoided_gets_only_what_no_other_can_take(balance: str) -> None:
    avoided, spare, full = load(), load(), load(1, 1, limit=1)
    avoided.avoid_until = NOW + 0.5
    assert set(picks([avoided, spare, full], balance)) == {1}
    assert set(picks([avoided, full], balance)) == {0}
    assert set(picks([avoided], balance)) == {0}
    avoided.avoid_until = NOW - 0.5
    assert set(picks([avoided, spare, full], balance)) == {0, 1}


@given(LOADS, st.integers(0, 1 << 64), st.sampled_from(["least_loaded", "round_robin", "random"]))
def test_whoever_is_chosen_has_room_and_nobody_is_only_if_none_has(
    loads: list[Load], turn: int, balance: str
) -> None:
    for each in loads:
        each.limit = 256
    index = choose(balance, loads, turn, NOW)
    room = [
        each.in_flight < 256
        and (each.occupied(NOW) < each.target * each.weight or each.in_flight == 0)
        for each in loads
    ]
    assert room[index] if index >= 0 else not any(room)


def preferred(loads: list[Load], rotation: int) -> dict[int, tuple[bool, bool, float]]:
    """The key of each instance that has room, from `rotation` on."""
    able = []
    for index in ((rotation + step) % len(loads) for step in range(len(loads))):
        one = loads[index]
        room = usual_target(loads) if one.is_new and one.target == math.inf else one.target
        if one.in_flight and is_on_trial(one, loads):
            continue
        if not one.in_flight or one.occupied(NOW) < room * one.weight:
            able.append(index)
    delays = {
        index: loads[index].delay(NOW, loads[index].occupied(NOW))
        for index in able
        if loads[index].samples >= JUDGED
    }
    quickest = min((s for i, s in delays.items() if loads[i].avoid_until <= NOW), default=math.inf)
    return {
        index: (
            loads[index].avoid_until > NOW,
            index in delays and delays[index] * ALIKE - ALIKE_S > quickest,
            loads[index].occupied(NOW) / (loads[index].slots or 1.0),
        )
        for index in able
    }


@st.composite
def states(draw: Any) -> Load:
    def of(*values: float) -> float:
        return draw(st.sampled_from(values))

    slots, service_s = of(0.0, 0.0, 1.0, 4.0), of(0.0, 0.001, 0.02, 0.021, 0.03, 0.1)
    made = Load(
        int(of(0, 0, 1, 2, 9)), of(0, 1, 4), slots=slots, service_s=service_s,
        weight=of(1.0, 1.0, 0.3),
    )  # fmt: skip
    made.samples, made.is_new = int(of(0, JUDGED - 1, JUDGED, 100)), draw(st.booleans())
    made.learned_at = NOW - of(0.0, 1.0, FORGET_S, 2 * FORGET_S, math.inf)
    made.reported_at, made.foreign = of(0.0, NOW, NOW - 1.0), of(0.0, 2.0)
    made.wait_until = NOW + of(-1.0, 0.01, 1.0)
    made.avoid_until = of(0.0, 0.0, NOW - 1.0, NOW + 1.0)
    if not slots:
        made.target, made.crowd = of(math.inf, 1.0, 6.0), of(0.0, 0.5, 1.5, 6.0)
        made.base_s = service_s * of(0.1, 0.9, 1.0)
    return made


@given(st.lists(states(), min_size=2, max_size=6), st.integers(0, 1 << 64))
def test_no_instance_is_passed_over_that_a_closer_look_would_have_chosen(
    loads: list[Load], rotation: int
) -> None:
    keys = preferred(loads, rotation)
    first = min(keys, key=keys.__getitem__, default=-1)
    assert choose("least_loaded", loads, rotation, NOW) == first


@given(st.lists(states(), min_size=2, max_size=6))
def test_where_the_rotation_begins_decides_among_equals_only(loads: list[Load]) -> None:
    chosen = {choose("least_loaded", loads, rotation, NOW) for rotation in range(len(loads))}
    keys = preferred(loads, 0)
    assert len({keys.get(index) for index in chosen}) == 1


def test_an_instance_that_never_answered_is_given_what_its_peers_can_take() -> None:
    silent = Load()
    loads = [load(2, 2), silent]
    for turn in range(9):
        index = choose("least_loaded", loads, turn, NOW)
        if index >= 0:
            loads[index].in_flight += 1
    assert silent.in_flight == 2


def test_nobody_is_flooded_before_the_first_answer() -> None:
    loads = [Load()]
    while choose("least_loaded", loads, 0, NOW) == 0:
        loads[0].in_flight += 1
    assert loads[0].in_flight == 32
    loads[0].answered(NOW, 0.1, (1.0, 0.0))
    loads[0].is_new = False
    assert choose("least_loaded", loads, 0, NOW) == 0
