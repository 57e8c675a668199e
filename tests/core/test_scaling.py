"""How many replicas there shall be, second by second; nobody waits for the seconds."""

import math

from gateway.core.scaling import OVER_S, QUIET_S, Scale, Seen, Since, scaled

SCALE = Scale(1, 3, 0.05)


def play(*seconds: tuple[float, int], count: int = 1, scale: Scale = SCALE) -> list[int]:
    """The count after each second of (what the next request would wait, who is there)."""
    since, counts = Since(), []
    for now, (wait_s, busy) in enumerate(seconds):
        count, since = scaled(scale, since, Seen(count, wait_s, busy, 4.0 * count), float(now))
        counts.append(count)
    return counts


def test_one_more_when_requests_wait_too_long_for_a_moment_and_not_for_a_burst() -> None:
    assert play((0.2, 9), (0.0, 9), (0.2, 9), (0.2, 9)) == [1, 1, 1, 1]
    assert play(*[(0.2, 9)] * 7) == [1, 1, 2, 2, 2, 3, 3]
    assert OVER_S == 2.0
    assert play(*[(math.inf, 9)] * 9)[-1] == 3, "and never more than the most"


def test_one_fewer_after_a_long_quiet_and_never_fewer_than_the_least() -> None:
    quiet = int(QUIET_S)
    counts = play(*[(0.0, 1)] * (2 * quiet + 10), count=3)
    assert counts[quiet - 1 : quiet + 1] == [3, 2]
    assert counts[-1] == 1
    assert play(*[(0.0, 0)] * (quiet + 5), count=2, scale=Scale(2, 3, 0.05))[-1] == 2


def test_what_the_others_could_not_take_is_no_quiet() -> None:
    assert play(*[(0.0, 5)] * (int(QUIET_S) + 5), count=2)[-1] == 2
    wave = [(0.0, 0)] * 500 + [(0.01, 0)] + [(0.0, 0)] * 500
    assert play(*wave, count=2)[-1] == 2


def test_what_somebody_set_beyond_the_bounds_comes_back_at_once() -> None:
    assert play((0.0, 0), count=9) == [3]
    assert play((0.0, 0), count=1, scale=Scale(2, 3, 0.05)) == [2]
