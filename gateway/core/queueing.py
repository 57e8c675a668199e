"""May a request go to an instance now, should it wait at the gateway, or be refused?

Requests wait in one queue per backend rather than behind others in a slow instance: `place`
says which instance may take one more now and which of the waiting should go there.
`Admission` says whether it is worth to wait: who cannot be answered in time is told at once.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.balancing import SHUN_AFTER, Load, choose, usual_service_s
from gateway.core.retrying import retry_after_s
from gateway.core.table import Queue

TURNAROUND_S: Final = 0.002  # from an instance's answer to the arrival of its next request
OVERLAP: Final = 8.0
TARGET_S: Final = 0.1  # a standing queue under overload is kept this short,
TARGET_SERVICES: Final = 4.0  # or as short as this many service times
GRACE_S: Final = 0.1  # a burst may begin a standing queue without being called overload
DEEP: Final = 1  # waiting requests per instance from which on pipelining costs nothing
EARLY: Final = 0.5
MUCH_SLOWER: Final = 1.25


class Placement(NamedTuple):
    """The index of the `instance`, and the `position` of the waiting request that it should
    get (0 is the oldest)."""

    instance: int
    position: int


class Admit(NamedTuple):
    """Wait, expecting `wait_s`."""

    wait_s: float


class Refuse(NamedTuple):
    """Do not wait: `code` is one of `errors.KINDS`, `retry_after_s` whole seconds."""

    code: str
    retry_after_s: int


def has_room(load: Load, max_in_flight: int, now: float, deep: bool) -> bool:
    """Whether an instance may have one more request.

    Up to its slots, and as many more as keep them busy while an answer and the next request
    are under way; to `max_in_flight` while its slots are unknown. `deep`: so many are
    waiting that one of them may as well wait there. Each worker may always have one, for
    what it knows of the others is old.
    """
    in_flight = load.in_flight
    if in_flight >= max_in_flight:
        return False
    slots = load.slots
    if not slots or not in_flight:
        return True
    most = slots + 1.0 if deep else slots
    service_s = load.service_s
    if service_s and slots * TURNAROUND_S >= service_s:
        most += min(slots * TURNAROUND_S // service_s, max(slots, OVERLAP))
    if load.weight < 1.0:
        most *= load.weight
    return load.occupied(now) < most


def place(
    balance: str, loads: Sequence[Load], waiting: int, max_in_flight: int, turn: int, now: float
) -> Placement | None:
    """Where one of the `waiting` requests (at least 1, the newest included) goes now; None
    when all of them do better to wait.

    With `least_loaded`, a free but slow instance is left alone until the queue is so long
    that its newest request would be answered sooner there, and it is that one that goes.
    """
    deep = waiting > DEEP * len(loads)
    if len(loads) == 1:
        return _ONLY if has_room(loads[0], max_in_flight, now, deep) else None
    free = [index for index, load in enumerate(loads) if has_room(load, max_in_flight, now, deep)]
    if not free:
        return None
    if len(free) == len(loads):
        return Placement(choose(balance, loads, turn, now), 0)
    index = free[choose(balance, [loads[index] for index in free], turn, now)]
    if balance != "least_loaded":
        return Placement(index, 0)
    return _now_or_later(loads, index, waiting, now)


_ONLY: Final = Placement(0, 0)


def _now_or_later(loads: Sequence[Load], index: int, waiting: int, now: float) -> Placement | None:
    """Whether the best free instance is better than waiting for one that is busy."""
    usual_s = usual_service_s(loads)
    candidate = loads[index]
    if candidate.failures >= SHUN_AFTER and candidate.shunned_until > now:
        delay = math.inf
    else:
        delay = candidate.delay(now, candidate.occupied(now), usual_s)
    own_s = candidate.service_s or usual_s
    rate, slots_sum = 0.0, 0.0
    for load in loads:
        service_s = load.service_s or usual_s
        shunned = load.failures >= SHUN_AFTER and load.shunned_until > now
        if load is not candidate and service_s * MUCH_SLOWER < own_s and not shunned:
            slots = load.slots or 1.0
            rate += slots / service_s
            slots_sum += slots
    if not rate:
        return Placement(index, 0)
    # Waiting behind k others for any of the faster ones: k+1 departures, then the service.
    faster_s = slots_sum / rate
    if 1.0 / rate + faster_s >= delay:
        return Placement(index, 0)
    if waiting / rate + faster_s >= EARLY * delay:
        return Placement(index, waiting - 1)
    return None


def rate_per_s(loads: Sequence[Load]) -> float:
    """Requests a second that the instances answer for this worker, as far as known."""
    usual_s = usual_service_s(loads)
    rate = own = all_ = 0.0
    for load in loads:
        busy = load.in_flight + load.others
        rate += (load.slots or max(busy, 1.0)) / (load.service_s or usual_s)
        own += load.in_flight
        all_ += busy
    return rate * own / all_ if own else rate


class Admission:
    """Decides who may wait; one per backend and worker, told by its owner what happens.

    Bounds: the request's patience; the queue's size and timeout; and, while more comes than
    goes, a short wait, because a queue that only grows serves nobody sooner. A standing
    queue alone is no overload: clients that await their answers before they ask again keep
    one without making it grow.
    """

    __slots__ = ("_arrived", "_gone", "_overloaded", "_queue", "_since")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._overloaded = False
        self._since: float | None = None  # since when the queue stands
        self._arrived = 0  # since then, but for the grace, refused ones too
        self._gone = 0

    @property
    def overloaded(self) -> bool:
        """Whether more comes than goes."""
        return self._overloaded

    def dispatched(self, now: float) -> None:
        """Notes that a request which had waited was sent to an instance."""
        if self._since is not None and now >= self._since + GRACE_S:
            self._gone += 1

    def admit(
        self, now: float, loads: Sequence[Load], waiting: int, patience_s: float
    ) -> Admit | Refuse:
        """Whether a request that found no room may wait behind `waiting` others.

        `patience_s` is how long its client will wait for the answer, infinite if unknown.
        """
        rate = self._rate(now, loads)
        service_s = usual_service_s(loads) if not rate else len(loads) / rate
        wait_s = (waiting + 1) / rate
        target_s = max(TARGET_S, TARGET_SERVICES * service_s)
        self._note(now, waiting, wait_s > target_s)
        queue = self._queue
        if waiting >= queue.size or wait_s > queue.timeout_s or wait_s + service_s > patience_s:
            return Refuse("queue_full", retry_after_s(wait_s))
        if self._overloaded and wait_s > target_s:
            return Refuse("queue_full", retry_after_s(wait_s))
        return Admit(wait_s)

    def _rate(self, now: float, loads: Sequence[Load]) -> float:
        """What leaves the queue a second: measured once there is enough, expected before."""
        if self._since is not None and self._gone >= 20:
            return self._gone / (now - self._since - GRACE_S)
        return rate_per_s(loads)

    def _note(self, now: float, waiting: int, long: bool) -> None:
        if waiting == 0 or not (long or self._overloaded):
            self._overloaded = False
            self._since = None
            return
        if self._since is None:
            self._restart(now)
        elif now >= self._since + GRACE_S:
            self._arrived += 1
            excess, gone = self._arrived - self._gone, self._gone
            if excess > 5 + 0.05 * gone + 4 * math.sqrt(gone):
                self._overloaded = True
            if gone >= 100 and now > self._since + 1.0:
                if excess <= 0.05 * gone:
                    self._overloaded = False
                if self._overloaded or gone >= 500:
                    self._restart(now - GRACE_S)

    def _restart(self, now: float) -> None:
        self._since = now
        self._arrived = self._gone = 0
