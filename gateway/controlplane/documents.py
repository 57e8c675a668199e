"""What does this gateway serve, in the words of its models?

Asks one instance of each backend for its OpenAPI document, has them merged for all routes
(`openapi_merge`) and gives the outcome to the workers, which serve it to clients. It is done
again when the table or somebody's health changed, and now and then. A model without a
document, or with a bad one, is simply not described; nothing here can fail an edit.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import orjson

from gateway.controlplane.openapi_merge import merge
from gateway.controlplane.prober import Target
from gateway.controlplane.route_docs import route_docs_page
from gateway.core.table import Table

log = logging.getLogger(__name__)

AGAIN_S = 30.0
TOGETHER_S = 0.3
"""Changes come in bursts (models become ready one after the other); one look serves them all."""

WITHIN_S = 5.0
MOST_BYTES = 2 << 20

Served = Mapping[str, tuple[str, str]]
Fetch = Callable[[Target], Awaitable[Any]]


async def fetch(target: Target) -> Any:
    """The JSON at `/openapi.json` of `target`; None when there is none that can be used."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # Redirects are not followed: an instance must not be able to send us elsewhere.
            session.get(
                f"http://{host}:{target.port}/openapi.json", allow_redirects=False
            ) as answer,
        ):
            if answer.status != 200:
                return None
            body = await answer.content.read(MOST_BYTES + 1)
            while len(body) <= MOST_BYTES and not answer.content.at_eof():
                body += await answer.content.read(MOST_BYTES + 1 - len(body))
            return orjson.loads(body) if len(body) <= MOST_BYTES else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


class Documents:
    """Keeps what the workers serve true. `well()` gives an instance to ask per backend."""

    def __init__(
        self,
        table: Callable[[], Table],
        well: Callable[[], Mapping[str, Target]],
        serve: Callable[[Served], None],
        *,
        fetch: Fetch = fetch,
    ) -> None:
        self._table, self._well, self._serve, self._fetch = table, well, serve, fetch
        self._stirred = asyncio.Event()
        self._known: dict[str, Any] = {}
        self._served: Served = {}

    def stir(self) -> None:
        """Something changed that the documents may depend on."""
        self._stirred.set()

    async def keep(self) -> None:
        """Looks again and again; ends when cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # A document that nobody foresaw: what was served before is still good.
                log.exception("the routes' OpenAPI document could not be made")
            try:
                async with asyncio.timeout(AGAIN_S):
                    await self._stirred.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(TOGETHER_S)

    async def look(self) -> None:
        """Asks, merges, and hands over what changed."""
        self._stirred.clear()
        table, well = self._table(), self._well()
        asked = list(well)
        answers = await asyncio.gather(*(self._fetch(well[name]) for name in asked))
        # Who is not well now is described as it was: clients' code is made from this.
        self._known = {n: d for n, d in self._known.items() if n in table.backends}
        self._known |= {n: d for n, d in zip(asked, answers, strict=True) if d is not None}
        # Big documents take long to merge; the loop has probes and edits to see to.
        served = await asyncio.to_thread(render, table, dict(self._known))
        if served != self._served:
            self._served = served
            self._serve(served)


def render(table: Table, documents: Mapping[str, Any]) -> Served:
    """Everything workers serve below `/-/` that is made here."""
    merged = json.dumps(merge(table, documents), ensure_ascii=False, separators=(",", ":"))
    page = ("text/html; charset=utf-8", route_docs_page())
    return {"/-/openapi.json": ("application/json", merged), "/-/docs": page}
