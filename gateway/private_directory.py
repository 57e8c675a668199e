"""Where does a gateway keep what lives just as long as it does?

In a directory that only its user may enter: the socket of the channels, its copy of the
configuration file, what a control process leaves to its successor. A gateway that was killed
cannot clear up, and the file may hold secrets: the next one to start does it. Which gateways
are gone is told by a lock that ends with its process; what bears no such lock is not touched.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "headgate-run-"
LOCK = "supervisor.lock"


class PrivateDirectory:
    """A new directory at `path`; `close` removes it."""

    def __init__(self, state_dir: Path) -> None:
        """In the directory for what is temporary, or, in a container without one, in
        `state_dir`. Removes those of gateways that are gone."""
        self.path = _make(state_dir)
        clear_up(self.path.parent)
        # It appears under its name only when it is locked: until then nobody takes it for one
        # that was left behind.
        scrap = self.path / f"{LOCK}.new"
        self._lock = os.open(scrap, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        scrap.rename(self.path / LOCK)

    def nameless_file(self) -> int:
        """The descriptor of an empty file that ends with the last process that has it open."""
        descriptor, name = tempfile.mkstemp(dir=self.path)
        os.unlink(name)
        return descriptor

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def clear_up(parent: Path) -> None:
    """Removes the directories in `parent` that killed gateways of this user left behind."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # its gateway runs
        finally:
            os.close(lock)


def _make(state_dir: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=state_dir))
