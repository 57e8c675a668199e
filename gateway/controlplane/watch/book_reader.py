"""What was counted in one book since it was last looked at?

A look costs what changed. Pages that are as they were are compared whole; in a block of counts
that still belongs to the same series each number that grew is added to the tally it belongs to,
and nothing else of the series is looked at. Only where names or series come and go is all that a
series counts held against what was told of it.

Times are most of what changes, and but for the buckets that requests fell into nobody wants to know
of them each time: they are added once somebody asks (`settle`), from the pages as they were then.
"""

import mmap
import os
import struct
from collections.abc import Mapping
from typing import Final

from gateway.controlplane.watch.tallies import FOLLOWED, Change, Counts, Key, Tallies, Tally
from gateway.telemetry.book import (
    BLOCK,
    FREE,
    LAYOUT,
    MOVES,
    PLACE,
    USED,
    VERSION,
    Name,
    joined,
    name_part,
)
from gateway.telemetry.catalogue import BY_NAME, TIMES, Gone, retired_labels
from gateway.telemetry.metrics import FIRST, KIND, LAST, REQUEST, SUMS, observed
from gateway.telemetry.series import COUNTS, TOTAL, WORDS, Labels

BLOCKS: Final = 16  # are compared at a time with what they were
PAGE: Final = BLOCKS * BLOCK
TRIES: Final = 5  # to read a book whose series do not move meanwhile
PAIRS: Final = WORDS // 2  # the first of them is whose the block is
PAIR: Final = BLOCK // PAIRS
KINDS: Final = 4  # of buckets in a series of times

_HEADER: Final = struct.Struct("3q")
_WORDS: Final = struct.Struct(f"{WORDS}q")
_OWNER_AND_VALUES: Final = struct.Struct("q8x" + (PAIRS - 1) * "8xq")
_WORD: Final = struct.Struct("q")
_SECONDS: Final = struct.Struct("d")
_NOTHING: Final = bytes(PAGE)
_NO_VALUES: Final = PAIRS * (0,)


class _Told:
    """As what a series was told of, and the tallies that it adds to; of times there are more."""

    def __init__(self, ident: int, metric: str, labels: Labels) -> None:
        self.ident, self.metric, self.labels = ident, metric, labels
        self.is_times = metric == TIMES
        self.is_followed = metric in FOLLOWED
        self.removals = -1
        self.tallies: list[Tally] = []
        self.by_kind: list[list[Tally]] = []

    def find(self, tallies: Tallies) -> None:
        """Finds its tallies, which are others once some were taken out."""
        self.removals = tallies.removals
        if not self.is_times:
            self.tallies = [tallies.tally(self.metric, self.labels)]
            return
        self.tallies = [tallies.tally(SUMS[key], self.labels) for key in sorted(SUMS, reverse=True)]
        self.by_kind = [
            [tallies.tally(metric, self.labels) for metric, _ in observed(kind * KIND)]
            for kind in range(KINDS)
        ]


