"""How busy is one instance, as far as one worker knows?

What it has to do is what this worker sent and has not got back, what the other workers say, and
what the instance itself last reported; how long it takes is learned from its own answers. `Load`
is plain state that its owner updates: which of several instances gets a request is `balancing`.
"""

import math
from typing import Final

from gateway.core.concurrency_limit import ConcurrencyLimit
from gateway.core.shared_load import Sample, SharedLoad

# What is behind each, as of those of `balancing`.
FRESH_S: Final = 0.1  # while a report is newer than what the other workers say; no case
FADE_S: Final = 2.0  # after which a report says nothing more; no case
FORGET_S: Final = 10.0  # after which what an unused instance taught is tried anew; 2.5: 69, 85
LEARN: Final = 0.05  # the least weight of a new answer in the learned service time; no case
LEARN_CROWD: Final = 0.05  # no case
RELEARN: Final = 0.5  # its weight after FORGET_S without one; no case
MAX_SLOTS: Final = 65_536.0  # beyond it a report makes no sense
LOOK_S: Final = 0.001  # between two looks at what other workers have at an instance; no case
TURNAROUND_S: Final = 0.002  # from an instance's answer to its next request's arrival; no case
MAX_AHEAD: Final = 8.0  # requests sent ahead to an instance of few slots; no case
TOGETHER: Final = 0.25  # of the usual time between two answers: they are of a batch
BATCHES: Final = 2.5  # so many come together as a rule, by chance 1.3
UNLIMITED: Final = 1 << 62
_MAX_WAIT_S: Final = 5.0  # for which a report may keep requests away; no case


Sent = tuple[float, float]
"""How many requests were computed at an instance when one was sent, it included, and how many had
departed by then."""


