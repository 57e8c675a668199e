"""Do requests wait in an instance, as far as its answers show?

What a number of answers say together, and whether the time that they took followed the crowd that
they were sent into, as it does where requests wait (Little's law). Values in, values out: which
limit comes of it is `concurrency_limit`.
"""

import itertools
import math
from typing import Final, NamedTuple

from gateway.core.shared_load import Sample

TOLERABLE_S: Final = 0.1
TOLERABLE_SERVICES: Final = 4.0
ROUND: Final = 12
LOW: Final = 5  # the low quantile is the fifth part
GREW: Final = 1.4  # times as many, from which on growth can be judged
FAST: Final = 1.8  # times as many while one was answered: so much more comes than goes
SLACK: Final = 0.3
STALL_S: Final = 0.25  # a hiccup is at least as long,
STALL_GAPS: Final = 8.0  # and so many times the usual time between two that leave
DOUBT_S: Final = 3.0  # after a hiccup
DOUBTED_S: Final = 2.0 * DOUBT_S  # for which waiting without a break may be put down to hiccups


class Level(NamedTuple):
    """What a number of answers say together: the mean `crowd`, without those that everybody
    overtakes, and the low quantile of the time taken."""

    crowd: float
    low_s: float


NO_LEVEL: Final = Level(0.0, 0.0)


def tolerable_wait_s(service_s: float) -> float:
    """How long requests may wait as a rule, where nobody has said how patient they are."""
    return max(TOLERABLE_S, TOLERABLE_SERVICES * service_s)


def low(values: list[float]) -> float:
    """The low quantile of `values`, of which there is at least one."""
    return sorted(values)[len(values) // LOW]


def followed(before: Level, after: Level) -> bool | None:
    """Whether the time taken followed the crowd, as it does where requests wait: by at least
    half, in logarithms, of what Little's law says. None when it changed by more than that law
    allows: something else has changed, too."""
    expected = math.log(after.crowd / before.crowd)
    seen = math.log(after.low_s / before.low_s)
    if expected < 0.0:
        expected, seen = -expected, -seen
    slack = max(SLACK, 0.5 * expected)
    return seen >= 0.5 * expected if seen <= expected + slack else None


def grew(samples: list[Sample], stuck: float, allowed_s: float) -> bool:
    """Whether much more comes than goes, and those of `samples` that were sent into a larger
    crowd took longer accordingly."""
    ordered = sorted([each for each in samples if each.elapsed_s > allowed_s])
    third = len(ordered) // 3
    if third < ROUND // 3 or _growth(ordered) < FAST:
        return False
    few, many = level_of(ordered[:third], stuck), level_of(ordered[-third:], stuck)
    return many.crowd >= GREW * few.crowd and followed(few, many) is True


def hiccup_at(samples: list[Sample]) -> float:
    """When nothing had been answered for much longer than usual, of all `samples`: -inf if that
    was never so. What gathers in such a pause waits, and says nothing of what comes and goes."""
    times = sorted([each.at for each in samples])
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if len(gaps) < ROUND - 1:
        return -math.inf
    longest = max(gaps)
    if longest <= max(STALL_S, STALL_GAPS * sorted(gaps)[len(gaps) // 2]):
        return -math.inf
    return times[gaps.index(longest) + 1]


def _growth(samples: list[Sample]) -> float:
    """To how many times as many the crowd grew while one was answered, as a rule."""
    return sorted([each.present / each.occupied for each in samples])[len(samples) // 3]


def level_of(samples: list[Sample], stuck: float) -> Level:
    """What `samples` say together, of which there is at least one; `stuck` of the crowd are those
    that everybody overtakes."""
    crowd = sum([each.occupied for each in samples]) / len(samples) - stuck
    return Level(max(crowd, 0.5), max(low([each.elapsed_s for each in samples]), 1e-6))
