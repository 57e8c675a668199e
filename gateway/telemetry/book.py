"""Where does a worker count, so that what it counted outlives it?

In memory that the supervisor made and every process of the gateway maps: each worker has a
*book* of its own there and adds to plain 64-bit words; the control process reads all books
(`gateway.controlplane.watch.counters`). A worker encodes and sends nothing, and a process that is
killed takes nothing with it but what it had not counted yet. A worker that comes later takes a
book whose worker has ended and counts on in it.

A book is a row of blocks of 256 bytes. The first is its header. Any other is free, holds (a
part of) the name of a series, or up to 15 of the counts of a series, each a key and a number.
The word that says whose a block is is written last, so that a reader, or whoever finds the
book of a process that was killed, sees a whole block or none.
"""

import fcntl
import mmap
import os
import struct
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from gateway.telemetry.series import COUNTS, TOTAL, WORDS, Folds, Labels, Series

BLOCK = 8 * WORDS
VERSION, USED, MOVES = 0, 1, 2
"""Words of the header: the layout, the blocks in use, a number that is odd while some move."""

LAYOUT = 3  # the version of what is written below
FREE, NAME, MORE = 0, 1, 2
PLACE = 1 << 30
"""How far apart books begin. Only what is touched takes memory."""

BOOKS = 1024
APART = BOOKS // 2
"""The first of the places of books that are read more seldom: what is counted of consumers, who
may be many, would cost every reader who wants something else."""

_MAPPED = 4 << 20  # bytes of a book at first
_NAMED = 8 * (WORDS - 3)
_TEXT = struct.Struct(f"{WORDS - 3}q")

Name = tuple[str, Labels, list[int]]
"""Metric, labels, and the series whose counts are in this one instead."""


