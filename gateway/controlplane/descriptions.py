"""What do the instances say that they can be asked, and what does that make together?

Fetches the OpenAPI document of one instance per backend, again when instances come or the
table changes, and has the outcome handed to the workers, which answer `/-/openapi.json` and
`/-/docs` from memory. What cannot be fetched stays as it was last known. Nothing an instance
says can hurt: documents are bounded, redirects are not followed, and merging is done beside
the loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiohttp
import orjson

from gateway.controlplane.openapi_merge import merge
from gateway.controlplane.prober import Key, Target
from gateway.controlplane.route_docs import route_docs_page
from gateway.core.table import Table

Documents = Mapping[str, tuple[str, str]]
Fetch = Callable[[Target], Awaitable[Any]]

EVERY_S = 60.0
TOGETHER_S = 0.5
WITHIN_S = 5.0
MAX_BYTES = 1 << 20
PATH = "/openapi.json"

log = logging.getLogger(__name__)


async def fetch(target: Target) -> Any:
    """The document of the instance at `target`; None when there is none to be had."""
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    host = f"[{target.host}]" if ":" in target.host else target.host
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(
                f"http://{host}:{target.port}{PATH}",
                allow_redirects=False,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            ) as response,
        ):
            if response.status != 200:
                return None
            body = await response.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                body += more
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
    return _read(body) if len(body) <= MAX_BYTES else None


def _read(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def rendered(table: Table, documents: Mapping[str, Any]) -> Documents:
    """The pages below `/-/` that describe `table`."""
    merged = orjson.dumps(merge(table, documents)).decode()
    return {
        "/-/openapi.json": ("application/json", merged),
        "/-/docs": ("text/html; charset=utf-8", route_docs_page()),
    }


class Descriptions:
    """Keeps the pages true. `targets()` are the instances that may be asked, the best first;
    `publish(documents)` is called whenever they changed."""

    def __init__(
        self,
        table: Callable[[], Table],
        targets: Callable[[], Iterable[tuple[Key, Target]]],
        publish: Callable[[Documents], None],
        *,
        fetch: Fetch = fetch,
        every_s: float = EVERY_S,
        together_s: float = TOGETHER_S,
    ) -> None:
        self._table, self._targets, self._publish = table, targets, publish
        self._fetch, self._every_s, self._together_s = fetch, every_s, together_s
        self._known: dict[str, Any] = {}
        self._shown: Documents = {}
        self._changed = asyncio.Event()

    def nudge(self) -> None:
        """Looks again soon: instances or routes may have changed."""
        self._changed.set()

    async def watch(self) -> None:
        """Looks again and again, at most once in `together_s`, until it is cancelled."""
        while True:
            self._changed.clear()
            await self.refresh()
            await asyncio.sleep(self._together_s)
            try:
                async with asyncio.timeout(self._every_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Asks every backend once and publishes what changed."""
        table = self._table()
        candidates: dict[str, list[Target]] = {}
        for key, target in self._targets():
            candidates.setdefault(key.backend, []).append(target)
        asked = [name for name in table.backends if name in candidates]
        found = await asyncio.gather(*(self._ask(candidates[name]) for name in asked))
        fresh = {name: said for name, said in zip(asked, found, strict=True) if said is not None}
        kept = {name: said for name, said in self._known.items() if name in table.backends}
        self._known = {**kept, **fresh}
        try:
            documents = await asyncio.to_thread(rendered, table, self._known)
        except Exception:  # an instance's document is its own; the gateway's pages outlive it
            log.exception("the documents of the instances cannot be merged")
            return
        if documents != self._shown:
            self._shown = documents
            self._publish(documents)

    async def _ask(self, targets: list[Target]) -> Any:
        """What the first of `targets` says that says anything; None when none does."""
        for target in targets[:3]:
            if (said := await self._fetch(target)) is not None:
                return said
        return None
