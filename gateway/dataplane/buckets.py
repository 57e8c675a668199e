"""Where do the workers of a gateway count together what a consumer or a route may have?

In memory that the supervisor made and every worker maps: a directory, and a record for each
bucket (`gateway.core.rate_limit` says what it means). Each worker has a *lane* in every record,
which it alone writes: the seconds of the rate that its requests took, since when the bucket was
full as it saw it, how many it has in flight. The state of the bucket is the sum of the first, on
the latest of the second; all read all lanes.

What is decided by that is `bucket`. No more than the limit are admitted although nobody waits for
anybody: a worker makes one decision at a time, so between its look and its word the others may
have admitted at most one request each of which nothing is written yet. A request is admitted only
if the bucket holds one for each of them beside its own. Of a small limit that would be too much to
leave: there a lock on one byte of the memory's file makes one decision of all, and the whole limit
is used.

A worker knows what it wrote of a record. One that is alone looks whether it still is, and only
writes; one that comes says so before its first decision, and finds all there is. Beside others it
looks whether their words are what they were, and adds up anew only if they are not: most clients
keep their connection, and so their worker.

A request is written down before it is admitted. A worker that dies in between takes at most that
one with it, and the kernel gives back its locks, its lane, and so what it had in flight.
"""

import fcntl
import mmap
import os
import struct
from typing import Final

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
COUNT: Final = (1 << 20) - 1
WORD: Final = 8


class Busy(Exception):
    """Another worker decides at this moment, or was stopped while it did: to be asked again."""


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
        directory = (self.lanes + PLACES) * WORD
        size = directory + PLACES * self.stride * WORD
        # It stays mapped: to unmap it closes a descriptor, and that ends every lock there is.
        if descriptor is None:
            self._memory = mmap.mmap(-1, size)
        else:
            self._memory = mmap.mmap(descriptor, size, offset=BEGIN)
        memory, self._begin = memoryview(self._memory), directory
        self.epochs = memory[: self.lanes * WORD].cast("Q")
        self.directory = memory[self.lanes * WORD : directory].cast("Q")
        self.unpack = struct.Struct(f"{2 * self.lanes}d").unpack_from
        self.unpack_counts = struct.Struct(f"{self.lanes}Q").unpack_from
        self.seconds = memory[directory:].cast("d")
        self.counts = memory[directory:].cast("Q")
        self.lane = self._claim()
        self.epoch = int.from_bytes(os.urandom(5), "big") | 1
        self.epochs[self.lane] = self.epoch
        self.ours = self.epoch << 20  # and below it how many are in flight
        self.to_counts = 2 * self.lanes
        alone = bytearray(WORD * self.lanes)
        self.alone = memoryview(alone).cast("Q")
        """What `epochs` are while there is no other worker."""
        self.alone[self.lane] = self.epoch
        self.known = object()
        """Another one whenever what was known of records may be no longer so."""
        self._was_alone = True
        self._own: dict[int, Own] = {}
        self._terms: dict[tuple[str, Limits, int], Terms] = {}

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

    def own(self, place: int, now: float) -> "Own":
        """What the record at `place` says now."""
        own = self._own.get(place)
        if own is None:
            own = self._own[place] = Own(place * self.stride + self.lane)
        beside = b""
        is_alone = self.is_alone(now)
        if not is_alone:
            record = self._record(place)
            beside = self._beside(record)
            if own.known is self.known and own.beside == beside:
                seconds: float = self.seconds[own.at]
                if own.seconds == seconds:  # or another worker gave the place away meanwhile
                    return own
        elif own.known is self.known:
            return own
        else:
            record = self._record(place)
        self._learn(own, record)
        own.known, own.is_alone, own.beside = self.known, is_alone, beside
        return own

    def _record(self, place: int) -> bytes:
        """The words of all lanes at `place`, as they are now."""
        begin = self._begin + place * self.stride * WORD
        words: bytes = self._memory[begin : begin + self.stride * WORD]
        return words

    def _beside(self, record: bytes) -> bytes:
        """What the other lanes wrote of `record`."""
        at, row = self.lane * WORD, self.lanes * WORD
        second, third = row + at, 2 * row + at
        return b"".join(
            (record[:at], record[at + WORD : second], record[second + WORD : third],
             record[third + WORD :])
        )  # fmt: skip

    def _learn(self, own: "Own", record: bytes) -> None:
        """What `record` says to `own`, of which it is the record."""
        words: tuple[float, ...] = self.unpack(record)
        counts: tuple[int, ...] = self.unpack_counts(record, 2 * self.lanes * WORD)
        others = since = 0.0
        flying = beside_flying = 0
        for lane in range(self.lanes):
            seen = words[self.lanes + lane]
            if seen > since:
                since = seen
            if lane != self.lane:
                others += words[lane]
            count = counts[lane] & COUNT
            if count and counts[lane] >> 20 == self.epochs[lane]:
                if lane == self.lane:
                    flying = count
                else:
                    beside_flying += count
        own.seconds, own.others, own.since = words[self.lane], others, since
        own.flying, own.beside_flying = flying, beside_flying

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
        words: tuple[float, ...] = self.unpack(self._record(place))
        return max(words[self.lanes :]) + sum(words[: self.lanes])

    def in_flight(self, place: int) -> int:
        """How many requests the workers that live have there."""
        total = 0
        words: tuple[int, ...] = self.unpack_counts(self._record(place), 2 * self.lanes * WORD)
        for lane, word in enumerate(words):
            count = word & COUNT
            if count and word >> 20 == self.epochs[lane]:
                total += count
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
    """What one worker knows of a record: its own `seconds` of the rate, and how many it has
    `flying`; those of the `others`, living or not, and the `beside_flying`; `since` when it was
    full. `at` is its own first word there.

    It is so while `known` is that of the buckets and either there is no other worker, `is_alone`,
    or what the others wrote there is `beside`. All who count in that record share it."""

    __slots__ = (
        "at", "beside", "beside_flying", "flying", "is_alone", "known", "others", "seconds",
        "since",
    )  # fmt: skip

    def __init__(self, at: int) -> None:
        self.at = at
        self.known: object = None
        self.is_alone = False
        self.seconds = self.others = self.since = 0.0
        self.flying = self.beside_flying = 0
        self.beside = b""
