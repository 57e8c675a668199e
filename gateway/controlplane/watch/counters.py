"""What did all workers count together, including those that are gone?

Reads the books that the workers count in (`gateway.telemetry.book`), as often as somebody asks
and without asking a worker: what did not change since the last look costs a comparison, what
did is added as a difference. What is counted of consumers lies in books apart, which need not be
looked at each time: theirs may be ten thousand series that all change. Books outlive their
workers, so nothing is ever lost or handed over, and a sum never goes back.
"""

import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.telemetry.book import (
    APART,
    BLOCK,
    BOOKS,
    COUNTS,
    FREE,
    LAYOUT,
    MOVES,
    PLACE,
    TOTAL,
    USED,
    VERSION,
    WORDS,
    Labels,
    Name,
    joined,
    name_part,
)
from gateway.telemetry.catalogue import BY_NAME, TIMES, Gone, retired_labels
from gateway.telemetry.metrics import observed

PAGE = 16 * BLOCK
TRIES = 5
_WORDS = struct.Struct(f"{WORDS}q")
_UNTOLD: "tuple[tuple[str, Labels], dict[Key, int | float]]" = (("", ()), {})

Key = int | Labels
"""What is counted within a series: a bucket, ONE, TOTAL (seconds), or further labels."""


@dataclass(slots=True)
class Tally:
    """The counts of one series over all books; another `version` whenever one changed."""

    counts: dict[Key, int | float] = field(default_factory=dict)
    version: int = 0

    @property
    def buckets(self) -> Counter[int]:
        """How many were counted in each bucket of a histogram."""
        return Counter({k: int(n) for k, n in self.counts.items() if isinstance(k, int) and k >= 0})


class Change(NamedTuple):
    """So much more was counted under `key` of one series since the last look."""

    metric: str
    labels: Labels
    key: Key
    more: int | float


