"""What did this worker count?

Whole numbers in a book (`gateway.telemetry.book`), added to where things happen and read by
the control process when it likes. Nothing is formatted, sent or locked here, and label values
come from the table, never from a client: an unknown method counts as `other`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from gateway.telemetry.access_log import members
from gateway.telemetry.book import TOTAL, Book, Labels
from gateway.telemetry.buckets import BOUNDS
from gateway.telemetry.catalogue import TIMES, Gone, retired_labels

METHODS = {
    method.encode(): method
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
REQUESTS = "headgate_requests_total"
LIMITED = "headgate_limited_total"
CONSUMED = "headgate_consumer_requests_total"
REQUEST = "headgate_request_seconds"
FIRST_BYTE = "headgate_first_byte_seconds"
OVERHEAD = "headgate_overhead_seconds"
RETRIES = "headgate_retries_total"
RETRIES_DENIED = "headgate_retries_denied_total"
EJECTIONS = "headgate_ejections_total"
LOG_DROPPED = "headgate_log_dropped_total"
COMPARED = "headgate_mirror_compared_total"


class Cell:
    """The counters of one route at one backend's instance, of which the access log says `told`."""

    __slots__ = ("__weakref__", "_places", "_words", "labels", "series", "times", "told")

    def __init__(self, book: Book, labels: tuple[str, str, str], times: "Times") -> None:
        self.labels = labels
        self.told = members(labels)
        self.times = times
        self.count_in(book, labels)

    def count_in(self, book: Book, labels: Labels) -> None:
        """Counts requests in the series of `labels` from now on."""
        self.series = book.series(REQUESTS, labels)
        self._words = self.series.words
        self._places: dict[tuple[bytes, int, str], int] = {}

    def count(self, method: bytes, code: int, reason: str) -> None:
        place = self._places.get((method, code, reason))
        if place is None:
            place = self._place(method, code, reason)
        self._words[place] += 1

    def _place(self, method: bytes, code: int, reason: str) -> int:
        series = self.series
        name = METHODS.get(method, "other")
        place = series.place(series.book.name((name, str(code), reason)))
        self._words = series.words
        if method in METHODS:  # no table of what clients make up
            self._places[method, code, reason] = place
        return place

    def time(self, request_s: float, first_byte_s: float, overhead_s: float) -> None:
        """Observes one request that an instance answered."""
        times = self.times
        places = times.places
        request = first_byte = bisect_left(BOUNDS, request_s)
        if first_byte_s != request_s:
            first_byte = bisect_left(BOUNDS, first_byte_s)
        overhead = bisect_left(BOUNDS, overhead_s) | OWN
        alone = 0
        try:
            # First what may fail, then what counts.
            own_at = places[overhead]
            if first_byte == request:
                at = places[request]
            else:
                at = places[request | LAST]
                alone = places[first_byte | FIRST]
        except KeyError:
            times.open(request, first_byte, overhead)
            self.time(request_s, first_byte_s, overhead_s)
            return
        words, seconds, sums = times.words, times.seconds, times.sums
        words[at] += 1
        words[own_at] += 1
        if alone:
            words[alone] += 1
        seconds[sums] += overhead_s
        seconds[sums + 2] += first_byte_s
        seconds[sums + 4] += request_s


class Consumed:
    """The requests of one consumer at one route, by how they were answered."""

    __slots__ = ("__weakref__", "_at", "_code", "_series", "_words")

    def __init__(self, book: Book, labels: Labels) -> None:
        self.count_in(book, labels)

    def count_in(self, book: Book, labels: Labels) -> None:
        """Counts in the series of `labels` from now on."""
        self._series = book.series(CONSUMED, labels)
        self._words = self._series.words
        self._code = self._at = 0  # most get the same code again and again

    def count(self, code: int) -> None:
        """One request was answered by `code`."""
        if self._code != code:
            series = self._series
            self._at, self._code = series.place(series.book.name((str(code),))), code
            self._words = series.words
        self._words[self._at] += 1


LAST, FIRST, OWN = 1 << 12, 2 << 12, 3 << 12
"""What is added to a bucket's number, which is less: where the whole answer fell into it but its
first byte into another one; where the first byte did; where the gateway's own time did. The
number alone is where both fell: most answers are short, and one count serves for two."""

SUMS = {TOTAL: REQUEST, TOTAL - 1: FIRST_BYTE, TOTAL - 2: OVERHEAD}
"""The sums of seconds of a series of times, by their keys."""


def observed(key: int) -> tuple[tuple[str, int], ...]:
    """In which histogram, or two, and under which key of theirs is counted what is counted under
    `key` of a series of times?"""
    if key <= TOTAL:
        return ((SUMS[key], TOTAL),)
    bucket = key & (LAST - 1)
    kind = key - bucket
    if not kind:
        return (REQUEST, bucket), (FIRST_BYTE, bucket)
    return (({LAST: REQUEST, FIRST: FIRST_BYTE, OWN: OVERHEAD}[kind], bucket),)


