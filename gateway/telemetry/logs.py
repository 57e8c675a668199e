"""How does a process of the gateway write what is worth telling a human?

JSON lines on standard error through the standard library's logging: one event, one line,
whatever the text holds. A line that repeats is counted, not repeated.
"""

import logging
import sys
import time
from datetime import UTC, datetime

import orjson

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


def set_up(level: int = logging.INFO) -> None:
    """Sends the log of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Sparse())
    logging.basicConfig(level=level, handlers=[handler], force=True)
