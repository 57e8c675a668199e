"""Splits keep their shares in every window, and sticky keys keep their backend."""

import random
from collections import Counter, deque
from fractions import Fraction
from functools import cache
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.splitting import TICKETS, Split, Spread, sticky_backend

WINDOW = 10_000
NAMES = [f"b{i}" for i in range(6)]


def weights_of(*weights: int) -> list[tuple[str, int]]:
    return [(f"b{i}", weight) for i, weight in enumerate(weights)]


def spread_of(seed: int) -> Spread:
    """The tickets that one history of chance gives."""
    return Spread(lambda drawn=random.Random(seed): drawn.getrandbits(64))  # type: ignore[misc]


def worst_distance(weights: list[tuple[str, int]], seed: int, requests: int) -> float:
    """How far any backend's count in any window of up to 10,000 requests is from its share.

    The running count minus the running share of a backend is a walk; the worst window lies
    between two of its points that are at most a window apart. Counted in whole numbers.
    """
    split, spread = Split.of(weights), spread_of(seed)
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
@pytest.mark.parametrize("seed", range(3))
def test_r56_every_window_is_within_8_of_each_share(weights: tuple[int, ...], seed: int) -> None:
    assert worst_distance(weights_of(*weights), seed, 2 * WINDOW) <= 8


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(0, 1_000_000), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, TICKETS - 1),
)
def test_r56_no_weights_and_no_chance_make_a_window_worse(weights: list[int], seed: int) -> None:
    assert worst_distance(weights_of(*weights), seed, WINDOW) <= 8


def test_r56_an_edit_in_the_middle_of_a_window_carries_no_debt_over() -> None:
    spread = spread_of(7)
    for weights in [(99, 1), (50, 50), (1, 99), (100, 0), (98, 2)]:
        split = Split.of(weights_of(*weights))
        counts = Counter(split.pick(spread.next()) for _ in range(1000))
        for name, share in split.shares().items():
            assert abs(counts[name] - 1000 * share) <= 8


def test_a_thousand_backends_keep_their_shares() -> None:
    random.seed(1)
    weights = weights_of(*[random.randint(0, 1_000_000) for _ in range(1000)])
    split, spread = Split.of(weights), spread_of(99)
    counts = Counter(split.pick(spread.next()) for _ in range(WINDOW))
    assert all(abs(counts[name] - WINDOW * share) <= 8 for name, share in split.shares().items())


ASKED = 400  # requests of each periodic client
MAX_K = 1000
SHARES = (0.01, 0.05, 0.10, 0.25, 0.50)


def picks_of(seed: int, percent: float) -> np.ndarray:
    """Which of as many requests as the slowest client makes fall to an arm of that share."""
    spread, bound = spread_of(seed), int(percent * TICKETS)
    return np.fromiter((spread.next() < bound for _ in range(ASKED * MAX_K)), np.bool_)


def chance_of_longer_runs(longest: int, share: float) -> float:
    """How likely `ASKED` independent draws have more than `longest` of one arm in a row (either
    arm's alone, added up)."""
    return sum(_chance_of_a_run(longest + 1, arm) for arm in (share, 1 - share))


@cache
def _chance_of_a_run(length: int, arm: float) -> float:
    """That a run of `length` is met in ASKED draws: by the first one's end."""
    none = [1.0] * length  # none[n]: no such run in the first n draws
    for n in range(length, ASKED + 1):
        before = none[n - length - 1] if n > length else 1.0 / (1 - arm)
        none.append(none[n - 1] - before * (1 - arm) * arm**length)
    return 1 - none[ASKED]


def longest_run(picks: np.ndarray) -> int:
    """The longest row of requests on one arm."""
    ends = np.flatnonzero(np.diff(picks)) + 1
    return int(np.diff(ends, prepend=0, append=len(picks)).max())


def chance_of_as_far(met: int, share: float) -> float:
    """How likely a binomial draw lies as far on that side of its mean."""
    chances = [
        comb(ASKED, n) * share**n * (1 - share) ** (ASKED - n)
        for n in (range(met + 1) if met < ASKED * share else range(met, ASKED + 1))
    ]
    return sum(chances)


FOUR_AND_A_HALF_SIGMA = 3.4e-6
"""Of a normal draw beyond 4.5σ on one side. At 1 % the binomial is far from normal: fair draws too
come to 13 and more of 400 now and then, which is 4.5 times its own σ."""


def periodic_clients(seed: int, share: float) -> tuple[list[float], list[float]]:
    """Of clients that come at every k-th place, k from 1 to MAX_K: how likely chance gives each a
    share as far off, and how likely as long a run on one arm as it met."""
    every = picks_of(seed, share)
    clients = [every[::k][:ASKED] for k in range(1, MAX_K + 1)]
    counts = [int(met.sum()) for met in clients]
    far = {count: chance_of_as_far(count, share) for count in set(counts)}
    runs = [longest_run(met) for met in clients]
    return [far[count] for count in counts], [chance_of_longer_runs(n - 1, share) for n in runs]


@pytest.mark.parametrize("share", SHARES)
def test_a_client_at_every_kth_place_gets_its_share_as_if_by_chance(share: float) -> None:
    """No k is special. Of a thousand fair draws one has a run beyond the 99.9 % quantile, so that
    a few clients may, and none may far beyond it: of multiples of 2^64/φ k = 89 met 180 in a row
    at 10 %."""
    far, long = periodic_clients(1, share)
    assert min(far) >= FOUR_AND_A_HALF_SIGMA
    assert sum(each < 0.001 for each in long) <= 5, "more than chance makes of a thousand"
    assert min(long) > 1e-6


@pytest.mark.soak
def test_no_period_meets_anything_but_chance_in_any_history() -> None:
    """Of 25,000 clients by chance each k is beyond the 99 % quantile no more often than fair."""
    unlikely: Counter[int] = Counter()
    for seed in range(2, 7):
        for share in SHARES:
            far, long = periodic_clients(seed, share)
            assert min(far) > FOUR_AND_A_HALF_SIGMA / 25
            assert min(long) > 1e-6 / 25
            unlikely.update(k for k in range(MAX_K) if min(far[k], long[k]) < 0.001)
    assert max(unlikely.values()) <= 4, unlikely.most_common(5)


def test_four_tickets_in_a_row_are_in_four_quarters_and_sixteen_in_sixteen_parts() -> None:
    spread = spread_of(3)
    for _ in range(1000):
        parts = [spread.next() * 16 // TICKETS for _ in range(16)]
        assert set(parts) == set(range(16))
        assert all({each // 4 for each in parts[n : n + 4]} == {0, 1, 2, 3} for n in (0, 4, 8, 12))


def test_the_order_within_a_block_is_one_of_all() -> None:
    spread = spread_of(5)
    orders = Counter(tuple(spread.next() * 4 // TICKETS for _ in range(4)) for _ in range(2400))
    assert len(orders) == 24
    assert all(50 < count < 160 for count in orders.values())


def test_two_workers_that_start_apart_do_not_march_in_step() -> None:
    split = Split.of(weights_of(1, 1))
    left, right = spread_of(0), spread_of(1)
    same = sum(split.pick(left.next()) == split.pick(right.next()) for _ in range(1000))
    assert 300 < same < 700


def test_weight_0_gets_no_request() -> None:
    split, spread = Split.of(weights_of(0, 3, 0, 1, 0)), spread_of(0)
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