class Load:
    """What one worker knows of one instance's load; lives as long as the instance does.

    `in_flight` counts this worker's own requests; `held` of them are there without being
    computed: tunnels, and streams whose first byte has come from an instance that does not say
    how much it computes. `others` counts what it computes for the other workers, and
    `others_departed` what it computes for them no more, as of the last `look`. `slots` is how many
    the instance computes at once and `service_s` how long one takes without waiting; 0.0 while
    unknown. `target` is how many it should compute at once. `weight` is below 1 during slow start.
    `limit` bounds `in_flight`, by configuration; with `is_fixed` that alone counts. `departed`
    counts the requests that are computed no more, however that came. `is_new` and `avoid_until`
    are what `gateway.core.health` says: nothing has come of it yet; until then it gets only what
    no other can take, and 0.0 once it has answered well.
    """

    __slots__ = (
        "alone_s", "avoid_until", "base_s", "concurrency", "crowd", "departed", "foreign", "held",
        "in_flight", "is_fixed", "is_new", "learned_at", "limit", "looked_at", "others",
        "others_departed", "reported_at", "run", "samples", "service_s", "shared", "slots",
        "target", "together", "wait_until", "weight",
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
        self.target = target_of(slots, service_s)
        self.limit = limit
        self.samples = 0
        self.is_new = True
        self.alone_s = service_s
        self.base_s = 0.0
        self.concurrency = ConcurrencyLimit()
        self.is_fixed = False
        self.shared: SharedLoad | None = None
        self.looked_at = 0.0
        self.others_departed = 0.0
        self.crowd = 0.0
        self.held = 0
        self.departed = 0
        self.learned_at = 0.0
        self.foreign = 0.0
        self.reported_at = 0.0
        self.wait_until = 0.0
        self.avoid_until = 0.0
        self.run = 1  # answers that came at once last
        self.together = 1.0  # and as a rule

    @property
    def computes_batches(self) -> bool:
        """Whether its answers come together, of those that it says to compute at once."""
        return self.together > BATCHES

    def sent(self, now: float) -> Sent:
        """Notes a request sent; gives what `answered` wants to know of that moment."""
        self.in_flight += 1
        shared = self.shared
        if shared is None:
            return self.occupied(now), self.departed
        shared.tell_first(self.in_flight - self.held)
        return self.occupied_now(now), self.departed + self.others_departed

    def done(self, is_held: bool = False) -> None:
        """Notes that a request is off the instance, however it ended."""
        self.in_flight -= 1
        if is_held:
            self.held -= 1
        else:
            self._depart()

    def stop_computing(self) -> None:
        """Notes that a request is there from now on without being computed."""
        self.held += 1
        self._depart()

    def _depart(self) -> None:
        self.departed += 1
        if self.shared is not None:
            self.shared.tell(self.in_flight - self.held, self.departed)

    def answered(self, now: float, elapsed_s: float, sent: Sent) -> None:
        """Learns from an answer that took `elapsed_s`, before `done` and `stop_computing` are told.

        `sent` is what `sent` gave. A failure, such as a 500, is not to be learned from: to fail
        is quick, and whoever fails quickly must attract nothing.
        """
        slots, occupied = self.slots, sent[0]
        sample = elapsed_s * slots / occupied if 0.0 < slots < occupied else elapsed_s
        self.samples = samples = self.samples + 1
        gain = 1.0 / samples if samples * LEARN < 1.0 else LEARN
        if now - self.learned_at > FORGET_S and gain < RELEARN:
            gain = RELEARN
        if slots > 1.0:
            if (now - self.learned_at) * slots < TOGETHER * self.service_s:
                self.run += 1
            else:
                self.together += (self.run - self.together) * 0.2
                self.run = 1
        self.service_s += (sample - self.service_s) * gain
        self.learned_at = now
        if slots:
            self.alone_s = self.service_s
            if not self.is_fixed:
                self.target = target_of(slots, self.service_s)
        else:
            self._feel(now, elapsed_s, sent)

    def lapse(self, now: float) -> bool:
        """Gives up a learned limit for which there is no evidence any more; whether it did."""
        if self.slots or self.target == math.inf or not self.concurrency.lapse(now):
            return False
        self.target = self.concurrency.limit
        return True

    def target_rather_than_wait(self, now: float) -> float:
        """How many may be computed at once before one waits for longer than a moment: as many as
        the instance can, as it says or as was seen; more while that is but a guess."""
        return (
            self.target
            if self.slots or self.is_fixed
            else self.concurrency.limit_rather_than_refuse(now)
        )

    def is_guessed(self, now: float) -> bool:
        """Whether requests are held back by no more than a guess."""
        if self.slots or self.is_fixed or self.target == math.inf:
            return False
        return self.concurrency.is_guessed(now)

    def learned_limit(self, now: float) -> int:
        """How many requests are sent there at most because more were seen to wait; 0 where that
        is not so."""
        if self.slots or self.is_fixed or not self.concurrency.is_proven(now):
            return 0
        return int(self.concurrency.limit)

    def fix(self, is_fixed: bool) -> None:
        """From now on the configured limit alone counts, or no more."""
        if is_fixed != self.is_fixed:
            self.is_fixed = is_fixed
            slots = 0.0 if is_fixed else self.slots
            self.target = target_of(slots, self.service_s)

    def _feel(self, now: float, elapsed_s: float, sent: Sent) -> None:
        """Feels for the room of an instance that does not report."""
        occupied, departed = sent
        self.crowd += (occupied - self.crowd) * LEARN_CROWD
        learned, shared = self.concurrency, self.shared
        if shared is None:
            room = occupied + departed - self.departed
            learned.answered(now, Sample(now, elapsed_s, occupied, room, self.occupied(now)))
        else:
            if now - self.looked_at > LOOK_S:
                self.look(now)
            room = occupied + departed - self.departed - self.others_departed
            if room > occupied:
                room = 0.0  # a worker has ended and took its departures out of the sum
            sample = Sample(now, elapsed_s, occupied, room, self.occupied(now))
            if shared.queue.leads(now):
                for each in shared.told():
                    learned.answered(now, each)
                learned.answered(now, sample)
                shared.decide(learned.decision(now))
            else:
                shared.pass_on(sample)
        self._keep_to_what_is_learned()

    def _keep_to_what_is_learned(self) -> None:
        learned = self.concurrency
        self.base_s = learned.base_s
        if not self.is_fixed:
            self.target = learned.limit
        self.alone_s = learned.alone_s if learned.is_waited_at else self.service_s

    def look(self, now: float) -> None:
        """Looks what the other workers have there, and what was learned."""
        shared = self.shared
        if shared is None:
            return
        shared.look()
        self.others, self.others_departed = shared.first, shared.second
        self.looked_at = now
        if not self.slots:
            decision = shared.decided()
            if decision is not None:
                self.concurrency.adopt(now, decision)
                self._keep_to_what_is_learned()

    def reported(
        self, now: float, queue: float, running: float, slots: float, wait_ms: float
    ) -> None:
        """Notes an ORCA report that came with an answer; call it before `done`.

        A report that makes no sense is not believed.
        """
        if not (
            0.0 <= queue < 1e9
            and 0.0 <= running < 1e9
            and 1.0 <= slots <= MAX_SLOTS
            and 0.0 <= wait_ms < 1e9
        ):
            return
        if slots != self.slots:
            self.slots = slots
            if not self.is_fixed:
                self.target = target_of(slots, self.service_s)
        # Its own requests this worker knows better, and later; and so the others theirs.
        foreign = queue + running - (self.in_flight - self.held)
        if self.shared is not None:
            if now - self.looked_at > LOOK_S:
                self.look(now)
            foreign -= self.others
        self.foreign = foreign if foreign > 0.0 else 0.0
        wait_s = wait_ms / 1000.0
        self.wait_until = now + (wait_s if wait_s < _MAX_WAIT_S else _MAX_WAIT_S)
        self.reported_at = now

    def occupied_now(self, now: float) -> float:
        """As `occupied`, after a look if the last one was a while ago."""
        if self.shared is not None and now - self.looked_at > LOOK_S:
            self.look(now)
        return self.occupied(now)

    def occupied(self, now: float) -> float:
        """Requests computed at the instance, as far as known: own, those of the other workers as
        they tell, and what else a report spoke of, which fades. Where there are none to tell, what
        was told is no more than a report says while that is fresh."""
        age = now - self.reported_at
        if self.shared is not None:
            known = self.in_flight - self.held + self.others
            if self.foreign and age < FADE_S:
                known += self.foreign if age < FRESH_S else self.foreign * (1.0 - age / FADE_S)
            return known
        if age < FRESH_S and self.reported_at:
            return self.in_flight - self.held + self.foreign
        others = self.others
        if self.foreign and age < FADE_S:
            foreign = self.foreign * (1.0 - age / FADE_S)
            if foreign > others:
                others = foreign
        return self.in_flight - self.held + others

    def delay(self, now: float, occupied: float, usual_s: float = 1.0) -> float:
        """Expected seconds until one more request would be answered.

        `usual_s` stands in while nothing is known of this instance. One that has not answered
        yet, or long ago, counts as instant, so that one request asks how it is now.
        """
        service_s = self.service_s
        if not service_s:
            if not self.in_flight and self.is_new:
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


def target_of(slots: float, service_s: float) -> float:
    """How many requests an instance should have at once; infinite while `slots` is 0.

    One for each slot, and as many more as keep the slots busy while an answer and the next
    request are under way.
    """
    if not slots:
        return math.inf
    if not service_s or slots * TURNAROUND_S < service_s:
        return slots
    return slots + min(slots * TURNAROUND_S // service_s, max(slots, MAX_AHEAD))
