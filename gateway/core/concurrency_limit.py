"""How many requests should an instance have at once that does not say so itself?

The concurrency limit adapts: it is learned from how waiting grows, never from how long requests
take: a mix of short and long ones is no queue. Three kinds of evidence, each of which says what it
can:

* Who is answered while others, sent before it, are still there has overtaken them, and an
  instance that works in order overtakes nobody beyond its slots. So a request that was sent
  among n, of which d had left when it was answered, proves *room* for n - d. Requests that
  were sent within proven room did not wait: they are what the others are compared with.
* In an instance that is full even the quickest answers wait. Only when the low quantile of
  many answers has grown beyond a tolerable wait is there any suspicion.
* Waiting grows with the number that waits (Little's law): twice as many, twice as long. A
  mix that has changed, or an instance that works more slowly, does not answer sooner when it
  is sent less. So a limit is proven by an experiment alone: half as many are let in, and the
  low quantile follows. What does not follow is undone, and tried again later each time.

While an experiment lasts requests wait, and none is refused for it. A proof is good for
seconds. While requests wait it is renewed by letting in more for a moment; what is not renewed
lapses, without any answer. Who must not wait for an unproven limit is said by `core.queueing`.

The pieces are known: the low quantile from CoDel (Nichols and Jacobson 2012), cycles of more and
less from BBR (Cardwell et al. 2016), limits from the growth of latency from TCP Vegas (Brakmo
and Peterson 1995).
"""

import math
from typing import Final

from gateway.core.crowding import (
    DOUBT_S,
    DOUBTED_S,
    NO_LEVEL,
    ROUND,
    Level,
    followed,
    grew,
    hiccup_at,
    level_of,
    low,
    tolerable_wait_s,
)
from gateway.core.shared_load import Decision, Sample

TARGET: Final = 0.5  # of the tolerable wait, at which a proven limit aims
VERDICT: Final = 10
BASE: Final = 8  # answers without waiting that say how long one takes
ROOM_S: Final = 5.0  # room that was proven counts for at least as long, at most twice
PROVEN_S: Final = 2.0  # a proof, before it is renewed
LESS: Final = 0.5  # what an experiment leaves of a suspicious crowd
MORE: Final = 1.5
BEYOND: Final = 1.5  # times as many as there were before an experiment may be there in it
PEERS: Final = 2.0  # times the limit of its peers, for one of which nothing is known
FAR: Final = 8.0  # times the proven limit, at which it is given up
TRIAL_S: Final = 0.5  # least time for an experiment
SAME_LEAST: Final = 0.85  # between these times as many nothing can be told
SAME_MOST: Final = 1.2
SUSPECTED: Final = 3  # rounds in a row, before an experiment keeps requests waiting
RETRY_S: Final = 1.0  # after an experiment that was undone; twice as long after the next one
MAX_RETRY_S: Final = 32.0


class Peers:
    """What the instances of one backend tell each other: until when one of them is known to be
    full. What it gets no more the others get, so that who seems full as well is tried at once.

    And until when one of them is limited at all, and to how many: they are alike as a rule, so
    that not all that it gets no more is poured over one of which nothing is known yet.
    """

    __slots__ = ("limit", "limited_until", "proven_until")

    def __init__(self) -> None:
        self.proven_until = 0.0
        self.limited_until = 0.0
        self.limit = 0.0

    def limited(self, now: float, limit: float, until: float) -> None:
        """One of them gets at most `limit` until then."""
        self.limit = limit if now >= self.limited_until else max(limit, self.limit)
        self.limited_until = max(until, self.limited_until)

    def guess(self, now: float) -> float:
        """How many one should have at once of which nothing is known."""
        return PEERS * self.limit if now < self.limited_until else math.inf


