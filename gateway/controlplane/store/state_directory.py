"""Whose is the state directory, and may its files be trusted?

One gateway at a time: a lock on the file `lock`, which the kernel gives back when its holder
dies, however it dies. Files that others may read are refused, for the token and the table
are in them. Nothing here reads or repairs what a file holds.
"""

import fcntl
import os
import stat
import tempfile
from pathlib import Path

from gateway.controlplane.store.names import ADMIN, DATABASE, FILES, LOCK, RUN, TOKEN, unusable
from gateway.controlplane.store.store import StateRefused


class StateDirectory:
    """A directory that is ours until `close`; StateRefused says why it cannot be."""

    def __init__(
        self, path: str | os.PathLike[str], lock: int | None = None, *, only_copies: bool = False
    ) -> None:
        """Locks the directory at `path`, or takes over `lock`, the descriptor of a lock that this
        process was given. The lock lasts until everybody who has it has closed it. With
        `only_copies` of what is kept elsewhere in it, one will do that cannot be written, or not
        even be made: why is its `complaint`."""
        self.path = Path(path)
        self._only_copies = only_copies
        self.complaint = ""
        """Why it cannot be written; empty where it was, or nobody tried."""
        self._lock = self._open() if lock is None else lock

    @property
    def lock(self) -> int:
        """The descriptor of the lock."""
        assert self._lock is not None
        return self._lock

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    @property
    def token(self) -> Path:
        """The admin token: one for all files of a folder, or no command would find it."""
        is_further = self.path.parent.name == FILES
        return (self.path.parent.parent if is_further else self.path) / TOKEN

    def tell(self, admin_url: str, certificate: str | None = None) -> None:
        """Notes for commands on this machine where the admin API is, and the file of the
        `certificate` that it shows, as long as the lock's holder lives; OSError where it cannot be
        written."""
        scrap = self.path / f"{ADMIN}.new"
        shown = f"{Path(certificate).absolute()}\n" if certificate else ""
        scrap.write_text(f"{admin_url}\n{shown}")
        os.replace(scrap, self.path / ADMIN)

    def sign(self, directory: Path) -> None:
        """Notes that this process has the state now, and its private `directory`; OSError where it
        cannot be written."""
        scrap = self.path / f"{RUN}.new"
        scrap.write_text(f"{directory}\n")
        os.replace(scrap, self.path / RUN)
        _sign(self.lock)

    def complain(self, error: OSError) -> None:
        """Notes that the directory could not be written; raises `error` where that must not be."""
        if not self._only_copies:
            raise error
        self.complaint = self.complaint or error.strerror or str(error)

    def _open(self) -> int | None:
        try:
            descriptor = self._open_lock() if self._is_made() else _nobodys_lock()
        except OSError as error:
            raise StateRefused(unusable(self.path, error)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise StateRefused(
                f"state directory {self.path} is in use by another gateway"
                f"{f' (process {holder})' if holder else ''}"
            ) from None
        try:
            _sign(descriptor)
        except OSError as error:
            self.complain(error)
        return descriptor

    def _is_made(self) -> bool:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self.complain(error)
            return False
        return True

    def _open_lock(self) -> int:
        try:
            return os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.complain(error)
        try:
            return os.open(self.path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # there is none yet, and none can be made
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Gives the directory back; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _nobodys_lock() -> int:
    """What can be passed on as a lock, for a directory that nobody can have."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _holder(descriptor: int) -> str:
    try:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    except OSError:  # it is the directory itself
        return ""


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def running_in(path: Path) -> Path | None:
    """The private directory of the gateway that has, or had, the state in `path`; None: nobody
    knows."""
    try:
        return Path((path / RUN).read_text().strip())
    except OSError:
        return None


def refuse_shared_file(path: Path) -> None:
    """StateRefused unless `path` is a plain file that only its owner may read or write."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise StateRefused(f"{path} is not a plain file")
    if found.st_mode & 0o077:
        raise StateRefused(f"{path} can be read by others: chmod 600 it")


def sync_directory(path: Path) -> None:
    """Makes names created or renamed in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
