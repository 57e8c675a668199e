"""Which word counts which bucket, of a series that counts in hundreds of them.

A dict says the same, in six times the memory: what a thousand routes count would not fit into any
cache of a processor. Buckets that follow each other share a row here, made when the first of them
is counted. Keys that are no buckets, the sums, are in a dict.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

STEP: Final = 5  # a row is 32 buckets, an octave of times
WIDTH: Final = 1 << STEP
_NONE: Final = array("i", bytes(4 * WIDTH))


class Rows:
    """Words by key, as a dict of them; 0, which is never one, where a key has none."""

    __slots__ = ("_others", "_rows")

    def __init__(self) -> None:
        self._rows: list[array[int] | None] = []
        self._others: dict[int, int] = {}

    def get(self, key: int, absent: int = 0) -> int:
        """The word of `key`."""
        if key < 0:
            return self._others.get(key, absent)
        rows, number = self._rows, key >> STEP
        row = rows[number] if number < len(rows) else None
        if row is None:
            return absent
        return row[key & (WIDTH - 1)] or absent

    def __setitem__(self, key: int, at: int) -> None:
        if key < 0:
            self._others[key] = at
            return
        rows, number = self._rows, key >> STEP
        while number >= len(rows):
            rows.append(None)
        row = rows[number]
        if row is None:
            row = rows[number] = _NONE[:]
        row[key & (WIDTH - 1)] = at

    def update(self, words: Iterable[tuple[int, int]]) -> None:
        """Takes in words by key."""
        for key, at in words:
            self[key] = at

    def items(self) -> Iterator[tuple[int, int]]:
        """Every key that has a word, with it."""
        yield from self._others.items()
        for number, row in enumerate(self._rows):
            if row is None:
                continue
            for step, at in enumerate(row):
                if at:
                    yield number << STEP | step, at
