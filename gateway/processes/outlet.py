"""Writing of lines that never waits for a reader.

A thread per descriptor writes them, out of a bounded queue: nobody else waits for a pipe that
nobody empties, a terminal that was stopped with Ctrl-S or a disk that hangs. What finds no room in
the queue is dropped and counted. This module knows bytes and lines and nothing of what they say.
"""

import atexit
import errno
import fcntl
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_BYTES = 4 << 20
AT_ONCE = 64 << 10  # bytes of one write
PIPE_BUF = getattr(select, "PIPE_BUF", 512)
LOOK_S = 1.0
FAREWELL_S = 0.5
STEP_S = 0.05
TURN_S, LOCK_STEP_S = 0.1, 0.001

STDOUT, STDERR = 1, 2


class Outlet:
    """Lines on their way to one descriptor. All calls but `close` return at once.

    `dropped` counts the lines that were not written: the queue was full, or the system refused
    them. Where `gap` is given, it makes the line that stands in for so many dropped ones, once
    there is room again.
    """

    def __init__(
        self,
        fd: int | None,
        *,
        path: str | None = None,
        max_bytes: int = MAX_BYTES,
        gap: Callable[[int], bytes] | None = None,
    ) -> None:
        """Writes to `fd`, or to the file at `path`; OSError when that cannot be opened."""
        self._path, self._max_bytes, self.gap = path, max_bytes, gap
        self._fd = open_file(path) if path is not None else fd
        self._is_whole = self._fd is not None and _takes_whole(self._fd)
        self._reader = _reader_of(self._fd)
        self._queue: deque[bytes] = deque()
        self._size = self._missing = 0
        self._is_closed = self._is_writing = self._is_moved = False
        self._is_torn = False  # the last line that was written has no end, as far as is known here
        self._looked_at = time.monotonic()
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._size

    def put(self, data: bytes) -> None:
        """Queues `data`, whole lines, or drops it where there is no room."""
        with self._news:
            first = self.gap(self._missing) if self._missing and self.gap is not None else b""
            if self._is_closed or self._size + len(first) + len(data) > self._max_bytes:
                lines = data.count(b"\n")
                self.dropped += lines
                self._missing += lines
                return
            self._missing = 0
            self._queue.append(first + data)
            self._size += len(first) + len(data)
            if not self._is_writing:
                self._wake()

    def reopen(self) -> None:
        """Opens the file of this path anew, as for one that was moved away."""
        with self._news:
            self._is_moved = True
            self._wake()

    def close(self, within_s: float = FAREWELL_S) -> float:
        """Waits until all is written, `within_s` at most, and says how long. What is left then is
        dropped."""
        waited_s = 0.0
        with self._news:
            self._is_closed = True
            self._news.notify_all()
            while (self._queue or self._is_writing) and waited_s < within_s:
                began = time.monotonic()
                self._news.wait(STEP_S)
                # A pause of this whole process was none that the thread had to write in.
                waited_s += min(time.monotonic() - began, STEP_S)
            self.dropped += sum(data.count(b"\n") for data in self._queue)
            self._queue.clear()
            if not self._is_writing:
                own = (self._fd if self._path is not None else None, self._reader)
                self._fd, self._reader = (None if self._path is not None else self._fd), None
                for descriptor in own:
                    if descriptor is not None:
                        os.close(descriptor)
        return waited_s

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
            self._thread.start()
        else:
            self._news.notify_all()

    # -- the thread

    def _run(self) -> None:
        while (data := self._next()) is not None:
            lost = self._write(data)
            with self._news:
                self._is_writing = False
                self._size -= len(data)
                self.dropped += lost
                self._news.notify_all()

    def _next(self) -> bytes | None:
        """The next piece of what is queued, which counts as queued until it is written; None at
        the end."""
        with self._news:
            while not self._queue and not self._is_moved:
                if self._is_closed:
                    return None
                self._news.wait()
            self._is_writing = True
            parts: list[bytes] = []
            size = 0
            while self._queue and size < AT_ONCE:
                parts.append(self._queue.popleft())
                size += len(parts[-1])
        return b"".join(parts)

    def _write(self, data: bytes) -> int:
        """Writes `data`; how many of its lines were lost."""
        self._follow_the_path()
        at = 0
        try:
            with _turn_of(self._reader) as is_torn:
                if data and (self._is_torn or is_torn):  # what comes now is a line of its own
                    _write_some(self._fd, b"\n", 0, 1)
                    self._is_torn = False
                while at < len(data):
                    at += _write_some(self._fd, data, at, self._end(data, at))
        except OSError:
            self._is_torn = self._is_torn or not (b"\n" + data[:at]).endswith(b"\n")
            return data.count(b"\n", at)
        return 0

    def _end(self, data: bytes, at: int) -> int:
        """Where the next piece ends. Others may write to the same pipe: up to PIPE_BUF bytes go
        into it in one piece, so lines are not torn apart."""
        if self._is_whole or len(data) - at <= PIPE_BUF:
            return len(data)
        return data.rfind(b"\n", at, at + PIPE_BUF) + 1 or (data.find(b"\n", at) + 1 or len(data))

    def _follow_the_path(self) -> None:
        """Opens the file anew if it was moved away or somebody says so."""
        if self._path is None:
            self._is_moved = False
            return
        now = time.monotonic()
        if not self._is_moved and now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        if self._is_moved or not _is_at(self._fd, self._path):
            self._is_moved = False
            try:
                fresh = open_file(self._path)
            except OSError:  # its directory is gone: better in the old file than nowhere
                return
            stale, self._fd, self._is_torn = (self._fd, self._reader), fresh, False
            self._reader = _reader_of(fresh)
            for descriptor in stale:
                if descriptor is not None:
                    os.close(descriptor)


