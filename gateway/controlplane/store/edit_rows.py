"""What does one row of the history hold, and how does a document come of several?

An edit is kept as what differs from the document before it (`gateway.core.deltas`), now and
then as a whole document, so that the history of a large table is small and no document is
far from a whole one. The list of edits reads no documents. Version 1 kept every document
whole, in `revisions`; what is there is read from there until it is forgotten.
"""

import hashlib
import sqlite3
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
import orjson

from gateway.controlplane.store.store import (
    PAGE_BYTES,
    Conflict,
    Kept,
    Page,
    Revision,
    Summary,
    kept,
)
from gateway.core.deltas import SECTIONS, Delta
from gateway.core.table import Document

VERSION = 2
MAX_EDITS = 1000  # edits after a whole document
MIN_BYTES = 256 << 10  # ... and the bytes they may have, whatever the whole one has

_EDITS = """
CREATE TABLE edits (
    number   INTEGER PRIMARY KEY,
    time     TEXT NOT NULL,
    who      TEXT NOT NULL,
    why      TEXT NOT NULL,
    source   TEXT NOT NULL,
    base     INTEGER,
    content  TEXT NOT NULL,
    checksum TEXT NOT NULL,
    diff     TEXT NOT NULL,
    body     TEXT NOT NULL
) STRICT
"""
_WHOLES = "CREATE INDEX wholes ON edits (number) WHERE base IS NULL"

SCHEMA = f"""
CREATE TABLE revisions (
    number   INTEGER PRIMARY KEY,
    time     TEXT NOT NULL,
    who      TEXT NOT NULL,
    why      TEXT NOT NULL,
    source   TEXT NOT NULL,
    diff     TEXT NOT NULL,
    document TEXT NOT NULL,
    checksum TEXT NOT NULL
) STRICT;
CREATE TABLE head (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    number   INTEGER NOT NULL,
    checksum TEXT NOT NULL
) STRICT;
CREATE TABLE applied (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    document TEXT NOT NULL,
    checksum TEXT NOT NULL
) STRICT;
{_EDITS};
{_WHOLES};
"""

MIGRATIONS: dict[int, tuple[str, ...]] = {1: (_EDITS, _WHOLES)}
"""Version → the statements that lead to the next one; run in one transaction at open."""

INSERT = "INSERT INTO edits VALUES (?,?,?,?,?,?,?,?,?,?)"
FORGET = """DELETE FROM edits WHERE number <
    (SELECT MAX(number) FROM edits WHERE base IS NULL AND number <= ?)"""
FORGET_OLDEST_CHAIN = """DELETE FROM edits WHERE number <
    (SELECT number FROM edits WHERE base IS NULL ORDER BY number LIMIT 1 OFFSET 1)"""
FORGET_OLDER = """DELETE FROM revisions WHERE number IN
    (SELECT number FROM revisions WHERE number < ? ORDER BY number LIMIT ?)"""

_LISTED = "number, time, who, why, source, base, content, checksum, diff"


class Damaged(ValueError):
    """What a row says and its checksum do not agree."""


class Row(NamedTuple):
    """A row of `edits`. `body` is a whole document, or, with a `base`, what leads to it from the
    document of that edit; `content` is its checksum."""

    number: int
    time: str
    who: str
    why: str
    source: str
    base: int | None
    content: str
    checksum: str
    diff: str
    body: str


