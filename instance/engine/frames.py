"""How does a message cross between the HTTP process and a worker?

A frame is a header of plain values (marshal: builtin types only, so nothing that runs code
when it is read, and no user exception, can cross) followed by blobs. Large bodies travel as
blobs: they are written from where they lie and read straight into their own buffer, without
being copied into the header. Sans I/O: the asyncio end and the blocking end share it.
"""

import marshal
import struct
from typing import Any

INLINE_MAX = 16 << 10  # bodies up to this size travel in the header
_PREFIX = struct.Struct("<II")  # bytes of header, number of blobs
_SIZE = struct.Struct("<Q")
_STASH = 256 << 10

Buffer = bytes | bytearray | memoryview
Frame = tuple[tuple[Any, ...], list[bytearray]]


def place(body: Buffer, blobs: list[Buffer]) -> bytes | int:
    """What stands for `body` in a header: itself, or its index among `blobs`."""
    if len(body) <= INLINE_MAX:
        return body if type(body) is bytes else bytes(body)
    blobs.append(body)
    return len(blobs) - 1


def found(placed: bytes | int, blobs: list[bytearray]) -> bytes | bytearray:
    """The body that `place` put there."""
    return blobs[placed] if type(placed) is int else placed  # type: ignore[return-value]


def pack(message: tuple[Any, ...], blobs: list[Buffer] | None = None) -> list[Buffer]:
    """The buffers to write, in order."""
    header = marshal.dumps(message)
    if not blobs:
        return [_PREFIX.pack(len(header), 0) + header]
    sizes = b"".join(_SIZE.pack(len(blob)) for blob in blobs)
    return [_PREFIX.pack(len(header), len(blobs)) + sizes + header, *blobs]


class Decoder:
    """Turns bytes as they come into frames.

    `buffer()` gives the place to read into, `updated(n)` takes note of n bytes read there and
    gives the frames that are whole now.
    """

    __slots__ = ("_blobs", "_end", "_filled", "_header", "_sizes", "_start", "_stash")

    def __init__(self) -> None:
        self._stash = bytearray(_STASH)
        self._start = self._end = 0
        self._header: tuple[Any, ...] | None = None
        self._sizes: list[int] = []
        self._blobs: list[bytearray] = []
        self._filled = 0  # bytes of the blob being read; 0 when none is begun

    def buffer(self) -> memoryview:
        if self._header is not None:
            return memoryview(self._blobs[-1])[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        return memoryview(self._stash)[self._end :]

    def updated(self, count: int) -> list[Frame]:
        frames: list[Frame] = []
        if self._header is None:
            self._end += count
        else:
            self._filled += count
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if self._header is None and not self._begin():
            return None
        while True:
            if self._blobs and self._filled < len(self._blobs[-1]):
                self._fill_from_stash()
                if self._filled < len(self._blobs[-1]):
                    return None
            if len(self._blobs) == len(self._sizes):
                break
            self._blobs.append(bytearray(self._sizes[len(self._blobs)]))
            self._filled = 0
        assert self._header is not None
        frame = (self._header, self._blobs)
        self._header, self._sizes, self._blobs = None, [], []
        return frame

    def _begin(self) -> bool:
        """Whether a whole header lay in the stash; it is taken out if so."""
        have = self._end - self._start
        if have < _PREFIX.size:
            return self._make_room(_PREFIX.size)
        length, count = _PREFIX.unpack_from(self._stash, self._start)
        sizes_at = self._start + _PREFIX.size
        whole = _PREFIX.size + count * _SIZE.size + length
        if have < whole:
            return self._make_room(whole)
        self._sizes = [
            _SIZE.unpack_from(self._stash, sizes_at + i * _SIZE.size)[0] for i in range(count)
        ]
        header_at = sizes_at + count * _SIZE.size
        with memoryview(self._stash) as view:
            # From our own child, and marshal makes plain values only.
            self._header = marshal.loads(view[header_at : header_at + length])  # noqa: S302
        self._start += whole
        return True

    def _make_room(self, size: int) -> bool:
        """Makes the stash hold `size` bytes from `_start`; False, as nothing is whole yet."""
        if self._start + size > len(self._stash):
            rest = bytes(self._stash[self._start : self._end])
            if size > len(self._stash):
                self._stash = bytearray(max(size, 2 * len(self._stash)))
            self._stash[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return False

    def _fill_from_stash(self) -> None:
        blob = self._blobs[-1]
        count = min(len(blob) - self._filled, self._end - self._start)
        if count:
            with memoryview(self._stash) as view:
                blob[self._filled : self._filled + count] = view[self._start : self._start + count]
            self._filled += count
            self._start += count
