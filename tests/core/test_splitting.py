"""Splits keep their shares in every window, and sticky keys keep their backend."""

import random
from collections import Counter, deque
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.splitting import TICKETS, Split, Spread, sticky_backend

WINDOW = 10_000
NAMES = [f"b{i}" for i in range(6)]


def weights_of(*weights: int) -> list[tuple[str, int]]:
    return [(f"b{i}", weight) for i, weight in enumerate(weights)]


def worst_distance(weights: list[tuple[str, int]], start: int, requests: int) -> float:
    """How far any backend's count in any window of up to 10,000 requests is from its share.

    The running count minus the running share of a backend is a walk; the worst window lies
    between two of its points that are at most a window apart. Counted in whole numbers.
    """
    split, spread = Split.of(weights), Spread(start)
    picks = [split.pick(spread.next()) for _ in range(requests)]
    total = sum(weight for _, weight in weights)
    worst = 0
    for name, weight in weights:
        hit, miss = total - weight, -weight
        walk = list(accumulate((hit if pick == name else miss for pick in picks), initial=0))
        for sign in (1, -1):
            falling: deque[tuple[int, int]] = deque()
            for step, position in enumerate(walk):
                while falling and falling[-1][1] * sign >= position * sign:
                    falling.pop()
                falling.append((step, position))
                if falling[0][0] < step - WINDOW:
                    falling.popleft()
                worst = max(worst, (position - falling[0][1]) * sign)
    return worst / total


@pytest.mark.parametrize(
    "weights",
    [(50, 50), (90, 10), (99, 1), (1, 1, 1), (1, 999_999), (1_000_000, 1), (5, 3, 2),
     (1, 2, 3, 4, 5, 6, 7), (61803, 38197), (1, 0, 1), (1000, 999, 1)],
)  # fmt: skip
@pytest.mark.parametrize("start", [0, 1 << 63, 0x123456789ABCDEF0])
def test_r56_every_window_is_within_4_of_each_share(weights: tuple[int, ...], start: int) -> None:
    assert worst_distance(weights_of(*weights), start, 2 * WINDOW) <= 4


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(0, 1_000_000), min_size=1, max_size=4).filter(any),
    start=st.integers(0, TICKETS - 1),
)
def test_r56_no_weights_are_much_worse(weights: list[int], start: int) -> None:
    """4.69 is the discrepancy of 10,000 multiples of φ over all ranges there are."""
    assert worst_distance(weights_of(*weights), start, WINDOW) <= 4.69


def test_r56_an_edit_in_the_middle_of_a_window_carries_no_debt_over() -> None:
    spread = Spread(7)
    for weights in [(99, 1), (50, 50), (1, 99), (100, 0), (98, 2)]:
        split = Split.of(weights_of(*weights))
        counts = Counter(split.pick(spread.next()) for _ in range(1000))
        for name, share in split.shares().items():
            assert abs(counts[name] - 1000 * share) <= 4


def test_a_thousand_backends_keep_their_shares() -> None:
    random.seed(1)
    weights = weights_of(*[random.randint(0, 1_000_000) for _ in range(1000)])
    split, spread = Split.of(weights), Spread(99)
    counts = Counter(split.pick(spread.next()) for _ in range(WINDOW))
    assert all(abs(counts[name] - WINDOW * share) <= 4 for name, share in split.shares().items())


def test_two_workers_that_start_apart_do_not_march_in_step() -> None:
    split = Split.of(weights_of(1, 1))
    left, right = Spread(0), Spread(1 << 62)
    same = sum(split.pick(left.next()) == split.pick(right.next()) for _ in range(1000))
    assert 300 < same < 700


def test_weight_0_gets_no_request() -> None:
    split, spread = Split.of(weights_of(0, 3, 0, 1, 0)), Spread(0)
    assert {split.pick(spread.next()) for _ in range(10_000)} == {"b1", "b3"}
    assert {split.pick(ticket) for ticket in (0, TICKETS - 1)} == {"b1", "b3"}