class ConcurrencyLimit:
    """The learned limit of one instance; infinite while nothing is proven or tried.

    `base_s` is how long a quick request takes that does not wait, `alone_s` how long one of
    those takes on average.
    """

    __slots__ = (
        "_base", "_base_before_s", "_before", "_crowded", "_earlier", "_is_led", "_led_most",
        "_present", "_retry_at", "_retry_s", "_room", "_room_before", "_room_until", "_samples",
        "_since", "_sure", "_suspected", "_suspected_from", "_until", "alone_s", "base_s", "limit",
        "peers", "proven_until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.limit = math.inf
        self.base_s = 0.0
        self.alone_s = 0.0
        self.proven_until = 0.0
        self.peers = Peers()
        self._room = self._room_before = 0.0
        self._room_until = 0.0
        self._base: list[float] = []
        self._base_before_s = 0.0  # before it was raised for an experiment that was undone
        self._samples: list[Sample] = []
        self._earlier: list[Sample] = []
        self._crowded: list[Sample] = []
        self._present = 0.0  # how many were there when the last experiment began
        self._since = -math.inf  # answers to what was sent before tell of another limit
        self._until = math.inf  # when the limit lapses
        self._before: Level | None = None  # an experiment: how it was without it
        self._is_led = False  # by another worker, which says `_led_most`
        self._led_most = 0.0
        self._sure = math.inf  # the limit that was proven last
        self._suspected = 0
        self._suspected_from = math.inf
        self._retry_at = 0.0
        self._retry_s = RETRY_S

    @property
    def room(self) -> float:
        """The number of requests that were proven to be computed at once lately."""
        return max(self._room, self._room_before, 1.0)

    @property
    def is_waited_at(self) -> bool:
        """Whether requests seem to wait at the instance."""
        return self._suspected > 0 or self.limit < math.inf

    def is_proven(self, now: float) -> bool:
        """Whether requests are known to wait at the instance when it has more than the limit."""
        return now < self.proven_until

    def is_guessed(self, now: float) -> bool:
        """Whether nothing proves that there is a limit: neither here, nor at its peers."""
        return self._sure == math.inf and now >= self.peers.proven_until

    def limit_rather_than_refuse(self, now: float) -> float:
        """How many may be there rather than be refused: the limit where it is proven, else some
        more than there were before it was tried."""
        if self._is_led:
            return max(self.limit, self._led_most)
        if now < self.proven_until or self._before is None:
            return self.limit
        if now < self.peers.proven_until:
            return self.limit  # what the others are refused must not all come here
        return BEYOND * max(self.limit, self._before.crowd, self._present)

    def lapse(self, now: float) -> bool:
        """Gives up a limit for which there is no evidence any more; whether it did."""
        if now < self._until:
            return False
        before = self._before
        if self._is_led:
            self._open(now)
        elif before is not None and (
            now < self.peers.proven_until or self.limit < FAR * self._sure < math.inf
        ):
            # It was full a moment ago, or a peer: not at once to where all that wait would go.
            self._try(now, before, 2.0 * max(self.limit, before.crowd))
        else:
            self._open(now)
        return True

    def answered(self, now: float, sample: Sample) -> None:
        """Learns from an answer that came a moment ago."""
        self._is_led = False
        elapsed_s = sample.elapsed_s
        self._prove_room(now, sample.room)
        if sample.occupied <= self.room:
            self._learn_base(elapsed_s)
        elif not self.base_s:
            self.base_s = elapsed_s
        if self._before is None:
            self._present = sample.present
        if sample.at - elapsed_s < self._since:
            if self._before is not None:
                self._crowded.append(sample)
            return
        self._samples.append(sample)
        if len(self._samples) >= (ROUND if self._before is None else VERDICT):
            self._judge(now)

    def decision(self, now: float) -> Decision:
        """What other workers are to keep to."""
        before = self._before or NO_LEVEL
        return Decision(
            self.limit, self.limit_rather_than_refuse(now), self._until, self.proven_until,
            self._sure, self.base_s, self._base_before_s, self.alone_s, self.room, self._suspected,
            *before, self._since, self._present, self._retry_at, self._retry_s,
        )  # fmt: skip

    def adopt(self, now: float, decision: Decision) -> None:
        """Keeps to what another worker has decided; who leads next goes on from there."""
        if decision.since != self._since:
            self._samples.clear()
            self._earlier = []
            self._crowded.clear()
        self.limit, self._led_most, self._until, self.proven_until, self._sure = decision[:5]
        self.base_s, self._base_before_s, self.alone_s, self._room_before, suspected = decision[
            5:10
        ]
        crowd, low_s, self._since, self._present, self._retry_at, self._retry_s = decision[10:]
        self._suspected = int(suspected)
        self._suspected_from = min(now, self._suspected_from) if suspected else math.inf
        self._before = Level(crowd, low_s) if crowd else None
        self._is_led = True
        if now < self.proven_until:
            self.peers.proven_until = max(self.proven_until, self.peers.proven_until)
        if self.limit < math.inf:
            self.peers.limited(now, self.limit, self._until)

    def _prove_room(self, now: float, room: float) -> None:
        if now >= self._room_until:
            self._room_before = self._room if now < self._room_until + ROOM_S else 0.0
            self._room = 0.0
            self._room_until = now + ROOM_S
        if room > self._room:
            self._room = room

    def _learn_base(self, elapsed_s: float) -> None:
        self.alone_s += (elapsed_s - self.alone_s) * 0.1 if self.alone_s else elapsed_s
        self._base.append(elapsed_s)
        if len(self._base) >= BASE:
            self.base_s = low(self._base)
            self._base_before_s = 0.0
            self._base.clear()
        elif not self.base_s or elapsed_s < self.base_s:
            self.base_s = elapsed_s

    def _judge(self, now: float) -> None:
        samples, self._samples = self._samples, []
        stuck = max(0.0, min([each.room for each in samples]))
        level = level_of(samples, stuck)
        allowed_s = self.base_s + tolerable_wait_s(self.base_s)
        if self._before is not None:
            self._conclude(now, self._before, level, stuck)
        elif self.limit == math.inf:
            self._suspect(now, samples, level, stuck, allowed_s)
        else:
            self._renew(now, level, stuck, allowed_s)

    def _suspect(
        self, now: float, samples: list[Sample], level: Level, stuck: float, allowed_s: float
    ) -> None:
        """Nothing is limited: do requests wait?"""
        self._earlier = [*self._earlier[-2 * ROUND :], *samples]
        if level.low_s <= allowed_s or 0.9 * (level.crowd + stuck) <= self.room + 1.0:
            self._suspected = 0
            self._suspected_from = math.inf
            if now >= self._retry_at:
                self._retry_s = RETRY_S
            return
        self._suspected += 1
        self._suspected_from = min(now, self._suspected_from)
        hiccup = hiccup_at(self._earlier)
        # One that answers in batches, or on a machine that is short, pauses again and again.
        if hiccup < self._suspected_from + DOUBTED_S - DOUBT_S:
            self._retry_at = max(self._retry_at, hiccup + DOUBT_S)
        is_likely = self._suspected >= SUSPECTED or grew(self._earlier, stuck, allowed_s)
        if now < self.peers.proven_until or (is_likely and now >= self._retry_at):
            # Those who are there leave first, which takes as long as Little's law says.
            drain_s = (self._present - stuck) * level.low_s / level.crowd
            self._try(now, level, stuck + LESS * level.crowd)
            self._until += drain_s

    def _renew(self, now: float, level: Level, stuck: float, allowed_s: float) -> None:
        """A limit is there: is it still the right one?"""
        is_binding = level.crowd + stuck > 0.7 * self.limit
        wanted = stuck + level.crowd * max(LESS, allowed_s / level.low_s)
        if level.low_s > allowed_s and max(wanted, self.room + 1.0) < 0.8 * self.limit:
            self._try(now, level, wanted)
        elif is_binding and level.low_s < 0.7 * allowed_s:
            self._set(now, 1.25 * self.limit + 1.0, level.low_s)
        elif is_binding and now >= self.proven_until - PROVEN_S / 2 - level.low_s:
            self._try(now, level, MORE * self.limit + 1.0)

    def _conclude(self, now: float, before: Level, level: Level, stuck: float) -> None:
        """An experiment is over: did the answers follow?"""
        is_less = self.limit < before.crowd
        # What was sent last before it is what to compare with, if the crowd had grown by then.
        if len(self._crowded) >= VERDICT:
            last = level_of(self._crowded[-VERDICT:], stuck)
            if last.crowd > before.crowd:
                before = last
        ratio = level.crowd / before.crowd
        if ratio > SAME_LEAST if is_less else ratio < SAME_MOST:
            return  # it made no difference yet
        self._before = None
        follows = followed(before, level)
        if follows is None:
            self._set(now, min(self._sure, self.limit), level.low_s)
        elif follows and not is_less and self._sure < math.inf:
            self._prove(now, before, self._sure)
        elif follows:
            self.base_s = self._base_before_s or self.base_s
            target_s = self.base_s + TARGET * tolerable_wait_s(self.base_s)
            crowd = min(before.crowd, level.crowd * target_s / level.low_s)
            self._prove(now, level, stuck + crowd)
        elif self._sure < math.inf and self.limit < FAR * self._sure:
            # It was proven: a contradiction may be chance, and a larger step makes it plain.
            self._try(now, level, MORE * self.limit)
        else:
            self._base_before_s = self._base_before_s or self.base_s
            self.base_s = max(self.base_s, level.low_s)
            self._open(now)
            self._retry_at = now + self._retry_s
            self._retry_s = min(2.0 * self._retry_s, MAX_RETRY_S)

    def _prove(self, now: float, level: Level, limit: float) -> None:
        self.proven_until = now + PROVEN_S + 2.0 * level.low_s
        self.peers.proven_until = self.proven_until
        self._before = None
        self._set(now, limit, level.low_s)
        self._sure = self.limit

    def _try(self, now: float, level: Level, limit: float) -> None:
        self._before = level
        self._set(now, limit, level.low_s)

    def _set(self, now: float, limit: float, low_s: float) -> None:
        """From now on at most `limit`; never less than there is proven room for, and one more
        that finds out whether there is more."""
        self.limit = max(limit, self.room + 1.0)
        self._since = now
        self._until = max(self.proven_until, now + TRIAL_S + 3.0 * low_s)
        if limit < math.inf:
            self.peers.limited(now, self.limit, self._until)
        self._samples.clear()
        self._earlier = []
        self._crowded.clear()

    def _open(self, now: float) -> None:
        self._set(now, math.inf, 0.0)
        self._until = self._sure = math.inf
        self.proven_until = 0.0
        self._before = None
        self._suspected = 0
