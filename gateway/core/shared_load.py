"""What do the workers of one gateway know together of an instance's load?

Each of them has a *lane* of numbers that it alone writes and all read: how many of its requests
the instance computes, how many have departed, and the last answers from which a concurrency
limit can be learned. One of the workers *leads*: it learns from the answers of all and writes
down what it decided, and the others keep to it. So N workers see what one would see, and an
experiment with the limit is one experiment. Who leads has an answer now and then; once it has
had none for a while, or died, the next one that has leads on.

The numbers are float64 in memory that all workers map (a list, where there is none). Each is
written whole; a reader may see some of a group that are new and some that are old, and nothing
here needs more. Nothing is opened or mapped here (`gateway.dataplane.load_memory`).
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

LEASE_S: Final = 0.5  # without an answer, after which somebody else may lead
KEPT: Final = 16  # answers of a worker that wait for who leads


class Cells(Protocol):
    """The numbers of one instance, or of one backend's queue."""

    def __getitem__(self, at: int, /) -> float: ...
    def __setitem__(self, at: int, number: float, /) -> None: ...


class Sample(NamedTuple):
    """One answer: when it began; how long it took until then; how many were there when its
    request was sent, it included; for how many there was room, as it proves; and how many were
    there when it was answered."""

    at: float
    elapsed_s: float
    occupied: float
    room: float
    present: float


class Decision(NamedTuple):
    """What who leads has learned and tries, so that another one can go on with it: as the
    attributes of `concurrency_limit.ConcurrencyLimit`."""

    limit: float
    limit_rather_than_refuse: float
    until: float
    proven_until: float
    sure: float
    base_s: float
    base_before_s: float
    alone_s: float
    room: float
    suspected: float
    before_crowd: float
    before_low_s: float
    since: float
    present: float
    retry_at: float
    retry_s: float


HEAD: Final = 24  # cells before the first lane
_LEADER: Final = 0
_LEASED_UNTIL: Final = 1  # of a queue
_DECIDED: Final = 0  # of an instance: how often was decided; then the decision
_PRESENT: Final = 0
_FIRST: Final = 1
_COUNT: Final = 3  # of an instance
_NEXT_AT: Final = 3  # of a queue, and so are the next two
_SERVED: Final = 4
_CROWD: Final = 5
_RING: Final = 4
_NONE: Final = (0.0, 0.0)
_FIELDS: Final = len(Sample._fields)
LANE: Final = _RING + KEPT * _FIELDS


def size(lanes: int) -> int:
    """The number of cells for one instance or queue."""
    return HEAD + lanes * LANE


def lane_at(lane: int) -> int:
    """The first cell of a lane."""
    return HEAD + lane * LANE


class Shared:
    """Two sums over the lanes of `cells`: this worker's in `lane`, and those of the `others`,
    whose first cells that list says; `stopped` are those of workers that are there and do
    nothing. Both lists are kept up to date by whoever made them."""

    __slots__ = ("_lane", "_others", "_own", "_stopped", "cells", "first", "second")

    def __init__(
        self, cells: Cells, lane: int, others: Sequence[int], stopped: Sequence[int] = ()
    ) -> None:
        self._stopped = stopped
        self._lane = lane
        self._own = lane_at(lane)
        self._others = others
        self.first = self.second = 0.0
        self.move(cells)

    def move(self, cells: Cells) -> None:
        """From now on the numbers are in other cells."""
        self.cells = cells
        for at in range(self._own, self._own + LANE):
            cells[at] = 0.0
        cells[self._own + _PRESENT] = 1.0

    def leave(self) -> bool:
        """Clears what this worker has there; whether nobody has anything there now."""
        for at in range(self._own, self._own + LANE):
            self.cells[at] = 0.0
        return not any(self.cells[at + _PRESENT] for at in self._others)

    def tell(self, first: float, second: float) -> None:
        """Writes what this worker has."""
        cells, own = self.cells, self._own
        cells[own + 1] = first
        cells[own + 2] = second

    def tell_first(self, first: float) -> None:
        """As `tell`, where the second has not changed."""
        self.cells[self._own + 1] = first

    @property
    def own(self) -> tuple[float, float]:
        """What this worker has, as it told last."""
        return self.cells[self._own + 1], self.cells[self._own + 2]

    def look(self) -> None:
        """Reads what the others have."""
        cells = self.cells
        first = second = 0.0
        for at in self._others:
            first += cells[at + 1]
            second += cells[at + 2]
        self.first, self.second = first, second


