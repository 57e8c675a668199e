"""May this worker send one more request to an instance that takes few of them?

A large `max_in_flight` is shared out among the workers. A small one cannot be: nobody is left
with half a request, and a share would lie idle where the clients are with another worker. So
each request to such an instance takes a *turn*: a lock on one byte of a file that all workers
of the gateway have open. The kernel keeps the count, and gives back the turns of a worker
that dies. Who finds none is *next*, by one more byte: the others wait behind it, so that a
worker that never pauses leaves turns to the rest.

Nothing here waits: who got no turn asks again soon (`LiveBackend`).
"""

import fcntl
from collections.abc import Sequence
from hashlib import blake2b
from weakref import WeakValueDictionary

MOST_BITS = 12  # bytes of the file per instance: one for who is next, the others for turns
FEW = 8  # a limit up to this is counted in turns, whatever the number of workers


def is_few(max_in_flight: int, workers: int) -> bool:
    """Whether a limit is too small to be shared out."""
    return max_in_flight <= max(FEW, workers)


class Turns:
    """The turns at one instance; `held` are this worker's, by number."""

    __slots__ = ("__weakref__", "_base", "_file", "held", "is_next")

    def __init__(self, file: int | None, backend: str, address: str) -> None:
        self._file = file
        place = blake2b(f"{backend}\0{address}".encode(), digest_size=6).digest()
        # Two instances at one place would only wait for each other; there are 2^48 places.
        self._base = int.from_bytes(place, "big") << MOST_BITS
        self.held: list[int] = []
        self.is_next = False

    def take(self, most: int) -> bool:
        """Whether there was a turn, of `most` in all; it is this worker's until `give`."""
        if len(self.held) >= most:
            return False
        if not self.is_next:
            if not self._lock(0):
                return False
            self.is_next = True
        for number in range(1, most + 1):
            if number not in self.held and self._lock(number):
                self.held.append(number)
                self.resign()
                return True
        return False

    def give(self) -> None:
        """Gives one turn back, if there is any."""
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


class TurnsFile:
    """The turns of all instances, in `file`; None: there are no other workers."""

    def __init__(self, file: int | None) -> None:
        self._file = file
        # One object per instance, also while a removed one still finishes and is there again:
        # the kernel tells apart processes only.
        self._known: WeakValueDictionary[Sequence[str], Turns] = WeakValueDictionary()

    def at(self, backend: str, address: str) -> Turns:
        key = (backend, address)
        turns = self._known.get(key)
        if turns is None:
            turns = self._known[key] = Turns(self._file, backend, address)
        return turns