def shared_memory(directory: Path | None = None, name: str = "headgate-counters") -> int:
    """The descriptor of empty memory, enough for all books or for what workers share otherwise; it
    ends with the last process that has it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
    else:
        descriptor, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
    os.ftruncate(descriptor, PLACE * BOOKS)
    return descriptor


class Book:
    """The book of this process, in the shared memory `descriptor`; None: in memory of its own.
    It has one more that is `apart`.

    Takes the first place that no living process has. Raises OSError when there is none.
    """

    def __init__(self, descriptor: int | None = None, *, apart: bool = False) -> None:
        self.memory = shared_memory() if descriptor is None else descriptor
        if descriptor is None:
            weakref.finalize(self, os.close, self.memory)
        self.place = _claim(self.memory, range(APART, BOOKS) if apart else range(APART))
        # Mappings stay: to unmap one closes a descriptor, and that ends the claim.
        self._mapped: list[mmap.mmap] = []
        self._map(_MAPPED)
        self.folds = Folds()
        self._series: dict[tuple[str, Labels], Series] = {}
        self._free: list[int] = []
        self._next = 1
        if self.words[USED]:
            self._take_up()
        else:
            self.words[VERSION], self.words[USED] = LAYOUT, 1

    def _map(self, size: int) -> None:
        self._bytes = mmap.mmap(self.memory, size, offset=self.place * PLACE)
        self._mapped.append(self._bytes)
        self.words = memoryview(self._bytes).cast("q")
        self.seconds = memoryview(self._bytes).cast("d")
        self._room = size // BLOCK

    def series(self, metric: str, labels: Labels) -> Series:
        """The counts of `metric` with these labels."""
        found = self._series.get((metric, labels))
        if found is None:
            found = self._series[metric, labels] = self._made(metric, labels)
        return found

    def name(self, labels: Labels) -> int:
        """A key that stands for `labels` in the counts of any series of this book."""
        return self.series("", labels).ident

    def names(self) -> list[tuple[str, Labels]]:
        """Metric and labels of every series."""
        return list(self._series)

    def fold(self, gone: Iterable[Labels], metric: str, labels: Labels) -> None:
        """Adds the counts of the series `gone` to those of `labels` and frees their blocks.

        What replaces them appears in one step, and says whom it replaces: whenever this process
        is killed, each count is there once.
        """
        replaced = [
            series
            for each in (*gone, labels)
            if (series := self._series.pop((metric, each), None)) is not None
        ]
        self.words[MOVES] += 1
        made = self._series[metric, labels] = self._made(metric, labels, replaced)
        for each in replaced:
            self.release(each.blocks)
            each.into = made
            self.folds.count += 1
        self.words[MOVES] += 1

    def _made(self, metric: str, labels: Labels, replaced: Sequence[Series] = ()) -> Series:
        made = Series(self, self._next, metric)
        self._next += 1
        for each in replaced:
            for key, at in sorted(each.places.items()):  # sums of seconds first, side by side
                into = made.place(key)
                if key <= TOTAL:
                    made.seconds[into] += each.seconds[at]
                else:
                    made.words[into] += each.words[at]
        text = orjson.dumps([metric, labels, [each.ident for each in replaced]])
        for number in reversed(range(-(-len(text) // _NAMED))):
            part = text[number * _NAMED : (number + 1) * _NAMED]
            at = self.block(made)
            self.words[at + 1], self.words[at + 2] = len(text), number
            self._bytes[8 * at + 24 : 8 * at + 24 + len(part)] = part
            self.words[at] = made.ident << 2 | (MORE if number else NAME)
        return made

    def block(self, series: Series) -> int:
        """The first word of a block, all zero, that is from now on one of `series`."""
        if self._free:
            number = self._free.pop()
            self._bytes[BLOCK * number : BLOCK * (number + 1)] = bytes(BLOCK)
        else:
            number = self.words[USED]
            if number >= self._room:
                self._map(2 * BLOCK * self._room)
            self.words[USED] = number + 1
        series.blocks.append(number)
        return number * WORDS

    def release(self, blocks: Sequence[int]) -> None:
        """Frees blocks: what was counted in them is in others by now."""
        for number in blocks:
            self.words[number * WORDS] = FREE
        self._free += blocks

    def _take_up(self) -> None:
        """Finds what a process that has ended counted here."""
        while self.words[USED] > self._room:
            self._map(2 * BLOCK * self._room)
        self.words[MOVES] += self.words[MOVES] & 1
        found = Contents(self.words[: self.words[USED] * WORDS].tolist())
        self._next = found.next
        held: dict[int, Series] = {}
        for ident, (metric, labels, _) in found.names.items():
            if ident not in found.replaced:
                held[ident] = self._series[metric, labels] = Series(self, ident, metric)
                held[ident].places.update(found.places.get(ident, {}).items())
                held[ident].spare = found.spare.get(ident, 0)
        for number, ident in found.blocks.items():
            if ident in held:
                held[ident].blocks.append(number)
            else:
                self.release([number])
        self._free += found.free


class Contents:
    """What is in the blocks that `words` are, header included."""

    def __init__(self, words: Sequence[int]) -> None:
        self.names: dict[int, Name] = {}
        self.replaced: set[int] = set()
        self.blocks: dict[int, int] = {}
        self.places: dict[int, dict[int, int]] = {}
        self.spare: dict[int, int] = {}
        self.free: list[int] = []
        parts: dict[int, dict[int, tuple[int, bytes]]] = {}
        for at in range(WORDS, len(words), WORDS):
            self._take(words, at, parts)
        for ident, of_name in parts.items():
            name = joined(of_name)
            if name is not None:
                self.names[ident] = name
                self.replaced.update(name[2])
        self.next = 1 + max((*self.blocks.values(), *self.replaced), default=0)

    def _take(
        self, words: Sequence[int], at: int, parts: dict[int, dict[int, tuple[int, bytes]]]
    ) -> None:
        ident, kind = words[at] >> 2, words[at] & 3
        if kind == FREE:
            self.free.append(at // WORDS)
            return
        self.blocks[at // WORDS] = ident
        if kind != COUNTS:
            parts.setdefault(ident, {})[words[at + 2]] = name_part(words[at : at + WORDS])
            return
        places = self.places.setdefault(ident, {})
        for pair in range(at + 2, at + WORDS, 2):
            if words[pair]:
                places[words[pair] - 1] = pair + 1
            else:
                self.spare.setdefault(ident, pair)


def name_part(block: Sequence[int]) -> tuple[int, bytes]:
    """The length in bytes of a name, and the part of it that is in `block`."""
    return block[1], _TEXT.pack(*block[3:])


def joined(parts: Mapping[int, tuple[int, bytes]]) -> Name | None:
    """The name that `parts` make; None while its first one, which comes last, is missing."""
    if 0 not in parts:
        return None
    text = b"".join(part for _, (_, part) in sorted(parts.items()))
    metric, labels, replaced = orjson.loads(text[: parts[0][0]])
    return metric, tuple(labels), replaced


def _claim(descriptor: int, places: Iterable[int]) -> int:
    """The first of `places` that is free and of our layout; it is this process's until it ends."""
    for place in places:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            continue
        (layout,) = struct.unpack("q", os.pread(descriptor, 8, place * PLACE))
        if layout in (0, LAYOUT):
            return place
    raise OSError("every book of counters is taken")