class SharedQueue(Shared):
    """A backend's queue: `first` is how many wait in the other workers, `second` how many were
    refused there. And which worker leads, for all instances of the backend."""

    __slots__ = ()

    def tell_next(self, now: float) -> None:
        """Writes that somebody is next in turn here."""
        self.cells[self._own + _NEXT_AT] = now

    def tell_served(self, count: float) -> None:
        """Writes how many turns were had here."""
        self.cells[self._own + _SERVED] = count

    def tell_crowd(self, whose: float) -> None:
        """Writes by its number which name has the most waiting here; 0.0: none."""
        self.cells[self._own + _CROWD] = whose

    @property
    def others_next_at(self) -> float:
        """When somebody was next in turn last in another worker."""
        cells = self.cells
        return max([cells[at + _NEXT_AT] for at in self._others], default=0.0)

    @property
    def others_served(self) -> float:
        """How many turns were had in the other workers."""
        cells = self.cells
        return sum([cells[at + _SERVED] for at in self._others], 0.0)

    def longest(self) -> tuple[float, float]:
        """How many wait in the longest queue of the other workers, and who has the most in it."""
        cells = self.cells
        return max([(cells[at + _FIRST], cells[at + _CROWD]) for at in self._others], default=_NONE)

    def leads(self, now: float) -> bool:
        """Whether this worker leads, which has an answer now.

        Two may take over at once: both write, and only the later one finds itself there again.
        """
        cells, me = self.cells, self._lane + 1.0  # 0: nobody
        if cells[_LEADER] != me:
            if now < cells[_LEASED_UNTIL]:
                return False
            cells[_LEADER] = me
        cells[_LEASED_UNTIL] = now + LEASE_S
        return True


class SharedLoad(Shared):
    """An instance's load: `first` is how many requests of the other workers it computes, `second`
    how many of theirs have departed; as of the last `look`."""

    __slots__ = ("_read", "_version", "queue")

    def __init__(
        self,
        cells: Cells,
        lane: int,
        others: Sequence[int],
        queue: SharedQueue,
        stopped: Sequence[int] = (),
    ) -> None:
        self.queue = queue
        super().__init__(cells, lane, others, stopped)

    def move(self, cells: Cells) -> None:
        super().move(cells)
        self._read: dict[int, float] = {}
        self._version = 0.0

    def stalled(self) -> int:
        """How many requests the instance has of workers that are there and do nothing."""
        return sum([int(self.cells[at + _FIRST]) for at in self._stopped])

    def pass_on(self, sample: Sample) -> None:
        """Leaves an answer for who leads."""
        cells, own = self.cells, self._own
        count = cells[own + _COUNT]
        at = own + _RING + int(count) % KEPT * _FIELDS
        for value in sample:
            cells[at] = value
            at += 1
        cells[own + _COUNT] = count + 1.0

    def told(self) -> Iterator[Sample]:
        """The answers that the others left since the last time, the last KEPT of each."""
        cells = self.cells
        for lane in self._others:
            count = int(cells[lane + _COUNT])
            read = int(self._read.get(lane, 0))
            if count == read:
                continue
            self._read[lane] = count
            for number in range(max(read, count - KEPT), count):
                at = lane + _RING + number % KEPT * _FIELDS
                yield Sample(*[cells[at + offset] for offset in range(_FIELDS)])

    def decide(self, decision: Decision) -> None:
        """Writes what the others are to keep to."""
        cells = self.cells
        for offset, value in enumerate(decision, _DECIDED + 1):
            cells[offset] = value
        cells[_DECIDED] = self._version = cells[_DECIDED] + 1.0

    def decided(self) -> Decision | None:
        """What who leads has decided since the last time; None: nothing new."""
        cells = self.cells
        version = cells[_DECIDED]
        if version == self._version:
            return None
        self._version = version
        if not version:
            return None  # nobody has, since these cells were emptied
        first = _DECIDED + 1
        return Decision(*[cells[at] for at in range(first, first + len(Decision._fields))])
