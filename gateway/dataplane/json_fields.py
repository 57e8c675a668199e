"""Which values do a few top-level fields of a JSON body have?

The body is validated as RFC 8259 has it and searched by msgspec in one pass that builds nothing
but what was asked for: a body of empty arrays costs its client more than it costs us. Which
fields are worth asking for is known to the matcher.
"""

import re
from typing import Any

import msgspec
import orjson

Json = Any
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_NO_SCALAR: Json = ()  # an array or an object: there, and equal to nothing that can be asked for


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
        if `body` is no JSON object, is not UTF-8, or is nested about a thousand levels deep."""
        try:
            str(body, "utf-8")  # what is passed over is not looked at so closely
            found = self._decoder.decode(body)
            if not isinstance(found, dict):
                found = {name: getattr(found, key) for key, name in self._keys.items()}
            raws = ((name, bytes(found.get(name, b""))) for name in self._keys.values())
            return {name: _scalar(raw) for name, raw in raws if raw}
        except (ValueError, msgspec.MsgspecError, RecursionError):
            return None


def _scalar(raw: bytes) -> Json:
    return _NO_SCALAR if raw[:1] in b"[{" else orjson.loads(raw)
