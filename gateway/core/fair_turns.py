"""In which order do those wait who share a queue, when each of them has a name?

Turns go round between names: whoever has one request in the queue does not wait behind a hundred
of somebody else. Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with requests of
one size: a request gets the number of its round, and lower numbers go first. Where all have the
same name, or none, that is the order in which they came.

Workers have a queue each. One whose next request is of somebody who had nothing waiting says so,
and another one leaves it the room that it would have used for one of many (`Courtesy`).
"""

import math
from typing import Final

# Tried by benchmarks/simulate_turns.py. Of sixteen at a time, apart, the 99th percentile is 8 times
# what it is alone with 0.002, and 7 or 10 times with 2 or 1 ahead; with these it is 1.2 times.
NEXT_AHEAD: Final = 3  # so many more than it computes an instance may get of who is next
YIELD_S: Final = 0.004  # for as long as room is left to who may not look for it any more


class FairTurns:
    """The rounds of one queue."""

    __slots__ = ("_last", "_round")

    def __init__(self) -> None:
        self._round = 0.0
        self._last: dict[str, float] = {}

    def turn(self, name: str) -> float:
        """The round of the next request of `name`: one after its last, and none that is over."""
        turn = self._last[name] = max(self._round, self._last.get(name, 0.0)) + 1.0
        return turn

    def is_next(self, turn: float) -> bool:
        """Whether a request of this round, which comes now, is of who had nothing waiting."""
        return turn <= self._round + 1.0

    def gone(self, turn: float) -> None:
        """A request of this round has left the queue to be served."""
        self._round = max(self._round, turn - 1.0)

    def emptied(self) -> None:
        """Nobody waits any more: what was is forgotten."""
        self._round = 0.0
        self._last.clear()


class Courtesy:
    """Whether this worker lets the others go first. It waits for them no longer than YIELD_S: who
    has left by then looks for no room, or finds none."""

    __slots__ = ("_ignored", "_since")

    def __init__(self) -> None:
        self._since = math.inf
        self._ignored = 0.0  # how many of them it has waited for in vain

    def yields(self, now: float, is_next: bool, others_next: float) -> bool:
        """Whether the first of this queue, which `is_next` or one of many of its consumer's, stays
        where it is for a moment, because others have so many that are next."""
        if is_next or others_next <= self._ignored:
            self._since = math.inf
            self._ignored = min(self._ignored, others_next)
            return False
        self._since = min(self._since, now)
        if now - self._since < YIELD_S:
            return True
        self._since, self._ignored = math.inf, others_next
        return False
