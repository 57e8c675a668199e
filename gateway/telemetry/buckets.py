"""In which bucket is a time counted, and which times does a row of buckets stand for?

Buckets grow by a 32nd of an octave, as those of Prometheus' native histograms of schema 5 do:
what is read off them is off by 1.1 % at most, whatever the scale. The round bounds of the
classic histograms of the exposition are bounds here too, so that both are sums of whole buckets
and exact. Rows of counts add up, over workers and over time.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil, log
from typing import Final

SCHEMA = 5
STEPS = 1 << SCHEMA
_OCTAVES = range(-20, 21)  # of a second: from a microsecond to twelve days


def _round(mantissas: Sequence[float], powers: range) -> list[float]:
    return [float(f"{mantissa}e{power}") for power in powers for mantissa in mantissas]


SECONDS = (
    *_round((1, 1.5, 2.5, 3.5, 5, 7), range(-3, 1)),
    *(10.0, 15.0, 30.0, 60.0, 100.0, 120.0, 300.0, 600.0),
)
OVERHEAD = (*_round((1, 2.5, 5), range(-5, 1)),)
"""The bounds of the classic histograms, in seconds."""

NATIVE = tuple(2.0 ** (step / STEPS) for step in range(_OCTAVES[0] * STEPS, _OCTAVES[-1] * STEPS))
BOUNDS: Final[tuple[float, ...]] = tuple(sorted({*NATIVE, *SECONDS, *OVERHEAD}))
"""The upper bounds of all buckets in seconds; the last bucket has none."""

_MIN_S: Final[float] = NATIVE[0]
_MAX_S: Final[float] = NATIVE[-1]
_STEPS_OF_LOG: Final = STEPS / log(2.0)
# How many native bounds are below 1 s; a hair less, so that rounding names none too high.
_BELOW: Final = -_OCTAVES[0] * STEPS - 1e-9
_AT: Final[tuple[int, ...]] = tuple(bisect_left(BOUNDS, bound) for bound in NATIVE)
_NATIVE_OF = tuple(bisect_left(NATIVE, bound) + _OCTAVES[0] * STEPS for bound in BOUNDS)


def bucket_of(seconds: float) -> int:
    """The bucket in which `seconds` are counted: by its logarithm nearly, then by the bounds."""
    if not seconds > _MIN_S:
        return 0
    if seconds > _MAX_S:
        return len(BOUNDS)
    at = _AT[int(log(seconds) * _STEPS_OF_LOG + _BELOW)]
    bound: float = BOUNDS[at]
    while bound < seconds:
        at += 1
        bound = BOUNDS[at]
    return at


def quantiles(counts: Mapping[int, int], parts: Sequence[float]) -> list[float]:
    """The seconds that each of `parts` (from 0 to 1, rising) of what was counted took at most.

    `counts` are by bucket; nothing counted gives []. Each is the time of one that was counted
    (the nearest rank), as near as its bucket tells.
    """
    total = sum(counts.values())
    if not total:
        return []
    found: list[float] = []
    below = 0
    for bucket in sorted(counts):
        below += counts[bucket]
        while len(found) < len(parts) and below >= max(1, ceil(parts[len(found)] * total)):
            found.append(middle(bucket))
    return found


def middle(bucket: int) -> float:
    """The seconds from which no time of `bucket` is further away, by its own measure."""
    if bucket >= len(BOUNDS):
        bucket = len(BOUNDS) - 1
    high: float = BOUNDS[bucket]
    low: float = BOUNDS[bucket - 1] if bucket else high
    return 2 * low * high / (low + high)


def at_most(counts: Mapping[int, int], bounds: Sequence[float]) -> list[int]:
    """How many were at most each of `bounds`, which are all in BOUNDS; then how many in all."""
    last = _places(tuple(bounds))
    sums = [0] * (len(bounds) + 1)
    for bucket, count in counts.items():
        sums[bisect_left(last, bucket)] += count
    for index in range(1, len(sums)):
        sums[index] += sums[index - 1]
    return sums


@cache
def _places(bounds: tuple[float, ...]) -> list[int]:
    """The buckets that end at `bounds`, which are those of a few metrics."""
    return [bisect_left(BOUNDS, bound) for bound in bounds]


def native(counts: Mapping[int, int]) -> dict[int, int]:
    """Counts by the index of Prometheus' native buckets: i holds what is in
    (2^((i-1)/32), 2^(i/32)] seconds."""
    sums: dict[int, int] = {}
    for bucket, count in counts.items():
        index = _NATIVE_OF[min(bucket, len(BOUNDS) - 1)]
        sums[index] = sums.get(index, 0) + count
    return sums
