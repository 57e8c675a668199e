"""A concurrency limiter shared by processes: how many requests an instance has from all workers.

A large `max_in_flight` is shared out among the workers. A small one cannot be: nobody is left
with half a request, and a share would lie idle where the clients are with another worker. So
each request to such an instance takes a *permit*: a lock on one byte of a file that all workers
of the gateway have open. The kernel keeps the count, and gives back the permits of a worker
that dies. Who finds none is *next*, by one more byte: the others wait behind it, so that a
worker that never pauses leaves permits to the rest.

Nothing here waits: who got no permit asks again soon (`LiveBackend`).
"""

import fcntl
from collections.abc import Sequence
from hashlib import blake2b
from weakref import WeakValueDictionary

PLACE_BITS = 12  # bytes of the file per instance: one for who is next, the others for permits
FEW = 8  # a limit up to this is counted in permits, whatever the number of workers


def is_few(max_in_flight: int, workers: int) -> bool:
    """Whether a limit is too small to be shared out."""
    return max_in_flight <= max(FEW, workers)


class Permits:
    """The permits at one instance; `held` are this worker's, by number."""

    __slots__ = ("__weakref__", "_base", "_file", "held", "is_next")

    def __init__(self, file: int | None, backend: str, address: str) -> None:
        self._file = file
        place = blake2b(f"{backend}\0{address}".encode(), digest_size=6).digest()
        # Two instances at one place would only wait for each other; there are 2^48 places.
        self._base = int.from_bytes(place, "big") << PLACE_BITS
        self.held: list[int] = []
        self.is_next = False

    def acquire(self, limit: int) -> bool:
        """Whether there was a permit, of `limit` in all; it is this worker's until `release`."""
        if len(self.held) >= limit:
            return False
        if not self.is_next:
            if not self._lock(0):
                return False
            self.is_next = True
        if not self.adopt(limit):
            return False
        self.resign()
        return True

    def adopt(self, limit: int) -> bool:
        """As `acquire`, without waiting to be next: for a request that was sent already, when
        nothing was counted."""
        if len(self.held) >= limit:
            return False
        for number in range(1, limit + 1):
            if number not in self.held and self._lock(number):
                self.held.append(number)
                return True
        return False

    def release(self) -> None:
        """Gives one permit back, if there is any."""
        if self.held:
            self._unlock(self.held.pop())

    def resign(self) -> None:
        """Lets somebody else be next."""
        if self.is_next:
            self.is_next = False
            self._unlock(0)

    def _lock(self, number: int) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._base + number)
        except OSError:
            return False
        return True

    def _unlock(self, number: int) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._base + number)


class PermitsFile:
    """The permits of all instances, in `file`; None: there are no other workers."""

    def __init__(self, file: int | None) -> None:
        self.file = file
        # One object per instance, also while a removed one still finishes and is there again:
        # the kernel tells apart processes only.
        self._known: WeakValueDictionary[Sequence[str], Permits] = WeakValueDictionary()

    def at(self, backend: str, address: str) -> Permits:
        key = (backend, address)
        permits = self._known.get(key)
        if permits is None:
            permits = self._known[key] = Permits(self.file, backend, address)
        return permits
