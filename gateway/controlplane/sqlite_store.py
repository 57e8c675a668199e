"""How are edits kept in one file, so that no crash and no bit flip goes unnoticed?

SQLite in WAL mode, synced at every commit; one transaction per revision. Each row carries a
SHA-256 over all it says, and `head` repeats the newest number and its sum, so that a row
lost to damage is missed. A file that is damaged, or is not ours, is refused with one line
and left as it is: an empty table never takes the place of one that cannot be read.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.controlplane import disk
from gateway.controlplane.state_directory import refuse_shared_file, sync_directory
from gateway.controlplane.store import (
    DiskRefused,
    Revision,
    StateRefused,
    Stored,
    StoreError,
    canonical,
    checksum,
)
from gateway.core.table import Document

APPLICATION_ID = 0x48644774  # "HdGt"
VERSION = 1

SCHEMA = """
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
"""

MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""Version → the step to the next one; run in one transaction at open."""

_ROW = "number, time, who, why, source, diff, document, checksum"


class HighWaterMark:
    """The newest number that was committed, in a file of its own beside the database.

    Damage to the log of a killed gateway looks to SQLite like the log's end; this is how
    edits that go missing with it are noticed. It is not synced: after a power cut it may be
    too low, which says nothing, and it is never too high.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateRefused(f"{path} cannot be opened: {error.strerror}") from None
        self._path = path

    def read(self) -> int:
        """The number; 0 when none was written yet."""
        text = os.pread(self._fd, 64, 0).strip()
        if not text.isdigit() and text:
            raise StateRefused(f"{self._path} is damaged; it was kept as it is")
        return int(text or 0)

    def write(self, number: int) -> None:
        with suppress(OSError):  # the edit is durable; only this guard stays one behind
            os.pwrite(self._fd, b"%020d\n" % number, 0)

    def close(self) -> None:
        os.close(self._fd)


class SqliteStore:
    """A `Store` in the file at `path`, which is made when there is none."""

    def __init__(self, path: str | os.PathLike[str], *, keep: int = 10_000) -> None:
        self._path = Path(path)
        self._keep = keep
        if os.path.lexists(self._path):
            refuse_shared_file(self._path)
        else:
            _create(self._path)
        with self._refusing():
            _recognise(self._path)
            self._db = _connect(self._path)
            _examine(self._db, self._path)
        self._file = _identity(self._path)
        self._mark = HighWaterMark(self._path.with_suffix(".mark"))

    def load(self) -> Stored | None:
        """What was stored last, checked; None in a new store. Raises StoreError on damage."""
        with self._refusing():
            head = self._db.execute("SELECT number, checksum FROM head").fetchone()
            row = self._db.execute(
                f"SELECT {_ROW} FROM revisions ORDER BY number DESC LIMIT 1"  # noqa: S608
            ).fetchone()
            marked, newest = self._mark.read(), row[0] if row else 0
            if marked > newest:
                raise self._damaged(f"it ends at revision {newest} and {marked} was acknowledged")
            if head is None and row is None:
                return None
            if head is None or row is None or (row[0], row[-1]) != head:
                raise self._damaged("its newest revision is missing")
            return Stored(self._revision(row), self._applied())

    def _applied(self) -> Document | None:
        row = self._db.execute("SELECT document, checksum FROM applied").fetchone()
        if row is None:
            return None
        document: Document = json.loads(row[0])
        if checksum(document) != row[1]:
            raise self._damaged("the file last applied does not match its checksum")
        return document

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Makes one revision durable in one transaction; nothing of it is kept on failure."""
        row = _row_of(revision)
        with self._transaction() as db:
            db.execute(
                f"INSERT INTO revisions ({_ROW}) VALUES (?,?,?,?,?,?,?,?)",  # noqa: S608
                row,
            )
            db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (revision.number, row[-1]))
            db.execute("DELETE FROM revisions WHERE number <= ?", (revision.number - self._keep,))
            if applied is not None:
                _remember(db, applied)
        self._mark.write(revision.number)

    def applied_again(self, applied: Document) -> None:
        with self._transaction() as db:
            _remember(db, applied)

    def history(self, *, limit: int, before: int | None = None) -> list[Revision]:
        rows = self._rows(
            f"SELECT {_ROW} FROM revisions WHERE number < ? ORDER BY number DESC LIMIT ?",  # noqa: S608
            (2**62 if before is None else before, limit),
        )
        return [self._revision(row) for row in rows]

    def get(self, number: int) -> Revision | None:
        if not 0 < number < 2**62:
            return None
        rows = self._rows(f"SELECT {_ROW} FROM revisions WHERE number = ?", (number,))  # noqa: S608
        return self._revision(rows[0]) if rows else None

    def close(self) -> None:
        self._db.close()
        self._mark.close()

    def _rows(self, query: str, values: Sequence[int]) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the history cannot be read: {error}") from None

    def _revision(self, row: Sequence[Any]) -> Revision:
        number, time, who, why, source, diff, document, kept = row
        try:
            revision = Revision(
                number, time, who, why, source, json.loads(diff), json.loads(document)
            )
        except ValueError:
            raise self._damaged(f"revision {number} cannot be read") from None
        if revision.checksum() != kept:
            raise self._damaged(f"revision {number} does not match its checksum")
        return revision

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if _identity(self._path) != self._file:
            # SQLite would go on writing into a file that no start will ever find.
            raise DiskRefused("the edit could not be stored: the state file was taken away")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self._bury()
            raise disk.refusal(error, self._path) from None

    def _bury(self) -> None:
        """Writes over what a commit that could not be synced has left at the log's end.

        It is whole there: a start after a crash would believe it, and it was refused.
        """
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> StateRefused:
        line = " ".join(why.split())[:200]
        return StateRefused(f"{self._path} cannot be used ({line}); it was kept as it is")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path`; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    # Used by one thread at a time, which need not be the one that opens it.
    db = sqlite3.connect(
        path.absolute().as_uri() + "?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
    )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def _create(path: Path) -> None:
    """A new, empty file appears at `path` whole: a crash on the way leaves only a scrap."""
    scrap = path.with_name(f"{path.name}.new")
    try:
        scrap.unlink(missing_ok=True)
        os.close(os.open(scrap, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(scrap)) as db:
            db.executescript(SCHEMA)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        os.rename(scrap, path)
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StateRefused(f"{path} cannot be made: {reason}") from None


def _recognise(path: Path) -> None:
    """Refuses what is not ours before SQLite opens it, which would write into some of that:
    it takes a file of one byte for a new one, and another program's file for WAL's.

    https://www.sqlite.org/fileformat.html#the_database_header
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise StateRefused(f"{path} cannot be opened: {error.strerror}") from None
    if not header:
        raise StateRefused(f"{path} is empty; it was kept as it is")
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise ValueError("file is not a database")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StateRefused(f"{path} is not a Headgate state file; it was kept as it is")


def _examine(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION and version not in MIGRATIONS:
        raise StateRefused(
            f"{path} is of version {version} and this Headgate knows {VERSION}; "
            "it was kept as it is"
        )
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found.splitlines()[-1])
    while version != VERSION:
        db.execute("BEGIN IMMEDIATE")
        MIGRATIONS[version](db)
        version += 1
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("COMMIT")


def _row_of(revision: Revision) -> tuple[Any, ...]:
    return (
        revision.number,
        revision.time,
        revision.who,
        revision.why,
        revision.source,
        canonical(revision.diff),
        canonical(revision.document),
        revision.checksum(),
    )


def _remember(db: sqlite3.Connection, applied: Document) -> None:
    row = (canonical(applied), checksum(applied))
    db.execute("INSERT OR REPLACE INTO applied VALUES (1, ?, ?)", row)
