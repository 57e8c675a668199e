"""May a request go to an instance now, should it wait at the gateway, or be refused?

Requests wait in one queue per backend rather than behind others in a slow instance: `place`
says which instance may take one more now and which waiting request it should be. `Admission`
says whether it is worth waiting: who cannot be answered in time is told so at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.core.balancing import Load, choose, usual_service_s
from gateway.core.retrying import retry_after_s
from gateway.core.table import Queue

TURNAROUND_S: Final = 0.002  # from an instance's answer to the arrival of its next request
OVERLAP: Final = 8.0
TARGET_S: Final = 0.1
GRACE_S: Final = 0.1


class Placement(NamedTuple):
    """The index of the `instance`, and the `position` of the waiting request that it should get
    (0 is the oldest)."""

    instance: int
    position: int


class Refuse(NamedTuple):
    """Do not wait: `code` is one of `errors.KINDS`, `retry_after_s` whole seconds."""

    code: str
    retry_after_s: int


class Admit(NamedTuple):
    """Wait, expecting `wait_s`."""

    wait_s: float


def limit(load: Load, max_in_flight: int, usual_s: float) -> float:
    """How many requests an instance may have at once.

    Its slots, and as many more as keep them busy while an answer and the next request are
    under way; `max_in_flight` when it does not report.
    """
    slots = load.slots
    if not slots:
        return max_in_flight
    ahead = int(slots * TURNAROUND_S / (load.service_s or usual_s))
    most = slots + min(ahead, max(slots, OVERLAP))
    if load.weight < 1.0:
        most = max(1.0, most * load.weight)
    return min(most, max_in_flight)


def place(
    balance: str, loads: Sequence[Load], waiting: int, max_in_flight: int, turn: int, now: float
) -> Placement | None:
    """Where one of `waiting` requests (at least 1, a new one counted last) goes now; None
    when all of them do better to wait.

    With `least_loaded`, a free but slow instance is left alone until the queue is so long
    that its last request is answered sooner there.
    """
    usual_s = usual_service_s(loads)
    free = [
        index
        for index, load in enumerate(loads)
        if load.occupied(now) < limit(load, max_in_flight, usual_s)
    ]
    if not free:
        return None
    index = free[choose(balance, [loads[index] for index in free], turn, now)]
    if balance != "least_loaded" or len(free) == len(loads):
        return Placement(index, 0)
    candidate = loads[index]
    delay = candidate.delay(now, usual_s)
    rate, service_sum, faster = 0.0, 0.0, 0
    for load in loads:
        service_s = load.service(now, usual_s)
        if load is not candidate and service_s < delay and load.shunned_until <= now:
            rate += (load.slots or 1.0) / service_s
            service_sum += service_s
            faster += 1
    if not faster:
        return Placement(index, 0)
    usual_s = service_sum / faster
    if 1 / rate + usual_s >= delay:
        return Placement(index, 0)
    if waiting / rate + usual_s >= delay:
        return Placement(index, waiting - 1)
    return None


def rate_per_s(loads: Sequence[Load], now: float) -> float:
    """Requests a second that the instances can answer together, as far as known."""
    usual_s = usual_service_s(loads)
    return sum((load.slots or 1.0) / load.service(now, usual_s) for load in loads)


@dataclass(slots=True)
class _Trial:
    """Since when the queue stands, and what came and went since a little later."""

    since: float
    arrived: int = 0
    gone: int = 0


class Admission:
    """Decides who may wait; one per backend and worker, its owner tells what happens.

    Three bounds, tightest first: the request's patience; the queue's size and timeout; and,
    while more comes than goes, a short wait, because a long standing queue serves nobody
    sooner. A standing queue alone is no overload: clients that wait for their answers
    before they ask again keep one without making it grow.
    """

    __slots__ = ("_overloaded", "_pace", "_pace_at", "_queue", "_trial")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._trial: _Trial | None = None
        self._overloaded = False
        self._pace = 0.0
        self._pace_at = 0.0

    def dispatched(self, now: float) -> None:
        """Notes a request sent to an instance, whether it waited or not."""
        if self._trial is not None and now >= self._trial.since + GRACE_S:
            self._trial.gone += 1

    def admit(
        self, now: float, waiting: int, rate: float, service_s: float, patience_s: float
    ) -> Admit | Refuse:
        """Whether a request that found no room may wait behind `waiting` others.

        `rate` is how many are answered a second, `service_s` how long one takes,
        `patience_s` how long its client will wait for the answer.
        """
        wait_s = (waiting + 1) / rate if rate else 0.0
        self._note(now, wait_s, service_s)
        queue = self._queue
        if waiting >= queue.size:
            return Refuse("queue_full", retry_after_s(wait_s))
        if wait_s > queue.timeout_s or wait_s + service_s > patience_s:
            return Refuse("queue_full", retry_after_s(wait_s))
        if self._overloaded and wait_s > max(TARGET_S, 4 * service_s):
            return Refuse("queue_full", retry_after_s(wait_s))
        return Admit(wait_s)

    def _note(self, now: float, wait_s: float, service_s: float) -> None:
        trial = self._trial
        if wait_s <= max(TARGET_S, 4 * service_s) and not self._overloaded:
            self._trial = None
            return
        if trial is None:
            self._trial = _Trial(now)
            return
        if now < trial.since + GRACE_S:
            return
        trial.arrived += 1
        if trial.arrived - trial.gone > 3 + 0.05 * trial.gone + 3 * trial.gone**0.5:
            self._overloaded = True
            self._trial = _Trial(now)
        elif now > trial.since + 1.0:
            self._overloaded = False
            self._trial = None
