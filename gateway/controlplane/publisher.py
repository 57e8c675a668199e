"""What happens to an edit, from the wish to the acknowledgement?

Under one lock: the edit is applied to the document, the outcome is checked, it becomes
durable, new instances exist, every worker takes the table over, removed instances are let
go, and only then is it acknowledged. Rollouts, CLI and dashboard all come this way; nothing
else changes a table. How each step is done belongs to the store, the workers and the prober.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from gateway.controlplane.configuration.checks import size_faults
from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.store.store import Kept, Page, Revision, Source, Store
from gateway.core.deltas import Delta, shared
from gateway.core.faults import Fault, Invalid, Missing
from gateway.core.merging import Change, diff, diff_of, held_to, merge, same, unserved
from gateway.core.placement import held, outlook, unplaced
from gateway.core.table import EMPTY, Document, Table, TableError
from gateway.processes.tasks import Tasks

Edit = Callable[[Document], Document]
T = TypeVar("T")
_LARGE = 200
_MOST_NOTES = 50

log = logging.getLogger(__name__)


class Workers(Protocol):
    """The data-plane processes."""

    async def put_in_force(self, table: Table) -> int:
        """Makes `table` the one that decides every new request, on all workers.

        The number of workers that said so; a silent one is replaced first. NotInForce when one
        can neither be heard nor be replaced.
        """


class InstanceWatch(Protocol):
    """Whoever probes and resolves the instances."""

    def sync(self, table: Table) -> None:
        """Keeps, adds and drops instances so that exactly those of `table` are watched."""


class NotInForce(Exception):
    """The edit is durable, but nobody can say that no worker decides by an older table."""

    def __init__(self, revision: int, pids: Sequence[int]) -> None:
        named = ", ".join(map(str, pids))
        super().__init__(
            f"revision {revision} is stored, but worker process {named} neither takes it over nor"
            " ends: it may still decide by an older one"
        )


class Stale(Exception):
    """The edit was made for another revision than the current one."""


@dataclass(frozen=True, slots=True)
class Published:
    """What an edit came to. In a dry run `table` is the outcome and nothing has changed."""

    previous: Table
    table: Table
    diff: tuple[Change, ...]
    workers: int
    dry_run: bool = False
    serves: Mapping[str, str] = field(default_factory=dict)
    """Backend → what will be done about its processes."""

    @classmethod
    def nothing(cls, table: Table, *, dry_run: bool = False) -> "Published":
        """What comes of an edit that changes nothing."""
        return cls(table, table, (), 0, dry_run)

    @property
    def revision(self) -> int:
        """The revision that is live after this edit."""
        return self.previous.revision if self.dry_run else self.table.revision


@dataclass(frozen=True, slots=True)
class Applied:
    """What a file came to; `overridden` are the live edits it undid, `kept` those that stay, from
    what the file says to what is live."""

    published: Published
    overridden: tuple[Change, ...]
    kept: tuple[Change, ...] = ()


def start_notes(applied: Applied) -> list[str]:
    """What to say of a start: each live edit that the file overrides, and, by route or backend,
    those that stay although the file says otherwise."""
    kept: dict[str, list[str]] = {}
    for change in applied.kept:
        section, name, *rest = change.pointer.split("/")[1:]
        told = str(replace(change, pointer="/".join(rest) or "all of it"))
        kept.setdefault(f"{section.removesuffix('s')} {name}", []).append(told)
    lines = [f"the file overrides a live edit: {lost}" for lost in applied.overridden]
    lines += [f"live edits of {what} are kept: {'; '.join(each)}" for what, each in kept.items()]
    more = len(lines) - _MOST_NOTES
    return lines if more <= 0 else [*lines[:_MOST_NOTES], f"and so for {more} more"]


def _is_placed(change: Change) -> bool:
    """Whether `change` only says where processes are."""
    parts = change.pointer.split("/")
    return parts[1] == "backends" and parts[3:] == ["placed"]


class Publisher:
    """The only writer of the table. `holds` is told of each table once it is in force, where
    processes are held to it (`headgate up`); None: nobody starts any.

    `allow(before, after, who)` is asked of each edit under the lock, and raises Conflict to refuse
    it: set by whoever has a say in edits of others.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        instances: InstanceWatch,
        events: Events,
        *,
        check: Callable[[Document], list[Fault]] = lambda document: [],
        holds: Callable[[Table], None] | None = None,
    ) -> None:
        self.allow: Callable[[Document, Document, str], None] = _anybody
        self._store = store
        self._workers = workers
        self._instances = instances
        self._events = events
        self._check = check
        self._holds = holds
        self._lock = asyncio.Lock()
        self._own = Tasks(_note_failure)
        # SQLite waits for the disk; the loop must not.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="store")
        # Reads have a thread of their own: no edit waits for somebody who leafs through history.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._applied: Document = {}
        self._table = EMPTY

    @property
    def table(self) -> Table:
        """The newest durable table."""
        return self._table

    def start(
        self,
        file: Document,
        *,
        why: str,
        again: bool = False,
        settle: Edit = lambda document: unplaced({}, document),
    ) -> Applied:
        """The table to start with: `file`, three ways with what the store holds; where it is
        started `again`, the file that was applied last counts and not the one of the start.
        `settle` is made of what comes out: it says where the processes are.

        For use before there are workers. Raises Invalid when the two do not fit together,
        StoreError when the outcome cannot be stored.
        """
        stored = self._store.load()
        if stored is not None:
            self._applied = stored.applied or {}
            if again:
                file = self._applied
            newest = stored.newest
            self._table = self._made(EMPTY, newest.document, newest.number)
        previous = self._table
        merged = merge(self._applied, file, previous.document)
        merged = replace(merged, document=settle(merged.document))
        published = Published.nothing(previous)
        if stored is None or not same(merged.document, previous.document):
            # Whatever these backends are served by is started with this table, or was before.
            table = self._made(previous, merged.document, previous.revision + 1)
            published = Published(previous, table, diff(previous.document, table.document), 0)
            self._store.commit(_revision(published, "file", why, "file"), file)
        elif not same(self._applied, file):
            self._store.applied_again(file)
        self._applied, self._table = file, published.table
        self._instances.sync(published.table)
        kept = diff(file, published.table.document)
        return Applied(published, merged.overridden, tuple(c for c in kept if not _is_placed(c)))

    async def publish(
        self,
        edit: Edit,
        *,
        who: str,
        why: str = "",
        expected: int | None = None,
        dry_run: bool = False,
        source: Source = "api",
        places: bool = False,
    ) -> Published:
        """The outcome of `edit`, durable and visible on every worker when this returns.

        Raises what `edit` raises, Invalid for an outcome that cannot be, Stale when the
        revision is not `expected`, StoreError when it cannot be stored; then nothing changed.
        Goes on to its end when the caller is cancelled. An edit that `places` says itself where
        processes are; any other leaves them where they are, and changes nothing if need be.
        """

        async def steps() -> Published:
            """What `publish` promises, under the lock."""
            async with self._lock:
                previous = self._table
                if expected is not None and expected != previous.revision:
                    raise Stale(f"the current revision is {previous.revision}, not {expected}")
                edited = await self._aside(lambda: edit(previous.document))
                if places and edited is previous.document:
                    return Published.nothing(previous)
                tried = await self._aside(lambda: self._tried(previous, edited, places=places))
                self.allow(previous.document, tried.table.document, who)
                if dry_run:
                    return replace(tried, dry_run=True)
                return await self._take(_revision(tried, who, why, source), tried)

        return await self._finish(steps())

    async def apply(
        self,
        file: Document,
        *,
        who: str,
        why: str = "",
        dry_run: bool = False,
        guard: Callable[[Table], None] = lambda table: None,
    ) -> Applied:
        """The outcome of a whole file, three ways; a file that changes nothing makes no revision.

        `guard` sees the current table under the lock and raises to refuse.
        """

        async def steps() -> Applied:
            """What `apply` promises, under the lock."""
            async with self._lock:
                previous = self._table
                guard(previous)
                merged = await self._aside(lambda: merge(self._applied, file, previous.document))
                if same(merged.document, previous.document):
                    if not dry_run and not same(self._applied, file):
                        await self._on_disk(lambda: self._store.applied_again(file))
                        self._applied = file
                    published = Published.nothing(previous, dry_run=dry_run)
                    return Applied(published, merged.overridden)
                tried = await self._aside(lambda: self._tried(previous, merged.document))
                self.allow(previous.document, tried.table.document, who)
                if dry_run:
                    return Applied(replace(tried, dry_run=True), merged.overridden)
                revision = _revision(tried, who, why, "file")
                return Applied(await self._take(revision, tried, file), merged.overridden)

        return await self._finish(steps())

    async def restore(
        self,
        number: int,
        *,
        who: str,
        why: str = "",
        expected: int | None = None,
        dry_run: bool = False,
    ) -> Published:
        """The document of revision `number`, as a new revision; Missing when it is not kept."""
        kept = await self.revision(number)
        return await self.publish(
            lambda document: shared(document, kept.whole().document, same),
            who=who,
            why=why or f"back to {number}",
            expected=expected,
            dry_run=dry_run,
            source="restore",
        )

    async def revision(self, number: int) -> Kept:
        """Revision `number` of the history; Missing when it is not kept."""
        kept = await self._read(lambda: self._store.get(number))
        if kept is None:
            raise Missing(f"no revision {number} in the history")
        return kept

    async def history(self, *, limit: int, before: int | None = None) -> Page:
        """What was edited, newest first; no documents are read for it."""
        return await self._read(lambda: self._store.history(limit=limit, before=before))

    async def close(self) -> None:
        """Waits for edits under way, then closes the store."""
        await self._own.ended()
        await asyncio.to_thread(self._reading.shutdown)
        await self._on_disk(self._store.close)
        self._disk.shutdown()

    def check(self, document: Document) -> list[Fault]:
        """What is contradictory in `document`; for use by an edit, under the lock."""
        return self._check(document)

    def _tried(self, previous: Table, document: Document, *, places: bool = False) -> Published:
        """What `document` would make of `previous`; Invalid names every fault of it."""
        before, serves = previous.document, {}
        if not places:
            document = (unplaced if self._holds is None else held)(before, document)
        table = self._made(previous, document, previous.revision + 1)
        changes = diff_of(Delta.between(before, document), before, document)
        if self._holds is None:
            changes = unserved(changes, before, document)
        elif not places:
            serves = outlook(before, document)
            changes = held_to(changes, serves)
        return Published(previous, table, changes, 0, serves=serves)

    def _made(self, previous: Table, document: Document, revision: int) -> Table:
        """The table of `document`, which shares with `previous` what is the same."""
        faults = size_faults(document) or self._check(document)
        if faults:
            raise Invalid(faults)
        try:
            delta = Delta.between(previous.document, document)
            return previous.edited(delta, revision, document)
        except TableError as error:
            raise Invalid([Fault(error.pointer, "invalid", error.detail)]) from None

    async def _take(
        self, revision: Revision, tried: Published, applied: Document | None = None
    ) -> Published:
        """The outcome, once it is durable, then visible on every worker, then told.

        StoreError when it cannot be stored; then nothing changed. `applied` is the file that
        the edit came from, where it came from one.
        """
        await self._on_disk(lambda: self._store.commit(revision, applied))
        previous, table = tried.previous, tried.table
        self._table = table
        if applied is not None:
            self._applied = applied
        # Instances first, table second, and the leaving ones last: a request may read either
        # table until the last worker has answered, and must know every instance of both.
        self._instances.sync(_both(previous, table))
        try:
            workers = await self._workers.put_in_force(table)
            self._instances.sync(table)
            if self._holds is not None:
                self._holds(table)  # who lost a place may go now, and no sooner
            if len(tried.diff) > _LARGE:
                # What stays for long is not looked at again by every collection, or each of them
                # would hold up the loop.
                gc.freeze()
        finally:
            self._tell(revision, previous)
        return replace(tried, workers=workers)

    def _tell(self, revision: Revision, previous: Table) -> None:
        """Says the edit in the log and to those who follow the events."""
        facts = {"who": revision.who, "why": revision.why, "source": revision.source}
        # Each edit is a line of its own: the number is part of the message on purpose.
        log.info(f"revision {revision.number}", extra={"facts": facts})
        self._events.publish(
            {
                "type": "edit",
                "time": revision.time,
                "revision": revision.number,
                "previous": previous.revision,
                "who": revision.who,
                "why": revision.why,
                "source": revision.source,
                "diff": list(revision.diff),
            }
        )

    async def _finish(self, steps: Coroutine[Any, Any, T]) -> T:
        """The result of `steps`, which run to their end even if the caller does not wait."""
        return await asyncio.shield(self._own.run("an edit", steps))

    async def _aside(self, call: Callable[[], T]) -> T:
        """The result of `call`, in a thread once tables are so large that the loop would stall."""
        size = len(self._table.routes) + len(self._table.backends)
        return call() if size < _LARGE else await asyncio.to_thread(call)

    async def _on_disk(self, call: Callable[[], T]) -> T:
        """The result of `call`, made in the one thread that uses the store."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)

    async def _read(self, call: Callable[[], T]) -> T:
        """The result of `call`, which reads the history."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)


def _anybody(before: Document, after: Document, who: str) -> None:
    """Nobody else has a say in an edit."""


def _note_failure(name: str, error: Exception) -> None:
    """Whoever asked is told why. The log is not: a refusal names what was sent, secrets too."""
    log.info(f"{name} was not made: {type(error).__name__}")


def _revision(tried: Published, who: str, why: str, source: Source) -> Revision:
    changes = [change.as_json() for change in tried.diff]
    table = tried.table
    return Revision(table.revision, utc_now(), who, why, source, changes, table.document)


def _both(previous: Table, table: Table) -> Table:
    """`table` with the backends and instances of `previous` beside its own."""
    if table.backends is previous.backends:
        return table
    backends = dict(table.backends)
    for name, old in previous.backends.items():
        new = backends.get(name)
        if new is None:
            backends[name] = old
            continue
        stays = {instance.url for instance in new.instances}
        leaving = tuple(each for each in old.instances if each.url not in stays)
        if leaving:
            backends[name] = replace(new, instances=new.instances + leaving)
    return replace(table, backends=backends)
