"""Where do the workers of a gateway count together what a consumer or a route may have?

In memory that the supervisor made and every worker maps: a directory, and a record for each
bucket (`gateway.core.rate_limit` says what it means). Each worker has a *lane* in every record,
which it alone writes: the seconds of the rate that its requests took, since when the bucket was
full as it saw it, how many it has in flight. The state of the bucket is the sum of the first, on
the latest of the second; all read all lanes.

No more than the limit are admitted although nobody waits for anybody: a worker makes one
decision at a time, so between its look and its word the others may have admitted at most one
request each of which nothing is written yet. A request is admitted only if the bucket holds one
for each of them beside its own. Of a small limit that would be too much to leave: there a lock
on one byte of the memory's file makes one decision of all, and the whole limit is used.

A worker that is alone knows what is in a record: it wrote that. It looks whether it still is, and
only writes. One that comes says so before its first decision, and finds all there is.

A request is written down before it is admitted. A worker that dies in between takes at most that
one with it, and the kernel gives back its locks, its lane, and so what it had in flight.
"""

import fcntl
import mmap
import os
import struct
from hashlib import blake2b

from gateway.core.entries import Limits
from gateway.core.rate_limit import Terms

PLACES = 1 << 18
NEAR = 64  # places at which a bucket may be
BEGIN = 1 << 39  # in the memory, far behind what else is in it
LOCKS = 1 << 61  # of the bytes that are locked, far behind what else is
DIRECTORY, LANES = LOCKS + (1 << 50), LOCKS + (1 << 51)
TRIES = 50
LOOK_S = 0.05  # between two looks for workers that have ended, where something depends on them
SELDOM_S = 1.0  # where nothing does
_COUNT = (1 << 20) - 1
_WORD = 8


class Busy(Exception):
    """Another worker decides at this moment, or was stopped while it did: to be asked again."""


