"""Retries: safe, wanted and paid for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.retrying import RetryBudget, may_retry, retry_after_s
from gateway.core.table import Retries

ALL = Retries(3, ("connect_failure", "reset", "timeout", "502", "503", "504"))
SAFE = Retries(3, ALL.on, retry_safe=True)


def retry(
    reason: str,
    *,
    retries: Retries = ALL,
    method: str = "POST",
    retry_after: bool = False,
    attempt: int = 1,
    replayable: bool = True,
    sent: bool = False,
) -> bool:
    status = int(reason) if reason.isdigit() else None
    return may_retry(retries, method, reason, status, retry_after, attempt, replayable, sent)


@pytest.mark.parametrize("method", ["POST", "PATCH", "get", "FOO", "GET", "DELETE"])
def test_a_failed_connect_is_safe_for_every_method(method: str) -> None:
    assert retry("connect_failure", method=method)


@pytest.mark.parametrize("reason", ["reset", "timeout", "502", "504"])
def test_r26_what_may_have_run_is_repeated_only_where_that_is_harmless(reason: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        assert retry(reason, method=method)
    for method in ("POST", "PATCH", "get", "FOO"):
        assert not retry(reason, method=method)
        assert retry(reason, method=method, retries=SAFE)


def try_spend(budget: RetryBudget, now: float) -> bool:
    """Whether a retry could be paid for; it is then."""
    can = budget.can_pay(now)
    if can:
        budget.pay()
    return can


def test_r22_what_was_not_read_is_sent_again_whatever_the_route_says() -> None:
    never = Retries(1, ())
    assert retry("unread", retries=never)
    assert not retry("unread", retries=never, sent=True)
    assert not retry("unread", retries=never, replayable=False)


def test_r41_503_says_that_nothing_ran_unless_it_says_when_to_come_back() -> None:
    assert retry("503")
    assert not retry("503", retry_after=True)
    assert not retry("503", retry_after=True, retries=SAFE)


@pytest.mark.parametrize("status", [*range(200, 206), 302, 400, 404, 408, 422, 429, 499, 500])
def test_r41_an_answer_is_never_asked_for_again(status: int) -> None:
    everything = Retries(9, tuple(str(each) for each in range(400, 600)), retry_safe=True)
    assert not retry(str(status), retries=everything, method="GET")


def test_only_what_the_route_names_is_tried_again() -> None:
    for reason in ("connect_failure", "reset", "timeout", "503"):
        assert not retry(reason, method="GET", retries=Retries(3, ("502",)))
    assert not retry("broken_head", method="GET")


def test_by_default_a_killed_instance_costs_no_idempotent_request() -> None:
    for reason in ("connect_failure", "reset"):
        assert retry(reason, method="GET", retries=Retries())
    assert not retry("reset", method="POST", retries=Retries())


@given(st.sampled_from(ALL.on), st.sampled_from(["GET", "POST"]), st.integers(1, 9))
def test_attempts_are_counted_with_the_first(reason: str, method: str, attempt: int) -> None:
    assert retry(reason, retries=SAFE, method=method, attempt=attempt) == (attempt < 3)


@given(st.sampled_from(ALL.on), st.sampled_from(["GET", "POST"]))
def test_r13_never_after_a_byte_to_the_client_nor_with_half_a_body(
    reason: str, method: str
) -> None:
    assert not retry(reason, retries=SAFE, method=method, sent=True)
    assert not retry(reason, retries=SAFE, method=method, replayable=False)


def spend(budget: RetryBudget, now: float) -> int:
    count = 0
    while try_spend(budget, now):
        count += 1
    return count


def test_r41_with_everything_failing_retries_are_a_tenth_and_3_a_second() -> None:
    budget, granted, now = RetryBudget(), 0, 100.0
    for _ in range(2000):
        now += 0.005
        budget.note_request(now)
        granted += try_spend(budget, now)
    assert 0.1 * 2000 + 3 * 9 <= granted <= 0.1 * 2000 + 3 * 11


def test_a_lone_request_can_be_retried() -> None:
    budget = RetryBudget()
    budget.note_request(5.0)
    assert try_spend(budget, 5.0)


def test_r41_an_hour_of_calm_saves_up_one_second_of_retries() -> None:
    budget, now = RetryBudget(), 0.0
    for _ in range(20_000):
        now += 0.005
        budget.note_request(now)
    assert 20 <= spend(budget, now) <= 24
    assert spend(budget, now + 3600.0) == 3


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 30), st.integers(0, 30)), max_size=50))
def test_r41_no_pattern_gets_more_than_the_budget(steps: list[tuple[float, int, int]]) -> None:
    budget, now, requests, granted = RetryBudget(), 50.0, 0, 0
    for passed, arrived, wanted in steps:
        now += passed
        for _ in range(arrived):
            budget.note_request(now)
        requests += arrived
        granted += sum(try_spend(budget, now) for _ in range(wanted))
        assert granted <= 0.1 * requests + 3.0 * (now - 50.0) + 3.0 + 1e-6


def test_no_share_means_no_retries_beyond_the_trickle() -> None:
    budget = RetryBudget(share=0.0, per_s=0.0)
    for step in range(100):
        budget.note_request(step)
    assert spend(budget, 100.0) == 0


def test_a_clock_that_stands_still_earns_nothing() -> None:
    budget = RetryBudget()
    assert spend(budget, 7.0) == 3
    assert spend(budget, 7.0) == 0
    assert spend(budget, 6.0) == 0


@pytest.mark.parametrize(
    ("wait_s", "seconds"),
    [(0.0, 1), (0.3, 1), (1.0, 1), (1.2, 2), (59.5, 60), (1e9, 60), (math.inf, 60), (math.nan, 60)],
)
def test_retry_after_is_whole_seconds_from_1_to_60(wait_s: float, seconds: int) -> None:
    assert retry_after_s(wait_s) == seconds


def test_r41_a_small_part_of_a_budget_pays_for_the_first_retry_nevertheless() -> None:
    budget = RetryBudget(0.1, 0.375)
    assert [try_spend(budget, 0.0) for _ in range(2)] == [True, False]
    assert not RetryBudget(0.0, 0.0).can_pay(0.0)
