"""What has a process that ended left behind, in sessions of their own where no signal of ours came?

A child that is to leave nothing gets a mark in its environment, which all that it starts inherits.
On Linux what bears the mark is found among all processes of this user; elsewhere, and where a
process was started with an environment of its own, nothing is.
"""

import os
import secrets
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "STARTED_BY_HEADGATE"
MAX_LOOKS = 10  # at processes that start others while they are ended
ENDS_WITHIN_MS = 1000  # one that is killed, unless the kernel holds it

PROCESSES = Path("/proc")


def end(mark: str) -> int:
    """Kills every process whose mark begins with `mark`, and waits for their ends: how many there
    were. Reads the environment of all processes of this user: for a thread of its own."""
    ended = 0
    for _ in range(MAX_LOOKS):
        found = [pid for pid in _own_processes() if _end(pid, mark)]
        ended += len(found)
        if not found:
            break
    return ended


def follow_on(note: Path) -> tuple[str, int]:
    """(a new mark, how many processes were ended that bear the one before). The file `note` holds
    the mark of whoever ran last, and may have been killed before it ended what it had left behind;
    in a copy of its directory it says nothing, as that one may be running."""
    place = note.parent.stat()
    here = f"{place.st_dev:x}-{place.st_ino:x}-"
    before = ""
    with suppress(OSError, UnicodeDecodeError):
        before = note.read_text().strip()
    ended = end(f"{before}-") if before.startswith(here) else 0
    mark = f"{here}{secrets.token_hex(8)}"
    with suppress(OSError):
        note.write_text(f"{mark}\n")
    return mark, ended


def _end(pid: int, mark: str) -> bool:
    """Whether `pid` bore the mark, and has ended now."""
    try:
        # What the number means cannot change any more from here on.
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _bears(pid, mark):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        gone = select.poll()
        gone.register(process, select.POLLIN)
        gone.poll(ENDS_WITHIN_MS)
    except OSError:  # it ended meanwhile
        return False
    finally:
        os.close(process)
    return True


def _bears(pid: int, mark: str) -> bool:
    with suppress(OSError):
        environment = (PROCESSES / str(pid) / "environ").read_bytes()
        return b"\0" + f"{MARK}={mark}".encode() in b"\0" + environment
    return False


def _own_processes() -> Iterator[int]:
    try:
        names = os.listdir(PROCESSES)
    except OSError:  # another system
        return
    for name in names:
        with suppress(OSError):
            if name.isdigit() and (PROCESSES / name).stat().st_uid == os.geteuid():
                yield int(name)
