"""Which backend of a route does a request go to (weighted split, sticky sessions)?

A pick is stateless: a ticket, a number in [0, 2^64), is looked up in ranges that are as wide
as the weights. Tickets of ordinary requests come from `Spread`: a window of up to 10,000 of them
lands within 8 of every share, whatever the weights were before, and whoever sees but every k-th of
them gets its share as if by chance. Sticky requests are decided by `sticky_backend`. This module
refuses to know why a backend is unavailable: the caller leaves it out with `among`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import permutations
from typing import Final

TICKETS: Final = 1 << 64
_MASK: Final = TICKETS - 1
_PART: Final = TICKETS // 16
_STEP: Final = 0x9E3779B97F4A7C15 // 16 | 1  # _PART/φ, odd: every place inside a part is met
_place_of: Final = bisect_right
_ORDERS: Final = tuple(permutations(range(4)))
# By part and order of quarters: where the four sixteenths begin.
_PLACES: Final = tuple(
    tuple(tuple((4 * quarter + part) * _PART for quarter in order) for order in _ORDERS)
    for part in range(4)
)


class Spread:
    """Tickets that are spread evenly, and as if by chance for whoever sees some of them.

    Four in a row lie one in each quarter of the range, in an order drawn anew; of four such blocks
    each lies in another quarter of the quarters, in an order drawn anew; and how far inside these
    sixteenths moves on by the golden ratio from one sixteen to the next (docs/decisions/0090).
    `chance` gives numbers in [0, 2^64), one for sixteen tickets. One per route and worker, so that
    workers do not march in step.
    """

    __slots__ = ("_chance", "_left", "_shift")

    def __init__(self, chance: Callable[[], int]) -> None:
        self._chance = chance
        self._shift = chance() % _PART
        self._left: list[int] = []

    def next(self) -> int:
        """The next ticket, in [0, 2^64)."""
        left = self._left or self._renewed()
        return left.pop() + self._shift

    def _renewed(self) -> list[int]:
        self._shift = (self._shift + _STEP) % _PART
        drawn, order = divmod(self._chance(), len(_ORDERS))
        left = self._left
        for part in _ORDERS[order]:
            drawn, order = divmod(drawn, len(_ORDERS))
            left += _PLACES[part][order]
        return left


@dataclass(frozen=True, slots=True)
class Split:
    """Backends with weights, ready to pick from. `of` makes one; weight 0 is left out."""

    weights: tuple[tuple[str, int], ...]
    _names: tuple[str | None, ...]
    _bounds: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[tuple[str, int]]) -> "Split":
        """The split of `weights`; ValueError when one is negative."""
        if any(weight < 0 for _, weight in weights):
            raise ValueError("weights are at least 0")
        picked = tuple((name, weight) for name, weight in weights if weight)
        total = sum(weight for _, weight in picked)
        bounds: list[int] = []
        below = 0
        for _, weight in picked[:-1]:
            below += weight
            bounds.append(-(-below * TICKETS // total))
        # Without any weight the only name is None: picking has no case to tell apart.
        names = tuple(name for name, _ in picked) or (None,)
        return cls(tuple(weights), names, tuple(bounds))

    def pick(self, ticket: int) -> str | None:
        """The backend whose range holds `ticket`; None when all weights are zero."""
        return self._names[_place_of(self._bounds, ticket)]

    @property
    def sole(self) -> str | None:
        """The backend that every ticket picks; None where that is not so, or nobody is."""
        return None if self._bounds else self._names[0]

    def among(self, available: frozenset[str]) -> "Split":
        """The split without the backends that are not `available`."""
        return Split.of([pair for pair in self.weights if pair[0] in available])

    def shares(self) -> dict[str, float]:
        """Each backend's part of the requests, from 0 to 1; all 0 when no weight is set."""
        total = sum(weight for _, weight in self.weights) or 1
        return {name: weight / total for name, weight in self.weights}


def sticky_backend(route: str, key: bytes, weights: Sequence[tuple[str, int]]) -> str | None:
    """The backend that `key` belongs to on `route`; None when all weights are zero.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): each backend draws
    w / -ln(u) with its own u from the hash, the highest draw wins. When one backend's
    weight grows, only that backend gains keys; when it shrinks, only that backend loses.
    """
    winner, highest = None, 0.0
    for name, weight in weights:
        if weight:
            # A length before each part: no two (route, backend, key) hash alike.
            salt = f"{len(route)}:{route}{len(name)}:{name}".encode()
            drawn = int.from_bytes(blake2b(salt + key, digest_size=8).digest(), "big")
            score = weight / -math.log((drawn + 0.5) / TICKETS) if drawn < _MASK else math.inf
            if score > highest:
                winner, highest = name, score
    return winner
