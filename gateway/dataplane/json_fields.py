"""Which values do a few top-level fields of a JSON body have?

The body is validated as RFC 8259 has it and searched by msgspec in one pass that builds nothing
but what was asked for: a body of empty arrays costs its client more than it costs us. What most
readers take beyond that (Python's, JavaScript's) is taken here too, in a second pass: a byte order
mark, UTF-16 and UTF-32, and half of a surrogate pair, as texts have that were cut amid an emoji.
Which fields are worth asking for is known to the matcher.
"""

import json
import re
from typing import Any

import msgspec
import orjson

Json = Any
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_NO_SCALAR: Json = ()  # an array or an object: there, and equal to nothing that can be asked for
_SURROGATES = ((b"\\ud", b"\\ue"), (b"\\uD", b"\\uE"))  # and what may stand for them meanwhile


class FieldReader:
    """Reads the fields of the given names, each of which is any text."""

    __slots__ = ("_decoder", "_keys")

    def __init__(self, names: frozenset[str]) -> None:
        self._keys = {f"f{index}": name for index, name in enumerate(sorted(names))}
        shape: Any = dict[str, msgspec.Raw]  # for names that would have to be escaped
        if not any(map(_ESCAPED.search, names)):
            fields = [(key, msgspec.Raw, msgspec.Raw()) for key in self._keys]
            shape = msgspec.defstruct("Fields", fields, rename=self._keys)
        self._decoder = msgspec.json.Decoder(shape)

    def read(self, body: bytes) -> dict[str, Json] | None:
        """Name → value of the fields that are there, the last of a name that comes twice; None
        if `body` is no JSON object, or is nested about a thousand levels deep."""
        found = self._raw(body)
        if found is not None:
            return {name: _scalar(raw) for name, raw in found.items()}
        plain = _in_utf8(body)
        hidden = [
            (half, other) for half, other in _SURROGATES if half in plain and other not in plain
        ]
        if plain is body and not hidden:
            return None
        for half, other in hidden:
            plain = plain.replace(half, other)
        found = self._raw(plain)
        return found and {name: _scalar(_restored(raw, hidden)) for name, raw in found.items()}

    def _raw(self, body: bytes) -> dict[str, bytes] | None:
        try:
            str(body, "utf-8")  # what is passed over is not looked at so closely
            found = self._decoder.decode(body)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            return None
        if not isinstance(found, dict):
            found = {name: getattr(found, key) for key, name in self._keys.items()}
        raws = ((name, bytes(found.get(name, b""))) for name in self._keys.values())
        return {name: raw for name, raw in raws if raw}


def _in_utf8(body: bytes) -> bytes:
    """`body` in UTF-8 and without a byte order mark; itself if it is that already, or in no
    encoding at all."""
    encoding = json.detect_encoding(body)
    try:
        return body if encoding == "utf-8" else body.decode(encoding).encode()
    except UnicodeError:
        return body


def _restored(raw: bytes, hidden: list[tuple[bytes, bytes]]) -> bytes:
    for half, other in hidden:
        raw = raw.replace(other, half)
    return raw


def _scalar(raw: bytes) -> Json:
    if raw[:1] in b"[{":
        return _NO_SCALAR
    try:
        return orjson.loads(raw)
    except ValueError:
        return _NO_SCALAR  # half of a surrogate pair, or a number that no float holds
