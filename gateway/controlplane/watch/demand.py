"""How are the backends used that start on demand?

Looks once a second at what workers counted anyway, and tells the fleet: who is busy, since when
nobody asked, and who is not to be unloaded. What is only looked at (GET) is no use of a model. It
decides nothing, and costs the workers nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from gateway.controlplane.watch.fleet_view import FleetView
from gateway.controlplane.watch.tallies import Tally
from gateway.controlplane.worker_loads import WorkerLoads
from gateway.core.faults import Conflict
from gateway.core.table import Table
from gateway.telemetry.series import Labels
from gateway.wire.line import ForFleet, ModelUse

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
LOAD_WITHIN_S = 20.0
"""How long a command waits for a model: shorter than its client waits for an answer. It goes on
loading, and who asks again has less to wait."""


class Demand:
    """The use of what starts on demand in `table()`; `counted()` are the requests so far, and
    `kept()` the backends that are not to be unloaded."""

    def __init__(
        self,
        table: Callable[[], Table],
        loads: WorkerLoads,
        counted: Callable[[], Mapping[Labels, Tally]],
        kept: Callable[[], Collection[str]],
        fleet: FleetView,
        tell: Callable[[ForFleet], None],
        *,
        load_within_s: float = LOAD_WITHIN_S,
    ) -> None:
        self._table, self._loads, self._counted, self._kept = table, loads, counted, kept
        self._fleet, self._tell, self._load_within_s = fleet, tell, load_within_s
        self._counts: dict[str, float] = {}
        self._used_at: dict[str, float] = {}
        self._awaited: dict[str, int] = {}

    def beat(self, now: float) -> None:
        """Looks at each of them; what was counted was read at `now`, and nobody is idle for longer
        than is known."""
        names = {name for name, each in self._table().backends.items() if each.on_demand}
        if not names and not self._used_at:
            return
        counts = dict.fromkeys(names, 0.0)
        for labels, tally in self._counted().items():
            if labels[1] in counts:
                counts[labels[1]] += sum(
                    count for key, count in tally.counts.items()
                    if isinstance(key, tuple) and key[0] not in LOOKS
                )  # fmt: skip
        in_flight, queued = self._loads.in_flight(), self._loads.queue_depth()
        kept = {*self._kept(), *(name for name, count in self._awaited.items() if count)}
        # A canary that was loaded sleeps where its fleet began anew.
        self.ask(sorted(name for name in names & kept if self._fleet.state(name) == "asleep"))
        use: dict[str, ModelUse] = {}
        for name, count in counts.items():
            busy = any(in_flight.get(name, {}).values()) or queued.get(name, 0) > 0
            if busy or count != self._counts.get(name, count) or name not in self._used_at:
                self._used_at[name] = now
            idle_s = round(now - self._used_at[name], 3)
            use[name] = {"busy": busy, "idle_s": idle_s, "kept": name in kept}
        self._counts = counts
        self._used_at = {name: at for name, at in self._used_at.items() if name in names}
        self._tell({"type": "use", "backends": use})

    def ask(self, backends: Collection[str]) -> None:
        """Requests wait for these."""
        for name in backends:
            self._tell({"type": "wake", "backend": name})

    async def awake(self, backend: str) -> None:
        """Returns when `backend` is loaded, at once where it does not start on demand; Conflict
        says why it cannot be. One that could not be before is tried again: a person asks."""
        found = self._table().backends.get(backend)
        if found is None or not found.on_demand:
            return
        if self._fleet.state(backend) == "failed":
            self._fleet.start(backend)
        self._awaited[backend] = self._awaited.get(backend, 0) + 1
        try:
            async with asyncio.timeout(self._load_within_s):
                while (state := self._fleet.state(backend)) != "ready":
                    if state == "failed":
                        why = self._fleet.error(backend)
                        raise Conflict(f"backend {backend!r} cannot be loaded: {why}")
                    if state in ("asleep", "unloading"):
                        self.ask([backend])
                    await self._fleet.next_change()
        except TimeoutError:
            raise Conflict(
                f"backend {backend!r} is still being loaded after {self._load_within_s:g} s: ask"
                " again in a moment"
            ) from None
        finally:
            self._awaited[backend] -= 1
