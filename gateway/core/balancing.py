"""Which instance of a backend gets a request?

The one with the least expected delay: how long it takes for an answer, learned from its own
answers, stretched by what it already has to do. What it has to do is what this worker sent
and has not got back, and the more credible of what the other workers say and what the
instance itself last reported. Of those that are about as fast the least busy one: what was
learned is no more exact than that. All instances are looked at each time: two random
choices lose to that when there are few.

`Load` is plain state that its owner updates; `choose` decides and changes nothing. Which
instances may get requests at all is `health`; whether a request had better wait than go to
the chosen one is `queueing`.
"""

import math
from collections.abc import Sequence
from typing import Final

FRESH_S: Final = 0.1  # while a report is newer than what the other workers say
FADE_S: Final = 2.0  # after which a report says nothing more
FORGET_S: Final = 10.0  # after which what an unused instance taught is tried anew
LEARN: Final = 0.05  # the least weight of a new answer in the learned service time
LEARN_CROWD: Final = 0.05
TOLERABLE_S: Final = 0.1
TOLERABLE_SERVICES: Final = 4.0
ALIKE: Final = 0.7  # of instances that are about as fast the least busy one is chosen: all
ALIKE_S: Final = 0.001  # stay warm and known, and none gets a crowd for a hair's breadth
JUDGED: Final = 8  # answers without which none counts as slow: the first ones are cold
RELEARN: Final = 0.5  # and its weight after FORGET_S without one
SHUN_AFTER: Final = 5  # failed answers in a row, of all workers together
SHUN_S: Final = 5.0
REFUSED_S: Final = 0.5  # until the probes have asked whoever is at that address now
MOST_SLOTS: Final = 65_536.0
TURNAROUND_S: Final = 0.002  # from an instance's answer to the arrival of its next request
MOST_OF_NEW: Final = 32.0
MOST_AHEAD: Final = 8.0  # requests sent ahead to an instance of few slots
UNLIMITED: Final = 1 << 62
_MOST_WAIT_S: Final = 5.0
_STEP: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


