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
from collections.abc import Sequence
from pathlib import Path

PREFIX = "headgate-run-"
LOCK = "supervisor.lock"
SOCKET = "control.sock"
MAX_SOCKET_NAME = 103  # bytes: what the strictest system, macOS, takes


class NoPlace(Exception):
    """Raised where such a directory can be put nowhere; the text is one clear line."""


class PrivateDirectory:
    """A new directory at `path`; `close` removes it."""

    def __init__(self, state_dir: Path) -> None:
        """In `place(state_dir)`. Removes those of gateways that are gone."""
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place(state_dir)))
        clear_up(self.path.parent)
        # It appears under its name only when it is locked: until then nobody takes it for one
        # that was left behind.
        scrap = self.path / f"{LOCK}.new"
        self._lock = os.open(scrap, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        scrap.rename(self.path / LOCK)

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


def place(state_dir: Path, temporary: Sequence[Path] | None = None) -> Path:
    """Where such a directory can be made: among what is `temporary` (None: on this machine), or in
    a container without a place for that in `state_dir`, which is made if need be. NoPlace when
    nowhere.

    The name of a socket in it may not be longer than the system allows, so a TMPDIR far down
    in the tree is passed over.
    """
    if temporary is None:
        temporary = _temporary()
    for parent in temporary:
        if _is_short(parent):
            return parent
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NoPlace(f"state directory {state_dir}: {error.strerror}") from None
    if not _is_short(state_dir.absolute()):
        raise NoPlace(
            f"the paths of {' and '.join(map(str, [*temporary, state_dir]))} are too long for a"
            " socket: set TMPDIR to a directory with a shorter path"
        )
    return state_dir


def _temporary() -> list[Path]:
    """Where what is temporary can go: `/tmp` too, if the usual place is far down in the tree."""
    try:
        first = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return []
    places = [first] if _is_short(first) else [first, Path("/tmp")]  # noqa: S108 -- made private
    return places if all(os.access(each, os.W_OK | os.X_OK) for each in places) else []


def _is_short(parent: Path) -> bool:
    longest = parent / f"{PREFIX}{'x' * 8}" / SOCKET
    return len(os.fsencode(longest)) <= MAX_SOCKET_NAME
