"""Shared memory for large bodies, so that one process need not send them to another.

An arena is memory that two processes map: its owner gives out rooms in it, the other end is
told in a frame where a body lies. It has no name that could be left over: a memfd, given to
the worker when it starts. Where there is none, or no room, bodies travel in frames. Refuses
to know whose body it is, and when it has been read.
"""

import mmap
import os
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

MIN_ROOM = 256 << 10  # below, two copies through a socket cost less than the bookkeeping
SIZE = 256 << 20  # of addresses; memory is taken where something lies
KEEP = 32 << 20  # what lies above is given back to the system with its room
_PAGE = mmap.PAGESIZE

Leave = Callable[[int, int], object]  # takes the offset and the size of a room


class Room:
    """A place for one body, and the bytes in it; free again when nobody refers to it.

    Whoever keeps only `view` must keep the room as well: it would be given to the next body.
    """

    __slots__ = ("_leave", "offset", "view")

    def __init__(self, view: memoryview, offset: int, leave: Leave) -> None:
        self.view = view
        self.offset = offset
        self._leave = leave

    def __len__(self) -> int:
        return len(self.view)

    def __del__(self) -> None:
        self._leave(self.offset, len(self.view))


class Arena:
    """The mapped memory of `file`, which is closed by whoever opened it."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, SIZE)
        self._view = memoryview(self._map)
        self._taken: list[tuple[int, int]] = []  # (first byte, end) of each room, in order
        # A room may be left in another thread, or by the collector in the middle of `_reserve`.
        self._left: deque[int] = deque()

    def take(self, size: int) -> Room | None:
        """A room for `size` bytes, left with the object; None when there is none."""
        offset = self._reserve(size)
        return None if offset is None else self.room(offset, size, self.leave)

    def put(self, body: bytes | bytearray | memoryview) -> int | None:
        """Where a copy of `body` lies until `leave`; None when there is no room."""
        offset = self._reserve(len(body))
        if offset is not None:
            self._view[offset : offset + len(body)] = body
        return offset

    def leave(self, offset: int, size: int) -> None:
        """The room of `size` bytes at `offset` is not needed any more."""
        end = offset + _whole(size)
        if end > KEEP:
            begin = max(offset, KEEP)
            self._map.madvise(mmap.MADV_REMOVE, begin, end - begin)
        self._left.append(offset)

    def copy(self, offset: int, size: int) -> bytes:
        """What the other end has put there."""
        return self._map[offset : offset + size]

    def room(self, offset: int, size: int, leave: Leave) -> Room:
        """The same without a copy; `leave` is told when it is not needed any more."""
        return Room(self._view[offset : offset + size], offset, leave)

    def _reserve(self, size: int) -> int | None:
        """The first byte of the lowest gap that is large enough: memory that was used before
        need not be made again."""
        while self._left:
            del self._taken[bisect_left(self._taken, (self._left.popleft(), 0))]
        whole, at = _whole(size), 0
        for first, end in self._taken:
            if first - at >= whole:
                break
            at = end
        if at + whole > SIZE:
            return None
        insort(self._taken, (at, at + whole))
        return at


def _whole(size: int) -> int:
    """`size` in whole pages."""
    return -(-size // _PAGE) * _PAGE


def new_file(size: int = SIZE) -> int | None:
    """A file of memory; None on systems that have no such files, or none left."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("headgate")
    except OSError:
        return None
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        return None
    return file
