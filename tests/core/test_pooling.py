"""How long an idle connection is trusted, learned from how others end. Times are seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pooling import MIN_S, IdleLimit

MAX_S = 15.0


def play(script: str) -> float:
    """The limit after each step: `c1.5` an idle connection ended after 1.5 s, `o` a watched one
    lives on, `k5` the instance announces 5 s, `+3` three seconds pass; rounded to 0.01 s."""
    idle, now = IdleLimit(MAX_S), 0.0
    for step in script.split():
        value = float(step[1:] or 0)
        if step[0] == "c":
            idle.closed(now, value)
        elif step[0] == "o":
            assert idle.watch_s is not None
            idle.outlived(idle.watch_s)
        elif step[0] == "k":
            idle.announced(value)
        elif step[0] == "+":
            now += value
    return round(idle.limit_s, 2)


@pytest.mark.parametrize(
    ("script", "limit_s"),
    [
        ("c1", 0.8),
        ("c0.05", MIN_S),
        ("c0.01", MAX_S),  # ended with its answer: no idle limit
        ("c20", MAX_S),
        ("c1 +2 c0.5", 0.4),
        ("c0.05 c0.1 c2 c8", 6.4),  # all at once: a worker of it goes, and has no limit of its own
        ("c0.05 +2 c2", MIN_S),  # a watched one ended: that is no evidence of more
        ("c1 o o", 0.8),
        ("c1 o o o", 1.28),
        ("c1 o o +2 c0.9 o", 0.8),  # one that did end in between begins the count anew
        ("c1" + 18 * " o", 13.42),
        ("c8 o o o", 10.24),
        ("k5", 4.0),
        ("k60", MAX_S),
        ("k1", 0.0),
        ("k5 +2 c0.1", MIN_S),
        ("k5 +2 c0.1 k5", 4.0),  # it says again what it said
        ("k5 +2 c3 k5 +2 c3 k5 +2 c3 k5", 2.4),  # and is wrong again and again
        ("k5 k8", 7.0),
        ("c0.1 k60", MAX_S),
    ],
)
def test_r22_the_limit_of_idle_connections(script: str, limit_s: float) -> None:
    assert play(script) == limit_s


@given(
    st.floats(0.3, 30.0),
    st.lists(st.floats(0.03, 0.3), min_size=1, max_size=5),
)
def test_r22_after_early_ends_the_limit_finds_back_to_what_the_instance_keeps(
    true_s: float, early: list[float]
) -> None:
    """However low it fell, watched connections lead it to at least half of the true limit and
    never beyond."""
    idle, now = IdleLimit(MAX_S), 0.0
    for idled_s in early:
        idle.closed(now, idled_s)
        now += 5.0
    for _ in range(200):
        now += 5.0
        watch_s = idle.watch_s
        if watch_s is None:
            break
        if watch_s < true_s:
            idle.outlived(watch_s)
        else:
            idle.closed(now, true_s)
    assert idle.limit_s <= max(true_s, MIN_S)
    assert idle.limit_s >= min(true_s / 2, MAX_S) * 0.99
