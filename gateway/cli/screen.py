"""How do tables and lines reach a person, a pipe or a program?

With rich where stdout is a terminal, as plain aligned columns where it is not, as JSON or YAML
where it was asked for.
"""

import os
import sys
from typing import Any, TextIO

import orjson

from gateway.cli.grids import Cell, Grid, Part, clean


def printed(value: Any, form: str, *, again: bool = False) -> bool:
    """Whether `form` is one for programs: `value` is printed in it then, with its keys in the
    order they came. `again`: as one of several."""
    if form == "table":
        return False
    if form == "json":
        print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), flush=again)
        return True
    from gateway.controlplane.configuration.yaml_source import written

    print("---\n" if again else "", written(value), sep="", end="", flush=again)
    return True


def write_json_line(value: Any) -> None:
    """Prints `value` as one line of JSON, at once."""
    print(orjson.dumps(value).decode(), flush=True)


def is_terminal(out: TextIO) -> bool:
    return out.isatty() and os.environ.get("TERM") != "dumb"


def show(*parts: Part) -> None:
    """Prints `parts` in order."""
    if is_terminal(sys.stdout):
        from gateway.cli import rich_screen

        rich_screen.show(parts, sys.stdout)
    else:
        write(*parts)


def write(*parts: Part) -> None:
    """Prints `parts` in order as plain text."""
    for part in parts:
        print("\n".join(plain(part)) if isinstance(part, Grid) else clean(text(part)), flush=True)


def plain(grid: Grid) -> list[str]:
    """`grid` as lines of aligned columns, two blanks apart."""
    header = [column.lstrip(">").upper() for column in grid.columns]
    rows = [header, *([clean(text(cell)) for cell in row] for row in grid.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, grid.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def text(part: str | Cell) -> str:
    return part.text if isinstance(part, Cell) else part
