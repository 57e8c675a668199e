"""Was the table kept in another store before, and is anything of it missing in the file?

A state directory that was used with `store: sqlite` has a database, one that was used with `etcd`
last has a copy of the table there. Neither is read by the other store; but live edits in it, keys
among them, shall not go, or come back, without a word, nor a rollout be driven by nobody. Nor shall
they where etcd has lost all it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.store import StateRefused, Stored
from gateway.core.merging import diff, merge
from gateway.core.placement import unplaced
from gateway.core.table import Document

_MAX_NAMED = 4


@dataclass(frozen=True, slots=True)
class Former:
    """What is in the other store, `where` it is known from, and what `store` it is. `is_newer` than
    all that is in the one to start with. `is_lost`: it is that one itself, should nothing be in it
    now. `rollouts` are the routes on which one ran."""

    stored: Stored
    where: Path
    store: str
    is_newer: bool
    is_lost: bool = False
    rollouts: Sequence[str] = ()

    def refuse_without(self, file: Document) -> None:
        """StateRefused where a rollout runs there, or `file` has not all that was edited there.
        What it changes itself since it was applied there is no lack."""
        if self.rollouts:
            raise StateRefused(
                f"a rollout ran on route {', '.join(self.rollouts)} with `store: {self.store}`, and"
                " does not go along: start with that store, and let it end or abort it there"
            )
        applied, wanted, live = (
            unplaced({}, each)
            for each in (self.stored.applied or {}, file, self.stored.newest.document)
        )
        lacking = diff(wanted, merge(applied, wanted, live).document)
        if not lacking:
            return
        named = ", ".join(each.pointer for each in lacking[:_MAX_NAMED])
        more = len(lacking) - _MAX_NAMED
        named += f" and {more} more" if more > 0 else ""
        if self.is_lost:
            raise StateRefused(
                f"{self.store} has no table any more, and the file lacks what was edited there"
                f" ({named}): restore a snapshot, or remove {self.where} to go without"
            )
        raise StateRefused(
            f"this gateway had its table with `store: {self.store}`, and the file lacks what was"
            f" edited there ({named}): run `headgate export` with that store and start with the"
            f" file it makes, or remove {self.where} to go without"
        )


def in_sqlite(database: Path, rollouts: Sequence[str]) -> Former | None:
    """What the database of a gateway says that is to use another store from now on, and had
    `rollouts` there."""
    if not database.exists():
        return None
    store = SqliteStore(database)
    try:
        stored = store.load()
    finally:
        store.close()
    if stored is None:
        return None
    return Former(stored, database, "sqlite", is_newer=False, rollouts=rollouts)


def in_etcd(copy_at: Path, *, is_left: bool) -> Former | None:
    """What the copy at `copy_at` says of a table that was in etcd: `is_left` for another store, or
    to be found there still."""
    if not copy_at.exists():
        return None
    from gateway.controlplane.store.etcd.copy_file import Copy

    copy = Copy(copy_at)
    try:
        copied = copy.read()
    finally:
        copy.close()
    if copied is None:
        return None
    rollouts = copied.rollouts if is_left else ()
    return Former(
        copied.stored, copy_at, "etcd", is_newer=is_left, is_lost=not is_left, rollouts=rollouts
    )
