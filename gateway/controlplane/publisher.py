"""What happens to an edit, from the wish to the acknowledgement?

Under one lock: the edit is applied to the document, the outcome is checked, it becomes
durable, new instances exist, every worker takes the table over, removed instances are let
go, and only then is it acknowledged. Rollouts, CLI and dashboard all come this way; nothing
else changes a table. How each step is done belongs to the store, the workers and the prober.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from gateway.controlplane.beginning import TRIES, Meets, as_it_is, begin
from gateway.controlplane.events import Events
from gateway.controlplane.outcomes import Edit, Outcomes, both, revision_of
from gateway.controlplane.parties import Gateways, InstanceWatch, Workers
from gateway.controlplane.published import Applied, NotInForce, Published, Stale
from gateway.controlplane.store.former import Former
from gateway.controlplane.store.store import (
    Conflict,
    Kept,
    NotYet,
    Page,
    Revision,
    Source,
    Store,
    Unavailable,
)
from gateway.controlplane.store.store_threads import StoreThreads
from gateway.core.deltas import Delta, shared
from gateway.core.faults import Fault, Missing
from gateway.core.merging import merge, same
from gateway.core.placement import unplaced
from gateway.core.table import EMPTY, Document, Table, TableError
from gateway.processes.tasks import Tasks, first_of

T = TypeVar("T")
_LARGE = 200  # routes and backends, or changes: an edit of more takes the loop's time
AGAIN_S = 1.0
MEETING_S = 0.5
"""So long at least new instances are waited for where others want to edit: who is well is known to
be by then."""

log = logging.getLogger(__name__)


class Publisher:
    """The only writer of the table, or, with `gateways`, the only one of this gateway: edits of
    others are taken over as they were stored (`follow`). `holds` is told of each table once it is
    in force, where processes are held to it (`headgate up`); None: nobody starts any.

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
        gateways: Gateways | None = None,
    ) -> None:
        self.allow: Callable[[Document, Document, str], None] = _anybody
        self._store = store
        self._workers = workers
        self._instances = instances
        self._events = events
        self._outcomes = Outcomes(check, is_held=holds is not None)
        self._holds = holds
        self._gateways = gateways
        self._in_force = 0  # the newest revision that was announced
        self.late: Document | None = None
        """The file of the start, where the store could not be asked to take it."""
        self._lock = asyncio.Lock()
        self._wanting = 0  # so many wait for the lock
        self._hurry = asyncio.Event()  # somebody does
        self._heard: asyncio.Queue[Revision] = asyncio.Queue()
        self._news: list[Revision] = []  # of what was heard, what nobody has taken over yet
        self._own = Tasks(_note_failure)
        self._threads = StoreThreads()
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
        with_places: Edit = lambda document: unplaced({}, document),
        meets: Meets = as_it_is,
        former: Former | None = None,
    ) -> Applied:
        """The table to start with: `file`, three ways with what the store holds; where it is
        started `again`, the file that was applied last counts and not the one of the start.
        `with_places` is made of what comes out: it says where the processes are. `meets` says what
        of what is live gives way to the file before. `former` is the table in another store, which
        this gateway had before.

        For use before there are workers. Raises Invalid when the two do not fit together,
        StoreError when the outcome cannot be stored; while a store that is shared is away, the
        table is what was last known of it, and the file is `late`.
        """
        begun = begin(
            self._store,
            self._outcomes,
            file,
            why=why,
            again=again,
            with_places=with_places,
            meets=meets,
            former=former,
        )
        self._table, self._applied, self.late = begun.table, begun.applied, begun.late
        self._instances.sync(self._table)
        return begun.outcome

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
            previous = self._table
            if expected is not None and expected != previous.revision:
                raise Stale(f"the current revision is {previous.revision}, not {expected}")
            edited = await self._aside(lambda: edit(previous.document))
            if edited is previous.document:
                nothing = Published.nothing(previous, dry_run=dry_run)
                return nothing if dry_run or places else await self._unchanged(nothing)
            tried = await self._aside(lambda: self._outcomes.tried(previous, edited, places=places))
            self.allow(previous.document, tried.table.document, who)
            if dry_run:
                return replace(tried, dry_run=True)
            return await self._take(revision_of(tried, who, why, source), tried)

        async def everywhere() -> Published:
            published = await self._locked(steps)
            if places and not published.diff:  # nobody waits to hear of that
                return published
            return await self._everywhere(published)

        return await self._finish(everywhere())

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
            previous = self._table
            guard(previous)
            if self._gateways is not None:
                await self._learn_applied()
            merged = await self._aside(lambda: merge(self._applied, file, previous.document))
            if same(merged.document, previous.document):
                if not dry_run and not same(self._applied, file):
                    again = partial(self._store.applied_again, file, previous.revision)
                    await self._threads.write(again)
                    self._applied = file
                nothing = Published.nothing(previous, dry_run=dry_run)
                published = nothing if dry_run else await self._unchanged(nothing)
                return Applied(published, merged.overridden)
            tried = await self._aside(lambda: self._outcomes.tried(previous, merged.document))
            self.allow(previous.document, tried.table.document, who)
            if dry_run:
                return Applied(replace(tried, dry_run=True), merged.overridden)
            revision = revision_of(tried, who, why, "file")
            return Applied(await self._take(revision, tried, file), merged.overridden)

        async def everywhere() -> Applied:
            applied = await self._locked(steps)
            return replace(applied, published=await self._everywhere(applied.published))

        return await self._finish(everywhere())

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
        kept = await self._threads.read(lambda: self._store.get(number))
        if kept is None:
            raise Missing(f"no revision {number} in the history")
        return kept

    async def history(self, *, limit: int, before: int | None = None) -> Page:
        """What was edited, newest first; no documents are read for it."""
        return await self._threads.read(lambda: self._store.history(limit=limit, before=before))

    async def follow(self, heard: "asyncio.Queue[Revision]") -> None:
        """Puts in force what other gateways stored, as it is heard; until cancelled."""
        self._heard = heard
        while True:
            async with self._turn():
                await self._take_heard()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._is_announced else AGAIN_S):
                    self._news.append(await heard.get())

    async def close(self) -> None:
        """Waits for edits under way, then closes the store."""
        await self._own.ended()
        await self._threads.close(self._store)

    def check(self, document: Document) -> list[Fault]:
        """What is contradictory in `document`; for use by an edit, under the lock."""
        return self._outcomes.check(document)

    async def _take(
        self, revision: Revision, tried: Published, applied: Document | None = None
    ) -> Published:
        """The outcome, once it is durable, then visible on every worker, then told.

        StoreError when it cannot be stored; then nothing changed. `applied` is the file that
        the edit came from, where it came from one.
        """
        if self._gateways is not None:
            self._gateways.check()
        await self._threads.write(lambda: self._store.commit(revision, applied))
        if applied is not None:
            self._applied = applied
        workers = await self._put_in_force(tried, [revision], awaited=False)
        return replace(tried, workers=workers)

    async def _unchanged(self, nothing: Published) -> Published:
        """What comes of an edit that changes `nothing`. It may ask again for one that was stored
        and could not be said to be in force, so that is seen to here too."""
        if self._gateways is not None:
            self._gateways.check()
        workers = await self._put_in_force(nothing, [], awaited=False)
        return replace(nothing, workers=workers)

    async def _put_in_force(
        self, tried: Published, stored: Sequence[Revision], *, awaited: bool
    ) -> int:
        """How many workers decide by the table that was `tried`; what was `stored` is told.
        `awaited`: another gateway waits to hear that they do."""
        previous, table = tried.previous, tried.table
        self._table = table
        # Instances first, table second, and the leaving ones last: a request may read either
        # table until the last worker has answered, and must know every instance of both.
        self._instances.sync(both(previous, table))
        try:
            await self._meet(previous, table)  # or requests find nobody meanwhile
            workers = await self._workers.put_in_force(table)
            self._instances.sync(table)
            if self._holds is not None:
                self._holds(table)  # who lost a place may go now, and no sooner
            if len(tried.diff) > _LARGE:
                # What stays for long is not looked at again by every collection, or each of them
                # would hold up the loop.
                gc.freeze()
            self._announce(workers, awaited=awaited)
        finally:
            for revision in stored:
                self._tell(revision, previous)
        return workers

    async def _meet(self, previous: Table, table: Table) -> None:
        """Waits for the new instances where they take the place of all. An edit that waits for its
        turn may be what takes a fault of another route back: it is not held up for who is slow."""
        await first_of(self._instances.met(previous, table), self._hurried())

    async def _hurried(self) -> None:
        """Returns once somebody waits for their turn, and MEETING_S are over."""
        await asyncio.sleep(MEETING_S)
        await self._hurry.wait()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Holds the lock; whoever has it meanwhile hears that somebody waits."""
        self._wanting += 1
        self._hurry.set()
        try:
            await self._lock.acquire()
        finally:
            self._wanting -= 1
            if not self._wanting:
                self._hurry.clear()
        try:
            yield
        finally:
            self._lock.release()

    # -- with several gateways

    @property
    def _is_announced(self) -> bool:
        return self._gateways is None or self._in_force == self._table.revision

    def _announce(self, workers: int, *, awaited: bool = True) -> None:
        if self._gateways is not None:
            self._in_force = self._table.revision
            self._gateways.announce(self._table, workers, awaited=awaited)

    async def _locked(self, steps: Callable[[], Awaitable[T]]) -> T:
        """What `steps` come to under the lock; begun again with what another gateway stored
        meanwhile, whatever they depend on being judged anew."""
        try:
            return await self._in_turn(steps)
        except NotYet:
            assert self._gateways is not None
            await self._gateways.settled()
            return await self._in_turn(steps)

    async def _in_turn(self, steps: Callable[[], Awaitable[T]]) -> T:
        async with self._turn():
            for _ in range(TRIES):
                if self._news or not self._heard.empty():
                    await self._take_heard()  # what is made on an older one would be refused
                try:
                    return await steps()
                except Conflict as conflict:
                    with suppress(NotInForce):  # it is put in force again with what comes next
                        await self._take_over(conflict.newer or await self._stored())
        raise Unavailable("other gateways edit all the time; nothing was changed")

    async def _take_heard(self) -> None:
        """Puts in force what was heard of other gateways; for use under the lock."""
        while not self._heard.empty():
            self._news.append(self._heard.get_nowait())
        news, self._news = self._news, []
        try:
            await self._take_over(news)
        except NotInForce as error:
            log.error(f"{error}; trying again")
        except TableError as error:
            assert self._gateways is not None
            self._gateways.withdraw(f"revision {news[-1].number} cannot be used: {error}")

    async def _stored(self) -> Sequence[Revision]:
        """What is stored and not in force here, without waiting to hear of it."""
        stored = await self._threads.write(self._store.load)
        news: list[Revision] = [] if stored is None else [stored.newest]
        for number in range(self._table.revision + 1, news[0].number if news else 0):
            kept = await self._threads.write(partial(self._store.get, number))
            if kept is not None:
                news.insert(-1, kept.whole())
        return news

    async def _take_over(self, news: Sequence[Revision]) -> None:
        """Puts the last of `news` in force, if it is new; for use under the lock. Who stored it has
        checked it: here it is not refused."""
        previous = self._table
        newer = [each for each in news if each.number > previous.revision]
        if not newer:
            if not self._is_announced:
                self._announce(await self._workers.put_in_force(previous))
            return
        newest = newer[-1]

        def made() -> Table:
            document = shared(previous.document, newest.document, same)
            delta = Delta.between(previous.document, document)
            return previous.edited(delta, newest.number, document)

        table = await self._aside(made)
        await self._put_in_force(Published(previous, table, (), 0), newer, awaited=True)

    async def _learn_applied(self) -> None:
        """Another gateway may have applied another file."""
        stored = await self._threads.write(self._store.load)
        if stored is not None:
            self._applied = stored.applied or {}

    async def _everywhere(self, published: Published) -> Published:
        """`published`, once it is in force on every gateway that holds its lease."""
        if self._gateways is None or published.dry_run:
            return published
        where = await self._gateways.in_force(published.revision)
        return replace(published, everywhere=where)

    # -- inside

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


def _anybody(before: Document, after: Document, who: str) -> None:
    """Nobody else has a say in an edit."""


def _note_failure(name: str, error: Exception) -> None:
    """Whoever asked is told why. The log is not: a refusal names what was sent, secrets too."""
    log.info(f"{name} was not made: {type(error).__name__}")
