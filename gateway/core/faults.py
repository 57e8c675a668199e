"""What is wrong with something that was asked for, and where?

A `Fault` names one thing by its JSON pointer; `Invalid` carries all of them at once, so that
nobody mends a document one error at a time. This module words nothing and logs nothing.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

_MAX_COMPARED = 200
_LONG_WORD = re.compile(r"\S{300,}")


@dataclass(frozen=True, slots=True)
class Fault:
    """`pointer` (RFC 6901) says where, `code` what in one word, `detail` in a sentence.

    `hint` says how to mend it and may be empty.
    """

    pointer: str
    code: str
    detail: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        """The form of the admin API: `{pointer, code, detail}`, the hint in the detail."""
        detail = f"{self.detail}; {self.hint}" if self.hint else self.detail
        return {"pointer": self.pointer, "code": self.code, "detail": detail}


class Invalid(ValueError):
    """An edit or a document that cannot be; nothing was changed."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "; ".join(f"{readable(fault.pointer)}: {fault.detail}" for fault in self.faults)
        )


class Missing(LookupError):
    """The route, backend, instance or revision that an edit is about does not exist."""


class Conflict(ValueError):
    """The edit contradicts something else that is configured and was not mentioned."""


def pointer(*parts: str | int) -> str:
    """The JSON pointer of `parts`, escaped as RFC 6901 says; "" is the whole document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def readable(pointer: str) -> str:
    """`pointer` as people write it, who know nothing of how a JSON pointer escapes `/` and `~`."""
    return pointer.replace("~1", "/").replace("~0", "~")


def brief(text: str) -> str:
    """`text` with the two ends of each word that is longer than a path would be: whoever wrote a
    value knows it, and looks for what is wrong with it."""
    return _LONG_WORD.sub(lambda word: f"{word[0][:60]}…{word[0][-20:]}", text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean x?` for the known word closest to `word`; "" when none is close.

    Of thousands only those are looked at that begin alike and are about as long.
    """
    words = list(known)
    if len(words) > _MAX_COMPARED:
        start, size = word[:2], len(word)
        alike = (each for each in words if each[:2] == start and abs(len(each) - size) <= 2)
        words = list(islice(alike, _MAX_COMPARED))
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