class Times:
    """The histograms of one route at one backend: what is counted → where; `sums` is where the
    first of three sums of seconds is, which lie side by side."""

    __slots__ = ("__weakref__", "_series", "places", "seconds", "sums", "words")

    def __init__(self, book: Book, labels: Labels) -> None:
        self.count_in(book, labels)

    def count_in(self, book: Book, labels: Labels) -> None:
        """Counts times in the series of `labels` from now on."""
        self._series = series = book.series(TIMES, labels)
        self.places = series.places
        self.sums, *others = (series.place(key) for key in sorted(SUMS))
        assert others == [self.sums + 2, self.sums + 4]
        self.words, self.seconds = series.words, series.seconds

    def open(self, request: int, first_byte: int, overhead: int) -> None:
        """Makes places for these buckets."""
        if request == first_byte:
            self._series.place(request)
        else:
            self._series.place(request | LAST)
            self._series.place(first_byte | FIRST)
        self._series.place(overhead)
        self.words, self.seconds = self._series.words, self._series.seconds


class Counters:
    """All counters of one worker.

    A counter is whatever the catalogue (`gateway.telemetry.catalogue`) names: `add` counts it.
    What is counted of consumers goes into the book `apart`, or into the only one.
    """

    __slots__ = ("_cells", "_consumed", "_holders", "_times", "apart", "book")

    def __init__(self, book: Book, apart: Book | None = None) -> None:
        self.book, self.apart = book, apart or book
        self._cells: dict[Labels, Cell] = {}
        self._times: dict[Labels, Times] = {}
        self._consumed: WeakValueDictionary[Labels, Consumed] = WeakValueDictionary()
        # Who counts in the series of these labels, as long as a request may do so.
        self._holders: dict[tuple[str, Labels], WeakSet[Cell | Times | Consumed]] = {}

    def cell(self, route: str, backend: str, instance: str) -> Cell:
        """The counters of these labels; "" where a request got no further."""
        key = (route, backend, instance)
        cell = self._cells.get(key)
        if cell is None:
            times = self._times.get(key[:2])
            if times is None:
                times = self._times[key[:2]] = Times(self.book, key[:2])
            cell = self._cells[key] = Cell(self.book, key, times)
        return cell

    def consumed(self, consumer: str, route: str) -> Consumed:
        """Where the requests of `consumer` at `route` are counted under its name."""
        key = (consumer, route)
        consumed = self._consumed.get(key)
        if consumed is None:
            consumed = self._consumed[key] = Consumed(self.apart, key)
        return consumed

    def add(self, metric: str, *labels: str, count: int = 1) -> None:
        """Counts `count` more of `metric`, with its labels in the catalogue's order."""
        self.book.series(metric, labels).add(count)

    def value(self, metric: str, *labels: str) -> int:
        """What was counted of `metric` with these labels."""
        return self.book.series(metric, labels).value

    def retire(self, gone: Iterable[Gone], name: str) -> None:
        """Counts what was counted at the routes, backends and instances that are `gone` under
        `name` in their place, and what may still come of them too."""
        retired = dict.fromkeys(gone, name)
        values = {key[-1] for key in retired}
        for book in {self.book, self.apart}:
            self._fold(book, values, retired)

    def _fold(self, book: Book, values: set[str], retired: Mapping[Gone, str]) -> None:
        folds: dict[tuple[str, Labels], list[Labels]] = {}
        for metric, labels in book.names():
            if values.isdisjoint(labels):
                continue
            into = retired_labels(metric, labels, retired)
            if into is not None:
                folds.setdefault((metric, into), []).append(labels)
        for (metric, into), labels_gone in folds.items():
            book.fold(labels_gone, metric, into)
        for (metric, into), labels_gone in folds.items():
            if metric == REQUESTS:
                self._move(book, metric, self._cells, labels_gone, into)
            elif metric == TIMES:
                self._move(book, metric, self._times, labels_gone, into)
            elif metric == CONSUMED:
                self._move(book, metric, self._consumed, labels_gone, into)

    def _move(
        self,
        book: Book,
        metric: str,
        known: MutableMapping[Labels, Any],
        gone: Iterable[Labels],
        into: Labels,
    ) -> None:
        """Lets those that count in the series of what is gone, which requests may still hold,
        count in `into`. Whoever comes back gets a series of its own."""
        moved = self._holders.setdefault((metric, into), WeakSet())
        for labels in gone:
            moved.update(self._holders.pop((metric, labels), ()))
            if (held := known.pop(labels, None)) is not None:
                moved.add(held)
        for each in moved:
            each.count_in(book, into)
