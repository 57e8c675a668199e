"""Why the disk did not take an edit, in words for people.

SQLite keeps to itself whether a write met a quota, a limit, a read-only file system or a broken
disk; one trial write beside its files asks the disk again. Nothing here is for edits that went
well, and nothing here repairs anything.
"""

import errno
import os
import sqlite3
from pathlib import Path

from gateway.controlplane.store.store import DiskRefused, StoreError, StoreFull

_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refusal(error: sqlite3.Error, path: Path) -> StoreError:
    """Why an edit could not be stored, in the disk's own words where it has any."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_INTERNAL)
    if code & 0xFF not in _DISK:
        return StoreError(f"the edit could not be stored: {error}")
    complaint = _complaint(path)
    full = code == sqlite3.SQLITE_FULL or (complaint is not None and complaint.errno in _NO_SPACE)
    reason = complaint.strerror if complaint else error
    kind = StoreFull if full else DiskRefused
    return kind(f"the edit could not be stored: {reason}")


def refused(error: OSError) -> StoreError:
    """The same, of what the disk said itself."""
    kind = StoreFull if error.errno in _NO_SPACE else DiskRefused
    return kind(f"the edit could not be stored: {error.strerror}")


def _complaint(path: Path) -> OSError | None:
    """What the disk says to one more page where the log would grow; None when it takes it."""
    trial = path.with_name(f"{path.name}.trial")
    try:
        end = path.with_name(f"{path.name}-wal").stat().st_size
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, bytes(4096), end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            trial.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None
