"""Which value does a JSON text stand for, to the last digit?

orjson, but where it would make a float of an integer that does not fit 64 bits: Python's own
parser reads those exactly.
"""

import json
import re
import sys
from typing import Any, NoReturn

import orjson

_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19  # digits; with fewer an integer of either sign fits 64 bits
_HUGE = re.compile(rb"(?<![0-9.])(?:[0-9]{20,}|-[0-9]{19,})(?![0-9.eE])")


def loads(body: bytes | bytearray) -> Any:
    """The value of `body`; ValueError when it is no JSON."""
    try:
        return _loads(body)
    except ValueError:
        if (plain := as_utf8(body)) is None:
            raise
    return _loads(plain)


def as_utf8(body: bytes | bytearray) -> bytes | None:
    """`body` in UTF-8 and without a byte order mark, where it begins as JSON in another encoding,
    or with such a mark; None where it does not. Python's and Starlette's readers take both."""
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return None
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        return None


def _loads(body: bytes | bytearray) -> Any:
    # To look for a run of digits costs little beside parsing; few bodies have one as long.
    if len(body) >= len(_LONG) and _LONG in body.translate(_ZEROS) and _HUGE.search(body):
        try:
            return json.loads(body, parse_int=_integer, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    return orjson.loads(body)


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        most = sys.get_int_max_str_digits()
        raise ValueError(f"an integer in it has more than {most:,} digits") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