def sum_of(text: str) -> str:
    """The SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(listed: tuple[Any, ...]) -> str:
    """The sum of a row without its body and without this sum itself."""
    number, time, who, why, source, base, content, _, diff = listed
    return sum_of(
        orjson.dumps([number, time, who, why, source, base, content, sum_of(diff)]).decode()
    )


@dataclass(frozen=True, slots=True)
class Chain:
    """The edits since the newest whole document, and the document they come to (None: none was
    read yet, so that the next edit is kept whole). `has_older`: version 1 left some rows."""

    document: Document | None = None
    number: int = 0
    length: int = 0
    size: int = 0
    whole: int = 0
    has_older: bool = False

    @classmethod
    def of(cls, db: sqlite3.Connection, newest: Revision | None = None) -> "Chain":
        """The chain that ends with `newest`."""
        older = db.execute("SELECT EXISTS (SELECT 1 FROM revisions)").fetchone()[0]
        start = db.execute("SELECT MAX(number) FROM edits WHERE base IS NULL").fetchone()[0]
        if newest is None or start is None:
            return cls(has_older=bool(older))
        sizes = [
            size
            for (size,) in db.execute(
                "SELECT length(body) FROM edits WHERE number >= ? ORDER BY number", (start,)
            )
        ]
        rest = sizes[1:]
        return cls(newest.document, newest.number, len(rest), sum(rest), sizes[0], bool(older))

    def row_of(self, revision: Revision) -> Row:
        """How `revision` is kept as the next one; Conflict if its number is no new one."""
        if self.number and revision.number <= self.number:
            raise Conflict(f"revision {revision.number} is not above {self.number}")
        base, body = None, b""
        if self.document is not None and self.length < MAX_EDITS:
            base = self.number
            body = orjson.dumps(Delta.between(self.document, revision.document).as_json())
        if base is None or self.size + len(body) > max(self.whole, MIN_BYTES):
            base, body = None, orjson.dumps(revision.document)
        text, diff = body.decode(), orjson.dumps(revision.diff).decode()
        said = (revision.number, revision.time, revision.who, revision.why, revision.source)
        row = Row(*said, base, sum_of(text), "", diff, text)
        return row._replace(checksum=_checksum(row[:9]))

    def after(self, revision: Revision, row: Row) -> "Chain":
        """The chain that ends with `revision`, which is kept as `row`."""
        size = len(row.body)
        if row.base is None:
            return Chain(revision.document, revision.number, 0, 0, size, self.has_older)
        return replace(
            self,
            document=revision.document,
            number=revision.number,
            length=self.length + 1,
            size=self.size + size,
        )


def size(db: sqlite3.Connection) -> int:
    """The bytes that are in use in the file."""
    pages, free, each = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * each)


def newest(db: sqlite3.Connection) -> tuple[int, str] | None:
    """Number and checksum of the newest edit."""
    for table in ("edits", "revisions"):
        found: tuple[int, str] | None = db.execute(
            f"SELECT number, checksum FROM {table} ORDER BY number DESC LIMIT 1"  # noqa: S608
        ).fetchone()
        if found is not None:
            return found
    return None


def read(db: sqlite3.Connection, number: int) -> Kept | None:
    """Edit `number` with its document; None if it is not kept. Raises Damaged.

    The entries of a document stay the text that they are: trees of all of them would be made to be
    written out again, and the collector would look through them while everybody waits.
    """
    rows = db.execute(
        f"""SELECT {_LISTED}, body FROM edits WHERE number <= ?1 AND number >=
            (SELECT MAX(number) FROM edits WHERE base IS NULL AND number <= ?1)
            ORDER BY number""",  # noqa: S608
        (number,),
    ).fetchall()
    if not rows or rows[-1][0] != number:
        return _read_older(db, number)
    before = None
    for row in map(Row._make, rows):
        if sum_of(row.body) != row.content or row.base != before:
            raise Damaged(f"revision {row.number} does not match its checksum")
        before = row.number
    try:
        deltas = (Delta.from_json(_deltas.decode(row[-1])) for row in rows[1:])
        document = Delta.all_applied(_entries(rows[0][-1]), deltas)
    except msgspec.MsgspecError as error:
        raise Damaged(f"revision {number} is none: {error}") from None
    return kept(_summary(rows[-1][:9]), msgspec.json.encode(document))


class _Edited(TypedDict):
    """A row's `Delta`, whose entries stay as they are written."""

    put: dict[str, dict[str, msgspec.Raw]]
    removed: dict[str, list[str]]
    order: NotRequired[dict[str, list[str]]]


_deltas = msgspec.json.Decoder(_Edited)
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
_section = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def _entries(text: str) -> dict[str, Any]:
    """A whole document, whose entries stay as they are written."""
    document: dict[str, Any] = _parts.decode(text)
    for section in SECTIONS:
        if section in document:
            document[section] = _section.decode(document[section])
    return document


def page(db: sqlite3.Connection, limit: int, before: int | None, keep: int) -> Page:
    """At most `limit` edits before number `before`, of the newest `keep` ones; no document is read.
    Raises Damaged."""
    last = newest(db)
    if last is None:
        return Page()
    oldest = last[0] - keep
    top = 2**62 if before is None else before
    edits: list[Summary] = []
    room = PAGE_BYTES
    for query, shown in _PAGES:
        for row in db.execute(query, (top, oldest)):
            if len(edits) == limit or room <= 0:
                return Page(edits, True)
            edits.append(shown(row))
            room -= len(row[-1])
    return Page(edits)


def _summary(row: tuple[Any, ...]) -> Summary:
    number, time, who, why, source, _, _, known, diff = row
    if _checksum(row) != known:
        raise Damaged(f"revision {number} does not match its checksum")
    return Summary(number, time, who, why, source, orjson.loads(diff))


def _older_summary(row: tuple[Any, ...]) -> Summary:
    number, time, who, why, source, diff = row
    return Summary(number, time, who, why, source, orjson.loads(diff))


_PAGES = (
    (
        f"SELECT {_LISTED} FROM edits WHERE number < ? AND number > ? ORDER BY number DESC",  # noqa: S608
        _summary,
    ),
    (
        """SELECT number, time, who, why, source, diff FROM revisions
           WHERE number < ? AND number > ? ORDER BY number DESC""",
        _older_summary,
    ),
)


def _read_older(db: sqlite3.Connection, number: int) -> Kept | None:
    row = db.execute("SELECT * FROM revisions WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    number, time, who, why, source, diff, document, known = row
    revision = Revision(number, time, who, why, source, orjson.loads(diff), orjson.loads(document))
    if revision.checksum() != known:
        raise Damaged(f"revision {number} does not match its checksum")
    return kept(revision.summary, document.encode())
