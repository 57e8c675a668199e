"""Compression of answers, and of requests that come compressed.

What is text and long enough is packed with gzip, where the client takes that. What is
packed already, such as images, and raw tensors are left as they are: it would cost more time
than it saves. Streams never are: their items would wait for each other.
"""

import zlib
from collections.abc import Iterator

from instance.core.errors import Problem, RequestRefused, refuse
from instance.front.answers import Buffer

PIECE = 256 << 10  # is unpacked at once
MAX_CODINGS = 4  # of a body, one upon the other
MAX_MEMBERS = 10_000  # of a body, each of which costs a decoder of its own
AT_ONCE = 16 << 10  # up to here a thread would cost more than the work
ENCODED = b"Content-Encoding: gzip\r\n"
VARY = b"Vary: Accept-Encoding\r\n"  # of what is compressed for some, whoever asks
_TEXTS = ("text/", "application/json", "application/xml", "application/javascript")
_SUFFIXES = ("+json", "+xml")
_GZIP = 16 + zlib.MAX_WBITS
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


def is_offered(content_type: str, extra: bytes) -> bool:
    """Whether an answer of `content_type` with the header lines `extra` is to be compressed for
    clients that take it so."""
    kind = content_type.partition(";")[0].strip().lower()
    return (
        (kind.startswith(_TEXTS) or kind.endswith(_SUFFIXES))
        and kind != "text/event-stream"
        and b"content-encoding:" not in extra.lower()
    )


def is_taken(accept_encoding: bytes | None) -> bool:
    """Whether a client that said `accept_encoding` takes what is compressed."""
    for part in (accept_encoding or b"").lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() in (b"gzip", b"x-gzip"):
            return weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False


def zipped(body: Buffer, level: int) -> bytes:
    return zlib.compress(body, level, _GZIP)


def inflated(body: Buffer, encoding: str, limit: int) -> list[bytes]:
    """A compressed body in pieces, as long as it is within `limit`; else the refusal is raised.
    In one piece, whoever puts it together would hold the interpreter, and with it the loop, while
    a large one is copied."""
    named = [part for part in encoding.lower().replace(" ", "").split(",") if part]
    codings = [part for part in named if part != "identity"]
    if not codings:
        return [bytes(body)]
    if len(codings) > MAX_CODINGS or not CODINGS.issuperset(codings):
        say = f"the content encoding {encoding} is not known; gzip and deflate are"
        if len(codings) > MAX_CODINGS:
            say = f"the body is encoded {len(codings)} times; {MAX_CODINGS} are taken"
        taken = [("Accept-Encoding", "gzip, deflate")]
        raise RequestRefused(Problem("unsupported_media_type", say, headers=taken))
    packed = memoryview(body)
    pieces = _inflated(
        (packed[at : at + PIECE] for at in range(0, len(packed), PIECE)), codings[-1], limit
    )
    for coding in reversed(codings[:-1]):
        pieces = _inflated(iter(pieces), coding, limit)
    return pieces


def _inflated(packed: Iterator[Buffer], coding: str, limit: int) -> list[bytes]:
    decoder, pieces, size, members = zlib.decompressobj(zlib.MAX_WBITS | 32), list[bytes](), 0, 1
    try:
        for part in packed:
            while True:  # what is left of it, and then what the decoder still has
                if decoder.eof and part:  # gzip's files may have several members
                    decoder, members = zlib.decompressobj(_GZIP), members + 1
                    if members > MAX_MEMBERS:
                        say = f"the body has more than {MAX_MEMBERS} members of gzip"
                        raise refuse("bad_request", say)
                piece = decoder.decompress(part, PIECE)
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    say = f"the body is larger than {limit} bytes (--max-body)"
                    raise refuse("body_too_large", say)
                part = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
                if not (part or piece) or (decoder.eof and not part):
                    break
    except zlib.error as error:
        raise refuse("bad_request", f"the body is not {coding}: {error}") from None
    if not decoder.eof:
        raise refuse("bad_request", f"the body is not {coding}: it ends early")
    return pieces
