"""What leads from one document to the next, entry by entry?

A document has thousands of routes and an edit touches one of them. Edits share what they leave
alone, so that two documents are compared by identity, not by content: a `Delta` names the
entries that are other objects than before. It crosses the channel, it makes the next table
out of the last one, and the history keeps it in the place of whole documents.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from operator import is_not, ne
from typing import Any, TypeVar

Document = Mapping[str, Any]
SECTIONS = ("backends", "routes", "keys", "default_limits")
SPARE = ("keys", "default_limits")
"""Sections that a document has only if there is something in them."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delta:
    """By section: entries that are new or different, names that are gone, and the whole order of
    names where it is another than the old one with the new names behind it."""

    put: Mapping[str, Mapping[str, Any]]
    removed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    order: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Document, after: Document) -> "Delta":
        """What leads from `before` to `after`. Equal entries count as different when they are
        different objects; `shared` makes them one."""
        return _last.between(before, after)

    @classmethod
    def _compared(cls, before: Document, after: Document) -> "Delta":
        put, removed, order = {}, {}, {}
        for section in SECTIONS:
            old: Mapping[str, Any] = before.get(section) or {}
            new: Mapping[str, Any] = after.get(section) or {}
            if old is new:
                continue
            # All in C: of twenty thousand entries most are as they were.
            differ = map(is_not, map(old.get, new), new.values())
            changed = dict(compress(new.items(), differ))
            if changed:
                put[section] = changed
            added = [name for name in changed if name not in old]
            kept: Iterable[str] = old
            if len(new) - len(added) != len(old):
                gone = dict.fromkeys(name for name in old if name not in new)
                removed[section] = list(gone)
                kept = [name for name in old if name not in gone]
            if any(map(ne, chain(kept, added), new)):
                order[section] = list(new)
        return cls(put, removed, order)

    def touched(self, section: str) -> Iterator[str]:
        """The names of `section` that are put or gone."""
        return chain(self.put.get(section, ()), self.removed.get(section, ()))

    def on(
        self, section: str, old: Mapping[str, T], made: Callable[[str, Any], T]
    ) -> Mapping[str, T]:
        """`old`, whose keys are the names of `section`, after this: each entry that is put is
        what `made` makes of it. `old` itself where nothing is different."""
        put, removed = self.put.get(section), self.removed.get(section)
        order = self.order.get(section)
        if not (put or removed or order):
            return old
        return self._taken_in(section, dict(old), made)

    def _taken_in(
        self, section: str, entries: dict[str, T], made: Callable[[str, Any], T]
    ) -> dict[str, T]:
        """`entries`, which are changed, after this."""
        for name in self.removed.get(section, ()):
            entries.pop(name, None)
        for name, spec in self.put.get(section, {}).items():
            entries[name] = made(name, spec)
        order = self.order.get(section)
        return {name: entries[name] for name in order} if order else entries

    @classmethod
    def all_applied(cls, document: Document, deltas: Iterable["Delta"]) -> Document:
        """The document that `deltas` make of `document`, which must be the one that the first of
        them began at, one after another; at the price of one copy and of what they change."""
        new = {each: dict(document[each]) for each in SECTIONS if document.get(each) is not None}
        for delta in deltas:
            for section in SECTIONS:
                if section in new or section in delta.put:
                    entries = new.get(section, {})
                    new[section] = delta._taken_in(section, entries, _as_it_is)
        return normalised({**document, **new})

    def as_json(self) -> dict[str, Any]:
        """The form in which it crosses the channel and is stored."""
        return {"put": self.put, "removed": self.removed, "order": self.order}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Delta":
        return cls(value["put"], value["removed"], value.get("order") or {})


def normalised(document: Document) -> Document:
    """`document` in its one form: where there is no key, it does not speak of keys."""
    if all(document.get(each) or each not in document for each in SPARE):
        return document
    return {key: entries for key, entries in document.items() if entries or key not in SPARE}


def shared(before: Document, after: Document, same: Callable[[Any, Any], bool]) -> Document:
    """`after` with the entries of `before` in place of their equals: for documents that come
    from elsewhere and share nothing."""
    document = dict(after)
    for section in SECTIONS:
        old, new = before.get(section) or {}, after.get(section) or {}
        if new and old is not new:
            document[section] = {
                name: spec
                if (known := old.get(name)) is spec or known is None or not same(known, spec)
                else known
                for name, spec in new.items()
            }
    return document


class _Last:
    """The difference that was found last: validation, table, history and channel ask for the same
    one in turn. It holds two documents that are there anyway."""

    def __init__(self) -> None:
        self._known: tuple[Document, Document, Delta] | None = None

    def between(self, before: Document, after: Document) -> Delta:
        known = self._known
        if known is not None and known[0] is before and known[1] is after:
            return known[2]
        delta = Delta._compared(before, after)
        self._known = (before, after, delta)
        return delta


_last = _Last()


def _as_it_is(_name: str, spec: Any) -> Any:
    return spec
