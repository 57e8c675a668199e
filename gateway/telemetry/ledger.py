"""When is the access-log line of a finished request written? Many at a time.

A request is counted at once and leaves its line here; lines are formatted and written together,
a moment later or when somebody asks. So a request pays for one append, and where nothing is logged
for a number.
"""

from collections.abc import Callable
from typing import Final

from gateway.telemetry.access_log import AccessLog, Entry

FLUSH_S: Final = 0.25
MAX_WAITING: Final = 64  # requests wait to be written down together


class Ledger:
    """Lines not yet written. `later` runs a callback once after some seconds, `noted` is told how
    many requests have ended since it was last called. `is_on` says whether lines are written."""

    __slots__ = ("_count", "_entries", "_is_due", "_later", "_log", "_noted", "is_on")

    def __init__(
        self,
        log: AccessLog,
        later: Callable[[float, Callable[[], None]], object],
        noted: Callable[[int], None],
    ) -> None:
        self._entries: list[Entry] = []
        self._count = 0
        self._is_due = False
        self._log = log
        self.is_on = log.is_on
        self._later = later
        self._noted = noted

    def add(self, entry: Entry | None) -> None:
        """Takes one finished request; None: without a line."""
        if not self._is_due:
            self._is_due = True
            self._later(FLUSH_S, self._due)
        if entry is not None:
            self._entries.append(entry)
        self._count += 1
        if self._count >= MAX_WAITING:
            self.flush()

    def _due(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Writes all there is."""
        count, self._count = self._count, 0
        if not count:
            return
        self._noted(count)
        entries, self._entries = self._entries, []
        if entries:
            self._log.write(entries)
