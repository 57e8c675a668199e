"""What must a place that keeps edits promise?

`Store` is the interface; SQLite (`sqlite_store`) and memory keep it, and one conformance
class runs on both, so that a shared store can come next. A revision is committed whole or
not at all; what was committed is there after any crash. A store never decides what is valid.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from gateway.core.table import Document

Source = Literal["file", "api", "restore"]


class StoreError(Exception):
    """The store cannot do what was asked; the text is one line for the operator."""


class DiskRefused(StoreError):
    """The disk did not take an edit: nothing was changed, and a later try may succeed.

    The text names no path and may be shown to a client.
    """


class StoreFull(DiskRefused):
    """There is no space left for an edit."""


class StateRefused(StoreError):
    """What is in the state directory cannot be used. It was kept as it is."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One edit: the document it left behind, and who made it, when, why and what changed.

    `time` is UTC in ISO 8601; `diff` is a list of changes as `Change.as_json` gives them.
    """

    number: int
    time: str
    who: str
    why: str
    source: Source
    diff: Sequence[Any]
    document: Document = field(repr=False)

    def checksum(self) -> str:
        """SHA-256 of all that this revision says."""
        return checksum(
            [self.number, self.time, self.who, self.why, self.source, self.diff, self.document]
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What a gateway starts from: the newest revision, and the file it last applied."""

    newest: Revision
    applied: Document | None


class Store(Protocol):
    """Synchronous, and used by one thread at a time; the publisher sees to that."""

    def load(self) -> Stored | None:
        """What is stored; None when nothing ever was. StateRefused when it is damaged."""

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Makes `revision` the newest, durably, together with the file it came from, if any.

        Raises DiskRefused or StoreError, and then nothing has changed.
        """

    def applied_again(self, applied: Document) -> None:
        """Remembers a file that was applied and changed nothing."""

    def history(self, *, limit: int, before: int | None = None) -> list[Revision]:
        """The newest `limit` revisions, or those before number `before`, newest first."""

    def get(self, number: int) -> Revision | None:
        """Revision `number`; None when it never was or is no longer kept."""

    def close(self) -> None:
        """Leaves everything durable; the store is not used afterwards."""


def canonical(value: Any) -> str:
    """The one JSON text of `value`, in the order its keys were written.

    Order is kept because a split's order and a person's order of routes are worth keeping.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def checksum(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class MemoryStore:
    """Keeps revisions as long as the process lives."""

    def __init__(self, *, keep: int = 10_000) -> None:
        self._keep = keep
        self._revisions: dict[int, Revision] = {}
        self._applied: Document | None = None

    def load(self) -> Stored | None:
        if not self._revisions:
            return None
        return Stored(self._revisions[max(self._revisions)], self._applied)

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Keeps one revision, as long as the process lives."""
        newest = max(self._revisions, default=0)
        if revision.number <= newest:
            raise StoreError(f"revision {revision.number} is not above {newest}")
        self._revisions[revision.number] = replace(
            revision,
            diff=json.loads(canonical(revision.diff)),
            document=json.loads(canonical(revision.document)),
        )
        self._revisions.pop(revision.number - self._keep, None)
        if applied is not None:
            self._applied = json.loads(canonical(applied))

    def applied_again(self, applied: Document) -> None:
        self._applied = json.loads(canonical(applied))

    def history(self, *, limit: int, before: int | None = None) -> list[Revision]:
        numbers = [n for n in self._revisions if before is None or n < before]
        return [self._revisions[n] for n in sorted(numbers, reverse=True)[:limit]]

    def get(self, number: int) -> Revision | None:
        return self._revisions.get(number)

    def close(self) -> None:
        self._revisions.clear()
