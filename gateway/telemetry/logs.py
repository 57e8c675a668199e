"""How does a process of the gateway write what is worth telling a human?

JSON lines on standard error through the standard library's logging: one event, one line,
whatever the text holds. A line that repeats is counted, not repeated.
"""

import logging
import sys
import time
from datetime import UTC, datetime

import orjson

from gateway.processes import console, outlet

WINDOW_S = 10.0


class JsonLines(logging.Formatter):
    """One JSON object per record; `extra={"facts": {…}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object on one line, whatever the message holds."""
        members = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            members["error"] = self.formatException(record.exc_info)
        return orjson.dumps(members, default=str).decode()


class Lines(logging.Formatter):
    """For people: when, what, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback of a fault of ours."""
        facts = ", ".join(f"{k} {v}" for k, v in getattr(record, "facts", {}).items() if v)
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.getMessage()}"
        line += f" ({facts})" if facts else ""
        if record.exc_info and record.exc_info[1] is not None:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


class Sparse(logging.Filter):
    """Lets the same message through once per WINDOW_S and then says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message was not let through within the last WINDOW_S."""
        key = (record.name, str(record.msg))
        now = time.monotonic()
        since, count = self._seen.get(key, (-WINDOW_S, 0))
        if now - since < WINDOW_S:
            self._seen[key] = (since, count + 1)
            return False
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if count:
            record.facts = {**getattr(record, "facts", {}), "left_out": count}
        return True


def gap(lines: int) -> bytes:
    """The line that stands in for lines that nobody read in time."""
    facts = {"facts": {"lines": lines}}
    record = logging.makeLogRecord(
        {"name": __name__, "levelname": "WARNING", "msg": "log lines were dropped", **facts}
    )
    return f"{JsonLines().format(record)}\n".encode()


def show(level: int) -> None:
    """Writes from now on what is at least of this level."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)


def set_up() -> None:
    """Sends the log of this process to standard error, as JSON lines or as ones for people; none
    waits for a reader."""
    if console.is_for_people():
        console.take_over()
    else:
        outlet.take_over(gap)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if console.is_for_people() else JsonLines())
    handler.addFilter(Sparse())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
