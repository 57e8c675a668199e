"""How much speaks for it that a canary does worse than the version beside it (a sequential test)?

Canary analysis by an *e-process*: a number that starts at 1, and that under "the canary is as good"
reaches 1/α with a chance of at most α, however often it is looked at (Ville's inequality). Its
events are what should be rare: a failed request, a slow one. If both arms are alike, an event
belongs to the canary with the chance by which the split sent requests there when this one was
decided. An alternative in which the canary has r times as many moves the number by how much better
it foretells each event; the mean over a few r needs none of them to be the truth (Ramdas, Grünwald,
Vovk and Shafer, 2023, "Game-theoretic statistics and safe anytime-valid inference"). Shares may
change between events, and how many requests there were does not enter. The counts of events by
share are enough to compute it, in logarithms. It refuses to know what an event is and what is done
about it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

WORSE = (1.5, 2.0, 4.0, 8.0)
"""How many times as many events a canary that is worse may have."""
OTHER = (*(1 / ratio for ratio in WORSE), *WORSE)
"""The same to both sides, where more and less are both news."""

_MAX_TOLD = 1e300  # the largest number that is told; JSON knows no infinity

Events = Mapping[float, tuple[int, int]]
"""The canary's share in force when they were decided → events of the canary, and of the other arm.
A share of 0 or 1 tells nothing: there was nothing to compare with."""


def log_evidence(events: Events, ratios: Sequence[float] = WORSE) -> float:
    """The natural logarithm of the evidence that the canary has more `events`; 0 without any."""
    logs = [0.0] * len(ratios)
    for share, (canary, stable) in events.items():
        if 0.0 < share < 1.0:
            for at, (of_canary, of_each) in enumerate(_bets(share, tuple(ratios))):
                logs[at] += canary * of_canary - (canary + stable) * of_each
    return log_mean(logs)


@lru_cache(maxsize=1024)
def _bets(share: float, ratios: tuple[float, ...]) -> list[tuple[float, float]]:
    """For each ratio, what an event of the canary adds to the logarithm, and what each takes."""
    return [(math.log(ratio), math.log1p(share * (ratio - 1.0))) for ratio in ratios]


def log_mean(logs: Sequence[float]) -> float:
    """The logarithm of the mean of numbers of which these are the logarithms."""
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / len(logs))


def evidence(log: float) -> float:
    """The number itself, at most 1e300."""
    return min(_MAX_TOLD, math.exp(min(log, 700.0)))


@dataclass(frozen=True, slots=True)
class Category:
    """One of the answers there are: its events by share, and the logarithm of the evidence that it
    is more, or less, frequent at the canary. `place` is how many were met before."""

    place: int
    events: Events
    log_evidence: float

    @classmethod
    def of(cls, place: int, events: Events) -> "Category":
        """That of these `events`."""
        return cls(place, events, log_evidence(events, OTHER))


_EQUAL = 10
_EQUAL_PART = 0.5


def part_of(place: int) -> float:
    """What of the evidence of all categories rests on the one that was met after `place` others:
    all of them together have less than 1, and a new one takes nothing from those before."""
    if place < _EQUAL:
        return _EQUAL_PART / _EQUAL
    rank = place - _EQUAL + 1
    return (1 - _EQUAL_PART) / (rank * (rank + 1))


def log_evidence_of_categories(categories: Sequence[Category]) -> float:
    """The logarithm of the evidence that the two arms answer differently: one e-process each for
    "this answer is more, or less, frequent at the canary", weighted. 0 without any."""
    parts = [part_of(each.place) for each in categories]
    logs = [
        math.log(part) + each.log_evidence for part, each in zip(parts, categories, strict=True)
    ]
    rest = 1.0 - sum(parts)  # on what was not met yet
    return log_mean([*logs, math.log(rest)]) + math.log(len(logs) + 1)
