"""At which path does each model that `serve` starts answer?

The file may say it (`serve.path`); else an instance does, at `/info`, or at `/instance` where
`/info` is what a LitServer says of itself. The gateway asks, for it loads no model: `headgate up`,
`headgate gateway` and an edit then all come to the same table, whoever started the instances. What
was found out stands until an instance says otherwise.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping

from gateway.controlplane.watch.asking import fetch
from gateway.controlplane.watch.probing import Target
from gateway.core.entries import is_path
from gateway.core.table import Table

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 10

Paths = dict[str, str]


async def ask_path(target: Target) -> str | None:
    """The path that the model at `target` answers at; None when it does not say."""
    for page in ("/info", "/instance"):
        try:
            shown = json.loads(await fetch(target, page, MAX_BYTES) or b"null")
        except (ValueError, RecursionError):
            continue
        path = shown.get("path") if isinstance(shown, dict) else None
        # It becomes a part of request lines, so it is judged as a path in the file is.
        if isinstance(path, str) and is_path(path):
            return path
    return None


class ServedPaths:
    """Keeps `paths` true. `well()` gives an instance to ask per backend; `tell` gets changes."""

    def __init__(
        self,
        table: Callable[[], Table],
        well: Callable[[], Mapping[str, Target]],
        tell: Callable[[Paths], None],
        *,
        remembered: Mapping[str, str],
    ) -> None:
        self._table, self._well, self._tell = table, well, tell
        self._stirred = asyncio.Event()
        self.paths: Paths = dict(remembered)

    def stir(self) -> None:
        """The table or somebody's health changed."""
        self._stirred.set()

    async def keep(self) -> None:
        """Looks whenever something changed; ends when cancelled."""
        while True:
            await self._stirred.wait()
            try:
                await self.look()
            except Exception:
                log.exception("the paths of models could not be asked for")

    async def learn(self, backend: str, address: str) -> None:
        """Asks an instance that gets no requests yet, of a backend that serves at no known path:
        who waits for it shall be led there."""
        table = self._table()
        found = table.backends.get(backend)
        if found is None or backend in self.paths:
            return
        host, _, port = address.rpartition(":")
        path = await ask_path(Target(host.strip("[]"), int(port), found.health))
        if path is not None and backend not in self.paths:
            self.paths = {**self.paths, backend: path}
            self._tell(self.paths)

    async def look(self) -> None:
        """Asks who is well, and tells what is new."""
        self._stirred.clear()
        backends = self._table().backends.values()
        served = {each.name: each.serve for each in backends if each.serve is not None}
        well = self._well()
        asked = [name for name, serve in served.items() if "path" not in serve and name in well]
        answers = await asyncio.gather(*(ask_path(well[name]) for name in asked))
        found = {name: path for name, path in self.paths.items() if name in served}
        found |= {n: path for n, path in zip(asked, answers, strict=True) if path is not None}
        found |= {n: str(serve["path"]) for n, serve in served.items() if "path" in serve}
        if found != self.paths:
            self.paths = found
            self._tell(found)
