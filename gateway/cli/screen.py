"""How do tables and lines reach a person, a pipe or a program?

With rich where stdout is a terminal, as plain aligned columns where it is not, as JSON where
it was asked for. Cells are text: control characters in a name are shown, never obeyed.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import orjson

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
    title: str = ""
    spare: Sequence[str] = ()


def print_json(value: Any, out: TextIO | None = None) -> None:
    """`value` as indented JSON, with its keys in the order they came."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    print(text, file=out or sys.stdout)


def is_terminal(out: TextIO) -> bool:
    return out.isatty() and os.environ.get("TERM") != "dumb"


def show(*parts: Grid | Cell | str, out: TextIO | None = None) -> None:
    """Prints `parts` in order."""
    out = out or sys.stdout
    if is_terminal(out):
        from gateway.cli import rich_screen

        rich_screen.show(parts, out)
        return
    for part in parts:
        print("\n".join(plain(part)) if isinstance(part, Grid) else clean(_text(part)), file=out)


def plain(grid: Grid) -> list[str]:
    """`grid` as lines of aligned columns, two blanks apart."""
    header = [column.lstrip(">").upper() for column in grid.columns]
    rows = [header, *([clean(_text(cell)) for cell in row] for row in grid.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    lines = [clean(grid.title)] if grid.title else []
    for row in rows:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, grid.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def clean(text: str) -> str:
    """`text` with what a terminal would obey shown as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _text(part: str | Cell) -> str:
    return part.text if isinstance(part, Cell) else part
