"""Whose turn is it, among those who wait for a backend in this worker and in the others?

Between consumers turns go round (`core.fair_turns`). Each worker has a queue of its own; how many
in it are next in turn, the others are told by memory that all share.
"""

from bisect import insort
from collections import deque

from gateway.core.fair_turns import Courtesy, FairTurns
from gateway.core.shared_load import SharedQueue
from gateway.dataplane.waiter import Waiter


class QueueTurns(FairTurns):
    """The turns in one queue of this worker; `shared` is None where there are no others."""

    __slots__ = ("_courtesy", "_next", "shared")

    def __init__(self, shared: SharedQueue | None) -> None:
        super().__init__()
        self.shared = shared
        self._courtesy = Courtesy()
        self._next = 0  # how many here are next in turn, as the other workers know

    def line_up(self, waiting: deque[Waiter], waiter: Waiter) -> None:
        """Lets `waiter` wait in its turn."""
        turn = self.turn(waiter.consumer)
        waiter.turn = turn
        waiter.is_next = waiter.consumer != "" and self.is_next(turn)
        if not waiting or waiting[-1].turn <= turn:
            waiting.append(waiter)
        else:
            insort(waiting, waiter, key=_turn)

    def competes(self) -> bool:
        """Whether somebody is next here while others wait in other workers."""
        if not self._next or self.shared is None:
            return False
        self.shared.look()
        return self.shared.first > 0.0

    def tell(self, waiting: deque[Waiter]) -> bool:
        """Lets the other workers know how many of `waiting` are next in turn, who come first;
        whether there are any."""
        if self.shared is None or (not self._next and not (waiting and waiting[0].is_next)):
            return False
        count = 0
        for each in waiting:
            if not each.is_next:
                break
            count += 1
        if count != self._next:
            self._next = count
            self.shared.tell_next(count)
        return count > 0

    def lets_go_first(self, waiter: Waiter, now: float) -> bool:
        """Whether `waiter`, the first one here, stays for a moment because another worker has
        somebody whose turn is before its own."""
        if self.shared is None or not waiter.consumer:
            return False
        return self._courtesy.yields(now, waiter.is_next, self.shared.others_next)


def _turn(waiter: Waiter) -> float:
    return waiter.turn
