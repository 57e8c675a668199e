"""Which JSON does the admin API read?

RFC 8259 and not a byte more: UTF-8 without a mark at the front, no NaN or Infinity, no number
that a float cannot hold, no key twice, no lone surrogate, no depth beyond MAX_DEPTH. What
passes means the same to every program that reads it.
"""

import json
import math
import re
from typing import Any

MAX_DEPTH = 32
# A text that does not end is taken to the end, and nothing is tried twice: linear in any body.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_MAX_DIGITS = 400  # of a number


class NotJson(ValueError):
    """Bytes that are not the JSON we read; the text says why and holds none of them."""


def loads(body: bytes) -> Any:
    """The value in `body`; NotJson says what is wrong with it."""
    _check_depth(body)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise NotJson(f"nested deeper than {MAX_DEPTH} levels") from None
    return value


def _check_depth(body: bytes) -> None:
    depth = 0
    for found in _STRUCTURE.finditer(body):
        mark = found[0][0]
        if mark in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise NotJson(f"nested deeper than {MAX_DEPTH} levels")
        elif mark in b"]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = {}
    for key, value in pairs:
        if key in seen:
            raise NotJson(f"the key {key[:60]!r} stands twice in one object")
        seen[key] = value
        _check_text(key)
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, list):
            _check_items(value)
    return seen


def _check_items(items: list[Any]) -> None:
    for item in items:
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, list):
            _check_items(item)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJson("a text holds half of a surrogate pair") from None


def _constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson("a number is too large")
    return number


def _integer(text: str) -> int | float:
    if len(text) > _MAX_DIGITS:
        raise NotJson("a number is too long")
    # Negative zero is a float: where a whole number is needed it is refused as one.
    return -0.0 if text == "-0" else int(text)
