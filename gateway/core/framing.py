"""Where does a message body end, and what are its bytes?

Three framings of RFC 9112 §6: a length, chunks, or the end of the connection. Each is fed
what arrives and gives the payload; what lies behind the body is left in `rest`. Chunk
extensions and trailers are checked and dropped, never forwarded, so that the other side is
always framed anew. Whatever is not exactly the grammar raises ValueError: a lenient reading
here is another server's second request (request smuggling).
"""

import re
from typing import Final, Protocol

CRLF: Final = b"\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
MAX_LINE: Final = 1024  # bytes of a chunk's size with its extensions, or of a trailer
MAX_OVERHEAD: Final = 16 << 10  # bytes of a body that are none of its payload
FORBIDDEN_TRAILERS = (b"content-length", b"transfer-encoding", b"host", b"trailer", b"expect")

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION: Final = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_match_size: Final = re.compile(rb"(0*[0-9A-Fa-f]{1,15})(?:%b)*" % _EXTENSION).fullmatch
_DIGITS: Final = 16  # of a size that are no overhead: all of a number of 64 bits, zeros before it
_match_trailer: Final = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*" % _TOKEN).fullmatch

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3


class Body(Protocol):
    """A body being received; `done` once its last byte was fed."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


class Sized:
    """A body of `length` bytes."""

    __slots__ = ("done", "left", "rest")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = not length
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; bytes beyond the body go to `rest`."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return data
        self.done = True
        if size > self.left:
            self.rest = data[self.left :]
            data = data[: self.left]
        self.left = 0
        return data


class UntilClose:
    """A body that only the end of the connection ends; `done` is set by who sees it."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    """A chunked body. The payload of one `feed` comes in one piece, however it was cut.

    At most MAX_LINE bytes are kept between two feeds, and at most MAX_OVERHEAD bytes of
    extensions and trailers are read in all.
    """

    __slots__ = ("_kept", "_left", "_overhead", "_state", "done", "rest")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._kept = b""
        self._overhead = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; ValueError where it is not exactly chunks."""
        if self._kept:
            data = self._kept + data
            self._kept = b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                if size - at < 2 and data[at] == 13:
                    self._kept = data[at:]
                    break
                if data[at : at + 2] != CRLF:
                    raise ValueError("chunk data does not end where its size says")
                at += 2
                self._state = _SIZE
            else:
                end = data.find(CRLF, at)
                if end < 0:
                    self._keep(data[at:])
                    break
                self._line(data[at:end])
                at = end + 2
        if self.done:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, start: bytes) -> None:
        """Holds the `start` of a line until the rest of it comes."""
        if len(start) > MAX_LINE:
            raise ValueError("chunk line too long")
        if b"\n" in start:
            raise ValueError("bare line feed in chunk framing")
        self._kept = start

    def _line(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise ValueError("chunk line too long")
        if self._state == _SIZE:
            found = _match_size(line)
            if found is None:
                raise ValueError("malformed chunk size")
            self._spend(len(line) - min(len(found[1]), _DIGITS))
            self._left = int(found[1], 16)
            self._state = _DATA if self._left else _TRAILER
        elif not line:
            self.done = True
        else:
            if _match_trailer(line) is None:
                raise ValueError("malformed trailer")
            if line.partition(b":")[0].lower() in FORBIDDEN_TRAILERS:
                raise ValueError("trailer that would change framing or routing")
            self._spend(len(line) + 2)

    def _spend(self, overhead: int) -> None:
        self._overhead += overhead
        if self._overhead > MAX_OVERHEAD:
            raise ValueError("chunk extensions or trailers too long")


def chunk(payload: bytes) -> bytes:
    """`payload`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
