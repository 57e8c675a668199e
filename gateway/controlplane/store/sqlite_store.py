"""How are edits kept in one file, so that no crash and no bit flip goes unnoticed?

SQLite in WAL mode, synced at every commit; one transaction per edit. Each row carries a
SHA-256 over all it says, and `head` repeats the newest number and its sum, so that a row
lost to damage is missed. A file that is damaged, or is not ours, is refused with one line
and left as it is: an empty table never takes the place of one that cannot be read. What one
row holds, and how a document comes of several, is `edit_rows`.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from gateway.controlplane.store import disk, edit_rows
from gateway.controlplane.store.database import connect, create, examine, identity, recognise
from gateway.controlplane.store.edit_rows import Chain
from gateway.controlplane.store.state_directory import refuse_shared_file
from gateway.controlplane.store.store import (
    DiskRefused,
    Kept,
    Member,
    Page,
    Revision,
    StateRefused,
    Stored,
    StoreError,
    checksum,
)
from gateway.core.table import Document

LOG_HEAD, FRAME = 32, 24 + 4096  # bytes of SQLite's log: its head, and a page with one of its own
FORGOTTEN_AT_ONCE = 50  # rows of an older layout that one commit deletes, at most


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
    """A `Store` in the file at `path`, which is made when there is none.

    Keeps the last `keep` edits, and fewer where they take more than `keep_bytes`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, keep: int = 10_000, keep_bytes: int = 256 << 20
    ) -> None:
        self._path = Path(path)
        self._keep, self._keep_bytes = keep, keep_bytes
        if os.path.lexists(self._path):
            refuse_shared_file(self._path)
        else:
            create(self._path)
        with self._refusing():
            recognise(self._path)
            self._db = connect(self._path)
            examine(self._db, self._path)
            self._reader = connect(self._path)
            self._chain = Chain.of(self._db)
        self._file = identity(self._path)
        self._mark = HighWaterMark(self._path.with_suffix(".mark"))
        self._followers: list[Callable[[Revision], None]] = []
        self._room, self._can_hold = 0, hasattr(os, "posix_fallocate")
        self._lock = threading.Lock()

    def load(self) -> Stored | None:
        """What was stored last, checked; None in a new store. Raises StoreError on damage."""
        with self._refusing():
            head = self._db.execute("SELECT number, checksum FROM head").fetchone()
            found = edit_rows.newest(self._db)
            marked, number = self._mark.read(), found[0] if found else 0
            if marked > number:
                raise self._damaged(f"it ends at revision {number} and {marked} was acknowledged")
            if head is None and found is None:
                return None
            if head is None or found is None or found != head:
                raise self._damaged("its newest revision is missing")
            kept = edit_rows.read(self._db, number)
            if kept is None:
                raise self._damaged("its newest revision is missing")
            newest = kept.whole()
            self._chain = Chain.of(self._db, newest)
            return Stored(newest, self._applied())

    def _applied(self) -> Document | None:
        row = self._db.execute("SELECT document, checksum FROM applied").fetchone()
        if row is None:
            return None
        document: Document = orjson.loads(row[0])
        if row[1] not in (edit_rows.sum_of(row[0]), checksum(document)):
            raise self._damaged("the file last applied does not match its checksum")
        return document

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Makes one edit durable in one transaction; nothing of it is kept on failure."""
        row = self._chain.row_of(revision)
        with self._transaction() as db:
            db.execute(edit_rows.INSERT, row)
            db.execute(
                "INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (revision.number, row.checksum)
            )
            self.forget(db, revision.number)
            if applied is not None:
                _remember(db, applied)
        self._chain = self._chain.after(revision, row)
        self._mark.write(revision.number)
        for hear in self._followers:
            hear(revision)

    def hold(self, size: int) -> None:
        """Holds so many bytes of the log that no edit is to use, where the disk has them: one that
        is stored after `release` is written over them."""
        with self._lock, suppress(OSError):
            if not self._room and self._can_hold:
                self._extend(size)
                self._room = size

    def release(self) -> None:
        """Lets edits use what was held."""
        self._room = 0

    def follow(self, after: int, hear: Callable[[Revision], None]) -> None:
        """Only this process writes into the file: what it commits is all there is to hear."""
        self._followers.append(hear)
        for number in range(after + 1, self._chain.number + 1):
            if (found := self.get(number)) is not None:
                hear(found.whole())

    def members(self) -> Sequence[Member]:
        return ()

    def forget(self, db: sqlite3.Connection, newest: int) -> None:
        """Lets go of what is older than `keep`, and of the oldest while there are too many bytes:
        of whole chains only, for the rows of one lean on each other."""
        oldest = newest - self._keep + 1
        if self._chain.has_older:
            over = edit_rows.size(db) > self._keep_bytes
            db.execute(edit_rows.FORGET_OLDER, (newest if over else oldest, FORGOTTEN_AT_ONCE))
            if over:
                return
        db.execute(edit_rows.FORGET, (oldest,))
        if edit_rows.size(db) > self._keep_bytes:
            db.execute(edit_rows.FORGET_OLDEST_CHAIN)

    def applied_again(self, applied: Document, number: int) -> None:
        with self._transaction() as db:
            _remember(db, applied)

    def history(self, *, limit: int, before: int | None = None) -> Page:
        with self._reading():
            return edit_rows.page(self._reader, limit, before, self._keep)

    def get(self, number: int) -> Kept | None:
        if not 0 < number < 2**62:
            return None
        with self._reading():
            found = edit_rows.newest(self._reader)
            if found is None or number <= found[0] - self._keep:
                return None
            return edit_rows.read(self._reader, number)

    def close(self) -> None:
        self._reader.close()
        self._db.close()
        self._mark.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the history cannot be read: {error}") from None
        except ValueError as error:
            raise self._damaged(str(error)) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if identity(self._path) != self._file:
            # SQLite would go on writing into a file that no start will ever find.
            raise DiskRefused("the edit could not be stored: the state file was taken away")
        with self._lock:
            yield from self._transacted()

    def _transacted(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._room:
                self._extend(self._room)
        except OSError as error:
            raise disk.refused(error) from None
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            # Whatever it was: a transaction that stays open would swallow the next edit.
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            self._bury()
            raise disk.refusal(error, self._path) from None

    def _extend(self, size: int) -> None:
        """Has the log be so many bytes longer than what it holds; OSError where the disk has none.
        SQLite reads no further than to what it wrote, and never shortens it."""
        log = os.open(self._path.with_name(f"{self._path.name}-wal"), os.O_RDWR | os.O_CLOEXEC)
        try:
            # Unlike a write it changes nothing of what is there.
            os.posix_fallocate(log, 0, _end_of(log) + size)
        finally:
            os.close(log)

    def _bury(self) -> None:
        """Writes over what a commit that could not be synced has left at the log's end.

        It is whole there: a start after a crash would believe it, and it was refused.
        """
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA user_version = {edit_rows.VERSION}")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> StateRefused:
        line = " ".join(why.split())[:200]
        return StateRefused(f"{self._path} cannot be used ({line}); it was kept as it is")


def _remember(db: sqlite3.Connection, applied: Document) -> None:
    text = orjson.dumps(applied).decode()
    db.execute("INSERT OR REPLACE INTO applied VALUES (1, ?, ?)", (text, edit_rows.sum_of(text)))


def _end_of(log: int) -> int:
    """Where SQLite's log ends that is open as `log`: behind the last page with its salt."""
    salt, end = os.pread(log, 8, 16), LOG_HEAD
    while any(salt) and os.pread(log, 8, end + 8) == salt:
        end += FRAME
    return end
