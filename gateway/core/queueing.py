"""May a request go to an instance now, should it wait at the gateway, or be refused?

Requests wait in one queue per backend rather than behind others in a slow instance: `place`
says which instance may take one more now and which of the waiting should go there.
`Admission` (admission control, load shedding) says whether it is worth to wait: who cannot be
answered in time is told at once.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.balancing import choose, is_on_trial, usual_service_s
from gateway.core.crowding import DOUBT_S, DOUBTED_S, STALL_GAPS, STALL_S, tolerable_wait_s
from gateway.core.instance_load import Load
from gateway.core.retrying import retry_after_s
from gateway.core.shared_load import SharedQueue
from gateway.core.table import Queue

# Tried as those of `balancing`. Of those of overload none is held by a single case: a quarter and
# four times as much do as well at three times the capacity, after it, in a burst, with clients that
# await their answers (tests/core/test_queueing.py) and in benchmarks/simulate_limits.py.
PERSISTENT_S: Final = 1.0  # that a queue stands, before it may be called overload
FORGOTTEN_S: Final = 10.0  # after which what was counted is counted anew
MEASURABLE: Final = 20  # departures from which a rate can be told
GENERATION: Final = 32  # of those in flight have left before a queue is said to grow
PAUSES_S: Final = 2.0  # in which it is learned how they leave,
UNUSUAL: Final = 2.0  # and so many times their usual pause is a hiccup
GRACE_S: Final = 0.1  # a burst may begin a standing queue without being called overload
# Waiting requests per instance from which on pipelining costs nothing.
DEEP: Final = 1  # 0: 69, 81; 4: 71, 80
# Part of its delay, waiting for which is worth a slow instance: the others in the queue gain by who
# leaves it.
EARLY: Final = 0.5  # 0.125: 149, 142; 1: 70, 79
MUCH_SLOWER: Final = 2.0  # 0.5: 78, 81; 8: 151, 133
LOOK_S: Final = 0.1  # between two looks for limits that have lapsed, while somebody waits; no case
GLANCE_S: Final = 0.02  # and for room that other workers gave back; no case
MOMENT_S: Final = 1.0  # for as long a guess may keep a request waiting,
MOMENTS: Final = 1.5  # or so many times as long as requests take; no case


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


def usual_ahead(waiting: int, count: int) -> int:
    """How many more than it computes each of `count` instances may have while so many wait."""
    return waiting // count if waiting > DEEP * count > 0 else 0


def place(
    balance: str,
    loads: Sequence[Load],
    waiting: int,
    rotation: int,
    now: float,
    ahead: int | None = None,
) -> Placement | None:
    """Where one of the `waiting` requests (at least 1, the newest included) goes now; None
    when all of them do better to wait. An instance may have `ahead` more than it computes, or one
    more where it computes them one by one; left out: while many wait, its part of them.

    With `least_loaded`, a free but slow instance is left alone until the queue is so long
    that its newest request would be answered sooner there, and it is that one that goes.
    """
    count = len(loads)
    if ahead is None:
        ahead = usual_ahead(waiting, count)
    index = choose(balance, loads, rotation, now, ahead)
    if index < 0:
        # Not `any`: each of them is asked.
        if not sum([load.lapse(now) for load in loads]):
            return None
        index = choose(balance, loads, rotation, now, ahead)
        if index < 0:
            return None
    if count == 1:
        return _ONLY
    candidate = loads[index]
    if balance == "least_loaded":
        own_s = candidate.alone_s / MUCH_SLOWER
        for load in loads:
            if load.alone_s < own_s or candidate.avoid_until > now:
                return _now_or_later(loads, index, waiting, now)
    return Placement(index, 0)


def _now_or_later(loads: Sequence[Load], index: int, waiting: int, now: float) -> Placement | None:
    """Whether the best free instance is better than waiting for one that is busy."""
    candidate = loads[index]
    usual_s = usual_service_s(loads)
    own_s = candidate.alone_s or usual_s
    delay = candidate.delay(now, candidate.occupied(now), usual_s)
    if candidate.avoid_until > now:
        own_s = delay = math.inf
    rate, slots_sum = 0.0, 0.0
    for load in loads:
        # Only an instance with a request of ours will tell when it has room: nobody may wait
        # for what never comes.
        if not load.in_flight or load is candidate:
            continue
        if (load.alone_s or usual_s) * MUCH_SLOWER >= own_s:
            continue
        if load.avoid_until > now:
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


def rather_than_refuse(loads: Sequence[Load], rotation: int, now: float) -> int:
    """The index of an instance for a request that would be refused; -1 if there is none.

    A free one is slow, or was when last heard of: an answer from it is late, a refusal is
    none, and only an answer can show that it is slow no more. One that fails quickly is no
    help. When none is free, one is as good that only a guess says to be full.
    """
    index = choose("least_loaded", loads, rotation, now)
    if index >= 0:
        return index if loads[index].avoid_until <= now else -1
    return beyond_a_guess(loads, now)


def moment_s(loads: Sequence[Load], queue: Queue) -> float:
    """For how long a guess may keep a request waiting: a trial must see what comes of it."""
    moment = max(MOMENT_S, MOMENTS * usual_service_s(loads))
    return min(moment, 0.5 * queue.timeout_s)


def beyond_a_guess(loads: Sequence[Load], now: float) -> int:
    """The index of the least busy instance that may have room beyond what it should have at
    once, for nothing proves that it has not: its concurrency limit is being tried, it returned a
    moment ago, or nobody has answered yet; -1 if there is none. It gets not many more than before
    the trial, which they would spoil."""
    best, least = -1, math.inf
    nobody_answers = all(load.is_new for load in loads)
    for index, load in enumerate(loads):
        if load.in_flight >= load.limit or load.avoid_until > now:
            continue
        if load.is_new and not nobody_answers:
            continue
        if load.in_flight > load.held and is_on_trial(load, loads):
            continue
        occupied = load.occupied(now)
        if occupied >= load.target_rather_than_wait(now):
            continue
        busy = occupied / (load.slots or 1.0)
        if busy < least:
            best, least = index, busy
    return best


class Capacity(NamedTuple):
    """What instances can do for one worker: `rate` requests a second, each of which takes
    `service_s` without waiting."""

    rate: float
    service_s: float


def capacity(loads: Sequence[Load]) -> Capacity:
    """What `loads` can do together, as far as known."""
    usual_s = usual_service_s(loads)
    rate = service_s = 0.0
    for load in loads:
        busy = load.in_flight + load.others
        # Without known slots, by Little's law: as many as are there, in the time they take.
        part = (load.slots or max(busy, 1.0)) / (load.service_s or usual_s)
        rate += part
        service_s += part * (load.alone_s or usual_s)
    return Capacity(rate, service_s / rate) if rate else Capacity(0.0, 1.0)


class Admission:
    """Decides who may wait; one per backend and worker, told by its owner what happens.

    Bounds: the request's patience; the queue's size and timeout; and, while more comes than
    goes, a short wait, because a queue that only grows serves nobody sooner. A standing
    queue alone is no overload: clients that await their answers before they ask again keep
    one without making it grow. Nor is a queue that grew while nothing left at all: after such
    a hiccup all is counted anew, for the instances may well be faster than what comes.

    The queue is that of all workers together: what waits in the others, has departed from the
    instances and was refused there is in `shared`; None where there are no others.
    """

    __slots__ = (
        "_count", "_departed", "_doubtful_until", "_gone_from", "_last", "_others_refused",
        "_overloaded", "_own_departed", "_own_gone_from", "_own_refused", "_own_waiting",
        "_present", "_queue", "_refused_from", "_shared", "_since", "_stood_from",
        "_usual_pause_s",
    )  # fmt: skip

    def __init__(self, queue: Queue, shared: SharedQueue | None = None) -> None:
        self._queue = queue
        self._shared = shared
        self._own_waiting = 0
        self._own_refused = 0
        self._others_refused = 0.0
        self._overloaded = False
        self._since = math.inf  # since when the queue stands; the counts begin a grace later
        self._present = 0.0  # how many waited or were in flight then
        self._refused_from = 0.0  # and how many had been refused
        self._count = 0  # of the instances
        self._departed = 0.0  # how many have left them
        self._gone_from = 0.0  # and had when the count began
        self._own_departed = self._own_gone_from = 0  # the same of this worker's own
        self._last = math.inf  # when one was seen to have left
        self._stood_from = math.inf  # since when somebody waits, whenever it was looked
        self._usual_pause_s = 0.0  # between two that leave while somebody waits, or two batches
        self._doubtful_until = 0.0  # what was learned in a hiccup says nothing of the wait after it

    def waits(self, count: int) -> None:
        """So many wait here from now on: that is for the other workers to know."""
        if count != self._own_waiting:
            self._own_waiting = count
            if self._shared is not None:
                self._shared.tell(count, self._own_refused)

    def admit(
        self, now: float, loads: Sequence[Load], waiting: int, remaining_s: float
    ) -> Admit | Refuse:
        """Whether a request that found no room may wait behind `waiting` others.

        `remaining_s` is how long its client will wait for the answer, infinite if unknown.
        """
        everybody = self._all_that_wait(now, loads, waiting)
        paused_s = self._watch(now, loads)
        rate, service_s = self._pace(now, loads, remaining_s)
        if not rate:
            return Refuse("no_backend", 1)
        wait_s = self._wait_s(now, waiting, everybody, rate)
        long_s = tolerable_wait_s(service_s)
        in_flight = sum([load.in_flight + load.others for load in loads], 0.0)
        stalls = paused_s > max(STALL_S, STALL_GAPS / rate, UNUSUAL * self._usual_pause_s)
        self._stood_from = min(now, self._stood_from) if everybody > 0 else math.inf
        # A machine that is short pauses again and again: a queue that stands for so long is one.
        stalls = stalls and now < self._stood_from + DOUBTED_S
        if stalls:
            self._doubtful_until = now + DOUBT_S
        if everybody == 0 or stalls or not (wait_s > long_s or self._overloaded):
            self._calm()
        elif now < self._doubtful_until:
            pass  # what waited out a hiccup takes its time to go
        else:
            self._judge(now, everybody, in_flight, sigmas=1.5 if wait_s > 3.0 * long_s else 4.0)
        if now > self._since + PERSISTENT_S and self._is_full(now, everybody, wait_s):
            self._overloaded = True
        verdict = self._verdict(now, everybody, wait_s, service_s, remaining_s)
        if isinstance(verdict, Refuse):
            if everybody < self._queue.size and any(load.is_guessed(now) for load in loads):
                return Admit(wait_s)  # a guess refuses nobody
            self._own_refused += 1
            if self._shared is not None:
                self._shared.tell(self._own_waiting, self._own_refused)
        return verdict

    def has_place(self, waiting: int) -> bool:
        """Whether one more may wait behind `waiting` others while nobody serves yet."""
        if self._shared is not None:
            self._shared.look()
        return self._all_that_wait(0.0, (), waiting) < self._queue.size

    def would_admit(
        self, now: float, loads: Sequence[Load], waiting: int, remaining_s: float
    ) -> Admit | Refuse:
        """What `admit` would say now, for a request that is not there yet. Changes nothing."""
        everybody = self._all_that_wait(now, loads, waiting)
        rate, service_s = self._pace(now, loads, remaining_s)
        if not rate:
            return Refuse("no_backend", 1)
        wait_s = self._wait_s(now, waiting, everybody, rate)
        return self._verdict(now, everybody, wait_s, service_s, remaining_s)

    def _all_that_wait(self, now: float, loads: Sequence[Load], waiting: int) -> float:
        """How many wait in all workers, `waiting` of them here; looks what the others have."""
        shared = self._shared
        if shared is None:
            return waiting
        for load in loads:
            load.look(now)
        shared.look()
        self._others_refused = shared.second
        return waiting + shared.first

    def _watch(self, now: float, loads: Sequence[Load]) -> float:
        """Counts what has left the instances; for how long nothing has, as far as was looked."""
        self._own_departed = sum([load.departed for load in loads])
        departed = self._own_departed + sum([load.others_departed for load in loads], 0.0)
        if len(loads) != self._count or departed < self._departed:
            self._count, self._departed, self._last = len(loads), departed, now
            self._calm()
        if departed != self._departed:
            if self._stood_from < math.inf:
                pause_s = min(now - self._last, 5.0 * PAUSES_S)
                weight = min(1.0, pause_s / PAUSES_S)
                self._usual_pause_s += (pause_s - self._usual_pause_s) * weight
            self._departed, self._last = departed, now
        return now - self._last

    def _pace(self, now: float, loads: Sequence[Load], remaining_s: float) -> Capacity:
        """How fast requests leave, as counted while the queue stands, else as computed. Before
        the first answer nobody can tell: who has all the time there is then waits, bounded by
        the queue's size and timeout alone; for who has not, it is a guess."""
        can = capacity(loads)
        if can.rate and remaining_s == math.inf and not any(load.service_s for load in loads):
            return Capacity(math.inf, 0.0)
        if can.rate and self._since != math.inf:
            gone = self._departed - self._gone_from
            if gone >= MEASURABLE:
                return Capacity(gone / self._counted_s(now), can.service_s)
        return can

    def _wait_s(self, now: float, own: int, everybody: float, rate: float) -> float:
        """How long one waits behind `own` in this worker and `everybody` in all of them. The
        others are not served in turn with these: what leaves for this worker alone counts, too."""
        wait_s = (everybody + 1) / rate
        own_gone = self._own_departed - self._own_gone_from
        if own < everybody and self._since != math.inf and own_gone >= MEASURABLE:
            return max(wait_s, (own + 1) * self._counted_s(now) / own_gone)
        return wait_s

    def _counted_s(self, now: float) -> float:
        return max(0.001, now - self._since - GRACE_S)

    def _is_full(self, now: float, waiting: float, wait_s: float) -> bool:
        is_late = wait_s > self._queue.timeout_s and now >= self._doubtful_until
        return waiting >= self._queue.size or is_late

    def _verdict(
        self, now: float, waiting: float, wait_s: float, service_s: float, remaining_s: float
    ) -> Admit | Refuse:
        if (
            self._is_full(now, waiting, wait_s)
            or wait_s + service_s > remaining_s
            or (self._overloaded and wait_s > tolerable_wait_s(service_s))
        ):
            return Refuse("queue_full", retry_after_s(wait_s))
        return Admit(wait_s)

    def _calm(self) -> None:
        self._overloaded = False
        self._since = math.inf

    def _judge(self, now: float, waiting: float, in_flight: float, sigmas: float) -> None:
        """Compares what came with what went while the queue stood.

        The longer the queue, the fewer standard deviations of chance (`sigmas`) are waited
        for; all that were in flight have left once before anything is said, for many may leave
        together. Once overloaded, it stays so until somebody finds the queue empty.
        """
        present = waiting + in_flight
        if self._since == math.inf:
            self._since = now
            self._count_from(present)
        elif now < self._since + GRACE_S:
            self._count_from(present)
        else:
            gone = self._departed - self._gone_from
            excess = present - self._present + self._refused - self._refused_from
            if gone >= min(in_flight, GENERATION) and excess > 5 + 0.03 * gone + sigmas * math.sqrt(
                gone
            ):
                self._overloaded = True
            if now > self._since + (PERSISTENT_S if self._overloaded else FORGOTTEN_S):
                # The queue still stands, but what was measured may be true no more.
                self._since = now - GRACE_S
                self._count_from(present)

    @property
    def _refused(self) -> float:
        return self._own_refused + self._others_refused

    def _count_from(self, present: float) -> None:
        self._present = present
        self._refused_from = self._refused
        self._gone_from = self._departed
        self._own_gone_from = self._own_departed
