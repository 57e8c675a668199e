"""Limits as they are written, what clients are told, and turns between names."""

from typing import Any

import pytest

from gateway.core.entries import Limits
from gateway.core.fair_turns import FairTurns
from gateway.core.merging import merge
from gateway.core.rate_limit import RateLimited, Terms, policy, read_limits, remaining
from gateway.core.table import Table, TableError


def test_limits_say_how_many_in_how_long_and_what_burst() -> None:
    whole = {"requests": "100/s", "burst": 200, "in_flight": 16}
    assert read_limits(whole) == Limits(100, 1.0, 200, 16)
    assert read_limits({"requests": "90/m"}) == Limits(90, 60.0, 2, None)
    assert read_limits({"requests": "1/m"}).burst == 1
    assert read_limits({"in_flight": 3}) == Limits(in_flight=3)
    assert Limits(90, 60.0).emission_s == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"requests": 5}, "100/s or 30/m"),
        ({"requests": "5"}, "100/s or 30/m"),
        ({"requests": "0/s"}, "100/s or 30/m"),
        ({"requests": "5/h"}, "100/s or 30/m"),
        ({"requests": "5/s", "burst": 0}, "burst"),
        ({"burst": 5}, "needs requests"),
        ({"in_flight": True}, "in_flight"),
        ({"rate": "5/s"}, "unknown key"),
    ],
)
def test_what_is_no_limit_makes_no_table(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(TableError, match=says):
        Table.from_document({"backends": {}, "routes": {}, "default_limits": spec}, 1)


def test_default_limits_are_merged_and_edited_like_entries() -> None:
    one = {"backends": {}, "routes": {}, "default_limits": {"requests": "5/s", "burst": 9}}
    two = {"backends": {}, "routes": {}, "default_limits": {"requests": "7/s"}}
    assert merge(one, two, one).document == two
    assert merge(one, {"backends": {}, "routes": {}}, one).document == {
        "backends": {},
        "routes": {},
    }
    table = Table.from_document(one, 1)
    assert dict(table.default_limits) == one["default_limits"]
    assert dict(Table.from_document(two, 1).default_limits) == two["default_limits"]


def test_clients_are_told_the_quota_what_is_left_and_when_there_is_more() -> None:
    assert policy(Limits(100, 1.0, 200), b"key") == b'RateLimit-Policy: "key";q=200;w=2\r\n'
    assert remaining(b"key", 7, 2) == b'RateLimit: "key";r=7;t=2\r\n'
    terms = Terms(Limits(2, 60.0, 3), b"key", 1, 0)
    for left, full_in_s, seconds in (
        (2, 30.0, 30), (1, 60.0, 30), (0, 90.0, 30), (0, 75.2, 16), (0, 60.5, 1), (3, 0.0, 0),
    ):  # fmt: skip
        told = b'RateLimit: "key";r=%d;t=%d\r\n' % (left, seconds)
        assert terms.lines(left, full_in_s) == terms.policy + told
    assert Terms(Limits(in_flight=3), b"key", 1, 0).lines(0, 1.0) == b""
    assert RateLimited("x", "requests", 0.2).retry_after_s == 1
    assert RateLimited("x", "requests", 12.1).retry_after_s == 13


def ordered(turns: FairTurns, names: str) -> str:
    """In which order requests of these names go that come one after another."""
    lined_up = sorted((turns.turn(name, False), number, name) for number, name in enumerate(names))
    return "".join(name for _, _, name in lined_up)


def test_turns_go_round_between_names() -> None:
    assert ordered(FairTurns(), "aaaabab") == "abababa"[:0] + "abab" + "aaa"
    assert ordered(FairTurns(), "aaabbc") == "abcaba"
    assert ordered(FairTurns(), "......") == "......"


def test_who_comes_late_waits_for_no_round_that_is_over_and_gains_none() -> None:
    turns = FairTurns()
    for turn in [turns.turn("a", False) for _ in range(10)]:
        turns.gone("a", turn, 0)
    assert turns.turn("b", False) == 10.0
    assert turns.turn("a", False) == 11.0
    turns.emptied()
    assert turns.turn("a", False) == 1.0


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("size", [1, 16, 64, 200, 300, 700, 1500, 10_000])
def test_no_more_than_one_in_a_hundred_of_a_limit_is_left_unused(workers: int, size: int) -> None:
    terms = Terms(Limits(1, 60.0, size, in_flight=size), b"key", 1, 2 * workers - 1)
    assert terms.most is not None
    assert 0.99 * size <= terms.burst <= size
    assert 0.99 * size <= terms.most <= size
