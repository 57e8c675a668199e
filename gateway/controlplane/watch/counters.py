"""What did all workers count together, including those that are gone?

Reads the books that the workers count in (`gateway.telemetry.book`), as often as somebody asks
and without asking a worker; how that costs only what changed is said in `watch.book_reader`. What
is counted of consumers lies in books apart, which need not be looked at each time: theirs may be
ten thousand series that all change. Books outlive their workers, so nothing is ever lost or handed
over, and a sum never goes back.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from gateway.controlplane.watch.book_reader import BookReader, layout
from gateway.controlplane.watch.tallies import Change, Tallies, Tally
from gateway.telemetry.book import APART, BOOKS
from gateway.telemetry.catalogue import Gone
from gateway.telemetry.metrics import SUMS
from gateway.telemetry.series import Labels


class Totals:
    """What is in all books of the shared memory `descriptor`; `read` looks again, and leaves out
    those apart if it is asked to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._tallies = descriptor, Tallies()
        self._books: list[BookReader] = []
        self._apart: list[BookReader] = []

    def of(self, metric: str) -> Mapping[Labels, Tally]:
        """The series of `metric` by their labels."""
        if metric in SUMS.values():
            deque(self.settling(), maxlen=0)
        return self._tallies.series.get(metric, {})

    def retire(self, gone: Iterable[Gone], name: str) -> None:
        """Shows what was counted at the routes, backends and instances that are `gone` as `name`'s,
        at once; workers may do the same in their books when they like.

        What is counted from now on in a series that there was, or that a worker makes of it, is
        shown so too. Another one that begins later is of something that came back.
        """
        retired = dict.fromkeys(gone, name)
        for book in (*self._books, *self._apart):
            book.rename(retired)
        self._tallies.rename(retired)

    def read(self, *, apart: bool = True) -> list[Change]:
        """Takes in what was counted since the last look, and tells what of it is followed
        (`watch.tallies`)."""
        deque(self.reading(apart=apart), maxlen=0)
        return self.told()

    def reading(self, *, apart: bool = True) -> Iterator[None]:
        """Does so in small steps, between which others may be attended to, but not another look;
        and `told` tells."""
        self._find(self._books, range(APART))
        self._find(self._apart, range(APART, BOOKS))
        for book in (*self._books, *(self._apart if apart else ())):
            for number, page in book.begin():
                self._tallies.begin()
                book.take(number, page)
                yield
            self._tallies.begin()
            book.end()
            yield
        self._tallies.end()

    def settling(self) -> Iterator[None]:
        """Adds the times that are shown next, in small steps; others may ask for them between."""
        for book in self._books:
            for number in book.owed:
                self._tallies.begin()
                book.settle(number)
                yield

    def told(self) -> list[Change]:
        """What was told since the last time that this was asked."""
        return self._tallies.told()

    def _find(self, known: list[BookReader], places: range) -> None:
        """Adds the books that were begun at `places` since those that are `known`."""
        while len(known) < len(places) and layout(self._descriptor, places[len(known)]):
            known.append(BookReader(self._descriptor, places[len(known)], self._tallies))
