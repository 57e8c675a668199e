"""How often do two versions agree, how sure is that, and is it often enough?

Counts in, an interval and evidence out. Both are valid at every look, as whoever watches looks at
every moment: the interval is the confidence sequence of a beta mixture (Robbins, 1970, "Statistical
methods related to the law of the iterated logarithm"; Howard, Ramdas, McAuliffe and Sekhon, 2021),
the evidence an e-process. Which pairs differ is decided in `comparing`.
"""

import math
from collections.abc import Callable

from gateway.core.judging import WORSE, log_evidence, log_mean

CONFIDENCE = 0.95
_AGREE, _DIFFER = 5.0, 0.5
"""The mixture: where most pairs agree the interval is as narrow as it can be."""
_HALVES = 60
EQUAL = 0.5
"""A pair with the mirror and one with itself: "they differ alike" makes each differing pair the
mirror's with this chance."""


def interval(agree: int, pairs: int) -> tuple[float, float]:
    """Where the true agreement is, whenever one looks, with CONFIDENCE; (0, 1) of nothing."""
    differ = pairs - agree
    floor = (
        _log_beta(agree + _AGREE, differ + _DIFFER)
        - _log_beta(_AGREE, _DIFFER)
        + math.log(1.0 - CONFIDENCE)
    )

    def holds(p: float) -> bool:
        return _times(agree, p) + _times(differ, 1.0 - p) >= floor

    seen = agree / pairs if pairs else 0.5
    return _edge(holds, seen, 0.0), _edge(holds, seen, 1.0)


def log_evidence_of_disagreement(
    differ: int, pairs: int, at_least: float, twice: tuple[int, int] | None = None
) -> float:
    """The logarithm of the evidence that a mirror agrees less often than `at_least`, and less than
    the stable version with itself. Of the requests that this answered a second time, `twice` are
    those where the mirror differs, and those where it differs from itself.

    It is the smaller of two e-processes, hence one against "either is not so" (the least of
    e-values is an e-value for the union of what they speak against). The first bets that the part
    of differing pairs is r times what is allowed, for each r of judging.WORSE; the second is that
    of errors: both kinds of pairs differ alike.
    """
    if not pairs:
        return 0.0
    allowed = max(1.0 - at_least, 1e-6)
    bets: list[float] = []
    for ratio in WORSE:
        part = min(allowed * ratio, (1.0 + allowed) / 2)  # no part is more than all
        won, lost = math.log(part / allowed), math.log1p(-part) - math.log1p(-allowed)
        bets.append(differ * won + (pairs - differ) * lost)
    found = log_mean(bets)
    if twice is not None:
        found = min(found, log_evidence({EQUAL: twice}))
    return found


def _edge(holds: Callable[[float], bool], seen: float, end: float) -> float:
    """Between `seen`, where it holds, and `end` the last place where it does."""
    if holds(end):
        return end
    inside, outside = seen, end
    for _ in range(_HALVES):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _times(count: int, p: float) -> float:
    """The logarithm of the chance of `count` events of chance `p`."""
    if not count:
        return 0.0
    return count * math.log(p) if p > 0.0 else -math.inf
