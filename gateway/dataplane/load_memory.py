"""Where do the workers of a gateway tell each other their load?

In memory that the supervisor made and every worker maps: a directory, and a block of numbers for
each instance and each backend's queue (`gateway.core.shared_load` says what they mean). Each
worker that lives has a *lane* in every block, held by a lock on one byte of the memory's file,
which the kernel gives back when the process ends. A worker says four times a second that it
runs; who has not done so for a while is stopped or dead, and what it had counts no more.
Who is stopped holds permits (`dataplane.permits`) that others may do without.

Nothing waits here, and there is no lock on the blocks. A worker finds the block of an instance by
a digest of its name, next to where that leads, and takes a free one where there is none. Two may
take the same one for different instances: the later one has it, and the other one looks again
the next time that it says that it runs.
"""

import fcntl
import mmap
from hashlib import blake2b

from gateway.core.shared_load import Shared, SharedLoad, SharedQueue, lane_at, size

PLACES = 1 << 15
NEAR = 64  # places at which an instance may be
ALIVE_S = 2.0
MIN_LANES = 16
_WORD = 8


class LoadMemory:
    """The blocks, in the shared memory `descriptor`; None: there are no other workers."""

    def __init__(self, descriptor: int | None, workers: int) -> None:
        self._lanes = max(MIN_LANES, 4 * workers)
        self._lane = self._claim(descriptor)
        self._others: list[int] = []
        self._stopped: list[int] = []
        self._memory = descriptor
        self._held: dict[bytes, tuple[int, Shared]] = {}
        self._newest = 0.0
        if self._lane is None or descriptor is None:
            return
        self._stride = size(self._lanes)
        self._empty = memoryview(bytes(_WORD * self._stride)).cast("d")
        cells = self._lanes + 1 + PLACES + PLACES * self._stride
        # It stays mapped: to unmap it closes a descriptor, and that ends every lock there is.
        memory = memoryview(mmap.mmap(descriptor, cells * _WORD))
        # When each last said that it runs, and when the newest of them said so first.
        self._beats = memory[: (self._lanes + 1) * _WORD].cast("d")
        blocks_at = (self._lanes + 1 + PLACES) * _WORD
        self.directory = memory[(self._lanes + 1) * _WORD : blocks_at].cast("Q")
        self._blocks = memory[blocks_at:].cast("d")
        self._sweep()

    def queue(self, backend: str) -> SharedQueue | None:
        """The queue of `backend` over all workers; None: it is this worker's alone."""
        if self._lane is None:
            return None
        key = _key(backend, "")
        held = self._held.get(key)
        if held is not None and isinstance(held[1], SharedQueue):
            return held[1]
        place = self._find(key)
        if place is None:
            return None
        queue = SharedQueue(self._block(place), self._lane, self._others)
        self._held[key] = place, queue
        return queue

    def load(self, backend: str, address: str) -> SharedLoad | None:
        """The load of an instance over all workers; None: this worker knows its own only."""
        queue = self.queue(backend)
        if queue is None or self._lane is None:
            return None
        key = _key(backend, address)
        place = self._find(key)
        if place is None:
            return None
        load = SharedLoad(self._block(place), self._lane, self._others, queue, self._stopped)
        self._held[key] = place, load
        return load

    def leave(self, backend: str, address: str = "") -> None:
        """Clears the block of an instance or a backend that this worker has no more."""
        held = self._held.pop(_key(backend, address), None)
        if held is not None and held[1].leave():
            # Whoever finds a free place may be one of several: none erases what another has told.
            self._blocks[held[0] * self._stride : (held[0] + 1) * self._stride] = self._empty
            self.directory[held[0]] = 0

    def beat(self, now: float) -> None:
        """Says that this worker runs, and looks which others do. To be called a few times a
        second."""
        if self._lane is None:
            return
        beats = self._beats
        is_first = not beats[self._lane]
        beats[self._lane] = now
        if is_first:  # after it: who sees that somebody is new sees who
            beats[self._lanes] = now
        self._newest = beats[self._lanes]
        lanes = [lane for lane in range(self._lanes) if lane != self._lane and beats[lane]]
        living = [lane_at(lane) for lane in lanes if beats[lane] > now - ALIVE_S]
        if living != self._others:
            self._others[:] = living
        silent = [lane for lane in lanes if beats[lane] <= now - ALIVE_S]
        if silent or self._stopped:
            self._stopped[:] = [lane_at(lane) for lane in silent if self._is_held(lane)]
        for key, (place, shared) in self._held.items():
            if self.directory[place] != _word(key):
                found = self._find(key)
                if found is not None:
                    self._held[key] = found, shared
                    shared.move(self._block(found))

    def notice(self, now: float) -> None:
        """Looks who runs, if somebody began to since the last time."""
        if self._lane is not None and self._beats[self._lanes] != self._newest:
            self.beat(now)

    def _claim(self, descriptor: int | None) -> int | None:
        if descriptor is None:
            return None
        for lane in range(self._lanes):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lane)
            except OSError:
                continue
            return lane
        return None  # so many are leaving still that this one does without

    def _is_held(self, lane: int) -> bool:
        """Whether the process of a lane is still there."""
        assert self._memory is not None
        try:
            fcntl.lockf(self._memory, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lane)
        except OSError:
            return True
        self._beats[lane] = 0.0  # nobody's
        fcntl.lockf(self._memory, fcntl.LOCK_UN, 1, lane)
        return False

    def _sweep(self) -> None:
        """Empties this lane of what a worker that has ended left in it."""
        assert self._lane is not None
        self._beats[self._lane] = 0.0
        for place in range(PLACES):
            if self.directory[place]:
                at = place * self._stride + lane_at(self._lane)
                self._blocks[at : at + lane_at(1) - lane_at(0)] = _EMPTY_LANE

    def _find(self, key: bytes) -> int | None:
        """The place of `key`, taken if it is new; None where all near it are others'."""
        word, first = _word(key), int.from_bytes(key[8:], "big")
        near = [(first + step) % PLACES for step in range(NEAR)]
        for place in near:
            if self.directory[place] == word:
                return place
        for place in near:
            if not self.directory[place]:
                self.directory[place] = word
                return place
        return None

    def _block(self, place: int) -> "memoryview[float]":
        return self._blocks[place * self._stride : (place + 1) * self._stride]


_EMPTY_LANE = memoryview(bytes(_WORD * (lane_at(1) - lane_at(0)))).cast("d")


def _key(backend: str, address: str) -> bytes:
    return blake2b(f"{backend}\0{address}".encode(), digest_size=12).digest()


def _word(key: bytes) -> int:
    return int.from_bytes(key[:8], "big") | 1  # 0: a free place
