"""What does the head of a response say?

By the same grammar as that of a request (`gateway.core.heads`): understood exactly, or refused as
the instance's fault. An instance says nearly the same of each answer, so a connection keeps its
last head and looks only at what may differ, its load report; some status lines are known to all.
"""

import re
from collections.abc import Collection
from typing import Final

from gateway.core.errors import UpstreamFault
from gateway.core.heads import CRLF, END, MEMORABLE, Head
from gateway.core.kept import Kept
from gateway.core.lines import (
    CODING,
    CONNECTION,
    DATE,
    DROP,
    KEEP_ALIVE,
    LENGTH,
    LOAD,
    PASS,
    REQUEST_LINES,
    RESPONSE_LINES,
    RETRY_AFTER,
    UNDERSCORE,
    UPGRADE,
    Line,
    has_control,
)  # fmt: skip

_status_line: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?"
).fullmatch
_PROTOCOL: Final = b"HTTP/1."
_MAX_KNOWN: Final = 256
_MAX_KNOWN_LENGTH: Final = 64
_known_statuses: Final[Kept[tuple[int, bytes, int]]] = Kept(_MAX_KNOWN)
_LOAD: Final = b"endpoint-load-metrics:"
_DATE: Final = b"Date: "
_idle_timeout = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE).search


class ResponseHead(Head):
    """An answer of an instance; `status_line` goes on as it is, from the code on, and `passing`
    is all that does: the line and the headers that pass. `load` is its load report, None without;
    `before` and `after` are what of `raw` lies around that, b"" where it has not exactly one.
    `is_dated`: it says when it was made; else `given` is the date that it was given last."""

    __slots__ = (
        "after", "before", "given", "is_dated", "load", "passing", "status", "status_line",
    )  # fmt: skip

    def __init__(self, lines: list[bytes], status: int, status_line: bytes, minor: int) -> None:
        Head.__init__(self, lines, minor)
        self.status = status
        self.status_line = status_line
        self.load: bytes | None = None
        self.is_dated = False
        self.given = b""
        self.passing = self.before = self.after = b""

    def again(self, data: bytes, max_head: int) -> "ResponseHead | None":
        """The head that `data` begins with, of up to `max_head` bytes, if it is this one with
        another load report: an instance says the same of each answer but how busy it is."""
        before = self.before
        if not before or not data.startswith(before):
            return None
        at = len(before)
        end = data.find(CRLF, at, MEMORABLE)
        over = end + len(self.after)
        if end < 0 or data[end:over] != self.after:
            return None
        value = data[at:end]
        if has_control(value) or over - len(END) > max_head:
            return None
        made = ResponseHead(self.lines, self.status, self.status_line, self.minor)
        made.close, made.length, made.nominated = self.close, self.length, self.nominated
        made.forward, made.passing = self.forward, self.passing
        made.is_dated, made.given = self.is_dated, self.given
        made.known, made.load = self.known, value.strip(b" \t")
        made.raw = data[:over]
        made.before, made.after = before, self.after
        return made

    def date(self, now: bytes) -> None:
        """Has it end with `now` as its date, and no longer with that of before: who passes an
        answer on that has none gives it that of its coming (RFC 9110, 6.6.1)."""
        if self.given:
            end = len(self.passing) - len(_DATE) - len(self.given) - len(CRLF)
            self.forward, self.passing = self.forward[:-1], self.passing[:end]
        line = _DATE + now
        self.forward = [*self.forward, line]
        self.passing += line + CRLF
        self.given = now

    def _note_surroundings(self, report: bytes) -> None:
        """Finds `before` and `after` of the line `report`."""
        at = self.raw.index(CRLF + report) + len(CRLF) + len(_LOAD)
        self.before = self.raw[:at]
        self.after = self.raw[at - len(_LOAD) + len(report) :]

    def note(self, entry: Line, line: bytes) -> None:
        """Takes one header that is not just passed on."""
        kind, value = entry.kind, entry.value
        if kind in (LENGTH, CODING):
            self._framing(kind, value, entry.number)
        elif kind == CONNECTION:
            self._connection(value)
        elif kind == UNDERSCORE:
            self.forward.append(line)
        elif kind != DROP:
            if kind == RETRY_AFTER:
                self.forward.append(line)
            self.known[kind] = value

    @property
    def idle_s(self) -> int | None:
        """For how many seconds the sender keeps an idle connection, where it says so
        (`Keep-Alive: timeout=5`)."""
        said = _idle_timeout(self.known.get(KEEP_ALIVE, b""))
        return int(said[1]) if said else None


def parse_response(head: bytes, max_headers: int) -> ResponseHead:
    """The response whose head, without its final empty line, is `head`. Raises UpstreamFault."""
    try:
        lines = head.split(CRLF)
        status, status_line, minor = _known_statuses.find(lines[0]) or _status(lines[0])
        response = ResponseHead(lines, status, status_line, minor)
        if len(head) <= MEMORABLE:
            response.raw = head + END
        if len(lines) - 1 > max_headers:
            raise ValueError("too many headers")
        forward = response.forward
        known = RESPONSE_LINES.kept.young
        report = b""
        for line in lines[1:]:
            entry = known.get(line) or RESPONSE_LINES.read(line)
            kind = entry.kind
            if kind == PASS:
                forward.append(line)
            elif kind == LENGTH and response.length is None:
                response.length = entry.number
            elif kind == LOAD:  # which of two counts is no matter of their places
                report = line if response.load is None else b""
                response.load = entry.value
            elif kind == DATE:
                forward.append(line)
                response.is_dated = True
            else:
                response.note(entry, line)
        if response.nominated:
            response.drop_nominated()
        if status == 426 and response.known.get(UPGRADE, b"").lower() == b"websocket":
            response.forward += (b"Connection: Upgrade", b"Upgrade: websocket")  # RFC 9110, 15.5.22
        elif status == 508 and response.get("x-headgate-error") == "loop_detected":
            response.forward.append(b"X-Headgate-Error: loop_detected")  # the next gateway's word
        if report and response.raw:
            response._note_surroundings(report)
        response.passing = CRLF.join((b"HTTP/1.1 " + status_line, *response.forward, b""))
        return response
    except ValueError as error:
        raise UpstreamFault(f"The instance answered malformed HTTP: {error}.") from None


def check_answer_start(data: bytes) -> None:
    """Raises UpstreamFault if `data`, the start of a head, cannot become a proper one: who speaks
    another protocol, or ends lines as one, may wait for us as we would for the end of the head."""
    if not data.startswith(_PROTOCOL[: len(data)]):
        raise UpstreamFault("The instance answered malformed HTTP: malformed status line.")
    if b"\n" in data.replace(CRLF, b""):
        raise UpstreamFault("The instance answered malformed HTTP: control character in the head.")


def _status(line: bytes) -> tuple[int, bytes, int]:
    """Status, status line from the code on, and minor version."""
    found = _status_line(line)
    if found is None:
        raise ValueError("malformed status line")
    minor, code, reason = found.groups()
    status = (int(code), line[9:] if reason is not None else code + b" ", int(minor))
    if len(line) <= _MAX_KNOWN_LENGTH:
        _known_statuses.keep(line, status)
    return status


def kept() -> tuple[Collection[bytes], ...]:
    """All that is remembered of heads when their connections are gone."""
    both = (REQUEST_LINES, RESPONSE_LINES)
    return (
        *(lines.kept.keys() for lines in both),
        *(lines.names.keys() for lines in both),
        _known_statuses.keys(),
    )