class BookReader:
    """The book at `place` as it was at the last look; what is new there is added to `tallies`.

    What was told of a series is what was in its blocks at the last look, but for one some of whose
    keys had no name yet: of that it is kept (`_partly`).
    """

    def __init__(self, descriptor: int, place: int, tallies: Tallies) -> None:
        self._descriptor, self._place, self._tallies = descriptor, place, tallies
        self._is_known = layout(descriptor, place) == LAYOUT
        self._pages: list[bytes] = []
        self._blocks: dict[int, list[int]] = {}
        self._names: dict[int, Name] = {}
        self._parts: dict[int, dict[int, tuple[int, bytes]]] = {}
        self._renamed: set[int] = set()
        self._replaced: set[int] = set()
        self._told: dict[int, _Told] = {}
        self._shown: dict[int, Labels] = {}  # the labels of series of what is gone
        self._touched: dict[int, Counts] = {}  # in this look, with what was told before
        self._partly: dict[int, Counts] = {}
        self._owed: dict[int, bytes] = {}  # pages as they were when times were added last
        self._map(PAGE)

    def _map(self, size: int) -> None:
        self._bytes = mmap.mmap(
            self._descriptor, size, prot=mmap.PROT_READ, offset=self._place * PLACE
        )

    def begin(self) -> list[tuple[int, bytes]]:
        """The pages that have changed since the last look, each of which is to be given to `take`
        before the `end` of this one."""
        if not self._is_known:  # of another release, which may run beside this one for a while
            return []
        self._touched, self._partly = self._partly, {}
        return self._changed()

    def end(self) -> None:
        """Adds what was counted of series that came or went."""
        for ident in self._renamed:
            self._name(ident)
        self._renamed.clear()
        if self._touched:
            self._settle()
        for ident, before in self._touched.items():
            self._tell(ident, before)
        self._touched = {}

    @property
    def owed(self) -> list[int]:
        """The pages of which times were read but not added yet."""
        return list(self._owed)

    def settle(self, number: int) -> None:
        """Adds those of one page; but not of series of which all is told at the end of a look."""
        page, old = self._pages[number], self._owed.pop(number, None)
        if old is None:
            return  # somebody else asked for them meanwhile
        for at in range(0 if number else BLOCK, PAGE, BLOCK):
            if page[at : at + BLOCK] == old[at : at + BLOCK]:
                continue
            now = _OWNER_AND_VALUES.unpack_from(page, at)
            owner: int = now[0]
            told = self._told.get(owner >> 2) if owner & 3 == COUNTS else None
            if told is not None and told.is_times and told.ident not in self._touched:
                then = _OWNER_AND_VALUES.unpack_from(old, at)
                if then[0] != owner:
                    then = _NO_VALUES
                self._add_times(told, page, old, at, now, then)

    def _settle(self) -> None:
        """Adds those of all pages."""
        for number in self.owed:
            self.settle(number)

    def rename(self, retired: Mapping[Gone, str]) -> None:
        """What was told of the `retired` was and will be told of their names in their place."""
        for ident, told in self._told.items():
            into = retired_labels(told.metric, told.labels, retired)
            if into is not None:
                self._shown[ident] = told.labels = into

    def _changed(self) -> list[tuple[int, bytes]]:
        """The pages that are not as they were, all as they were between two moves."""
        for _ in range(TRIES):
            header = _HEADER.unpack_from(self._bytes)
            size = header[USED] * BLOCK
            while size > len(self._bytes):
                self._map(2 * len(self._bytes))
            pages = self._pages
            while len(pages) * PAGE < size:
                pages.append(_NOTHING)
            content, found = self._bytes, []
            for number in range(len(pages)):
                page: bytes = content[number * PAGE : (number + 1) * PAGE]
                if page != pages[number]:
                    found.append((number, page))
            moves = _HEADER.unpack_from(self._bytes)[MOVES]
            if not moves & 1 and moves == header[MOVES]:
                break
        # It is odd for ever if its worker was killed meanwhile; then nothing moves any more.
        return found

    # -- what changed of one page

    def take(self, number: int, page: bytes) -> None:
        """Adds what was counted in a page that was another one at the last look."""
        old = self._pages[number]
        grown = []
        for at in range(0 if number else BLOCK, PAGE, BLOCK):
            if page[at : at + BLOCK] == old[at : at + BLOCK]:
                continue
            now = _OWNER_AND_VALUES.unpack_from(page, at)
            then = _OWNER_AND_VALUES.unpack_from(old, at)
            owner: int = now[0]
            before: int = then[0]
            if owner & 3 == COUNTS and (owner == before or before & 3 == FREE):
                ident = owner >> 2
                told = self._told.get(ident)
                if told is None or not self._has_names(told, page, at, now, then):
                    self._touch(ident)
                if owner != before:
                    self._blocks.setdefault(ident, []).append(number * BLOCKS + at // BLOCK)
                    then = _NO_VALUES
                if told is not None:
                    grown.append((told, at, now, then))
            else:
                self._leave(_WORDS.unpack_from(old, at), number * BLOCKS + at // BLOCK)
                self._enter(_WORDS.unpack_from(page, at), number * BLOCKS + at // BLOCK)
        for told, at, now, then in grown:
            if told.ident in self._touched:
                continue  # all of it is told at the end
            if told.is_times:
                self._tell_times(told, page, at, now, then)
            else:
                self._grow(told, page, at, now, then)
        self._pages[number] = page
        self._owed.setdefault(number, old)

    def _has_names(
        self, told: _Told, page: bytes, at: int, now: tuple[int, ...], then: tuple[int, ...]
    ) -> bool:
        """Whether what is counted for the first time has a name, if it needs one."""
        if told.is_times:
            return True
        for pair in range(1, PAIRS):
            if now[pair] and not then[pair]:
                key: int = _WORD.unpack_from(page, at + pair * PAIR)[0] - 1
                if key >= 0 and key not in self._names:
                    return False
        return True

    def _grow(
        self, told: _Told, page: bytes, at: int, now: tuple[int, ...], then: tuple[int, ...]
    ) -> None:
        """Adds what has grown in the block `at` of a page."""
        tallies = self._tallies
        if told.removals != tallies.removals:
            told.find(tallies)
        tally = told.tallies[0]
        tally.version = tallies.version
        counts = tally.counts
        for pair in range(1, PAIRS):
            if now[pair] != then[pair]:
                key: int = _WORD.unpack_from(page, at + pair * PAIR)[0] - 1
                named: Key = key if key < 0 else self._names[key][1]
                more: int = now[pair] - then[pair]
                counts[named] = counts.get(named, 0) + more
                if told.is_followed:
                    tallies.changes.append(Change(told.metric, told.labels, named, more))

    def _tell_times(
        self, told: _Told, page: bytes, at: int, now: tuple[int, ...], then: tuple[int, ...]
    ) -> None:
        """Tells into which buckets requests fell, and adds nothing."""
        changes = self._tallies.changes
        for pair in range(1, PAIRS):
            if now[pair] != then[pair]:
                key: int = _WORD.unpack_from(page, at + pair * PAIR)[0] - 1
                if 0 <= key < KIND or LAST <= key < FIRST:
                    more: int = now[pair] - then[pair]
                    changes.append(Change(REQUEST, told.labels, key & (KIND - 1), more))

    def _add_times(
        self,
        told: _Told,
        page: bytes,
        old: bytes,
        at: int,
        now: tuple[int, ...],
        then: tuple[int, ...],
    ) -> None:
        """Adds the times by which the block `at` of a page has grown since it was as in `old`."""
        tallies = self._tallies
        if told.removals != tallies.removals:
            told.find(tallies)
        for tally in told.tallies:
            tally.version = tallies.version
        for pair in range(1, PAIRS):
            if now[pair] == then[pair]:
                continue
            where = at + pair * PAIR
            key: int = _WORD.unpack_from(page, where)[0] - 1
            if key > TOTAL:
                more: int = now[pair] - then[pair]
                bucket = key & (KIND - 1)
                for tally in told.by_kind[key // KIND]:
                    counts = tally.counts
                    counts[bucket] = counts.get(bucket, 0) + more
            else:
                seconds: float = _SECONDS.unpack_from(page, where + 8)[0]
                if then[pair]:
                    seconds -= _SECONDS.unpack_from(old, where + 8)[0]
                counts = told.tallies[TOTAL - key].counts
                counts[TOTAL] = counts.get(TOTAL, 0) + seconds

    # -- what came and went

    def _touch(self, ident: int) -> None:
        """Has all of a series told, before anything of it is taken in."""
        if ident not in self._touched:
            told = self._told.get(ident)
            if told is not None and told.is_times:
                self._settle()
            self._touched[ident] = {} if told is None else self._keyed(ident, told.metric)[0]

    def _leave(self, block: tuple[int, ...], number: int) -> None:
        """A block is not what it was."""
        ident, kind = block[0] >> 2, block[0] & 3
        if kind == FREE:
            return
        self._touch(ident)
        if kind == COUNTS:
            self._blocks[ident].remove(number)
            if not self._blocks[ident]:
                del self._blocks[ident]
            return
        self._names.pop(ident, None)
        if parts := self._parts.get(ident):
            parts.pop(block[2], None)

    def _enter(self, block: tuple[int, ...], number: int) -> None:
        """A block is what it was not."""
        ident, kind = block[0] >> 2, block[0] & 3
        if kind == FREE:
            return
        self._touch(ident)
        if kind == COUNTS:
            self._blocks.setdefault(ident, []).append(number)
            return
        self._parts.setdefault(ident, {})[block[2]] = name_part(block)
        self._renamed.add(ident)

    def _name(self, ident: int) -> None:
        """Gives a series the name whose parts have come, and those that it replaces none."""
        name = joined(self._parts.get(ident, {}))
        if name is None:
            return
        del self._parts[ident]
        self._names[ident] = name
        for each in name[2]:
            self._touch(each)
            self._replaced.add(each)
        shown = [self._shown[each] for each in name[2] if each in self._shown]
        if shown:
            self._shown[ident] = shown[0]

    def _tell(self, ident: int, before: Counts) -> None:
        """Adds by how much the counts of one series differ from what was told `before`."""
        told, name = self._told.pop(ident, None), self._names.get(ident)
        now: Counts = {}
        if name is not None and ident not in self._replaced:
            now, is_whole = self._keyed(ident, name[0])
            if not is_whole:
                self._partly[ident] = now  # a name was not yet there: at the next look
            if told is None:
                told = _Told(ident, name[0], self._shown.get(ident, name[1]))
        if now and told is not None:
            self._told[ident] = told
        else:
            self._shown.pop(ident, None)
        if ident not in self._blocks:
            self._replaced.discard(ident)
        if told is None:
            return
        for key in now.keys() | before.keys():
            more = now.get(key, 0) - before.get(key, 0)
            if not more:
                continue
            if not told.is_times:
                self._tallies.add(told.metric, told.labels, key, more)
            elif isinstance(key, int):
                for histogram, bucket in observed(key):
                    self._tallies.add(histogram, told.labels, bucket, more)

    def _keyed(self, ident: int, metric: str) -> tuple[Counts, bool]:
        """The counts of a series by what their keys mean, none for a metric that is not known
        here; and whether all keys have names."""
        found: Counts = {}
        if metric != TIMES and metric not in BY_NAME:
            return found, True
        is_whole = True
        for number in self._blocks.get(ident, ()):
            page, at = self._pages[number // BLOCKS], number % BLOCKS * BLOCK
            words = _WORDS.unpack_from(page, at)
            if words[0] != ident << 2 | COUNTS:
                continue  # it was taken only now
            for pair in range(2, WORDS, 2):
                if not words[pair]:
                    break  # nothing is counted from here on
                key: int = words[pair] - 1
                if key <= TOTAL:
                    seconds: float = _SECONDS.unpack_from(page, at + 8 * pair + 8)[0]
                    _add(found, key, seconds)
                elif key < 0 or metric == TIMES:
                    _add(found, key, words[pair + 1])
                elif key in self._names:
                    _add(found, self._names[key][1], words[pair + 1])
                else:
                    is_whole = False
        return {key: count for key, count in found.items() if count}, is_whole


def _add(counts: Counts, key: Key, more: int | float) -> None:
    counts[key] = counts.get(key, 0) + more


def layout(descriptor: int, place: int) -> int:
    """The layout of the book at `place`; 0 where none was begun."""
    found: int = _WORD.unpack(os.pread(descriptor, 8, place * PLACE + 8 * VERSION))[0]
    return found