def _write_some(fd: int | None, data: bytes, at: int, end: int) -> int:
    """Writes `data[at:end]`, or a part of it; how many bytes it was. Waits for as long as it
    takes, also at a descriptor that others have made non-blocking."""
    if fd is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    while True:
        try:
            return os.write(fd, memoryview(data)[at:end])
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def open_file(path: str) -> int:
    """The descriptor of a log file, made if it is not there; OSError when it cannot be. A named
    pipe that nobody reads is such a case: its reader would be waited for without end."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(path, flags, 0o640)


def _is_at(fd: int | None, path: str) -> bool:
    """Whether the open file is the one that has the name `path`."""
    try:
        return fd is not None and os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _reader_of(fd: int | None) -> int | None:
    """A descriptor by which the file that is written to at `fd` can be read; None where there is
    no such file, or this process may not read it."""
    try:
        if fd is None or not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return os.open(f"/dev/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


@contextmanager
def _turn_of(reader: int | None) -> Iterator[bool]:
    """Has the file written to by nobody else meanwhile. Whether its last line has no end: another
    process wrote that, and was killed in the middle or found the disk full.

    Nobody waits for long: who is stopped while it is its turn keeps the others for TURN_S each
    time, and then they write as if nothing were torn."""
    if reader is None or not _lock(reader):
        yield False
        return
    try:
        size = os.fstat(reader).st_size
        yield bool(size) and os.pread(reader, 1, size - 1) not in (b"\n", b"")
    finally:
        fcntl.flock(reader, fcntl.LOCK_UN)


def _lock(reader: int) -> bool:
    for _ in range(round(TURN_S / LOCK_STEP_S)):
        try:
            fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_STEP_S)
            continue
        except OSError:  # there are no locks on this file
            return False
        return True
    return False


def _takes_whole(fd: int) -> bool:
    """Whether a write of any size stays in one piece: files do so, what has a reader does not."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return True


_standard: dict[int, Outlet] = {}


def standard(fd: int) -> Outlet:
    """The one outlet of this process for its standard output or error."""
    outlet = _standard.get(fd)
    if outlet is None:
        if not _standard:
            atexit.register(_say_goodbye)
        outlet = _standard[fd] = Outlet(fd)
    return outlet


def take_over(gap: Callable[[int], bytes]) -> None:
    """Makes this process wait for no reader: whatever is written to `sys.stdout` and
    `sys.stderr` from now on, a traceback or a library's warning, goes through an outlet.
    `gap` makes the line that stands for dropped ones on standard error."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass  # started without one of the three: its number must not become another file's
    os.close(free)
    sys.stdout, sys.stderr = Stream(STDOUT), Stream(STDERR)
    standard(STDERR).gap = gap


def dropped(*, but: Outlet | None = None) -> int:
    """How many lines this process could not write to its standard output and error; one of
    them may be left out, as `but`."""
    return sum(outlet.dropped for outlet in _standard.values() if outlet is not but)


def _say_goodbye() -> None:
    left_s = FAREWELL_S
    for outlet in _standard.values():
        left_s -= outlet.close(max(0.0, left_s))


class Stream(io.TextIOBase):
    """A text stream into the outlet of a standard descriptor. `flush` waits for nothing."""

    def __init__(self, fd: int) -> None:
        self._outlet, self._fd = standard(fd), fd
        self._begun = ""
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        """Passes on the lines in `text`; what follows the last line end waits for its own."""
        with self._lock:
            lines, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._put(lines + end)
        return len(text)

    def flush(self) -> None:
        """Passes on a line that has only begun."""
        with self._lock:
            begun, self._begun = self._begun, ""
            if begun:
                self._put(begun)

    def _put(self, text: str) -> None:
        self._outlet.put(text.encode("utf-8", "backslashreplace"))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)
