"""Where do an instance's log lines go, and how do they look?

As JSON lines to standard error, as the gateway writes them: one event, one line, whatever the
text holds; on a terminal, where a person looks, as text. A thread writes them, so nobody waits
for a reader: not the HTTP process, nor a model's worker for what is logged (what a model prints
itself is its own affair).
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any

import orjson

from instance.core.errors import writable
from instance.telemetry.outlet import Outlet, Stream

STDOUT, STDERR = 1, 2
OURS = "instance"
# What a terminal would obey in place of showing it.
_UNSEEN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}


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
        try:
            return orjson.dumps(members, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # half of a surrogate pair in it, as a rule
            plain = {k: writable(v) if isinstance(v, str) else v for k, v in members.items()}
            return orjson.dumps(plain, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class Lines(logging.Formatter):
    """A record as a person reads it: time, level, event, further facts, then its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of the traceback."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        facts = "".join(f"  {k}={v}" for k, v in getattr(record, "facts", {}).items())
        text = f"{record.getMessage()}{facts}".replace("\n", "\\n")
        if record.exc_info and record.exc_info[1] is not None:
            text += f"\n{self.formatException(record.exc_info)}"
        return f"{time} {level}{text}".translate(_UNSEEN)


def _formatter() -> logging.Formatter:
    return Lines() if os.isatty(STDERR) else JsonLines()


class _Handler(logging.Handler):
    """Hands records to an outlet. What cannot be JSON is written as it looks."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self.setFormatter(_formatter())
        self._outlet = outlet

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # a message whose arguments do not fit it, or text that is no UTF-8
            told = {"name": record.name, "levelname": record.levelname, "msg": ascii(record.msg)}
            line = _formatter().format(logging.makeLogRecord(told))
        self._outlet.put(writable(f"{line}\n").encode())

    def flush(self) -> None:
        self._outlet.flush()


class _Ours(logging.Logger):
    """A logger whose lines are written whatever a model makes of logging: `dictConfig` disables
    loggers that it does not name, `disable` all, and a handler of the model's own may raise."""

    disabled = property(lambda self: False, lambda self, value: None)

    def isEnabledFor(self, level: int) -> bool:
        """As without `logging.disable`."""
        return level >= self.getEffectiveLevel()

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Ours is the first to have it."""
        with suppress(Exception):
            super().callHandlers(record)


def concerning(requests: Sequence[str], **more: Any) -> dict[str, Any]:
    """What to give as `extra` to a line about `requests`, by the ids that clients know."""
    if len(requests) == 1:
        return {"facts": {"request_id": requests[0], **more}}
    return {"facts": {"request_ids": list(requests), **more} if requests else more}


def gap(lines: int) -> bytes:
    """The line that stands in for lines that nobody read in time."""
    facts = {"facts": {"lines": lines}}
    record = logging.makeLogRecord(
        {"name": "instance", "levelname": "WARNING", "msg": "log lines were dropped", **facts}
    )
    return f"{_formatter().format(record)}\n".encode()


def configure_logging() -> Outlet:
    """Sends the log of this process to standard error; gives where its lines wait. What is printed
    goes out at once, and a line in one piece: others write to the same pipe, and PYTHONUNBUFFERED
    would have each argument of a `print` written by itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
    outlet = Outlet(STDERR, gap)
    theirs, ours = _Handler(outlet), logging.getLogger(OURS)
    theirs.addFilter(lambda record: record.name.partition(".")[0] != OURS)
    logging.basicConfig(level=logging.INFO, handlers=[theirs], force=True)
    for logger in (ours, logging.getLogger(f"{OURS}.model")):
        logger.__class__ = _Ours
    ours.handlers = [_Handler(outlet)]
    ours.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return outlet


def take_over(outlet: Outlet) -> None:
    """Lets nothing that this process writes otherwise, such as a library's warning, wait for a
    reader either."""
    sys.stdout, sys.stderr = Stream(Outlet(STDOUT), STDOUT), Stream(outlet, STDERR)
