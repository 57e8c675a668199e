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

A request is written down before it is admitted. A worker that dies in between takes at most that
one with it, and the kernel gives back its locks, its lane, and so what it had in flight.
"""

import fcntl
import mmap
import os
import struct
from hashlib import blake2b

from gateway.core.entries import Limits
from gateway.core.rate_limit import part, policy

PLACES = 1 << 18
NEAR = 64  # places at which a bucket may be
BEGIN = 1 << 39  # in the memory, far behind what else is in it
LOCKS = 1 << 61  # of the bytes that are locked, far behind what else is
DIRECTORY, LANES = LOCKS + (1 << 50), LOCKS + (1 << 51)
TRIES = 50
LOOK_S = 0.05  # between two looks for workers that have ended
SMALL = 10  # a limit of so many times what would be left unused is counted under a lock
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

    def bucket(self, kind: str, name: str, limits: Limits) -> "Bucket":
        """The bucket of a `kind` of thing called `name`; it goes on under changed limits."""
        return Bucket(self, blake2b(f"{kind}\0{name}".encode(), digest_size=12).digest(), limits)

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


class Bucket:
    """One bucket, as this worker sees it. `left` and `full_at` are what the last request left."""

    __slots__ = (
        "_all", "_burst", "_cost_s", "_gateways", "_is_locked", "_key", "_most", "_part", "_policy",
        "_word", "full_at", "has_rate", "left", "limits", "place",
    )  # fmt: skip

    def __init__(self, buckets: Buckets, key: bytes, limits: Limits) -> None:
        self._all = buckets
        self._key = key
        self._word = int.from_bytes(key[:8], "big") | 1
        self.place = -1
        self.limits = limits
        self._take_part()
        self.left = self._part.burst
        self.full_at = 0.0

    def _take_part(self) -> None:
        """Goes by this gateway's part of the limits from now on."""
        buckets = self._all
        self._gateways = buckets.gateways
        self._part = limits = part(self.limits, buckets.gateways)
        self._policy = b""
        few = SMALL * buckets.margin
        most = limits.in_flight
        self.has_rate = limits.requests is not None
        self._is_locked = buckets.margin > 0 and (
            (self.has_rate and limits.burst <= few) or (most is not None and most <= few)
        )
        spared = 0 if self._is_locked else buckets.margin
        self._burst = limits.burst - spared
        self._most = None if most is None else most - spared
        self._cost_s = limits.emission_s

    def enter(self, now: float) -> None:
        """Admits one request, which is in flight until `leave`. OverLimit; Busy."""
        buckets = self._all
        if self._gateways != buckets.gateways:
            self._take_part()
        place = self.place
        if place < 0 or buckets.directory[place] != self._word:
            place = self.place = buckets.find(self._key, now)
        if not self._is_locked:
            self._decide(place, now)
            return
        buckets.lock(LOCKS + place)
        try:
            self._decide(place, now)
        finally:
            buckets.unlock(LOCKS + place)

    def _decide(self, place: int, now: float) -> None:
        buckets = self._all
        at = place * buckets.stride
        lane, lanes, seconds = buckets.lane, buckets.lanes, buckets.seconds
        full_at = 0.0
        if self.has_rate:
            all_lanes = buckets.unpack(buckets.records, at * _WORD)
            taken = sum(all_lanes[:lanes])
            full_at = max(all_lanes[lanes:]) + taken
            is_full = full_at < now
            if is_full:
                full_at = now
            cost_s = self._cost_s
            left = self._burst - (full_at - now) / cost_s - 1.0
            if left < -1e-6:
                self.left, self.full_at = 0, full_at
                raise OverLimit(max(1e-3, -left * cost_s))
        if self._most is not None:
            self._count(place, now)
        if self.has_rate:
            if is_full:
                seconds[at + lanes + lane] = now - taken
            seconds[at + lane] += cost_s
            self.left, self.full_at = int(left + 1e-6), full_at + cost_s

    def _count(self, place: int, now: float) -> None:
        buckets = self._all
        assert self._most is not None
        if buckets.in_flight(place) >= self._most:
            buckets.look(now)
            if buckets.in_flight(place) >= self._most:
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
        if self._most is not None:
            self._add(self.place, -1)

    def undo(self) -> None:
        """As if the request that was admitted just now had not come."""
        self.leave()
        if self.has_rate:
            buckets = self._all
            at = self.place * buckets.stride + buckets.lane
            buckets.seconds[at] -= self._cost_s

    def look(self, now: float) -> None:
        """Has `left` and `full_at` say what there is now. Takes nothing."""
        buckets, place = self._all, self.place
        if self.has_rate and place >= 0 and buckets.directory[place] == self._word:
            self.full_at = max(now, buckets.full_at(place))
            left = self._burst - (self.full_at - now) / self._cost_s
            self.left = max(0, int(left + 1e-6))

    def policy(self, name: bytes) -> bytes:
        """The line that tells clients of this limit, by that name."""
        if not self._policy:
            self._policy = policy(self._part, name)
        return self._policy

    def wait_s(self, now: float) -> float:
        """How long a request that comes now would have to wait; 0 if it need not, or if that is
        not known here. Takes nothing."""
        buckets, place = self._all, self.place
        if not self.has_rate or place < 0 or buckets.directory[place] != self._word:
            return 0.0
        full_at = max(now, buckets.full_at(place))
        return max(0.0, full_at - now - (self._burst - 1) * self._cost_s)
