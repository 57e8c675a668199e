"""How do tables and lines reach a person, a pipe or a program?

With rich where stdout is a terminal, as plain aligned columns where it is not, as JSON or YAML
where it was asked for. That a reader leaves (`| head`) ends nothing: an edit is made whole all the
same. What would go on until Ctrl-C ends in its `pause`.
"""

import sys
from typing import Any

import orjson

from gateway.cli.grids import Cell, Grid, Part, clean
from gateway.processes import standard_streams
from gateway.processes.console import can_draw


def printed(value: Any, form: str, *, again: bool = False) -> bool:
    """Whether `form` is one for programs: `value` is printed in it then, with its keys in the
    order they came. `again`: as one of several."""
    if form == "table":
        return False
    if form == "json":
        _print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n", flush=again)
        return True
    from gateway.controlplane.configuration.yaml_source import written

    _print(("---\n" if again else "") + written(value), flush=again)
    return True


def write_json_line(value: Any) -> None:
    """Prints `value` as one line of JSON, at once."""
    _print(orjson.dumps(value).decode() + "\n")


def pause(seconds: float) -> None:
    """Returns after so long; BrokenPipeError as soon as nobody reads the output any more."""
    if standard_streams.is_left(seconds):
        raise BrokenPipeError


def show(*parts: Part) -> None:
    """Prints `parts` in order."""
    if can_draw(sys.stdout):
        from gateway.cli import rich_screen

        rich_screen.show(parts, sys.stdout)
    else:
        write(*parts)


def write(*parts: Part) -> None:
    """Prints `parts` in order as plain text."""
    for part in parts:
        lines = plain(part) if isinstance(part, Grid) else [clean(text(part))]
        _print("".join(f"{line}\n" for line in lines))


def _print(text: str, *, flush: bool = True) -> None:
    try:
        print(text, end="", flush=flush)
    except BrokenPipeError:
        standard_streams.drop_output()


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