@pytest.mark.parametrize("weights", [[], [("a", 0)], [("a", 0), ("b", 0)]])
def test_without_any_weight_nothing_is_picked(weights: list[tuple[str, int]]) -> None:
    split = Split.of(weights)
    assert split.pick(0) is None
    assert split.pick(TICKETS - 1) is None
    assert set(split.shares().values()) <= {0.0}
    assert sticky_backend("r", b"key", weights) is None


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=8).filter(any))
@example([1, 10**15])
def test_ranges_are_as_wide_as_the_weights_to_the_ticket(weights: list[int]) -> None:
    split, total = Split.of(weights_of(*weights)), sum(weights)
    below = 0
    for name, weight in split.weights:
        first = -(-below * TICKETS // total)
        below += weight
        beyond = -(-below * TICKETS // total)
        if weight:
            assert split.pick(first) == split.pick(beyond - 1) == name
            assert abs(Fraction(beyond - first, TICKETS) - Fraction(weight, total)) < Fraction(
                1, 1 << 63
            )


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError):
        Split.of([("a", -1)])


def test_r33_what_is_unavailable_leaves_its_share_to_the_others() -> None:
    split = Split.of([("a", 60), ("b", 30), ("c", 10)])
    assert split.among(frozenset({"a", "c", "unknown"})).shares() == {"a": 60 / 70, "c": 10 / 70}
    assert split.among(frozenset()).pick(5) is None


def owners(weights: list[tuple[str, int]], keys: int = 3000) -> list[str | None]:
    return [sticky_backend("digits", b"user-%d" % key, weights) for key in range(keys)]


def test_sticky_keys_fall_by_weight() -> None:
    counts = Counter(owners([("a", 70), ("b", 29), ("c", 1)], 10_000))
    assert abs(counts["a"] - 7000) < 4 * (10_000 * 0.7 * 0.3) ** 0.5
    assert abs(counts["b"] - 2900) < 4 * (10_000 * 0.29 * 0.71) ** 0.5
    assert abs(counts["c"] - 100) < 4 * (10_000 * 0.01 * 0.99) ** 0.5


def test_r56_when_one_backend_grows_keys_move_to_it_only() -> None:
    before = owners([("a", 40), ("b", 30), ("c", 30)])
    after = owners([("a", 40), ("b", 60), ("c", 30)])
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert moved
    assert {new for _, new in moved} == {"b"}
    # b's share grew from 30 to 46.2 %.
    assert len(moved) / len(before) < 0.162 + 0.01 + 4 * (0.162 * 0.838 / len(before)) ** 0.5


def test_r56_when_one_backend_shrinks_keys_leave_it_only() -> None:
    before = owners([("a", 40), ("b", 60), ("c", 30)])
    after = owners([("a", 40), ("b", 0), ("c", 30)])
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {"b"}
    assert "b" not in after


@settings(max_examples=200, deadline=None)
@given(
    first=st.integers(0, 100),
    second=st.integers(0, 100),
    key=st.binary(max_size=20),
)
def test_of_two_backends_a_key_leaves_only_the_one_whose_share_shrinks(
    first: int, second: int, key: bytes
) -> None:
    old = sticky_backend("r", key, [("a", first), ("b", 100 - first)])
    new = sticky_backend("r", key, [("a", second), ("b", 100 - second)])
    if old != new:
        assert old == ("a" if second < first else "b")


@given(st.binary(max_size=20), st.permutations([("a", 3), ("b", 2), ("c", 1)]))
def test_sticky_choice_knows_no_order_and_no_scale(
    key: bytes, weights: list[tuple[str, int]]
) -> None:
    chosen = sticky_backend("r", key, [("a", 3), ("b", 2), ("c", 1)])
    assert sticky_backend("r", key, weights) == chosen
    assert sticky_backend("r", key, [(name, 1000 * w) for name, w in weights]) == chosen


def test_a_key_has_its_own_place_on_each_route() -> None:
    weights = [("a", 1), ("b", 1)]
    pairs = {
        (sticky_backend("x", b"%d" % key, weights), sticky_backend("y", b"%d" % key, weights))
        for key in range(100)
    }
    assert len(pairs) == 4
