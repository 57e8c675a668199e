"""What comes again and again need not be worked out anew: a cache.

A bounded cache in two halves (two generations). What is asked for moves from the old half to the
young one; when that is full the old one goes, so that what nobody asked for since is what is lost,
and a flood of what never comes again takes nothing from what does. Looking up costs what it costs
in a dictionary.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Up to `most` values by the bytes they were made of. `young` may be read directly: what is
    not there is for `find`."""

    __slots__ = ("_half", "old", "young")

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self.young: dict[bytes, T] = {}
        self.old: dict[bytes, T] = {}

    def keys(self) -> set[bytes]:
        """All of which something is kept."""
        return self.young.keys() | self.old.keys()

    def find(self, key: bytes) -> T | None:
        """What is kept of `key`, and it stays; None for nothing."""
        found = self.young.get(key)
        if found is None:
            found = self.old.get(key)
            if found is not None:
                self.keep(key, found)
        return found

    def keep(self, key: bytes, value: T) -> None:
        """Keeps `value`, which is not None."""
        if len(self.young) >= self._half:
            self.old = self.young
            self.young = {}
        self.young[key] = value