class Totals:
    """What is in all books of the shared memory `descriptor`; `read` looks again, and leaves out
    those apart if it is asked to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._books: list[_Reader] = []
        self._apart: list[_Reader] = []
        self._version = 0
        self._series: dict[str, dict[Labels, Tally]] = {}

    def of(self, metric: str) -> Mapping[Labels, Tally]:
        """The series of `metric` by their labels."""
        return self._series.get(metric, {})

    def retire(self, gone: Iterable[Gone], name: str) -> None:
        """Shows what was counted at the routes, backends and instances that are `gone` as `name`'s,
        at once; workers may do the same in their books when they like.

        What is counted from now on in a series that there was, or that a worker makes of it, is
        shown so too. Another one that begins later is of something that came back.
        """
        retired = dict.fromkeys(gone, name)
        self._version += 1
        for book in (*self._books, *self._apart):
            book.rename(retired)
        for metric, series in self._series.items():
            for labels in list(series):
                into = retired_labels(metric, labels, retired)
                if into is not None:
                    counts = series.pop(labels).counts
                    tally = series.setdefault(into, Tally())
                    tally.version = self._version
                    for key, count in counts.items():
                        tally.counts[key] = tally.counts.get(key, 0) + count

    def read(self, *, apart: bool = True) -> list[Change]:
        """Takes in what was counted since the last look, and tells it."""
        self._find(self._books, range(APART))
        changes = [change for book in self._books for change in book.read()]
        if apart:
            self._find(self._apart, range(APART, BOOKS))
            changes += [change for book in self._apart for change in book.read()]
        self._version += 1
        empty = []
        for change in changes:
            series = self._series.setdefault(change.metric, {})
            tally = series.setdefault(change.labels, Tally())
            tally.version = self._version
            count = tally.counts[change.key] = tally.counts.get(change.key, 0) + change.more
            if not count:
                empty.append(change)
        for change in empty:  # folded into another series
            series = self._series[change.metric]
            counts = series[change.labels].counts if change.labels in series else {}
            if not any(counts.values()):
                series.pop(change.labels, None)
            elif not counts.get(change.key, 1):
                del counts[change.key]
        return changes

    def _find(self, known: "list[_Reader]", places: range) -> None:
        """Adds the books that were begun at `places` since those that are `known`."""
        while len(known) < len(places) and _layout(self._descriptor, places[len(known)]):
            known.append(_Reader(self._descriptor, places[len(known)]))


class _Reader:
    """One book as it was at the last look."""

    def __init__(self, descriptor: int, place: int) -> None:
        self._descriptor, self._place = descriptor, place
        self._is_known = _layout(descriptor, place) == LAYOUT
        self._map(PAGE)
        self._seen = b""
        self._names: dict[int, Name] = {}
        self._parts: dict[int, dict[int, tuple[int, bytes]]] = {}
        self._replaced: set[int] = set()
        self._counts: dict[int, dict[int, int | float]] = {}
        self._told: dict[int, tuple[tuple[str, Labels], dict[Key, int | float]]] = {}
        self._shown: dict[int, Labels] = {}  # the labels of series of what is gone
        self._touched: set[int] = set()
        self._grown: list[Change] = []

    def _map(self, size: int) -> None:
        self._bytes = mmap.mmap(
            self._descriptor, size, prot=mmap.PROT_READ, offset=self._place * PLACE
        )

    def read(self) -> list[Change]:
        """What changed since the last look."""
        if not self._is_known:  # of another release, which may run beside this one for a while
            return []
        now = self._copy()
        for at in range(0, len(now), PAGE):
            new, old = now[at : at + PAGE], self._seen[at : at + PAGE]
            if new != old:
                self._compare(new, old)
        self._seen = now
        changes, self._grown = self._grown, []
        touched, self._touched = self._touched, set()
        changes += [change for ident in touched for change in self._news(ident)]
        return changes

    def rename(self, retired: Mapping[Gone, str]) -> None:
        """What was told of the `retired` was and will be told of their names in their place."""
        for ident, ((metric, labels), counts) in self._told.items():
            into = retired_labels(metric, labels, retired)
            if into is not None:
                self._shown[ident] = into
                self._told[ident] = (metric, into), counts

    def _copy(self) -> bytes:
        """The blocks after the header, as they were between two moves."""
        for _ in range(TRIES):
            header = struct.unpack("3q", self._bytes[:24])
            while header[USED] * BLOCK > len(self._bytes):
                self._map(2 * len(self._bytes))
            content = self._bytes[BLOCK : header[USED] * BLOCK]
            moves = struct.unpack("3q", self._bytes[:24])[MOVES]
            if not moves & 1 and moves == header[MOVES]:
                break
        # It is odd for ever if its worker was killed meanwhile; then nothing moves any more.
        return content

    def _compare(self, new: bytes, old: bytes) -> None:
        """Takes in what changed of one page."""
        old = old.ljust(len(new), b"\0")
        for at in range(0, len(new), BLOCK):
            block, before = new[at : at + BLOCK], old[at : at + BLOCK]
            if block == before:
                continue
            now, then = _WORDS.unpack(block), _WORDS.unpack(before)
            if now[0] == then[0] and now[0] & 3 == COUNTS:
                self._add(now, then)
            else:
                self._take(then, -1)
                self._take(now, 1)

    def _add(self, block: Sequence[int], before: Sequence[int]) -> None:
        """Takes in what was counted in a block that holds counts of the same series as before:
        most of what changes is one number of it, or two."""
        ident = block[0] >> 2
        counts = self._counts.setdefault(ident, {})
        (metric, labels), told = self._told.get(ident, _UNTOLD)
        for at in range(3, WORDS, 2):
            value, old = block[at], before[at]
            if not block[at - 1]:
                break  # nothing is counted from here on
            if value == old:
                continue
            key = block[at - 1] - 1  # it stays what it is, once there
            more = _seconds(value) - _seconds(old) if key <= TOTAL else value - old
            counts[key] = counts.get(key, 0) + more
            name = self._names.get(key) if key >= 0 and metric != TIMES else None
            if name is not None and name[1] in told:
                # What was told of it has grown: no need to compare all there is of the series.
                told[name[1]] += more
                self._grown.append(Change(metric, labels, name[1], more))
            else:
                self._touched.add(ident)

    def _take(self, block: Sequence[int], sign: int) -> None:
        ident, kind = block[0] >> 2, block[0] & 3
        if kind == FREE:
            return
        self._touched.add(ident)
        if kind == COUNTS:
            counts = self._counts.setdefault(ident, {})
            for key, value in zip(block[2::2], block[3::2], strict=True):
                if key:
                    more = _seconds(value) if key - 1 <= TOTAL else value
                    counts[key - 1] = counts.get(key - 1, 0) + sign * more
            return
        parts = self._parts.setdefault(ident, {})
        if sign < 0:
            parts.pop(block[2], None)
            self._names.pop(ident, None)
            return
        parts[block[2]] = name_part(block)
        name = joined(parts)
        if name is not None:
            self._names[ident] = name
            self._replaced.update(name[2])
            self._touched.update(name[2])
            shown = [self._shown[each] for each in name[2] if each in self._shown]
            if shown:
                self._shown[ident] = shown[0]

    def _news(self, ident: int) -> Iterator[Change]:
        """How the counts of one series differ from what was told of it."""
        counts, name = self._counts.get(ident, {}), self._names.get(ident)
        (metric, labels), told = self._told.pop(ident, _UNTOLD)
        now: dict[Key, int | float] = {}
        if name is not None and ident not in self._replaced:
            metric, labels = name[0], self._shown.get(ident, name[1])
            now = self._keyed(ident, metric, counts)
        if now:
            self._told[ident] = (metric, labels), now
        else:
            self._shown.pop(ident, None)
        if not any(counts.values()):
            self._counts.pop(ident, None)
            self._replaced.discard(ident)
        for key in now.keys() | told.keys():
            more = now.get(key, 0) - told.get(key, 0)
            if not more:
                continue
            if metric != TIMES:
                yield Change(metric, labels, key, more)
            elif isinstance(key, int):
                for histogram, bucket in observed(key):
                    yield Change(histogram, labels, bucket, more)

    def _keyed(
        self, ident: int, metric: str, counts: Mapping[int, int | float]
    ) -> dict[Key, int | float]:
        """`counts` by what their keys mean; {} for a metric that is not known here."""
        if metric == TIMES:
            return {key: count for key, count in counts.items() if count}
        if metric not in BY_NAME:
            return {}
        found: dict[Key, int | float] = {}
        for key, count in counts.items():
            name = self._names.get(key) if key >= 0 else None
            if key >= 0 and name is None:
                self._touched.add(ident)  # its name was not yet there: at the next look
            elif count:
                found[key if name is None else name[1]] = count
        return found


def _layout(descriptor: int, place: int) -> int:
    """The layout of the book at `place`; 0 where none was begun."""
    found: int = struct.unpack("q", os.pread(descriptor, 8, place * PLACE + 8 * VERSION))[0]
    return found


def _seconds(word: int) -> float:
    seconds: float = struct.unpack("d", struct.pack("q", word))[0]
    return seconds
