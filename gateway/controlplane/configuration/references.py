"""Do the files and variables that backends name lead to something?

Asked where a gateway starts and where somebody edits what they are: not of a file that is
checked on another machine, nor of what was sound when it was edited and is not any more.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.core.faults import Fault, pointer
from gateway.core.table import TableError, make_backend
from gateway.processes.credentials import problems_of

Json = Any
_ABOUT = ("tls", "headers")


def missing(backends: Mapping[str, Json], before: Mapping[str, Json] = {}) -> Iterator[Fault]:
    """What cannot be read of what `backends` name otherwise than they did `before`. Reads it."""
    for name, spec in backends.items():
        old = before.get(name)
        known = old if isinstance(old, Mapping) else {}
        if not isinstance(spec, Mapping) or not any(spec.get(key) for key in _ABOUT):
            continue
        if all(spec.get(key) == known.get(key) for key in _ABOUT):
            continue
        try:
            backend = make_backend(name, spec)
        except TableError:
            continue  # what is wrong with it is said already
        for place, why in problems_of(backend):
            yield Fault(pointer("backends", name, *place), "unreadable", why)
