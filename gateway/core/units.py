"""How do people write durations and sizes, and what do they mean?

`250ms`, `2s`, `5m`, `1h` and `64KiB`, `64MiB` in; seconds and bytes out. A bare number is
refused: a unit that is guessed is a bug that ships.
"""

import re

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2})(?::([0-9]{2}(?:\.[0-9]{1,6})?))?"
    r"(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EPOCH_DAY = 719162  # of 1970, counted from the first of the year 1
_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> float:
    """Seconds in `text`, such as `250ms`, `2s`, `1.5m` or `1h`; ValueError says the form."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 250ms, 2s or 5m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_time(text: str) -> float:
    """Seconds since 1970 of `text`, such as `2027-01-01T00:00:00Z`; ValueError says the form."""
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no time; write it like 2027-01-01T00:00:00Z")
    year, month, day, hour, minute = map(int, found.groups()[:5])
    second = float(found[6] or 0)
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    fits = 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] + (is_leap and month == 2)
    if not fits or hour > 23 or minute > 59 or second >= 60:
        raise ValueError(f"{text!r} is no time: there is no such moment")
    east_s = 0
    if found[7] != "Z":
        east_s = int(found[7][1:3]) * 3600 + int(found[7][4:]) * 60
        east_s = -east_s if found[7][0] == "-" else east_s
    before = year - 1
    days = 365 * before + before // 4 - before // 100 + before // 400 - _EPOCH_DAY
    days += sum(_DAYS[: month - 1]) + (is_leap and month > 2) + day - 1
    return days * 86400.0 + hour * 3600 + minute * 60 + second - east_s


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
