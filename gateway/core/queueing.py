"""May a request go to an instance now, should it wait at the gateway, or be refused?

Requests wait in one queue per backend rather than behind others in a slow instance: `place`
says which instance may take one more now and which of the waiting should go there.
`Admission` says whether it is worth to wait: who cannot be answered in time is told at once.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.balancing import Load, choose, tolerable_wait_s, usual_service_s
from gateway.core.retrying import retry_after_s
from gateway.core.table import Queue

PERSISTENT_S: Final = 1.0
FORGOTTEN_S: Final = 10.0
MEASURABLE: Final = 20  # departures from which a rate can be told
GRACE_S: Final = 0.1  # a burst may begin a standing queue without being called overload
DEEP: Final = 1  # waiting requests per instance from which on pipelining costs nothing
EARLY: Final = 0.5  # part of its delay, waiting for which is worth a slow instance: the
# others in the queue gain by who leaves it
MUCH_SLOWER: Final = 2.0


class Placement(NamedTuple):
    """The index of the `instance`, and the `position` of the waiting request that it should
    get (0 is the oldest)."""

    instance: int
    position: int


_ONLY: Final = Placement(0, 0)


class Admit(NamedTuple):
    """Wait, expecting `wait_s`."""

    wait_s: float


class Refuse(NamedTuple):
    """Do not wait: `code` is one of `errors.KINDS`, `retry_after_s` whole seconds."""

    code: str
    retry_after_s: int


def place(
    balance: str, loads: Sequence[Load], waiting: int, turn: int, now: float
) -> Placement | None:
    """Where one of the `waiting` requests (at least 1, the newest included) goes now; None
    when all of them do better to wait.

    With `least_loaded`, a free but slow instance is left alone until the queue is so long
    that its newest request would be answered sooner there, and it is that one that goes.
    """
    count = len(loads)
    ahead = 1 if waiting > DEEP * count else 0
    index = choose(balance, loads, turn, now, ahead)
    if index < 0:
        return None
    if count == 1:
        return _ONLY
    candidate = loads[index]
    if balance == "least_loaded":
        own_s = candidate.alone_s / MUCH_SLOWER
        for load in loads:
            if load.alone_s < own_s or candidate.shunned_until > now:
                return _now_or_later(loads, index, waiting, now)
    return Placement(index, 0)


def _now_or_later(loads: Sequence[Load], index: int, waiting: int, now: float) -> Placement | None:
    """Whether the best free instance is better than waiting for one that is busy."""
    candidate = loads[index]
    usual_s = usual_service_s(loads)
    own_s = candidate.alone_s or usual_s
    delay = candidate.delay(now, candidate.occupied(now), usual_s)
    if candidate.shunned_until > now:
        own_s = delay = math.inf
    rate, slots_sum = 0.0, 0.0
    for load in loads:
        # Only an instance with a request of ours will tell when it has room: nobody may wait
        # for what never comes.
        if not load.in_flight or load is candidate:
            continue
        if (load.alone_s or usual_s) * MUCH_SLOWER >= own_s:
            continue
        if load.shunned_until > now:
            continue
        slots = load.slots or load.in_flight
        rate += slots / (load.service_s or usual_s)
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


def rather_than_refuse(loads: Sequence[Load], turn: int, now: float) -> int:
    """The index of a free instance for a request that would be refused; -1 if there is none.

    Such a one is slow, or was when last heard of: an answer from it is late, a refusal is
    none, and only an answer can show that it is slow no more. One that fails quickly is no
    help.
    """
    index = choose("least_loaded", loads, turn, now)
    if index >= 0 and loads[index].shunned_until > now:
        return -1
    return index


class Capacity(NamedTuple):
    """What instances can do for one worker: `rate` requests a second, each of which takes
    `service_s` without waiting."""

    rate: float
    service_s: float


def capacity(loads: Sequence[Load]) -> Capacity:
    """What `loads` can do together, as far as known."""
    usual_s = usual_service_s(loads)
    rate = service_s = own = everybody = 0.0
    for load in loads:
        busy = load.in_flight + load.others
        # Without known slots, by Little's law: as many as are there, in the time they take.
        part = (load.slots or max(busy, 1.0)) / (load.service_s or usual_s)
        rate += part
        service_s += part * (load.alone_s or usual_s)
        own += load.in_flight
        everybody += busy
    if not rate:
        return Capacity(0.0, 1.0)
    return Capacity(rate * own / everybody if own else rate, service_s / rate)


class Admission:
    """Decides who may wait; one per backend and worker, told by its owner what happens.

    Bounds: the request's patience; the queue's size and timeout; and, while more comes than
    goes, a short wait, because a queue that only grows serves nobody sooner. A standing
    queue alone is no overload: clients that await their answers before they ask again keep
    one without making it grow.
    """

    __slots__ = ("_gone", "_overloaded", "_present", "_queue", "_refused", "_since")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._overloaded = False
        self._since = math.inf  # since when the queue stands; the counts begin a grace later
        self._present = 0  # how many waited or were in flight then
        self._refused = 0
        self._gone = 0

    @property
    def overloaded(self) -> bool:
        """Whether more comes than goes."""
        return self._overloaded

    def dispatched(self, now: float) -> None:
        """Notes a request sent to an instance, whether it had waited or not."""
        if now >= self._since + GRACE_S:
            self._gone += 1

    def admit(
        self, now: float, loads: Sequence[Load], waiting: int, patience_s: float
    ) -> Admit | Refuse:
        """Whether a request that found no room may wait behind `waiting` others.

        `patience_s` is how long its client will wait for the answer, infinite if unknown.
        """
        rate, service_s = self._pace(now, loads, patience_s)
        if not rate:
            return Refuse("no_backend", 1)
        wait_s = (waiting + 1) / rate
        long_s = tolerable_wait_s(service_s)
        present = waiting + sum([load.in_flight for load in loads])
        if waiting == 0 or not (wait_s > long_s or self._overloaded):
            self._calm()
        else:
            self._judge(now, present, sigmas=1.5 if wait_s > 3.0 * long_s else 4.0)
        if now > self._since + PERSISTENT_S and self._is_full(waiting, wait_s):
            self._overloaded = True
        verdict = self._verdict(waiting, wait_s, service_s, patience_s)
        if isinstance(verdict, Refuse):
            self._refused += 1
        return verdict

    def foresee(
        self, now: float, loads: Sequence[Load], waiting: int, patience_s: float
    ) -> Admit | Refuse:
        """What `admit` would say now, for a request that is not there yet. Changes nothing."""
        rate, service_s = self._pace(now, loads, patience_s)
        if not rate:
            return Refuse("no_backend", 1)
        return self._verdict(waiting, (waiting + 1) / rate, service_s, patience_s)

    def _pace(self, now: float, loads: Sequence[Load], patience_s: float) -> Capacity:
        """How fast requests leave, as counted while the queue stands, else as computed. Before
        the first answer nobody can tell: who has all the time there is then waits, bounded by
        the queue's size and timeout alone; for who has not, it is a guess."""
        can = capacity(loads)
        if can.rate and patience_s == math.inf and not any(load.service_s for load in loads):
            return Capacity(math.inf, 0.0)
        if can.rate and self._gone >= MEASURABLE:
            return Capacity(self._gone / max(0.001, now - self._since - GRACE_S), can.service_s)
        return can

    def _is_full(self, waiting: int, wait_s: float) -> bool:
        return waiting >= self._queue.size or wait_s > self._queue.timeout_s

    def _verdict(
        self, waiting: int, wait_s: float, service_s: float, patience_s: float
    ) -> Admit | Refuse:
        if (
            self._is_full(waiting, wait_s)
            or wait_s + service_s > patience_s
            or (self._overloaded and wait_s > tolerable_wait_s(service_s))
        ):
            return Refuse("queue_full", retry_after_s(wait_s))
        return Admit(wait_s)

    def _calm(self) -> None:
        self._overloaded = False
        self._since = math.inf
        self._gone = 0

    def _judge(self, now: float, present: int, sigmas: float) -> None:
        """Compares what came with what went while the queue stood.

        The longer the queue, the fewer standard deviations of chance (`sigmas`) are waited
        for. Once overloaded, it stays so until somebody finds the queue empty.
        """
        if self._since == math.inf:
            self._restart(now, present)
        elif now < self._since + GRACE_S:
            self._present, self._refused = present, 0
        else:
            gone = self._gone
            excess = present - self._present + self._refused
            if excess > 5 + 0.03 * gone + sigmas * math.sqrt(gone):
                self._overloaded = True
            if now > self._since + (PERSISTENT_S if self._overloaded else FORGOTTEN_S):
                # The queue still stands, but what was measured may be true no more.
                self._restart(now - GRACE_S, present)

    def _restart(self, now: float, present: int) -> None:
        self._since = now
        self._present = present
        self._refused = self._gone = 0