class OverLimit(Exception):
    """The bucket is empty for `wait_s` seconds, or, where that is 0, too many are in flight."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Buckets:
    """The records, in the shared memory `descriptor`; None: there are no other workers."""

    def __init__(self, descriptor: int | None, workers: int) -> None:
        self.file = descriptor
        self.lanes = max(4, 4 * workers)
        # While a worker is replaced there are two of it.
        self.margin = 0 if descriptor is None else 2 * workers - 1
        self._looked_at = 0.0
        self.gateways = 1
        """How many gateways divide each limit between them."""
        self.stride = 3 * self.lanes
        directory = (self.lanes + PLACES) * _WORD
        size = directory + PLACES * self.stride * _WORD
        # It stays mapped: to unmap it closes a descriptor, and that ends every lock there is.
        if descriptor is None:
            memory = memoryview(mmap.mmap(-1, size))
        else:
            memory = memoryview(mmap.mmap(descriptor, size, offset=BEGIN))
        self.epochs = memory[: self.lanes * _WORD].cast("Q")
        self.directory = memory[self.lanes * _WORD : directory].cast("Q")
        self.records = memory[directory:]
        self.unpack = struct.Struct(f"{2 * self.lanes}d").unpack_from
        self.unpack_counts = struct.Struct(f"{self.lanes}Q").unpack_from
        self.seconds = memory[directory:].cast("d")
        self.counts = memory[directory:].cast("Q")
        self.lane = self._claim()
        self.epoch = int.from_bytes(os.urandom(5), "big") | 1
        self.epochs[self.lane] = self.epoch
        alone = bytearray(_WORD * self.lanes)
        self.alone = memoryview(alone).cast("Q")
        """What `epochs` are while there is no other worker."""
        self.alone[self.lane] = self.epoch
        self.known = object()
        """Another one whenever what was known of records may be no longer so."""
        self._was_alone = True
        self._own: dict[int, Own] = {}
        self._terms: dict[tuple[str, Limits, int], Terms] = {}

    def bucket(self, kind: str, name: str, limits: Limits) -> "Bucket":
        """The bucket of a `kind` of thing called `name`; it goes on under changed limits."""
        key = blake2b(f"{kind}\0{name}".encode(), digest_size=12).digest()
        return Bucket(self, kind, key, limits)

    def terms(self, kind: str, limits: Limits) -> Terms:
        """What `limits` of a `kind` of thing come to now."""
        key = (kind, limits, self.gateways)
        found = self._terms.get(key)
        if found is None:
            if len(self._terms) >= PLACES:
                self._terms.clear()
            found = Terms(limits, kind.encode(), self.gateways, self.margin)
            self._terms[key] = found
        return found

    def is_alone(self, now: float) -> bool:
        """Whether there is no other worker. One that comes is seen before it decides anything."""
        is_alone = self.epochs == self.alone
        if not is_alone and now - self._looked_at > SELDOM_S:
            self.look(now)
            is_alone = self.epochs == self.alone
        if is_alone != self._was_alone:
            self._was_alone = is_alone
            self.known = object()
        return is_alone

    def own(self, place: int) -> "Own":
        """What is known of the record at `place` while this worker is alone."""
        own = self._own.get(place)
        if own is None:
            own = self._own[place] = Own(place * self.stride + self.lane)
        if own.known is not self.known:
            at = own.at
            every = self.unpack(self.records, place * self.stride * _WORD)
            own.seconds = self.seconds[at]
            own.others = sum(every[: self.lanes]) - own.seconds
            own.since = max(every[self.lanes :])
            word = self.counts[at + 2 * self.lanes]
            own.flying = word & _COUNT if word >> 20 == self.epoch else 0
            own.known = self.known
        return own

    def lock(self, byte: int) -> None:
        """Holds `byte` until `unlock`; Busy if another worker does, for longer than it takes."""
        if self.file is None:
            return
        for _ in range(TRIES):
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError:
                continue
            return
        raise Busy

    def unlock(self, byte: int) -> None:
        if self.file is not None:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, byte)

    def find(self, key: bytes, now: float) -> int:
        """The place of `key`, taken if it is new. Busy."""
        word, first = int.from_bytes(key[:8], "big") | 1, int.from_bytes(key[8:], "big")
        near = [(first + step) % PLACES for step in range(NEAR)]
        for place in near:
            if self.directory[place] == word:
                return place
        self.lock(DIRECTORY)
        try:
            free = [place for place in near if not self.directory[place]]
            place = free[0] if free else self._idle(near, now)
            for other in near:  # somebody was quicker
                if self.directory[other] == word:
                    return other
            at = place * self.stride
            for lane in range(self.stride):
                self.counts[at + lane] = 0
            self._own.pop(place, None)
            if not free:
                self.known = object()  # other buckets were known to be there
            self.directory[place] = word
            return place
        finally:
            self.unlock(DIRECTORY)

    def _idle(self, near: list[int], now: float) -> int:
        """One of the places `near` whose bucket is full and has nothing in flight: to begin anew
        loses nothing. Busy if there is none."""
        for place in near:
            if self.full_at(place) <= now and not self.in_flight(place):
                return place
        raise Busy

    def full_at(self, place: int) -> float:
        """When the bucket at `place` is full again."""
        all_lanes = self.unpack(self.records, place * self.stride * _WORD)
        return float(max(all_lanes[self.lanes :]) + sum(all_lanes[: self.lanes]))

    def in_flight(self, place: int) -> int:
        """How many requests the workers that live have there."""
        at = (place * self.stride + 2 * self.lanes) * _WORD
        total = 0
        for lane, word in enumerate(self.unpack_counts(self.records, at)):
            if word and word & _COUNT and word >> 20 == self.epochs[lane]:
                total += word & _COUNT
        return total

    def look(self, now: float) -> None:
        """Finds out which workers have ended, if nobody did so lately."""
        if now - self._looked_at < LOOK_S or self.file is None:
            return
        self._looked_at = now
        for lane in range(self.lanes):
            if lane != self.lane and self.epochs[lane] and self._lock_lane(lane):
                self.epochs[lane] = 0
                self.unlock(LANES + lane)
                self.known = object()  # it may have written until it ended

    def _claim(self) -> int:
        for lane in range(self.lanes):
            if self._lock_lane(lane):
                return lane
        raise OSError("every lane of the buckets is taken")

    def _lock_lane(self, lane: int) -> bool:
        if self.file is None:
            return True
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LANES + lane)
        except OSError:
            return False
        return True


class Own:
    """What one worker that is alone has in a record, `at` its first word there: `seconds` of the
    rate, beside those of `others` that have ended; `since` when it was full; how many are `flying`.
    It is so while `known` is that of the buckets, and shared by all who count in that record."""

    __slots__ = ("at", "flying", "known", "others", "seconds", "since")

    def __init__(self, at: int) -> None:
        self.at = at
        self.known: object = None
        self.seconds = self.others = self.since = 0.0
        self.flying = 0


_NONE = Own(-1)


class Bucket:
    """One bucket, as this worker sees it. `left` and `full_at` are what the last request left."""

    __slots__ = (
        "_all", "_gateways", "_key", "_own", "_word", "full_at", "kind", "left", "limits", "place",
        "terms",
    )  # fmt: skip

    def __init__(self, buckets: Buckets, kind: str, key: bytes, limits: Limits) -> None:
        self._all = buckets
        self.kind = kind
        self._key = key
        self._word = int.from_bytes(key[:8], "big") | 1
        self.place = -1
        self._own = _NONE
        self.limits = limits
        self._take_part()
        self.left = self.terms.burst
        self.full_at = 0.0

    def _take_part(self) -> None:
        """Goes by this gateway's part of the limits from now on."""
        self._gateways = self._all.gateways
        self.terms: Terms = self._all.terms(self.kind, self.limits)

    def enter(self, now: float) -> bytes:
        """Admits one request, which is in flight until `leave`; the header lines that tell its
        client what is left. OverLimit; Busy."""
        buckets, own = self._all, self._own
        if self._gateways != buckets.gateways:
            self._take_part()
        if (
            own.known is buckets.known
            and buckets.epochs == buckets.alone
            and not self.terms.is_locked
        ):
            return self._decide_alone(own, now)
        place = self.place
        if place < 0 or buckets.directory[place] != self._word:
            place = self.place = buckets.find(self._key, now)
        if not self.terms.is_locked:
            return self._decide(place, now)
        buckets.lock(LOCKS + place)
        try:
            return self._decide(place, now)
        finally:
            buckets.unlock(LOCKS + place)

    def _decide(self, place: int, now: float) -> bytes:
        buckets = self._all
        if not buckets.is_alone(now):
            return self._decide_with_others(place, now)
        self._own = buckets.own(place)
        return self._decide_alone(self._own, now)

    def _decide_alone(self, own: Own, now: float) -> bytes:
        """As all who decide do; but what is read there is known here."""
        buckets, terms = self._all, self.terms
        at, cost_s = own.at, terms.cost_s
        full_at = taken = left = 0.0
        is_full = False
        if terms.has_rate:
            taken = own.others + own.seconds
            full_at = own.since + taken
            is_full = full_at < now
            if is_full:
                full_at = now
            left = self._left_for(full_at, now)
        most = terms.most
        if most is not None:
            if own.flying >= most:
                raise OverLimit(0.0)
            own.flying += 1
            buckets.counts[at + 2 * buckets.lanes] = (buckets.epoch << 20) + own.flying
        if terms.has_rate:
            if is_full:
                own.since = buckets.seconds[at + buckets.lanes] = now - taken
            own.seconds = buckets.seconds[at] = own.seconds + cost_s
        return self._noted(left, full_at + cost_s, now)

    def _decide_with_others(self, place: int, now: float) -> bytes:
        buckets, terms = self._all, self.terms
        at, lanes, seconds = place * buckets.stride, buckets.lanes, buckets.seconds
        at_own, cost_s = at + buckets.lane, terms.cost_s
        full_at = taken = left = 0.0
        is_full = False
        if terms.has_rate:
            all_lanes = buckets.unpack(buckets.records, at * _WORD)
            taken = sum(all_lanes[:lanes])
            full_at = max(all_lanes[lanes:]) + taken
            is_full = full_at < now
            if is_full:
                full_at = now
            left = self._left_for(full_at, now)
        if terms.most is not None:
            self._count(place, terms.most, now)
        if terms.has_rate:
            if is_full:
                seconds[at_own + lanes] = now - taken
            seconds[at_own] += cost_s
        return self._noted(left, full_at + cost_s, now)

    def _noted(self, left: float, full_at: float, now: float) -> bytes:
        self.left, self.full_at = int(left + 1e-6), full_at
        return self.terms.lines(self.left, full_at - now)

    def _left_for(self, full_at: float, now: float) -> float:
        """How many there are beside one that is admitted now. OverLimit."""
        terms = self.terms
        left: float = terms.burst - (full_at - now) / terms.cost_s - 1.0
        if left < -1e-6:
            self.left, self.full_at = 0, full_at
            raise OverLimit(max(1e-3, -left * terms.cost_s))
        return left

    def _count(self, place: int, most: int, now: float) -> None:
        buckets = self._all
        if buckets.in_flight(place) >= most:
            buckets.look(now)
            if buckets.in_flight(place) >= most:
                raise OverLimit(0.0)
        self._add(place, 1)

    def _add(self, place: int, more: int) -> None:
        buckets = self._all
        at = place * buckets.stride + 2 * buckets.lanes + buckets.lane
        word = buckets.counts[at]
        count = word & _COUNT if word >> 20 == buckets.epoch else 0
        buckets.counts[at] = buckets.epoch << 20 | max(0, count + more)

    def leave(self) -> None:
        """One request that was admitted here is over."""
        if self.terms.most is None:
            return
        buckets, own = self._all, self._own
        if own.known is not buckets.known:
            self._add(self.place, -1)
        elif own.flying > 0:
            own.flying -= 1
            buckets.counts[own.at + 2 * buckets.lanes] = (buckets.epoch << 20) + own.flying

    def undo(self) -> None:
        """As if the request that was admitted just now had not come."""
        self.leave()
        if self.terms.has_rate:
            buckets, own = self._all, self._own
            at = self.place * buckets.stride + buckets.lane
            buckets.seconds[at] -= self.terms.cost_s
            if own.known is buckets.known:
                own.seconds = buckets.seconds[at]

    def look(self, now: float) -> None:
        """Has `left` and `full_at` say what there is now. Takes nothing."""
        buckets, place, terms = self._all, self.place, self.terms
        if terms.has_rate and place >= 0 and buckets.directory[place] == self._word:
            self.full_at = max(now, buckets.full_at(place))
            left = terms.burst - (self.full_at - now) / terms.cost_s
            self.left = max(0, int(left + 1e-6))

    def lines(self, now: float) -> bytes:
        """The header lines that tell a client what the last request left."""
        return self.terms.lines(self.left, self.full_at - now)

    def wait_s(self, now: float) -> float:
        """How long a request that comes now would have to wait; 0 if it need not, or if that is
        not known here. Takes nothing."""
        buckets, place, terms = self._all, self.place, self.terms
        if not terms.has_rate or place < 0 or buckets.directory[place] != self._word:
            return 0.0
        full_at = max(now, buckets.full_at(place))
        return max(0.0, full_at - now - (terms.burst - 1) * terms.cost_s)
