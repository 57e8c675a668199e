"""Frames: how a message crosses between the HTTP process and a worker.

A frame is a header of plain values (marshal: builtin types only, so nothing that runs code
when it is read, and no user exception, can cross) followed by blobs. Large bodies travel as
blobs: they are written from where they lie and read straight into their own buffer, without
being copied into the header; still larger ones lie in an arena that both ends map, and the
frame says where. Sans I/O: the asyncio end and the blocking end share it.
"""

import marshal
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from instance.wire.arena import MIN_ROOM, Arena, Room

INLINE_MAX = 16 << 10  # bodies up to this size travel in the header
_PREFIX = struct.Struct("<II")  # bytes of header, number of blobs
_PLACE = struct.Struct("<qQ")  # of a blob: where in the arena, or that it follows; its bytes
_FOLLOWS = -1
_STASH = 256 << 10  # bytes that are read at a time

Buffer = bytes | bytearray | memoryview
Body = Buffer | Room
M = TypeVar("M", bound=tuple[Any, ...])
Frame: TypeAlias = tuple[M, list[Body]]  # a message (`instance.wire.messages`) and its blobs
Shared = Callable[[int, int], Body]  # what lies at an offset of the other end's arena, by size


def flat(body: Buffer) -> Buffer:
    """`body` as items of one byte each, which is how lengths are counted here: a view of an
    array counts its rows."""
    if not isinstance(body, memoryview):
        return body
    plain = body.ndim == 1 and body.itemsize == 1 and body.c_contiguous
    return body if plain else body.tobytes()


def place(body: Body, blobs: list[Body]) -> bytes | int:
    """What stands for `body` in a header: itself, or its index among `blobs`."""
    if len(body) <= INLINE_MAX and not isinstance(body, Room):
        return body if type(body) is bytes else bytes(body)
    blobs.append(body)
    return len(blobs) - 1


def found(placed: bytes | int, blobs: list[Body]) -> Body:
    """The body that `place` put there."""
    return blobs[placed] if type(placed) is int else placed  # type: ignore[return-value]


def pack(
    message: tuple[Any, ...], blobs: list[Body] | None = None, arena: Arena | None = None
) -> list[Buffer]:
    """The buffers to write, in order. Large blobs are put into `arena`, where there is one with
    room for them; a room of the arena that the other end reads stays where it is."""
    header = marshal.dumps(message)
    if not blobs:
        return [_PREFIX.pack(len(header), 0) + header]
    places, follow = [], []
    for blob in blobs:
        if isinstance(blob, Room):
            at: int | None = blob.offset
        else:
            at = arena.put(blob) if arena is not None and len(blob) >= MIN_ROOM else None
            if at is None:
                follow.append(blob)
        places.append(_PLACE.pack(_FOLLOWS if at is None else at, len(blob)))
    return [_PREFIX.pack(len(header), len(blobs)) + b"".join(places) + header, *follow]


class Decoder:
    """Turns bytes as they come into frames.

    `buffer()` gives the place to read into, `updated(n)` takes note of n bytes read there and
    gives the frames that are whole now. `shared` fetches what lies in the other's arena.
    """

    __slots__ = ("_blobs", "_end", "_filled", "_header", "_places", "_shared", "_start", "_stash")

    def __init__(self, shared: Shared | None = None) -> None:
        self._shared = shared
        self._stash = bytearray(_STASH)
        self._start = self._end = 0
        self._header: tuple[Any, ...] | None = None
        self._places: list[tuple[int, int]] = []
        self._blobs: list[Any] = []
        self._filled = 0  # bytes of the blob being read; 0 when none is begun

    def buffer(self) -> memoryview:
        if self._header is not None:
            return memoryview(self._blobs[-1])[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        return memoryview(self._stash)[self._end :]

    def updated(self, count: int) -> list[Frame[Any]]:
        """The frames that are whole with the `count` bytes just received."""
        frames: list[Frame[Any]] = []
        if self._header is None:
            self._end += count
        else:
            self._filled += count
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame[Any] | None:
        if self._header is None and not self._begin():
            return None
        while True:
            if self._blobs and self._filled < len(self._blobs[-1]):
                self._fill_from_stash()
                if self._filled < len(self._blobs[-1]):
                    return None
            if len(self._blobs) == len(self._places):
                break
            at, size = self._places[len(self._blobs)]
            if at == _FOLLOWS:
                self._blobs.append(bytearray(size))
                self._filled = 0
            else:
                assert self._shared is not None
                self._blobs.append(self._shared(at, size))
                self._filled = size
        assert self._header is not None
        frame = (self._header, self._blobs)
        self._header, self._places, self._blobs = None, [], []
        return frame

    def _begin(self) -> bool:
        """Whether a whole header lay in the stash; it is taken out if so."""
        have = self._end - self._start
        if have < _PREFIX.size:
            return self._make_room(_PREFIX.size)
        length, count = _PREFIX.unpack_from(self._stash, self._start)
        places_at = self._start + _PREFIX.size
        whole = _PREFIX.size + count * _PLACE.size + length
        if have < whole:
            return self._make_room(whole)
        header_at = places_at + count * _PLACE.size
        with memoryview(self._stash) as view:
            if count:
                self._places = list(_PLACE.iter_unpack(view[places_at:header_at]))
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
