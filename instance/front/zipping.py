"""Compression of answers, and of requests that come compressed.

What is text and long enough is packed with gzip, where the client takes that. What is
packed already, such as images, and raw tensors are left as they are: it would cost more time
than it saves. Streams never are: their items would wait for each other.
"""

import zlib

from instance.core.errors import refuse
from instance.front.answers import Buffer

PIECE = 256 << 10  # is unpacked at once
AT_ONCE = 16 << 10  # up to here a thread would cost more than the work
HEADERS = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
_TEXTS = ("text/", "application/json", "application/xml", "application/javascript")
_SUFFIXES = ("+json", "+xml")
_GZIP = 16 + zlib.MAX_WBITS


def is_wanted(accept_encoding: bytes | None, content_type: str, extra: bytes) -> bool:
    """Whether an answer of `content_type` with the header lines `extra` is to be compressed for
    a client that said `accept_encoding`."""
    if accept_encoding is None or not _takes_gzip(accept_encoding.lower()):
        return False
    kind = content_type.partition(";")[0].strip().lower()
    return (
        (kind.startswith(_TEXTS) or kind.endswith(_SUFFIXES))
        and kind != "text/event-stream"
        and b"content-encoding:" not in extra.lower()
    )


def _takes_gzip(accepted: bytes) -> bool:
    for part in accepted.split(b","):
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
    if encoding.lower() == "identity":
        return [bytes(body)]
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise refuse("unsupported_media_type", f"the content encoding {encoding} is not known")
    decoder, pieces, size = zlib.decompressobj(zlib.MAX_WBITS | 32), list[bytes](), 0
    packed = memoryview(body)
    try:
        for at in range(0, len(packed), PIECE):
            part: Buffer = packed[at : at + PIECE]
            while True:  # what is left of it, and then what the decoder still has
                piece = decoder.decompress(part, PIECE)
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    say = f"the body is larger than {limit} bytes (--max-body)"
                    raise refuse("body_too_large", say)
                part = decoder.unconsumed_tail
                if decoder.eof or not (part or piece):
                    break
            if decoder.eof:
                break
    except zlib.error as error:
        raise refuse("bad_request", f"the body is not {encoding}: {error}") from None
    if not decoder.eof or decoder.unused_data or at + PIECE < len(packed):
        raise refuse("bad_request", f"the body is not {encoding}: it ends early, or goes on")
    return pieces
