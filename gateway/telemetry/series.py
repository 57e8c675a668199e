"""The counts of one series in a book: which word counts which key.

What opens a word for a key that was not counted yet is here, apart from the book that has the
memory: with a thousand routes one is opened for nearly every request of the first minutes.
"""

from typing import Final, Protocol

from gateway.telemetry.catalogue import TIMES
from gateway.telemetry.rows import Rows

WORDS: Final = 32
"""Of a block of a book."""

COUNTS: Final = 3
"""What a block is in which there are counts; the other kinds are the book's."""

ONE: Final = -2
TOTAL: Final = -3
"""Keys of counts: the only count of a series; a sum of seconds, which is a float64, as are all
that are less. Others are not negative. In a book each is one more, for 0 is where nothing is
counted yet."""

Labels = tuple[str, ...]


class Folds:
    """How many series of a book were folded into others so far."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Blocks(Protocol):
    """A book, by what a series needs of it."""

    words: "memoryview[int]"
    seconds: "memoryview[float]"
    folds: Folds

    def block(self, series: "Series") -> int: ...

    def name(self, labels: Labels) -> int: ...


class Series:
    """The counts of one series; `places`: key → the word where it is counted.

    `spare` is where the next key goes; a multiple of WORDS: into another block. Once it was folded
    `into` another one, nothing may be counted here: the blocks are somebody else's.
    """

    __slots__ = (
        "blocks", "book", "folds", "ident", "into", "places", "seconds", "spare", "words",
    )  # fmt: skip

    def __init__(self, book: Blocks, ident: int, metric: str) -> None:
        self.book, self.ident = book, ident
        self.words, self.seconds, self.folds = book.words, book.seconds, book.folds
        self.places: dict[int, int] | Rows = Rows() if metric == TIMES else {}
        self.blocks: list[int] = []
        self.spare = 0
        self.into: Series | None = None

    @property
    def newest(self) -> "Series":
        """Where this is counted now."""
        series = self
        while series.into is not None:
            series = series.into
        return series

    def place(self, key: int) -> int:
        """The word at which `key` is counted, from now on if it was not yet."""
        at = self.places.get(key, 0)
        if not at:
            if not self.spare % WORDS:
                begin = self.book.block(self)
                # That block may lie beyond what was mapped when this was made.
                self.words, self.seconds = self.book.words, self.book.seconds
                self.words[begin] = self.ident << 2 | COUNTS
                self.spare = begin + 2
            at = self.places[key] = self.spare + 1
            self.words[self.spare] = key + 1
            self.spare += 2
        return at

    def add(self, count: int = 1) -> None:
        """Counts `count` more of what has but one count."""
        at = self.place(ONE)
        self.words[at] += count

    @property
    def value(self) -> int:
        """All that was counted."""
        return sum(self.words[at] for key, at in self.places.items() if key > TOTAL)
