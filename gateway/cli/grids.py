"""What may be shown: tables, and cells of text that say what they mean.

Cells are text: control characters in a name are shown, never obeyed. How they look is
`screen`'s to say, and on a terminal `rich_screen`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

STYLES = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "strong": "bold", "": ""}


@dataclass(frozen=True, slots=True)
class Cell:
    """Text with what it means: good, bad, warn, dim, strong or nothing."""

    text: str
    meaning: str = ""


Row = Sequence[str | Cell]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: its columns, `>` before a name aligning it right, and its rows.

    `spare` are the columns that a terminal too narrow for all leaves out, the first one first.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    spare: Sequence[str] = ()


Part = Grid | Cell | str


def once(grid: Grid) -> Grid:
    """`grid`, where a first cell that says the same as the one above is empty."""
    above = [None, *(row[0] for row in grid.rows)]
    rows = [
        ("", *row[1:]) if row[0] == last else row
        for row, last in zip(grid.rows, above, strict=False)
    ]
    return replace(grid, rows=rows)


def clean(text: str) -> str:
    """`text` with what a terminal would obey shown as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