class Load:
    """What one worker knows of one instance's load; lives as long as the instance does.

    `in_flight` counts this worker's own requests, `others` those of the other workers.
    `slots` is how many the instance computes at once and `service_s` how long one takes
    without waiting; 0.0 while unknown. `most` is how many it should have at once. `weight`
    is below 1 during slow start. `limit` bounds `in_flight`, by configuration. `is_new` until
    it has shown in any way that it answers.
    """

    __slots__ = (
        "alone_s", "base_s", "crowd", "crowd_since", "failures", "foreign", "in_flight",
        "is_new", "learned_at", "limit", "most", "others", "reported_at", "samples", "service_s",
        "shunned_until", "slots", "wait_until", "weight",
    )  # fmt: skip

    def __init__(
        self,
        in_flight: int = 0,
        others: float = 0.0,
        *,
        slots: float = 0.0,
        service_s: float = 0.0,
        weight: float = 1.0,
        limit: int = UNLIMITED,
    ) -> None:
        self.in_flight = in_flight
        self.others = others
        self.slots = slots
        self.service_s = service_s
        self.weight = weight
        self.most = most_at_once(slots, service_s)
        self.limit = limit
        self.samples = 0
        self.is_new = True
        self.alone_s = service_s
        self.base_s = 0.0
        self.crowd = 0.0
        self.crowd_since = 0
        self.learned_at = 0.0
        self.foreign = 0.0
        self.reported_at = 0.0
        self.wait_until = 0.0
        self.failures = 0
        self.shunned_until = 0.0

    def sent(self, now: float) -> float:
        """Notes a request sent; gives what `answered` wants to know: how many requests are
        at the instance now, this one included."""
        self.in_flight += 1
        return self.occupied(now)

    def done(self) -> None:
        """Notes that a request is off the instance, however it ended."""
        self.in_flight -= 1

    def refused(self, now: float) -> None:
        """Notes that no connection was to be had: whatever is at that address next may be a
        process that still loads its model, so for a moment it gets nothing that another one
        can take."""
        self.shunned_until = max(self.shunned_until, now + REFUSED_S)

    def answered(self, now: float, elapsed_s: float, occupied: float, failed: bool) -> None:
        """Learns from an answer that took `elapsed_s` to its last byte.

        `occupied` is what `sent` gave. A failure, such as a 500, teaches no speed: to fail
        is quick, and whoever fails quickly must attract nothing.
        """
        self.is_new = False
        if failed:
            self._failed(now, 1)
            return
        self.failures = 0
        self.shunned_until = 0.0
        slots = self.slots
        sample = elapsed_s * slots / occupied if 0.0 < slots < occupied else elapsed_s
        self.samples = samples = self.samples + 1
        gain = 1.0 / samples if samples * LEARN < 1.0 else LEARN
        if now - self.learned_at > FORGET_S and gain < RELEARN:
            gain = RELEARN
        self.service_s += (sample - self.service_s) * gain
        self.learned_at = now
        if slots:
            self.alone_s = self.service_s
            self.most = most_at_once(slots, self.service_s)
        else:
            self._feel(sample, occupied)
            self.alone_s = self.service_s if self.most == math.inf else self.base_s

    def heard(self, now: float, failures: int, after_success: bool) -> None:
        """Takes in what another worker saw: so many failed answers in a row, `after_success`
        or in the row that was there."""
        if after_success:
            self.failures = 0
            self.shunned_until = 0.0
        if failures:
            self._failed(now, failures)

    def _failed(self, now: float, count: int) -> None:
        self.failures += count
        if self.failures >= SHUN_AFTER:
            self.shunned_until = now + SHUN_S

    def _feel(self, sample: float, occupied: float) -> None:
        """Feels for the room of an instance that does not report.

        While a lone request is answered much sooner than one among many, requests wait in
        there; as many may as are answered within the wait that `tolerable_wait_s` allows.
        By Little's law that is their count now times the time allowed over the time taken.
        """
        base = self.base_s
        if occupied <= 1.0 or not base or occupied <= self.most / 8.0 < math.inf:
            self.base_s = base = base + (sample - base) * 0.1 if base else sample
        self.crowd += (occupied - self.crowd) * LEARN_CROWD
        self.crowd_since += 1
        if self.crowd_since < 8.0 or self.crowd_since < self.crowd:
            return
        self.crowd_since = 0
        allowed_s = base + tolerable_wait_s(base)
        if self.service_s > allowed_s:
            self.most = max(1.0, self.crowd * allowed_s / self.service_s)
        elif self.service_s < 0.7 * allowed_s and self.crowd > 0.7 * self.most:
            self.most = 1.25 * self.most + 1.0

    def reported(
        self, now: float, queue: float, running: float, slots: float, wait_ms: float
    ) -> None:
        """Notes an ORCA report that came with an answer; call it before `done`.

        A report that makes no sense is not believed.
        """
        if not (
            0.0 <= queue < 1e9
            and 0.0 <= running < 1e9
            and 1.0 <= slots <= MOST_SLOTS
            and 0.0 <= wait_ms < 1e9
        ):
            return
        self.is_new = False
        if slots != self.slots:
            self.slots = slots
            self.most = most_at_once(slots, self.service_s)
        # Its own requests this worker knows better, and later.
        foreign = queue + running - self.in_flight
        self.foreign = foreign if foreign > 0.0 else 0.0
        wait_s = wait_ms / 1000.0
        self.wait_until = now + (wait_s if wait_s < _MOST_WAIT_S else _MOST_WAIT_S)
        self.reported_at = now

    def occupied(self, now: float) -> float:
        """Requests at the instance, as far as known: own, and everybody else's, as told by
        the other workers or left over in a fading report, whichever is more."""
        age = now - self.reported_at
        if age < FRESH_S and self.reported_at:
            return self.in_flight + self.foreign
        others = self.others
        if self.foreign and age < FADE_S:
            foreign = self.foreign * (1.0 - age / FADE_S)
            if foreign > others:
                others = foreign
        return self.in_flight + others

    def delay(self, now: float, occupied: float, usual_s: float) -> float:
        """Expected seconds until one more request would be answered.

        `usual_s` stands in while nothing is known of this instance. One that has not answered
        yet, or long ago, counts as instant, so that one request asks how it is now.
        """
        service_s = self.service_s
        if not service_s:
            if not self.in_flight and not self.failures:
                return 0.0
            service_s = usual_s
        elif now - self.learned_at > FORGET_S and not self.in_flight:
            return 0.0
        if self.slots:
            ratio = (occupied + 1.0) / self.slots
            delay = service_s * ratio if ratio > 1.0 else service_s
        else:
            # What it took among so many, scaled to how many there are now.
            delay = service_s * (occupied + 1.0) / (self.crowd if self.crowd > 1.0 else 1.0)
            if delay < self.base_s:
                delay = self.base_s
        if self.wait_until > now:
            reported = self.wait_until - now + service_s
            if reported > delay:
                delay = reported
        # A cold instance takes its turn at one request, and gets more the warmer it is: divided
        # while idle too, it would get nothing as long as its peers are never busy.
        if self.weight >= 1.0 or not self.in_flight:
            return delay
        return delay / self.weight


