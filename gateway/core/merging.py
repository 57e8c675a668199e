"""How do two documents differ, and what comes of a file that meets edited state?

`diff` is what history, dry runs and `headgate apply` show. `merge` is the three-way rule of
`kubectl apply`: what the file changed since it was last applied wins, what only the admin
API changed stays; but where that leaves a split of nothing but zeros, which neither has, the file's
is taken whole. Neither knows whether the outcome makes sense.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import is_not
from typing import Any, Final

from gateway.core.deltas import SECTIONS, SPARE, Delta, normalised
from gateway.core.faults import pointer, readable
from gateway.core.table import Document

Json = Any


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()
"""No value at all, which is not the same as null."""

NOT_SERVED = "nothing was started, replaced or stopped"

# Their keys exclude or complete one another, so half of one and half of another is neither.
ATOMIC = frozenset({"match", "sticky", "on_unavailable", "mirror", "serve"})


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; ABSENT on the side where there is none. `note` is what there is to
    say about it beside."""

    pointer: str
    before: Json
    after: Json
    note: str = ""

    def __str__(self) -> str:
        """One line for people: `/routes/r/split/b: 50 → 80`; nothing is shown as `–`."""
        shown = ["–" if v is ABSENT else json.dumps(v) for v in (self.before, self.after)]
        return f"{readable(self.pointer)}: {' → '.join(shown)}"

    @property
    def op(self) -> str:
        if self.before is ABSENT:
            return "add"
        return "remove" if self.after is ABSENT else "replace"

    def as_json(self) -> dict[str, Json]:
        """`{op, pointer, before?, after?, note?}`: a side that is absent has no key."""
        change = {"op": self.op, "pointer": self.pointer}
        if self.before is not ABSENT:
            change["before"] = self.before
        if self.after is not ABSENT:
            change["after"] = self.after
        if self.note:
            change["note"] = self.note
        return change


@dataclass(frozen=True, slots=True)
class Merge:
    """What a file and the live document make together.

    `overridden` are live edits that the file undid: from what was live to what is now.
    """

    document: Document
    overridden: tuple[Change, ...]


def diff(before: Json, after: Json) -> tuple[Change, ...]:
    """The changes that lead from `before` to `after`, deepest values only, in document order; each
    of one key or limit, also where the other document speaks of none."""
    changes: list[Change] = []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        before, after = _speaking_of_all(before, after)
    _diff(before, after, (), changes)
    return tuple(changes)


def diff_of(delta: Delta, before: Document, after: Document) -> tuple[Change, ...]:
    """`diff` of two documents, which differ by `delta`, at its price."""
    changes: list[Change] = []
    for section in SECTIONS:
        old, new = before.get(section) or {}, after.get(section) or {}
        if touched := set(delta.touched(section)):
            added = (name for name in delta.put.get(section, ()) if name not in old)
            for name in (*filter(touched.__contains__, old), *added):
                _diff(old.get(name, ABSENT), new.get(name, ABSENT), (section, name), changes)
    return tuple(changes)


def _diff(before: Json, after: Json, at: tuple[str, ...], changes: list[Change]) -> None:
    if before is after:  # edits share what they leave alone
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        differ = map(is_not, map(after.get, before, repeat(ABSENT)), before.values())
        for key in compress(before, differ):
            _diff(before[key], after.get(key, ABSENT), (*at, key), changes)
        for key in [key for key in after if key not in before]:
            _diff(ABSENT, after[key], (*at, key), changes)
    elif not same(before, after):
        changes.append(Change(pointer(*at), before, after))


def unserved(changes: Iterable[Change], before: Document, after: Document) -> tuple[Change, ...]:
    """`changes` from `before` to `after`, with a note at those that ask for other processes than
    run: a gateway starts none, `headgate up` does when it starts."""
    return tuple(
        replace(change, note=NOT_SERVED) if _is_served(change.pointer, before, after) else change
        for change in changes
    )


def held_to(changes: Iterable[Change], outlook: Mapping[str, str]) -> tuple[Change, ...]:
    """`changes` with a note at those of what is served: what `headgate up` will do about it, from
    `outlook`, by backend."""
    return tuple(
        replace(change, note=outlook.get(change.pointer.split("/")[2], ""))
        if re.match("/backends/[^/]+(/serve|/instances|$)", change.pointer)
        else change
        for change in changes
    )


