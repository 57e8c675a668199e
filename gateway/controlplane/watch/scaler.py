"""Which backends wait too long, and get another replica for it?

Looks once a second at what workers and instances say of the backends whose `serve` has `scale`,
and asks for an edit of `replicas` like anybody else. How many there shall be is
`gateway.core.scaling`; nobody is scaled while processes are on their way or cannot be started.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.controlplane.worker_loads import WorkerLoads
from gateway.core.placement import count_of
from gateway.core.scaling import Scale, Seen, Since, scaled
from gateway.core.table import Table
from gateway.core.units import parse_duration

DEFAULT_WAIT = "50ms"


class Scaler:
    """Asks `edit(backend, count, why)` for what the load of `table()` takes; `state` says how far
    the processes of a backend are what is asked for."""

    def __init__(
        self,
        table: Callable[[], Table],
        loads: WorkerLoads,
        state: Callable[[str], str],
        edit: Callable[[str, int, str], None],
    ) -> None:
        self._table, self._loads, self._state, self._edit = table, loads, state, edit
        self._since: dict[str, Since] = {}

    @property
    def scaled(self) -> dict[str, Mapping[str, Any]]:
        """The backends that are scaled, as they are written."""
        document = self._table().document.get("backends") or {}
        return {
            name: document[name]
            for name, backend in self._table().backends.items()
            if backend.serve and "scale" in backend.serve
        }

    def beat(self, now: float) -> None:
        """Looks at each of them at this second."""
        found = self.scaled
        self._since = {name: self._since.get(name, Since()) for name in found}
        for name, spec in found.items():
            if self._state(name) != "ready":
                self._since[name] = Since()
                continue
            scale, seen = scale_of(spec["serve"]["scale"]), self._seen(name, count_of(spec))
            count, self._since[name] = scaled(scale, self._since[name], seen, now)
            if count != seen.count:
                self._edit(name, count, why(scale, seen, count))

    def _seen(self, name: str, count: int) -> Seen:
        instances = self._table().backends[name].instances
        told = (self._loads.report(name, each.address) for each in instances)
        reports = [report for report in told if report is not None]
        queued = self._loads.queue_depth().get(name, 0)
        busy = sum(self._loads.in_flight().get(name, {}).values()) + queued
        # The next request goes to the instance that it would wait for least.
        wait_s = min((report["wait_ms"] for report in reports), default=0.0) / 1000.0
        slots = sum(report["slots"] for report in reports)
        # Who waits at the gateway waits for all of them.
        return Seen(count, float("inf") if queued else wait_s, busy, slots)


def scale_of(said: Mapping[str, Any]) -> Scale:
    """What `serve.scale` says."""
    wait_s = parse_duration(said.get("wait", DEFAULT_WAIT))
    return Scale(int(said.get("min", 1)), int(said["max"]), wait_s)


def why(scale: Scale, seen: Seen, count: int) -> str:
    """The reason for the history."""
    if not scale.least <= seen.count <= scale.most:
        return f"scale: from {scale.least} to {scale.most} replicas"
    if count < seen.count:
        return f"scale: quiet for long with {seen.count} replicas"
    return f"scale: requests wait longer than {1000 * scale.wait_s:g} ms"
