"""A rollout goes on when it may, back when it must, and nowhere else."""

from fractions import Fraction
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.entries import MAX_WEIGHT
from gateway.core.rollout import (
    BACK,
    LIVE,
    SIGNALS,
    STATES,
    TABLE,
    Guard,
    Judged,
    NotNow,
    Plan,
    Signal,
    State,
    Step,
    after,
    judged,
    passed,
    refuses_more,
    sentence,
    signal_of,
    weights_at,
)
from tests.core.test_judging import COUNTS

ERRORS = Guard("errors")
WELL = Judged("well", 0.0, (1, 200), (9, 1800))
PLAN = Plan("new", (Step(Fraction(5), 60.0, 100), Step(Fraction(50), 60.0, 100)), (ERRORS,))


def test_every_word_of_the_table_is_explained() -> None:
    assert STATES.keys() == set(get_args(State))
    assert SIGNALS.keys() == set(get_args(Signal))


@pytest.mark.parametrize(("state", "signal"), list(product(get_args(State), get_args(Signal))))
def test_a_pair_that_is_not_in_the_table_raises(state: State, signal: Signal) -> None:
    if (state, signal) in TABLE:
        assert after(state, signal) == TABLE[state, signal]
    else:
        with pytest.raises(NotNow):
            after(state, signal)


@given(st.lists(st.sampled_from(get_args(Signal)), max_size=30))
def test_what_has_ended_never_begins_again(signals: list[Signal]) -> None:
    state: State = "running"
    for signal in signals:
        before = state
        try:
            state = after(state, signal)
        except NotNow:
            assert state == before
        if before not in LIVE:
            assert state == before


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_failed_guard_acts_in_every_state_that_lives(state: State) -> None:
    assert after(state, "fail") == "rolled_back"
    assert after(state, "abort") == "aborted"
    assert {after(state, "fail"), after(state, "abort")} == BACK


@pytest.mark.parametrize(
    ("held_s", "requests", "found", "signal"),
    [
        (60.0, 100, WELL, "next"),
        (59.9, 100, WELL, None),
        (60.0, 99, WELL, None),
        (900.0, 9000, Judged("failing", 3.0, (9, 200), (17, 1800)), None),
        (900.0, 9000, Judged("no_data", 0.0, (0, 0), (0, 0)), None),
    ],
)
def test_what_is_not_known_is_waited_for(
    held_s: float, requests: int, found: Judged, signal: Signal | None
) -> None:
    assert passed(PLAN, 0, held_s, requests, [(ERRORS, found)]) == signal


@pytest.mark.parametrize(
    ("canary", "others", "more"),
    [
        ((40, 100), (0, 900), True),
        ((40, 100), (360, 900), False),
        ((5, 100), (0, 900), False),
        ((6, 100), (0, 900), True),
        ((6, 100), (0, 0), True),
        ((0, 0), (90, 900), False),
    ],
)
def test_who_refuses_what_the_others_take_gets_no_more(
    canary: tuple[int, int], others: tuple[int, int], more: bool
) -> None:
    assert refuses_more(canary, others) == more
    signal = passed(PLAN, 0, 60.0, 100, [(ERRORS, WELL)], is_refusing=more)
    assert signal == (None if more else "next")


def test_the_last_step_is_the_end_and_approval_is_asked_for_first() -> None:
    assert passed(PLAN, 1, 60.0, 100, [(ERRORS, WELL)]) == "finish"
    asking = Plan("new", (Step(Fraction(5), 0.0, 1, True), Step(Fraction(50))), (ERRORS,))
    assert passed(asking, 0, 0.0, 1, [(ERRORS, WELL)]) == "ask"


def test_a_guard_that_only_warns_holds_nothing_up() -> None:
    warns = Guard("errors", on_fail="warn")
    failed = judged(warns, 9.0, (9, 100), (1, 900))
    assert failed.verdict == "failed"
    assert signal_of([(warns, failed)], frozenset()) is None
    assert passed(PLAN, 0, 60.0, 100, [(warns, failed)]) == "next"


def test_going_back_comes_before_holding_and_who_was_told_to_go_on_is_heard() -> None:
    holds, failed = Guard("latency", on_fail="hold"), Judged("failed", 5.0, (9, 99), (1, 900))
    assert signal_of([(holds, failed)], frozenset()) == "hold"
    assert signal_of([(holds, failed)], frozenset({"latency"})) is None
    assert signal_of([(holds, failed), (ERRORS, failed)], frozenset({"latency"})) == "fail"
    assert passed(PLAN, 0, 60.0, 100, [(holds, failed)], frozenset({"latency"})) == "next"


@given(COUNTS, st.sampled_from([0.001, 0.01, 0.05]), st.floats(-50, 50))
def test_a_guard_fails_exactly_from_its_threshold_on(
    counts: dict[float, tuple[int, int]], alpha: float, log_e: float
) -> None:
    guard = Guard("errors", alpha=alpha)
    found = judged(guard, log_e, (1, 10), (1, 10))
    assert (found.verdict == "failed") == (2.718281828459045**log_e >= guard.threshold * 0.9999999)
    assert judged(guard, log_e, (1, 10), (1, 10), has_failed=True).verdict == "failed"


@pytest.mark.parametrize(
    ("start", "percent", "weights"),
    [
        ({"old": 90, "new": 10}, 1, {"old": 99, "new": 1}),
        ({"old": 1, "new": 0}, 25, {"old": 75, "new": 25}),
        ({"old": 1, "new": 0}, 100, {"old": 0, "new": 100}),
        ({"old": 1, "new": 0}, 0.5, {"old": 199, "new": 1}),
        ({"a": 2, "b": 1, "new": 0}, 10, {"a": 60, "b": 30, "new": 10}),
    ],
)
def test_a_step_is_a_split_of_whole_numbers(
    start: dict[str, int], percent: float, weights: dict[str, int]
) -> None:
    assert weights_at(start, "new", Fraction(str(percent))) == weights


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, MAX_WEIGHT), min_size=1),
    st.integers(1, 10_000).map(lambda n: Fraction(n, 100)),
)
def test_any_split_takes_any_step(start: dict[str, int], percent: Fraction) -> None:
    found = weights_at({**start, "new": 0}, "new", percent)
    total = sum(found.values())
    assert all(0 <= weight <= MAX_WEIGHT for weight in found.values())
    assert abs(found["new"] / total - float(percent) / 100) < 1e-4
    others = sum(start.values())
    for name, weight in start.items():
        rest = float(1 - percent / 100)
        assert abs(found[name] / total - rest * weight / others) < 1e-4
        assert (found[name] > 0) == (percent < 100)


def test_the_sentence_says_counts_share_evidence_and_what_was_done() -> None:
    found = judged(ERRORS, 4.78, (9, 212), (17, 1908))
    assert sentence(ERRORS, found, 10, "rolled back") == (
        "errors: 9 of 212 against 17 of 1,908 at 10 %: E = 119 ≥ 100, rolled back"
    )
    assert sentence(ERRORS, judged(ERRORS, 0.0, (0, 0), (0, 0)), 10) == (
        "errors: no requests of the canary yet"
    )
