"""The OpenAPI document of all routes, kept up to date.

Asks one instance of each backend for its OpenAPI document, has them merged for all routes
(`describing`) and gives the outcome to the workers, which serve it to clients. Who comes up is
asked at once, and everybody now and then: an edit has nobody asked again. A model without a
document, or with a bad one, is simply not described; nothing here can fail an edit.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gateway.controlplane.docs.describing import CannotDescribe, asked, describe, undescribed
from gateway.controlplane.docs.route_docs import route_docs_page
from gateway.controlplane.watch import asking
from gateway.controlplane.watch.probing import Target
from gateway.core.table import EMPTY, Route, Table

log = logging.getLogger(__name__)

AGAIN_S = 30.0
TOGETHER_S = 0.3
"""Changes come in bursts (models become ready one after the other); one look serves them all."""

MAX_BYTES = 2 << 20
MAX_TOGETHER = 64 << 20  # bytes of all documents that are merged
AT_ONCE = 16  # instances are asked

Pages = Mapping[str, tuple[str, str]]
Fetch = Callable[[Target], Awaitable[bytes | None]]
Describe = Callable[[bytes], Awaitable[str]]


async def fetch(target: Target) -> bytes | None:
    """What `/openapi.json` of `target` says; None when it says nothing, or too much."""
    return await asking.fetch(target, "/openapi.json", MAX_BYTES)


class Documents:
    """Keeps what the workers serve true. `well()` gives an instance to ask per backend."""

    def __init__(
        self,
        table: Callable[[], Table],
        well: Callable[[], Mapping[str, Target]],
        serve: Callable[[Pages], None],
        *,
        fetch: Fetch = fetch,
        describe: Describe = describe,
    ) -> None:
        self._table, self._well, self._serve = table, well, serve
        self._fetch, self._describe = fetch, describe
        self._stirred = asyncio.Event()
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._asked: Mapping[str, Target] = {}
        self._known: dict[str, bytes] = {}
        self._barred: dict[str, bytes] = {}
        self._described: tuple[Table, dict[str, bytes] | None] = (EMPTY, None)
        self._served: Pages = {}

    def stir(self) -> None:
        """Something changed that the documents may depend on."""
        self._stirred.set()

    async def keep(self) -> None:
        """Looks again and again; ends when cancelled."""
        now = asyncio.get_running_loop().time
        asked_at = now() - AGAIN_S
        while True:
            is_anew = now() - asked_at >= AGAIN_S
            if is_anew:
                asked_at = now()
            try:
                await self.look(is_anew=is_anew)
            except OSError as error:
                log.warning("the routes' OpenAPI document could not be begun: %s", error)
            except Exception:
                # A document that nobody foresaw: what was served before is still good.
                log.exception("the routes' OpenAPI document could not be made")
            try:
                async with asyncio.timeout(asked_at + AGAIN_S - now()):
                    await self._stirred.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(TOGETHER_S)

    async def look(self, *, is_anew: bool = True) -> None:
        """Asks everybody who is well, or who was not there at the last look; merges, and hands over
        what changed."""
        self._stirred.clear()
        table, well = self._table(), self._well()
        before, self._asked = {} if is_anew else self._asked, well
        names = [name for name, target in well.items() if before.get(name) != target]
        answers = await asyncio.gather(*(self._ask(well[name]) for name in names))
        # Who is not well now is described as it was: clients' code is made from this.
        self._known = {n: d for n, d in self._known.items() if n in table.backends}
        self._known |= {n: d for n, d in zip(names, answers, strict=True) if d is not None}
        if self._is_described(table):
            return
        merged = await self._merge(table)
        self._described = (table, dict(self._known))
        page = ("text/html; charset=utf-8", route_docs_page())
        # In this order: who finds the document finds the page that shows it, too.
        served = {"/-/docs": page, "/-/openapi.json": ("application/json", merged)}
        if served != self._served:
            self._served = served
            self._serve(served)

    async def _ask(self, target: Target) -> bytes | None:
        async with self._asking:
            return await self._fetch(target)

    def _is_described(self, table: Table) -> bool:
        """Whether what was made last holds for `table` too: weights are in no document."""
        before, known = self._described
        if known != self._known or list(before.routes) != list(table.routes):
            return False
        routes = before.routes
        return before.backends.keys() == table.backends.keys() and all(
            routes[name] is route or _unweighted(routes[name]) == _unweighted(route)
            for name, route in table.routes.items()
        )

    async def _merge(self, table: Table) -> str:
        """The document of all routes.

        One that makes the whole impossible is left out until it says something else.
        """
        documents = self._bearable(table)
        if not documents:  # so nothing foreign is in it, and no process is begun for that
            return await asyncio.to_thread(undescribed, table)
        while True:
            try:
                return await self._describe_all(table, documents)
            except CannotDescribe as reason:
                if not documents:
                    raise
                culprit = await self._culprit(table, documents)
                log.warning("%s is left out of the routes' OpenAPI document: %s", culprit, reason)
                self._barred[culprit] = _mark(documents.pop(culprit))

    async def _culprit(self, table: Table, documents: Mapping[str, bytes]) -> str:
        """Whose document makes the whole impossible, looked for by halves. Where it takes several
        together the largest of them is: what takes long or much is large."""
        names = list(documents)
        while len(names) > 1:
            middle = len(names) // 2
            for part in (names[:middle], names[middle:]):
                try:
                    await self._describe_all(table, {name: documents[name] for name in part})
                except CannotDescribe:
                    names = part
                    break
            else:
                return max(names, key=lambda name: len(documents[name]))
        return names[0]

    async def _describe_all(self, table: Table, documents: Mapping[str, bytes]) -> str:
        return await self._describe(await asyncio.to_thread(asked, table, documents))

    def _bearable(self, table: Table) -> dict[str, bytes]:
        """The documents to merge, in the order of the table: a name that two of them use must
        not change its meaning because somebody answered sooner."""
        self._barred = {n: mark for n, mark in self._barred.items() if n in self._known}
        kept, size = {}, 0
        for name in table.backends:
            document = self._known.get(name)
            if document is None or self._barred.get(name) == _mark(document):
                continue
            size += len(document)
            if size <= MAX_TOGETHER:
                kept[name] = document
        return kept


def _unweighted(route: Route) -> Route:
    return replace(route, split=tuple((name, 0) for name, _ in route.split))


def _mark(document: bytes) -> bytes:
    return hashlib.sha256(document).digest()
