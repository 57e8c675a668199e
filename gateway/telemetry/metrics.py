"""What did this worker count?

Whole numbers in a book (`gateway.telemetry.book`), added to where things happen and read by
the control process when it likes. Nothing is formatted, sent or locked here, and label values
come from the table, never from a client: an unknown method counts as `other`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.telemetry.access_log import members
from gateway.telemetry.book import Book
from gateway.telemetry.buckets import bucket_of
from gateway.telemetry.catalogue import TIMES, Gone, retired_labels
from gateway.telemetry.rows import Rows
from gateway.telemetry.series import TOTAL, Labels, Series

METHODS: Final = {
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
HANDSHAKES_FAILED = "headgate_tls_handshake_failures_total"
COMPARED = "headgate_mirror_compared_total"


class _Counting:
    """Whatever counts in a series, and in the one that this was folded into. Whether any was is
    asked of all of the book at once: of a thousand series none has to be read for it."""

    __slots__ = ("_folds", "_seen", "_series", "_words")

    def _begin(self, series: Series) -> None:
        self._series, self._words = series, series.words
        self._folds, self._seen = series.folds, series.folds.count

    def _follow(self) -> None:
        """Goes on in another series if its own was folded into that."""
        self._seen = self._folds.count
        if self._series.into is not None:
            self._count_in(self._series.newest)

    @abstractmethod
    def _count_in(self, series: Series) -> None:
        """Counts in `series` from now on."""


class Cell(_Counting):
    """The counters of one route at one backend's instance, of which the access log says `told`."""

    __slots__ = ("_code", "_last", "_method", "_places", "_reason", "labels", "times", "told")

    def __init__(self, book: Book, labels: tuple[str, str, str], times: "Times") -> None:
        self.labels = labels
        self.told = members(labels)
        self.times = times
        self._count_in(book.series(REQUESTS, labels))

    def _count_in(self, series: Series) -> None:
        self._begin(series)
        self._places: dict[tuple[bytes, int, str], int] = {}
        # Most requests are as the last one was.
        self._method, self._code, self._reason, self._last = b"", 0, "", 0

    def count(self, method: bytes, code: int, reason: str) -> None:
        """One request ended like this."""
        if self._folds.count != self._seen:
            self._follow()
        if code != self._code or method != self._method or reason != self._reason:
            self._last = self._place(method, code, reason)
            self._method, self._code, self._reason = method, code, reason
        self._words[self._last] += 1

    def _place(self, method: bytes, code: int, reason: str) -> int:
        place = self._places.get((method, code, reason))
        if place is None:
            series = self._series
            name = METHODS.get(method, "other")
            place = series.place(series.book.name((name, str(code), reason)))
            self._words = series.words
            if method in METHODS:  # no table of what clients make up
                self._places[method, code, reason] = place
        return place


class Consumed(_Counting):
    """The requests of one consumer at one route, by how they were answered."""

    __slots__ = ("_at", "_code")

    def __init__(self, book: Book, labels: Labels) -> None:
        self._count_in(book.series(CONSUMED, labels))

    def _count_in(self, series: Series) -> None:
        self._begin(series)
        self._code = self._at = 0  # most get the same code again and again

    def count(self, code: int) -> None:
        """One request was answered by `code`."""
        if self._folds.count != self._seen:
            self._follow()
        if self._code != code:
            series = self._series
            self._at, self._code = series.place(series.book.name((str(code),))), code
            self._words = series.words
        self._words[self._at] += 1


KIND: Final = 1 << 11
OWN: Final = KIND
LAST: Final = 2 * KIND
FIRST: Final = 3 * KIND
"""What is added to a bucket's number, which is less: where the gateway's own time fell into it;
where the whole answer did, but its first byte into another one; where the first byte did. The
number alone is where both fell: most answers are short, and one count serves for two. What is
counted most comes first, so that rows of words are short (`rows`)."""

SUMS = {TOTAL: REQUEST, TOTAL - 1: FIRST_BYTE, TOTAL - 2: OVERHEAD}
"""The sums of seconds of a series of times, by their keys."""


def observed(key: int) -> tuple[tuple[str, int], ...]:
    """In which histogram, or two, and under which key of theirs is counted what is counted under
    `key` of a series of times?"""
    if key <= TOTAL:
        return ((SUMS[key], TOTAL),)
    bucket = key & (KIND - 1)
    kind = key - bucket
    if not kind:
        return (REQUEST, bucket), (FIRST_BYTE, bucket)
    return (({LAST: REQUEST, FIRST: FIRST_BYTE, OWN: OVERHEAD}[kind], bucket),)


class Times(_Counting):
    """The histograms of one route at one backend: what is counted → where; `sums` is where the
    first of three sums of seconds is, which lie side by side."""

    __slots__ = ("_places", "_seconds", "_sums")

    def __init__(self, book: Book, labels: Labels) -> None:
        self._count_in(book.series(TIMES, labels))

    def _count_in(self, series: Series) -> None:
        self._begin(series)
        assert isinstance(series.places, Rows)
        self._places = series.places
        self._sums, *others = [series.place(key) for key in sorted(SUMS)]
        assert others == [self._sums + 2, self._sums + 4]
        self._words, self._seconds = series.words, series.seconds

    def count(self, request_s: float, first_byte_s: float, overhead_s: float) -> None:
        """One request took so long until its end and its first byte, and at the gateway itself."""
        if self._folds.count != self._seen:
            self._follow()
        places = self._places
        request = first_byte = bucket_of(request_s)
        if first_byte_s != request_s:
            first_byte = bucket_of(first_byte_s)
        overhead = bucket_of(overhead_s) | OWN
        # First what may fail, then what counts.
        own_at = places.get(overhead) or self._open(overhead)
        alone = 0
        if first_byte == request:
            at = places.get(request) or self._open(request)
        else:
            at = places.get(request | LAST) or self._open(request | LAST)
            alone = places.get(first_byte | FIRST) or self._open(first_byte | FIRST)
        words, seconds, sums = self._words, self._seconds, self._sums
        words[at] += 1
        words[own_at] += 1
        if alone:
            words[alone] += 1
        # Read again each time: what was folded into one series may be counted by several.
        seconds[sums] += overhead_s
        seconds[sums + 2] += first_byte_s
        seconds[sums + 4] += request_s

    def _open(self, key: int) -> int:
        """Where `key` is counted, from now on."""
        place = self._series.place(key)
        self._words, self._seconds = self._series.words, self._series.seconds
        return place


class Counters:
    """All counters of one worker.

    A counter is whatever the catalogue (`gateway.telemetry.catalogue`) names: `add` counts it.
    What is counted of consumers goes into the book `apart`, or into the only one.
    """

    __slots__ = ("_cells", "_consumed", "_times", "apart", "book")

    def __init__(self, book: Book, apart: Book | None = None) -> None:
        self.book, self.apart = book, apart or book
        self._cells: dict[Labels, Cell] = {}
        self._times: dict[Labels, Times] = {}
        self._consumed: dict[Labels, Consumed] = {}

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
        known: dict[str, dict[Labels, Any]] = {
            REQUESTS: self._cells, TIMES: self._times, CONSUMED: self._consumed,
        }  # fmt: skip
        for (metric, into), labels_gone in folds.items():
            book.fold(labels_gone, metric, into)
            # Requests may still hold what counts in these; whoever comes back gets another one.
            for labels in labels_gone:
                known.get(metric, {}).pop(labels, None)
