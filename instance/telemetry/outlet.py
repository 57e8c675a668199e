"""How are lines written to somebody who may not read them?

By a thread, out of a bounded queue: who writes never waits for a pipe that nobody empties or a
terminal that was stopped with Ctrl-S. What finds no room is dropped and counted. Knows bytes
and lines and nothing of what they say.
"""

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

MAX_BYTES = 4 << 20
AT_ONCE = 64 << 10
PIPE_BUF = getattr(select, "PIPE_BUF", 512)
FAREWELL_S = 0.5


class Outlet:
    """Lines on their way to the descriptor `fd`. All calls but `flush` return at once.

    `dropped` counts those that were not written; `told` gets that number when it grows, and
    `gap` makes the line that stands for so many of them once there is room again.
    """

    def __init__(self, fd: int, gap: Callable[[int], bytes] | None = None) -> None:
        self.dropped = 0
        self.told: Callable[[int], object] = int
        self._fd = fd
        self._gap = gap
        self._is_direct = False
        self._begin()
        os.register_at_fork(after_in_child=self._be_direct)

    def _begin(self) -> None:
        self._queue: deque[bytes] = deque()
        self._size = self._missing = 0
        self._is_writing = False
        self._is_torn = False  # the last line that was written has no end: the disk was full
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def _be_direct(self) -> None:
        """In a fork there is no thread to write, and nobody who would wait for it."""
        self._is_direct = True
        self._begin()

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._size

    def put(self, data: bytes) -> None:
        """Queues `data`, whole lines, or drops it where there is no room."""
        if self._is_direct:
            self._write(data)
            return
        with self._news:
            first = self._gap(self._missing) if self._missing and self._gap else b""
            if self._size + len(first) + len(data) > MAX_BYTES:
                self._lose(data.count(b"\n"))
                return
            self._missing = 0
            self._queue.append(first + data)
            self._size += len(first) + len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
                self._thread.start()
            self._news.notify_all()

    def flush(self, within_s: float = FAREWELL_S) -> None:
        """Waits until all is written, `within_s` at most."""
        until = time.monotonic() + within_s
        with self._news:
            while (self._queue or self._is_writing) and (left := until - time.monotonic()) > 0:
                self._news.wait(left)

    def _lose(self, lines: int) -> None:
        self.dropped += lines
        self._missing += lines
        self.told(self.dropped)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._queue:
                    self._news.wait()
                self._is_writing = True
                parts: list[bytes] = []
                size = 0
                while self._queue and size < AT_ONCE:
                    parts.append(self._queue.popleft())
                    size += len(parts[-1])
            lost = self._write(b"".join(parts))
            with self._news:
                self._is_writing = False
                self._size -= size
                if lost:
                    self._lose(lost)
                self._news.notify_all()

    def _write(self, data: bytes) -> int:
        """Writes `data`; how many of its lines were lost. Others may write to the same pipe:
        up to PIPE_BUF bytes go into it in one piece, so that lines are not torn apart."""
        at = 0
        try:
            if self._is_torn:  # what comes now is a line of its own
                self._write_some(b"\n")
                self._is_torn = False
            while at < len(data):
                end = len(data)
                if end - at > PIPE_BUF:
                    end = (
                        data.rfind(b"\n", at, at + PIPE_BUF) + 1 or data.find(b"\n", at) + 1 or end
                    )
                at += self._write_some(memoryview(data)[at:end])
        except OSError:
            self._is_torn = self._is_torn or not (b"\n" + data[:at]).endswith(b"\n")
            return data.count(b"\n", at)
        return 0

    def _write_some(self, data: bytes | memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # others have made it so
                select.select([], [self._fd], [])


class Stream(io.TextIOBase):
    """A text stream into an outlet, for what is written without the log. `flush` does not wait."""

    def __init__(self, outlet: Outlet, fd: int) -> None:
        self._outlet = outlet
        self._fd = fd
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        """Passes on whole lines; what follows the last line end waits for its own."""
        lines, end, self._begun = (self._begun + text).rpartition("\n")
        if end:
            self._outlet.put((lines + end).encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Passes on a line that has only begun."""
        begun, self._begun = self._begun, ""
        if begun:
            self._outlet.put(begun.encode("utf-8", "backslashreplace"))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)
