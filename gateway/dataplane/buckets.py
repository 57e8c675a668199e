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

A worker that is alone knows what is in a record: it wrote that. It looks whether it still is, and
only writes. One that comes says so before its first decision, and finds all there is.

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
            memory = memoryview(mmap.mmap(-1, size))
        else:
            memory = memoryview(mmap.mmap(descriptor, size, offset=BEGIN))
        self.epochs = memory[: self.lanes * WORD].cast("Q")
        self.directory = memory[self.lanes * WORD : directory].cast("Q")
        self.records = memory[directory:]
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

    def own(self, place: int) -> "Own":
        """What is known of the record at `place` while this worker is alone."""
        own = self._own.get(place)
        if own is None:
            own = self._own[place] = Own(place * self.stride + self.lane)
        if own.known is not self.known:
            at = own.at
            taken, own.since = self.sums(place)
            own.seconds = self.seconds[at]
            own.others = taken - own.seconds
            word = self.counts[at + self.to_counts]
            own.flying = word & COUNT if word >> 20 == self.epoch else 0
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
        taken, since = self.sums(place)
        return since + taken

    def sums(self, place: int) -> tuple[float, float]:
        """The seconds of the rate that all lanes took at `place`, since the latest moment at which
        one of them saw the bucket full."""
        words: tuple[float, ...] = self.unpack(self.records, place * self.stride * WORD)
        return sum(words[: self.lanes]), max(words[self.lanes :])

    def in_flight(self, place: int) -> int:
        """How many requests the workers that live have there."""
        at = (place * self.stride + 2 * self.lanes) * WORD
        total = 0
        words: tuple[int, ...] = self.unpack_counts(self.records, at)
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
    """What one worker that is alone has in a record, `at` its first word there: `seconds` of the
    rate, beside those of `others` that have ended; `since` when it was full; how many are `flying`.
    It is so while `known` is that of the buckets, and shared by all who count in that record."""

    __slots__ = ("at", "flying", "known", "others", "seconds", "since")

    def __init__(self, at: int) -> None:
        self.at = at
        self.known: object = None
        self.seconds = self.others = self.since = 0.0
        self.flying = 0
