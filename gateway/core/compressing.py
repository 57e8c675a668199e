"""Is an answer compressed on its way to the client, and as what?

Only what an instance left plain, of types that gain by it, for a client that says it takes it
(RFC 9110 §12.5.3). Streams of events are left alone unless they are asked for: each event shall
arrive when it was sent. How bytes are compressed is `gateway.dataplane.coding`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.units import parse_size

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
VARY: Final = b"Vary: Accept-Encoding\r\n"
MIN_SIZE: Final = 1024  # bytes of an answer, unless `min` says another size
_TYPES: Final = frozenset(
    {b"application/json", b"application/x-ndjson", b"application/jsonl", b"application/json-seq",
     b"application/javascript", b"application/xml", b"application/yaml", b"application/x-yaml"}
)  # fmt: skip
_EVENTS: Final = b"text/event-stream"
# Whose value speaks of the very bytes, or of a part of them.
_BOUND: Final = (
    b"content-encoding",
    b"content-range",
    b"content-md5",
    b"digest",
    b"content-digest",
    b"repr-digest",
)
_NOT_TRANSFORMED: Final = re.compile(rb"(?:^|,)\s*no-transform\s*(?:,|$)", re.IGNORECASE).search
_QUALITY: Final = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE).fullmatch

NOT, PLAIN, STREAM = 0, 1, 2
"""How an answer may be compressed: not at all, as any, as a stream of events."""


@dataclass(frozen=True, slots=True)
class Compress:
    """Answers of `least` bytes or more are compressed; streams of events if `events`."""

    least: int = MIN_SIZE
    events: bool = False

    def __post_init__(self) -> None:
        if type(self.events) is not bool:
            raise ValueError("compress: events must be true or false")


def read_compress(spec: Any) -> Compress | None:
    """What `spec` says (`true`, `false`, or with which limits); ValueError or TypeError if it
    cannot be."""
    if type(spec) is bool:
        return Compress() if spec else None
    if not isinstance(spec, Mapping):
        raise ValueError("compress: must be true, false or {min: SIZE}")
    said = dict(spec)
    least = parse_size(said.pop("min")) if "min" in said else MIN_SIZE
    return Compress(least, **said)


def chosen(accept: str | None, offered: Sequence[str]) -> str | None:
    """Which of `offered`, the best first, a client takes that says `accept` (Accept-Encoding);
    None: plain, because it takes none or likes plain better."""
    if not accept:
        return None
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = [piece.strip() for piece in part.split(";")]
        if name:
            weights["gzip" if name == "x-gzip" else name] = _quality(parameters)
    rest = weights.get("*", 0.0)
    best, most = None, max(0.0, weights.get("identity", 0.0))
    for name in offered:
        weight = weights.get(name, rest)
        if weight > most or (weight == most > 0.0 and best is None):
            best, most = name, weight
    return best


def _quality(parameters: Sequence[str]) -> float:
    """The weight of an entry; what cannot be read is not taken."""
    for parameter in parameters:
        found = _QUALITY(parameter.replace(" ", ""))
        return float(found[1]) if found is not None else 0.0
    return 1.0


def kind_of(lines: Sequence[bytes]) -> int:
    """How an answer with the header `lines` may be compressed: NOT, PLAIN or STREAM."""
    kind = NOT
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"content-type":
            media = value.partition(b";")[0].strip(b" \t").lower()
            if media == _EVENTS:
                kind = STREAM
            elif (
                media.startswith(b"text/") or media in _TYPES or media.endswith((b"+json", b"+xml"))
            ):
                kind = PLAIN
        elif name in _BOUND or (name == b"cache-control" and _NOT_TRANSFORMED(value) is not None):
            return NOT
    return kind


def coded_lines(lines: Sequence[bytes], coding: str) -> list[bytes]:
    """The header `lines` of an answer whose body is `coding` in place of plain: other bytes, so its
    entity tag is a weak one, and parts of it are not to be had."""
    made = []
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"accept-ranges":
            continue
        if name == b"etag":
            line = _weak(line, value)
        made.append(line)
    made.append(b"Content-Encoding: " + coding.encode())
    return made


def known_lines(lines: list[bytes], known: str | None) -> list[bytes]:
    """The header `lines` of an answer that says that what a client has is as it was: with a weak
    entity tag where the client has it as such a one (`known`, its If-None-Match), by an answer that
    was compressed. Of another tag it would renew nothing."""
    if known is None or "W/" not in known:
        return lines
    made = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"etag" and "W/" + value.strip(b" \t").decode("latin-1") in known:
            line = _weak(line, value)
        made.append(line)
    return made


def _weak(line: bytes, value: bytes) -> bytes:
    """The `line` of an entity tag, `value`, as that of a weak one."""
    value = value.strip(b" \t")
    return line if value.startswith(b"W/") else b"ETag: W/" + value