def usual_service_s(loads: Sequence[Load]) -> float:
    """The mean of what is known of the service times, 1.0 when nothing is."""
    total, known = 0.0, 0
    for load in loads:
        if load.service_s:
            total += load.service_s
            known += 1
    return total / known if known else 1.0


def tolerable_wait_s(service_s: float) -> float:
    """How long requests may wait as a rule, where nobody has said how patient they are."""
    return max(TOLERABLE_S, TOLERABLE_SERVICES * service_s)


def usual_most(loads: Sequence[Load]) -> float:
    """What a new instance should have at once: as many as its peers, for the instances of a
    backend are alike, or a cautious number until one of them has answered."""
    return max((load.most for load in loads if load.slots), default=MOST_OF_NEW)


def most_at_once(slots: float, service_s: float) -> float:
    """How many requests an instance should have at once; infinite while `slots` is 0.

    One for each slot, and as many more as keep the slots busy while an answer and the next
    request are under way.
    """
    if not slots:
        return math.inf
    if not service_s or slots * TURNAROUND_S < service_s:
        return slots
    return slots + min(slots * TURNAROUND_S // service_s, max(slots, MOST_AHEAD))


def choose(balance: str, loads: Sequence[Load], turn: int, now: float, ahead: int = 0) -> int:
    """The index in `loads` of the instance for one more request; -1 when none has room.

    `turn` counts up with each choice from a random start: it breaks ties by rotation, is the
    position of `round_robin` and the chance of `random`. Room is up to what each should have
    at once and `ahead` more, at most its `limit`; but within that a worker may always send one,
    for what it knows of the others is old.
    """
    count = len(loads)
    if not count:
        return -1
    least_loaded = balance == "least_loaded" and count > 1
    start = turn % count if balance != "random" else (scrambled(turn) * count) >> 64
    best, least, shunned, least_busy = -1, 0.0, False, 0.0
    usual_s = much_sooner = 0.0
    order: list[int] = [*range(start, count), *range(start)]
    for index in order:
        load = loads[index]
        in_flight = load.in_flight
        occupied = load.occupied(now) if load.reported_at else in_flight + load.others
        most = load.most + ahead
        if load.is_new and most == math.inf:
            most = usual_most(loads)
        if load.weight < 1.0:
            most *= load.weight
        if in_flight < load.limit and (occupied < most or not in_flight):
            if not least_loaded:
                return index
            slots = load.slots
            busy = occupied / slots if slots else occupied
            avoid = load.shunned_until > now
            if (
                busy >= least_busy
                and avoid == shunned
                and best >= 0
                and (load.service_s if slots else load.base_s) >= much_sooner
                and (in_flight or now - load.learned_at <= FORGET_S)
            ):
                continue  # it could only win by being much sooner, and even alone it is not
            if not load.service_s and not usual_s:
                usual_s = usual_service_s(loads)
            delay = load.delay(now, occupied, usual_s)
            if best < 0:
                better = True
            elif avoid != shunned:
                better = shunned
            elif load.samples < JUDGED or loads[best].samples < JUDGED:
                better = busy < least_busy
            elif delay < least:
                better = delay < least * ALIKE - ALIKE_S or busy < least_busy
            else:
                better = busy < least_busy and least >= delay * ALIKE - ALIKE_S
            if better:
                best, least, shunned, least_busy = index, delay, avoid, busy
                much_sooner = least * ALIKE - ALIKE_S
    return best


def scrambled(turn: int) -> int:
    """`turn` as a number in [0, 2^64) that looks like chance (splitmix64, Steele 2014)."""
    z = turn * _STEP & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
