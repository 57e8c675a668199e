"""When is a finished request counted?

A request leaves one entry and goes; entries are counted and logged together, a moment later
or when somebody asks. So the books are exact whenever they are read, and a request pays for
one append.
"""

from collections.abc import Callable

from gateway.telemetry.access_log import AccessLog, Entry
from gateway.telemetry.metrics import Cell, Consumed

FLUSH_S = 0.25
MOST = 64

Item = tuple[Cell, Consumed | None, Entry, float, float]
"""Where to count, and where for whom as well (None: for nobody), what happened, and the seconds to
the first byte (0: there was none) and of the gateway's own (negative: unknown)."""


class Ledger:
    """Entries not yet counted. `later` runs a callback once after some seconds."""

    __slots__ = ("_is_due", "_items", "_later", "_log", "_noted")

    def __init__(
        self,
        log: AccessLog,
        later: Callable[[float, Callable[[], None]], object],
        noted: Callable[[int], None],
    ) -> None:
        self._items: list[Item] = []
        self._is_due = False
        self._log = log
        self._later = later
        self._noted = noted

    def add(self, item: Item) -> None:
        """Takes one finished request."""
        items = self._items
        if not self._is_due:
            self._is_due = True
            self._later(FLUSH_S, self._due)
        items.append(item)
        if len(items) >= MOST:
            self.flush()

    def _due(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Counts and logs all there is. `noted` is told how many requests it was."""
        items, self._items = self._items, []
        if not items:
            return
        for cell, consumed, entry, first_s, overhead_s in items:
            cell.count(entry[3], entry[5], entry[6])
            if consumed is not None:
                consumed.count(entry[5])
            if first_s:
                cell.time(entry[13], first_s, max(0.0, overhead_s))
        self._noted(len(items))
        if self._log.is_on:
            self._log.write([item[2] for item in items])
