"""Whose turn is it, among those who wait for a backend in this worker and in the others?

Between consumers turns go round (`core.fair_turns`). Each worker has a queue of its own; how many
turns were had in it, who has the most waiting there, and when somebody was next, the others are
told by memory that all share.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from gateway.core.balancing import usual_service_s
from gateway.core.fair_turns import CONTESTED_S, FairTurns, ahead
from gateway.core.instance_load import Load
from gateway.core.queueing import usual_ahead
from gateway.core.shared_load import SharedQueue
from gateway.dataplane.waiter import Waiter

WAITS_S: Final = 0.01  # who is next says so more often while it waits


class QueueTurns(FairTurns):
    """The turns in one queue of this worker; `shared` is None where there are no others."""

    __slots__ = ("_next_at", "_over_at", "_served_at_last", "_told", "shared")

    def __init__(self, shared: SharedQueue | None) -> None:
        super().__init__()
        self.shared = shared
        self._next_at = -math.inf  # when somebody was next here last
        self._served_at_last = self._over_at = 0.0  # turns elsewhere, and who was next until then
        self._told = 0.0  # who has the most waiting here, as the others know

    def line_up(self, waiting: deque[Waiter], waiter: Waiter) -> None:
        """Lets `waiter` wait in its turn."""
        name = waiter.consumer
        is_next = name != "" and self.is_next(name, self.has_most(waiting, name), self._elsewhere)
        turn = waiter.turn = self.turn(name, is_next)
        if not waiting or waiting[-1].turn <= turn:
            waiting.append(waiter)
        else:
            insort(waiting, waiter, key=_turn)

    def ahead(self, waiting: deque[Waiter], loads: Sequence[Load], now: float) -> int | None:
        """How many more than it computes one of `loads` may have, for the first of those that wait
        here; None: as many as ever."""
        name = waiting[0].consumer if waiting else ""
        if not name:
            return None
        is_next = self.is_next(name, self.has_most(waiting, name), self._elsewhere)
        if is_next:
            self._next_at = now
            if self.shared is not None:
                self.shared.tell_next(now)
        return ahead(
            is_next,
            self._is_contested(now),
            usual_service_s(loads),
            int(max([load.slots for load in loads if load.computes_batches], default=1.0)),
            usual_ahead(len(waiting), len(loads)),
        )

    def has_most(self, waiting: deque[Waiter], name: str) -> bool:
        """Whether `name` has the most waiting, of all workers: who is last in the longest queue."""
        most = len(waiting)
        whose = waiting[-1].consumer if waiting else ""
        if self.shared is not None:
            count, other = self.shared.longest()
            if count > most:
                return other == number_of(name)
        return whose == name

    def is_pressed(self, waiting: deque[Waiter]) -> bool:
        """Whether the first one here waits for room that another worker makes without a sign, and
        is to look for it: not one of many."""
        name = waiting[0].consumer
        return self.shared is not None and name != "" and not self.has_most(waiting, name)

    def gives_way(self, waiting: deque[Waiter], now: float) -> bool:
        """Whether the first one here leaves what there is room for to somebody whose turn it is,
        who waits for it in another worker at this moment."""
        name = waiting[0].consumer if waiting else ""
        if self.shared is None or not name:
            return False
        next_at, served = self.shared.others_next_at, self.shared.others_served
        if served != self._served_at_last:  # who was next has had its turn
            self._served_at_last, self._over_at = served, next_at
        if next_at <= self._over_at or now - next_at >= WAITS_S:
            return False
        return not self.is_next(name, self.has_most(waiting, name), self._elsewhere)

    def tell(self, waiting: deque[Waiter]) -> None:
        """Lets the other workers know who has the most waiting here."""
        if self.shared is not None and (waiting or self._told):
            whose = number_of(waiting[-1].consumer) if waiting else 0.0
            if whose != self._told:
                self._told = whose
                self.shared.tell_crowd(whose)

    def emptied(self) -> None:
        """Nobody waits here any more."""
        super().emptied()
        if self.shared is None or not self.shared.longest()[0]:
            self.forget()

    def left(self, waiter: Waiter) -> None:
        """`waiter` has left the queue to be served."""
        self.gone(waiter.consumer, waiter.turn, self._elsewhere)
        if self.shared is not None and waiter.consumer:
            self.shared.tell_served(self.served)

    @property
    def _elsewhere(self) -> float:
        return 0.0 if self.shared is None else self.shared.others_served

    def _is_contested(self, now: float) -> bool:
        last = self._next_at
        if self.shared is not None:
            last = max(last, self.shared.others_next_at)
        return now - last < CONTESTED_S


def number_of(name: str) -> float:
    """By what other workers know a name again."""
    return float(crc32(name.encode())) if name else 0.0


def _turn(waiter: Waiter) -> float:
    return waiter.turn
