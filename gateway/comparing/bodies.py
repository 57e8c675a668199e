"""What does the body of an answer say, for a comparison?

JSON where it can be read as that, the items of a stream where its type says that it is one, else
its bytes. What was compressed is read through that, up to a bound. Whether two of them are the
same is asked elsewhere.
"""

import zlib

import orjson

from gateway.core.comparing import Answer
from gateway.wire.pairs import Part

SSE = "text/event-stream"
LINES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines",
     "application/x-json-stream"}
)  # fmt: skip
MAX_INFLATED = 4 << 20  # bytes of a body that came compressed
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def answer_of(part: Part) -> Answer:
    """The answer that came so."""
    status, kind, coding, body = part
    body = _inflated(body, coding.strip().lower())
    media = kind.partition(";")[0].strip().lower()
    if media == SSE:
        return Answer(status, "stream", list(map(_text, events(body))))
    if media in LINES:
        return Answer(status, "stream", [_text(line) for line in body.split(b"\n") if line.strip()])
    try:
        return Answer(status, "json", orjson.loads(body))
    except ValueError:
        return Answer(status, "bytes", _text(body))


def events(body: bytes) -> list[bytes]:
    """The items of a stream of server-sent events: the data of each, behind its kind where it has
    one. Comments, ids and pauses are of the way and not of the answer."""
    found: list[bytes] = []
    kind, data = b"", list[bytes]()
    for line in [*body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        name, _, value = line.partition(b":")
        if not line:
            if data:
                found.append((kind + b": " if kind else b"") + b"\n".join(data))
            kind, data = b"", list[bytes]()
        elif name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.strip()
    return found


def _inflated(body: bytes, coding: str) -> bytes:
    """`body` without its Content-Encoding; as it is where that is not known or not true."""
    window = _WINDOWS.get(coding)
    if window is None:
        return body
    try:
        return zlib.decompressobj(window).decompress(body, MAX_INFLATED)
    except zlib.error:
        return body


def _text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")
