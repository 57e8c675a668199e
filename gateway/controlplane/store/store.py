"""What must a place that keeps edits promise?

`Store` is the interface; SQLite (`sqlite_store`) keeps it for one gateway and etcd
(`etcd.etcd_store`) for several, and one conformance class runs on both and on one in memory. A
revision is committed whole or not at all; what was committed is there after any crash. A store
never decides what is valid.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

from gateway.core.table import Document

Source = Literal["file", "api", "restore"]
PAGE_BYTES = 1 << 20


class StoreError(Exception):
    """The store cannot do what was asked; the text is one line for the operator."""


class DiskRefused(StoreError):
    """The disk did not take an edit: nothing was changed, and a later try may succeed.

    The text names no path and may be shown to a client.
    """


class StoreFull(DiskRefused):
    """Refused: there is no space left for an edit."""


class Conflict(StoreError):
    """Another edit came first: the number is taken, and nothing was changed. `newer` are the
    revisions that did, in order and all of them; empty where the store did not look."""

    def __init__(self, text: str, newer: "Sequence[Revision]" = ()) -> None:
        super().__init__(text)
        self.newer = newer


class Unavailable(StoreError):
    """The store cannot be reached. The text may be shown to a client."""


class NotYet(Unavailable):
    """This gateway has just started, and is about to be one of those that share the store."""


class NotLetIn(StoreError):
    """The store is there, and does not do it for this gateway: its user, its password or what that
    user may do are others than they were. The text may be shown to a client."""


class StateRefused(StoreError):
    """What is in the state directory cannot be used. It was kept as it is."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One edit as the history lists it: who made it, when, why and what changed.

    `time` is UTC in ISO 8601; `diff` is a list of changes as `Change.as_json` gives them.
    """

    number: int
    time: str
    who: str
    why: str
    source: Source
    diff: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Revision(Summary):
    """One edit, and the document that it left behind."""

    document: Document = field(repr=False)

    @property
    def summary(self) -> Summary:
        return Summary(self.number, self.time, self.who, self.why, self.source, self.diff)

    def checksum(self) -> str:
        """SHA-256 of all that this revision says."""
        return checksum(
            [self.number, self.time, self.who, self.why, self.source, self.diff, self.document]
        )


@dataclass(frozen=True, slots=True)
class Kept(Summary):
    """One edit as it is read again: the document that it left behind is JSON, as whoever only looks
    at it wants it. To make a tree of a large one holds up the process, and so does its end."""

    content: bytes = field(repr=False)

    def whole(self) -> Revision:
        """The edit with the document itself."""
        said = (self.number, self.time, self.who, self.why, self.source, self.diff)
        return Revision(*said, orjson.loads(self.content))


def kept(edit: Summary, content: bytes) -> Kept:
    """`edit` with its document, `content`."""
    return Kept(edit.number, edit.time, edit.who, edit.why, edit.source, edit.diff, content)


@dataclass(frozen=True, slots=True)
class Page:
    """Some edits, newest first, and whether there are older ones."""

    edits: Sequence[Summary] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What a gateway starts from: the newest revision, and the file it last applied. `is_copy`: as
    they were known last of a store that is away."""

    newest: Revision
    applied: Document | None
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A gateway that holds its lease: the revision by which all its workers decide, how many they
    are, since when it is there (UTC), where its admin API is, which gateway it is, whatever it
    is called, and at which instances, as BACKEND/ADDRESS, it may have requests in flight although
    they get nothing new."""

    name: str
    applied: int
    workers: int
    since: str
    admin: str
    id: str = ""
    finishing: tuple[str, ...] = ()


class Store(Protocol):
    """Synchronous. `history` and `get` may be called beside everything else, from one thread;
    the rest is used by one thread at a time. The publisher sees to that.

    A store that several gateways share raises Unavailable from any call.
    """

    def load(self) -> Stored | None:
        """What is stored; None when nothing ever was. StateRefused when it is damaged."""

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Makes `revision` the newest, durably, together with the file it came from, if any.

        Raises Conflict when it is not the next one, DiskRefused or StoreError when it cannot be
        kept, and then nothing has changed.
        """

    def applied_again(self, applied: Document, number: int) -> None:
        """Remembers a file that was applied and changed nothing of revision `number`; Conflict when
        that is not the newest one."""

    def history(self, *, limit: int, before: int | None = None) -> Page:
        """The newest `limit` edits, or those before number `before`, newest first; fewer where
        what changed in them takes PAGE_BYTES and more."""

    def get(self, number: int) -> Kept | None:
        """Revision `number`; None when it never was or is no longer kept."""

    def follow(self, after: int, hear: Callable[[Revision], None]) -> None:
        """Calls `hear` with each revision after number `after`, whoever commits it, in order and
        once, from any thread. Those that are kept no longer are left out."""

    def members(self) -> Sequence[Member]:
        """The gateways that hold their lease, by name; none where a store has but one gateway."""

    def close(self) -> None:
        """Leaves everything durable; the store is not used afterwards."""


def canonical(value: Any) -> str:
    """The one JSON text of `value`, in the order its keys were written.

    Order is kept because a split's order and a person's order of routes are worth keeping.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def checksum(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
