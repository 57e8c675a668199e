"""What is written down about each request, and when is it written?

One JSON object per line. A request leaves a tuple; lines are made and written together,
shortly after, so that no request waits for a disk and none is formatted on its own. The
query, headers and bodies are never logged: they may hold secrets.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

MOST_KEPT = 20_000


class Entry(NamedTuple):
    """One request. `ended` is monotonic; durations in seconds; sizes of bodies in bytes."""

    ended: float
    ident: bytes
    client: str
    method: bytes
    target: bytes
    status: int
    reason: str
    route: str
    backend: str
    instance: str
    revision: int
    attempts: int
    received: int
    sent: int
    seconds: float


class AccessLog:
    """Collects entries and writes them in batches. `later` runs `flush` once, soon."""

    __slots__ = ("_clock", "_entries", "_fd", "_later", "_owned", "dropped")

    def __init__(self, where: str, later: Callable[[Callable[[], None]], object]) -> None:
        self._later = later
        self._entries: list[Entry] = []
        self._clock = (time.time, time.monotonic)
        self._owned = False
        self.dropped = 0
        self._fd: int | None = None
        if where == "-":
            self._fd = sys.stdout.fileno()
        elif where != "off":
            self._fd = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._owned = True

    @property
    def is_on(self) -> bool:
        return self._fd is not None

    def note(self, entry: Entry) -> None:
        """Keeps `entry` for the next batch; drops it when the disk has long not kept up."""
        entries = self._entries
        if not entries:
            self._later(self.flush)
        if len(entries) < MOST_KEPT:
            entries.append(entry)
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Writes what was noted. A write that fails loses the batch, never a request."""
        entries, self._entries = self._entries, []
        if self._fd is None or not entries:
            return
        wall, monotonic = self._clock
        offset = wall() - monotonic()
        data = b"".join([line(entry, offset) for entry in entries])
        try:
            os.write(self._fd, data)
        except OSError:
            self.dropped += len(entries)

    def close(self) -> None:
        self.flush()
        if self._owned and self._fd is not None:
            os.close(self._fd)
        self._fd = None


def line(entry: Entry, offset: float) -> bytes:
    """The line of `entry`; `offset` is what turns monotonic into wall-clock seconds."""
    moment = datetime.fromtimestamp(entry.ended + offset, UTC)
    return orjson.dumps(
        {
            "time": moment.isoformat(timespec="milliseconds"),
            "request_id": entry.ident.decode("latin-1"),
            "client": entry.client,
            "method": entry.method.decode("latin-1"),
            "path": entry.target.partition(b"?")[0].decode("latin-1"),
            "status": entry.status,
            "reason": entry.reason,
            "route": entry.route,
            "backend": entry.backend,
            "instance": entry.instance,
            "revision": entry.revision,
            "attempts": entry.attempts,
            "received": entry.received,
            "sent": entry.sent,
            "seconds": round(entry.seconds, 6),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
