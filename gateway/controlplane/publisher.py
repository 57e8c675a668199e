"""What happens to an edit, from the wish to the acknowledgement?

Under one lock: the edit is applied to the document, the outcome is checked, it becomes
durable, new instances exist, every worker takes the table over, removed instances are let
go, and only then is it acknowledged. Rollouts, CLI and dashboard all come this way; nothing
else changes a table. How each step is done belongs to the store, the workers and the prober.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.store import Revision, Source, Store
from gateway.core.faults import Fault, Missing, Refused
from gateway.core.merging import Change, diff, merge, same
from gateway.core.table import EMPTY, Document, Table, TableError

Edit = Callable[[Document], Document]
T = TypeVar("T")
_LARGE = 200

log = logging.getLogger(__name__)


class Workers(Protocol):
    """The data-plane processes."""

    async def spread(self, table: Table) -> int:
        """Makes `table` the one that decides every new request, on all workers.

        The number of workers that said so; a silent one is replaced first. Never raises.
        """


class Instances(Protocol):
    """Whoever probes and resolves the instances."""

    def sync(self, table: Table) -> None:
        """Keeps, adds and drops instances so that exactly those of `table` are watched."""


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

    @property
    def revision(self) -> int:
        """The revision that is live after this edit."""
        return self.previous.revision if self.dry_run else self.table.revision


@dataclass(frozen=True, slots=True)
class Applied:
    """What a file came to; `overridden` are the live edits it undid."""

    published: Published
    overridden: tuple[Change, ...]


class Publisher:
    """The only writer of the table."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        instances: Instances,
        events: Events,
        *,
        check: Callable[[Document], list[Fault]] = lambda document: [],
    ) -> None:
        self._store = store
        self._workers = workers
        self._instances = instances
        self._events = events
        self._check = check
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # SQLite waits for the disk; the loop must not.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._applied: Document = {}
        self._table = EMPTY

    @property
    def table(self) -> Table:
        """The newest durable table."""
        return self._table

    def start(self, file: Document, *, why: str) -> Applied:
        """The table to start with: `file`, three ways with what the store holds.

        For use before there are workers. Raises Refused when the two do not fit together,
        StoreError when the outcome cannot be stored.
        """
        stored = self._store.load()
        if stored is not None:
            self._applied = stored.applied or {}
            newest = stored.newest
            self._table = self._made(newest.document, newest.number)
        previous = self._table
        merged = merge(self._applied, file, previous.document)
        table = previous
        if stored is None or not same(merged.document, previous.document):
            table = self._made(merged.document, previous.revision + 1)
            self._store.commit(_revision(previous, table, "file", why, "file"), file)
        elif not same(self._applied, file):
            self._store.applied_again(file)
        self._applied, self._table = file, table
        self._instances.sync(table)
        changes = diff(previous.document, table.document)
        return Applied(Published(previous, table, changes, 0), merged.overridden)

    async def publish(
        self,
        edit: Edit,
        *,
        who: str,
        why: str = "",
        expected: int | None = None,
        dry_run: bool = False,
        source: Source = "api",
    ) -> Published:
        """The outcome of `edit`, durable and visible on every worker when this returns.

        Raises what `edit` raises, Refused for an outcome that cannot be, Stale when the
        revision is not `expected`, StoreError when it cannot be stored; then nothing changed.
        Goes on to its end when the caller is cancelled.
        """

        async def steps() -> Published:
            """What `publish` promises, under the lock."""
            async with self._lock:
                previous = self._table
                if expected is not None and expected != previous.revision:
                    raise Stale(f"the current revision is {previous.revision}, not {expected}")
                number = previous.revision + 1
                table = await self._aside(lambda: self._made(edit(previous.document), number))
                if dry_run:
                    return _tried(previous, table)
                return await self._take(_revision(previous, table, who, why, source), table)

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
                    return Applied(Published(previous, previous, (), 0, dry_run), merged.overridden)
                number = previous.revision + 1
                table = await self._aside(lambda: self._made(merged.document, number))
                if dry_run:
                    published = _tried(previous, table)
                else:
                    revision = _revision(previous, table, who, why, "file")
                    published = await self._take(revision, table, file)
                return Applied(published, merged.overridden)

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
        revision = await self.revision(number)
        return await self.publish(
            lambda document: revision.document,
            who=who,
            why=why or f"back to {number}",
            expected=expected,
            dry_run=dry_run,
            source="restore",
        )

    async def revision(self, number: int) -> Revision:
        """Revision `number` of the history; Missing when it is not kept."""
        revision = await self._on_disk(lambda: self._store.get(number))
        if revision is None:
            raise Missing(f"no revision {number} in the history")
        return revision

    async def history(self, *, limit: int, before: int | None = None) -> list[Revision]:
        """Revisions, newest first."""
        return await self._on_disk(lambda: self._store.history(limit=limit, before=before))

    async def close(self) -> None:
        """Waits for edits under way, then closes the store."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._on_disk(self._store.close)
        self._disk.shutdown()

    def _made(self, document: Document, revision: int) -> Table:
        """The table of `document`; Refused names every fault of it."""
        faults = self._check(document)
        if faults:
            raise Refused(faults)
        try:
            return Table.from_document(document, revision)
        except TableError as error:
            raise Refused([Fault(error.pointer, "invalid", error.detail)]) from None

    async def _take(
        self, revision: Revision, table: Table, applied: Document | None = None
    ) -> Published:
        """The outcome, once it is durable, then visible on every worker, then told.

        StoreError when it cannot be stored; then nothing changed. `applied` is the file that
        the edit came from, where it came from one.
        """
        await self._on_disk(lambda: self._store.commit(revision, applied))
        previous, self._table = self._table, table
        if applied is not None:
            self._applied = applied
        # Instances first, table second, and the leaving ones last: a request may read either
        # table until the last worker has answered, and must know every instance of both.
        self._instances.sync(_both(previous, table))
        workers = await self._workers.spread(table)
        self._instances.sync(table)
        self._tell(revision, previous)
        changes = diff(previous.document, table.document)
        return Published(previous, table, changes, workers)

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
        task = asyncio.create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _aside(self, call: Callable[[], T]) -> T:
        """The result of `call`, in a thread once tables are so large that the loop would stall."""
        size = len(self._table.routes) + len(self._table.backends)
        return call() if size < _LARGE else await asyncio.to_thread(call)

    async def _on_disk(self, call: Callable[[], T]) -> T:
        """The result of `call`, made in the one thread that uses the store."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)


def _tried(previous: Table, table: Table) -> Published:
    """The outcome of a dry run: what would be, while `previous` stays."""
    return Published(previous, table, diff(previous.document, table.document), 0, True)


def _revision(previous: Table, table: Table, who: str, why: str, source: Source) -> Revision:
    changes = [change.as_json() for change in diff(previous.document, table.document)]
    return Revision(table.revision, utc_now(), who, why, source, changes, table.document)


def _both(previous: Table, table: Table) -> Table:
    """`table` with the backends and instances of `previous` beside its own."""
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
