"""How is the body of an answer compressed while it passes?

Piece by piece: at most PIECE bytes in one turn of the loop, so that a large answer holds nobody
up. What of a stream has come is flushed as soon as nothing more waits: a line of it reaches the
client when it was sent. Whether an answer is compressed is `gateway.core.compressing`.
"""

import importlib
import zlib
from abc import abstractmethod
from collections import deque
from functools import lru_cache
from typing import Any, Final

from mypy_extensions import mypyc_attr, trait

from gateway.core.compressing import GZIP, ZSTD
from gateway.dataplane.deadlines import fault
from gateway.dataplane.shared import Shared

PIECE: Final = 32 << 10  # a third of a millisecond
_GZIP_LEVEL: Final = 4  # JSON to a fifth at 100 MB/s; 6 takes half as long again for a tenth less
_ZSTD_LEVEL: Final = 3
_GZIP_BITS: Final = 31


@lru_cache(1)
def zstandard() -> Any:
    """The library of Python 3.14, or the one like it for those before; None where there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def offered() -> tuple[str, ...]:
    """What this process can compress as, the best first."""
    return (GZIP,) if zstandard() is None else (ZSTD, GZIP)


class Codec:
    """One compressed stream of bytes, as `name` says."""

    __slots__ = ("_flush", "_whole", "_zlib", "_zstd")

    def __init__(self, name: str) -> None:
        library = zstandard() if name == ZSTD else None
        self._zlib: Any = None
        self._zstd: Any = None
        if library is None:
            self._zlib = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_BITS)
        else:
            kind = library.ZstdCompressor
            self._zstd = kind(level=_ZSTD_LEVEL)
            self._flush, self._whole = kind.FLUSH_BLOCK, kind.FLUSH_FRAME

    def more(self, data: bytes) -> bytes:
        """What there is to send after `data`; some may be held back."""
        made: bytes = (self._zstd or self._zlib).compress(data)
        return made

    def flushed(self) -> bytes:
        """What was held back."""
        zstd = self._zstd
        made: bytes = (
            zstd.flush(self._flush) if zstd is not None else self._zlib.flush(zlib.Z_SYNC_FLUSH)
        )
        return made

    def ended(self) -> bytes:
        """What was held back, and the end."""
        zstd = self._zstd
        made: bytes = zstd.flush(self._whole) if zstd is not None else self._zlib.flush()
        return made


def coded_whole(body: bytes, name: str) -> bytes:
    """`body`, which is small, compressed."""
    codec = Codec(name)
    return codec.more(body) + codec.ended()


@mypyc_attr(allow_interpreted_subclasses=True)
@trait
class Coded:
    """Whose answer it is."""

    __slots__ = ()

    @abstractmethod
    def coded(self, data: bytes, done: bool) -> None:
        """More of the compressed body; `done`: the last of it."""

    @abstractmethod
    def hold_instance(self) -> None:
        """Has the instance wait: what came is not yet compressed."""

    @abstractmethod
    def release_instance(self) -> None:
        """Has the instance go on."""

    @abstractmethod
    def give_up(self) -> None: ...


class Coding:
    """The body of one answer on its way through a Codec. `flushes`: what came is not held back;
    `is_held` while the client takes nothing."""

    __slots__ = ("_codec", "_is_whole", "_owner", "_shared", "_waiting", "flushes", "is_held")

    def __init__(self, owner: Coded, shared: Shared, name: str, flushes: bool) -> None:
        self._owner: Coded | None = owner
        self._shared = shared
        self._codec = Codec(name)
        self._waiting: deque[bytes] = deque()
        self._is_whole = False
        self.flushes = flushes
        self.is_held = False

    @property
    def is_busy(self) -> bool:
        """Whether more has come than is compressed."""
        return bool(self._waiting)

    def add(self, payload: bytes, done: bool) -> None:
        """Takes more of the plain body, `done` with the last of it."""
        is_waiting = bool(self._waiting)
        for at in range(0, len(payload), PIECE):
            self._waiting.append(payload[at : at + PIECE])
        self._is_whole = self._is_whole or done
        if not is_waiting:
            self._piece()
        elif self._owner is not None:
            self._owner.hold_instance()

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._owner = None
        self._waiting.clear()

    def _piece(self) -> None:
        """Compresses and sends one piece; the next one has its turn after what else is to do."""
        owner, waiting = self._owner, self._waiting
        if owner is None:
            return
        data = self._codec.more(waiting.popleft()) if waiting else b""
        if waiting:
            self._shared.soon(self._turn)
            if data:
                owner.coded(data, False)
            owner.hold_instance()
            return
        if self._is_whole:
            self._owner = None
            owner.coded(data + self._codec.ended(), True)
            return
        if self.flushes:
            data += self._codec.flushed()
        if data:
            owner.coded(data, False)

    def _turn(self) -> None:
        owner = self._owner
        if owner is None:
            return
        try:
            self._piece()
            if not self._waiting and self._owner is not None and not self.is_held:
                owner.release_instance()
        except Exception:
            self.stop()
            fault(owner.give_up)
