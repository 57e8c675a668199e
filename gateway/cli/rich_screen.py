"""How do the same grids look on a terminal? The only file that imports rich."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.grids import STYLES, Cell, Grid, Part, clean

Handler = Callable[[int, FrameType | None], object]
TAKEN, GIVEN_BACK = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


def show(parts: Sequence[Part], out: TextIO) -> None:
    """Prints `parts` in order, with colours where the terminal has them."""
    console = Console(file=out, highlight=False)
    for part in parts:
        console.print(drawn(part, console))


@contextmanager
def refreshing(out: TextIO) -> Iterator["Screenful"]:
    """A screen of its own that each `draw` replaces. The terminal is as before afterwards, also
    where Ctrl-C or SIGTERM ends it, and while Ctrl-Z suspends it."""
    console = Console(file=out, highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False)
    handlers: dict[signal.Signals, Handler] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: _end,
        signal.SIGTSTP: lambda *_: _suspend(live, out.fileno()),
        signal.SIGWINCH: lambda *_: live.refresh(),
    }
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        with live:
            yield Screenful(live)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _suspend(live: Live, fd: int) -> None:
    """Stops this process, as Ctrl-Z does, with the terminal given back for so long."""
    os.write(fd, GIVEN_BACK)
    ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)  # returns once it goes on
    signal.signal(signal.SIGTSTP, ours)
    os.write(fd, TAKEN)
    live.refresh()


class Screenful:
    """What the terminal shows now."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def draw(self, parts: Sequence[Part]) -> None:
        console = self._live.console
        self._live.update(Group(*(drawn(part, console) for part in parts)), refresh=True)


def drawn(part: Part, console: Console) -> RenderableType:
    """`part` as rich draws it; a table has as many of its columns as the console is wide."""
    if not isinstance(part, Grid):
        return _text(part)
    endless = console.options.update(max_width=10_000)
    for count in range(len(part.spare) + 1):
        table = _table(part, part.spare[:count])
        if console.measure(table, options=endless).maximum <= console.width:
            break
    return table


def _table(grid: Grid, without: Sequence[str]) -> Table:
    shown = [number for number, name in enumerate(grid.columns) if name not in without]
    table = Table(
        box=box.SIMPLE_HEAD, title=None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for column in (grid.columns[number] for number in shown):
        right = column.startswith(">")
        table.add_column(
            Text(column.lstrip(">"), style="dim"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in grid.rows:
        table.add_row(*(_text(row[number]) for number in shown))
    return table


def _text(part: Cell | str) -> Text:
    if isinstance(part, Cell):
        return Text(clean(part.text), style=STYLES[part.meaning])
    return Text(clean(part))