def _is_served(place: str, *documents: Document) -> bool:
    section, name, *rest = [*place.split("/")[1:], ""]
    return (
        section == "backends"
        and rest[0] in ("", "serve", "instances")
        and any(((each.get(section) or {}).get(name) or {}).get("serve") for each in documents)
    )


def same(left: Json, right: Json) -> bool:
    """Equal as JSON: true is not 1, 1 is not 1.0, and the order of keys is no difference."""
    if left is right:
        return True
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def merge(base: Document, file: Document, live: Document) -> Merge:
    """`live` with everything that `file` changed since `base`, the file last applied."""
    overridden: list[Change] = []
    # Then keys that only one of them has stay its own.
    base, file, live = _speaking_of_all(base, file, live)
    merged = _merge(base, file, live, (), overridden)
    return Merge(normalised(merged), tuple(overridden))


def _speaking_of_all(*documents: Document) -> Sequence[Document]:
    """`documents`, each with the sections that another has: who says nothing of keys has none."""
    had = [section for section in SPARE if any(each.get(section) for each in documents)]
    return [{**each, **{s: each.get(s) or {} for s in had}} for each in documents]


def _merge(base: Json, file: Json, live: Json, at: tuple[str, ...], lost: list[Change]) -> Json:
    if same(file, base):
        return live
    if len(at) == 3 and at[0] == "backends" and at[2] == "instances":
        return _merge_instances(base, file, live, at, lost)
    is_split = len(at) == 3 and at[0] == "routes" and at[2] == "split"
    if is_split and isinstance(file, Mapping) and isinstance(live, Mapping):
        return _merge_splits(base, file, live, at, lost)
    nested = isinstance(file, Mapping) and isinstance(live, Mapping)
    if nested and not (at and at[-1] in ATOMIC and len(at) == 3):
        return _merge_objects(base if isinstance(base, Mapping) else {}, file, live, at, lost)
    edited = _edited(live, at)
    if not same(edited, base) and not same(edited, file):
        lost.append(Change(pointer(*at), edited, file))
    return file


def _edited(live: Json, at: tuple[str, ...]) -> Json:
    """`live` without where `headgate up` has placed the instances of a backend: nobody's edit."""
    if len(at) == 2 and at[0] == "backends" and isinstance(live, Mapping):
        return {key: value for key, value in live.items() if key != "placed"}
    return live


def _merge_objects(
    base: Mapping[str, Json],
    file: Mapping[str, Json],
    live: Mapping[str, Json],
    at: tuple[str, ...],
    lost: list[Change],
) -> dict[str, Json]:
    merged = {}
    # The file's order first: that is the one its author looks at.
    for key in [*file, *(key for key in live if key not in file)]:
        value = _merge(
            base.get(key, ABSENT), file.get(key, ABSENT), live.get(key, ABSENT), (*at, key), lost
        )
        if value is not ABSENT:
            merged[key] = value
    return merged


def _merge_splits(
    base: Json, file: Json, live: Json, at: tuple[str, ...], lost: list[Change]
) -> Json:
    """Weight by weight, unless that leaves only zeros of two splits that have more: then the
    file's."""
    merged = _merge_objects(base if isinstance(base, Mapping) else {}, file, live, at, lost)
    if any(merged.values()) or not any(file.values()) or not any(live.values()):
        return merged
    lost += [
        Change(pointer(*at, name), live[name], file.get(name, ABSENT))
        for name in live
        if live[name] and not any(each.pointer == pointer(*at, name) for each in lost)
    ]
    return file


def _merge_instances(
    base: Json, file: Json, live: Json, at: tuple[str, ...], lost: list[Change]
) -> Json:
    """A set of URLs: what the file added or took out, on what the admin API made of it."""
    if live is ABSENT or file is ABSENT:
        if live is not ABSENT and not same(live, base):
            lost.append(Change(pointer(*at), live, file))
        return file
    known = [] if base is ABSENT else base
    removed = [url for url in known if url not in file]
    gone = [url for url in known if url not in live]
    added = [url for url in file if url not in known or url not in gone]
    return [*added, *(url for url in live if url not in added and url not in removed)]
