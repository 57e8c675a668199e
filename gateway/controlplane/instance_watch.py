"""Where are the instances, are they well, and what do they say of themselves?

Composes resolver, prober, paths and documents of served models. What one of them finds out is told
to the others, to the workers, and to the control process that may come after this one.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.docs.documents import Documents
from gateway.controlplane.docs.served import Paths, ServedPaths
from gateway.controlplane.store.handover import Memory
from gateway.controlplane.watch.health_book import Key, Words
from gateway.controlplane.watch.pacing import Paced
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.probing import probe
from gateway.controlplane.watch.resolver import Endpoints, Resolver
from gateway.controlplane.workers import Workers
from gateway.core.health import Word
from gateway.core.served import filled
from gateway.core.table import Backend, Table
from gateway.processes.console import say
from gateway.processes.tasks import Tasks

NAMES_WITHIN_S = 3.0
LOOK_WITHIN_S = 2.0

Changes = Sequence[tuple[Key, Word, Word]]


class WatchedInstances:
    """The instances of `table()`. `is_ours` says whether the gateway itself listens at a host and
    port. `on_table` hears of each table, `on_health` of words that changed and `on_ejections` of
    those who are ejected."""

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        workers: Workers,
        table: Callable[[], Table],
        *,
        is_ours: Callable[[str, int], bool],
        on_table: Callable[[Table], None],
        on_health: Callable[[Words, Changes], None],
        on_ejections: Callable[[Sequence[Sequence[Any]]], None],
    ) -> None:
        self._memory, self._workers, self._table = memory, workers, table
        self._is_described = settings.describe
        self._on_table, self._tell_health = on_table, on_health
        self._backends: Mapping[str, Backend] = {}
        self._remember = Paced(self.keep_health)
        self.resolver = Resolver(
            self._on_endpoints,
            remembered=memory.endpoints,
            networks=[str(network) for network in settings.instance_networks],
            is_ours=is_ours,
            say=say,
        )
        self.prober = Prober(
            self._on_health,
            probe=partial(probe, is_ours=is_ours),
            on_signals=workers.tell,
            on_ejections=on_ejections,
            remembered=memory.health,
        )
        self.served = ServedPaths(
            table, self.prober.well, self._on_served, remembered=memory.served
        )
        self._documents = Documents(self.table_with_paths, self.prober.well, workers.set_documents)

    def sync(self, table: Table) -> None:
        """Resolves and probes what `table` names from now on, and nothing else."""
        if table.backends is not self._backends:
            self._backends = table.backends
            self.resolver.sync(table)
            self.prober.set_endpoints(self.resolver.endpoints)  # names first, then probes
            self.prober.sync(table)
        self._on_table(table)
        self._stir()

    async def met(self, previous: Table, table: Table) -> None:
        """Returns once one is well wherever `table` replaces all that served, a backend's instances
        or a route's backends, or there was long enough time to find out."""
        if self.prober.replaced(previous, table):
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_WITHIN_S):
                    await self.resolver.resolved(LOOK_WITHIN_S)
                    await self.prober.met(previous, table)

    async def known(self, backend: Backend) -> None:
        """Returns once it is known whether an instance of `backend` is well, or there was long
        enough time to find out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_WITHIN_S):
                await self.resolver.resolved(LOOK_WITHIN_S)
                await self.prober.known(backend)

    def table_with_paths(self) -> Table:
        """The table, with the paths at which models said that they are served."""
        return filled(self._table(), self.served.paths)

    async def look(self) -> None:
        """Returns when each was resolved, asked for its health and for its path once, or there was
        long enough time for it."""
        await self.resolver.resolved(NAMES_WITHIN_S)
        await self.prober.judged(LOOK_WITHIN_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_WITHIN_S):
                await self.served.look()

    def tell_workers(self) -> None:
        """Tells what is known of names and paths to the workers that will come."""
        self._workers.set_endpoints(self.resolver.endpoints)
        self._workers.set_served(self.served.paths)

    def run(self, own: Tasks) -> None:
        """Keeps paths and documents true, as tasks of `own`."""
        own.run("the paths of served models", self.served.keep())
        if self._is_described:
            own.run("the route documents", self._documents.keep())

    def close_with(self, stack: AsyncExitStack) -> None:
        """Asks nobody any more when `stack` is left."""
        stack.push_async_callback(self.resolver.close)
        stack.push_async_callback(self.prober.close)

    def keep_health(self) -> None:
        """Writes down what is known of everybody's health."""
        self._memory.health = self.prober.health.states
        self._memory.keep()

    def _on_endpoints(self, endpoints: Endpoints) -> None:
        self.prober.set_endpoints(endpoints)
        self._workers.set_endpoints(endpoints)
        self._memory.endpoints = endpoints
        self._memory.keep()

    def _on_health(self, words: Words, changes: Changes) -> None:
        # Before a worker acts on it: a successor must not know less than they do.
        self._remember()
        self._tell_health(words, changes)
        self._stir()

    def _stir(self) -> None:
        """What models say of themselves may be another thing now."""
        self.served.stir()
        self._documents.stir()

    def _on_served(self, paths: Paths) -> None:
        self._workers.set_served(paths)
        self._memory.served = paths
        self._memory.keep()
        self._documents.stir()
