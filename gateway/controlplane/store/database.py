"""Is this file our database, and is it whole?

Makes it, opens it, and refuses what cannot be used: another program's file, one of another
version, one that is damaged. Nothing here knows what the rows say.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.controlplane.store.edit_rows import MIGRATIONS, SCHEMA, VERSION
from gateway.controlplane.store.state_directory import sync_directory
from gateway.controlplane.store.store import StateRefused

APPLICATION_ID = 0x48644774  # "HdGt"
EXAMINED_BYTES = 64 << 20  # beyond it a start would take too long; each row has its own checksum


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path`; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the database at `path`, used by one thread at a time, any thread."""
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


def create(path: Path) -> None:
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


def recognise(path: Path) -> None:
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


def examine(db: sqlite3.Connection, path: Path) -> None:
    """Brings the database to this version; StateRefused or sqlite3.Error if that cannot be."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION and version not in MIGRATIONS:
        raise StateRefused(
            f"{path} is of version {version} and this Headgate knows {VERSION}; "
            "it was kept as it is"
        )
    if path.stat().st_size <= EXAMINED_BYTES:
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])
    while version != VERSION:
        db.execute("BEGIN IMMEDIATE")
        for statement in MIGRATIONS[version]:
            db.execute(statement)
        version += 1
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("COMMIT")
