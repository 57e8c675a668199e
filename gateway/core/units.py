"""How do people write durations and sizes, and what do they mean?

`250ms`, `2s`, `5m`, `1h` and `64KiB`, `64MiB` in; seconds and bytes out. A bare number is
refused: a unit that is guessed is a bug that ships.
"""

import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> float:
    """Seconds in `text`, such as `250ms`, `2s`, `1.5m` or `1h`; ValueError says the form."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 250ms, 2s or 5m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes in `text`, such as `512B`, `64KiB`, `64MiB` or `1GiB`; ValueError says the form."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write it like 64KiB or 64MiB")
    return int(match[1]) * _BYTES[match[2]]


def format_size(size: int) -> str:
    """The shortest exact form of `size` bytes: `parse_size` gives it back."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
