"""A store that keeps revisions as long as the process lives, and passes the conformance tests."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from gateway.controlplane.store.store import (
    Conflict,
    Kept,
    Member,
    Page,
    Revision,
    Stored,
    canonical,
    kept,
)
from gateway.core.table import Document


class MemoryStore:
    """Keeps revisions as long as the process lives."""

    def __init__(self, *, keep: int = 10_000) -> None:
        self._keep = keep
        self._revisions: dict[int, Revision] = {}
        self._applied: Document | None = None
        self._followers: list[Callable[[Revision], None]] = []

    def load(self) -> Stored | None:
        if not self._revisions:
            return None
        return Stored(self._revisions[max(self._revisions)], self._applied)

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Keeps one revision, as long as the process lives."""
        newest = max(self._revisions, default=0)
        if revision.number <= newest:
            raise Conflict(f"revision {revision.number} is not above {newest}")
        self._revisions[revision.number] = replace(
            revision,
            diff=json.loads(canonical(revision.diff)),
            document=json.loads(canonical(revision.document)),
        )
        self._revisions.pop(revision.number - self._keep, None)
        if applied is not None:
            self._applied = json.loads(canonical(applied))
        for hear in self._followers:
            hear(revision)

    def follow(self, after: int, hear: Callable[[Revision], None]) -> None:
        self._followers.append(hear)
        for number in sorted(n for n in self._revisions if n > after):
            hear(self._revisions[number])

    def members(self) -> Sequence[Member]:
        return ()

    def applied_again(self, applied: Document, number: int) -> None:
        self._applied = json.loads(canonical(applied))

    def history(self, *, limit: int, before: int | None = None) -> Page:
        numbers = sorted((n for n in self._revisions if before is None or n < before), reverse=True)
        return Page([self._revisions[n].summary for n in numbers[:limit]], len(numbers) > limit)

    def get(self, number: int) -> Kept | None:
        found = self._revisions.get(number)
        return None if found is None else kept(found.summary, orjson.dumps(found.document))

    def close(self) -> None:
        self._revisions.clear()


class InMemory:
    """A `Keeper` that forgets with its process."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(orjson.dumps(self.kept))
        return found

    def keep(self, rollouts: Mapping[str, Any]) -> None:
        self.kept = orjson.loads(orjson.dumps(rollouts))

    def make_room(self) -> bool:
        return False
