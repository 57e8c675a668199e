"""How does the fleet tell what it runs?"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from gateway.core.placement import Process, Wanted
from gateway.up.desired import Desired
from gateway.up.loading import Loads
from gateway.up.process import InstanceProcess
from gateway.up.running import Processes
from gateway.wire.line import DeviceMessage, Fleet, ServedBackend
from gateway.wire.line import InstanceProcess as ProcessMessage


def told_backend(
    asked: Wanted | None,
    own: Sequence[Process],
    processes: Sequence[ProcessMessage],
    *,
    runs: bool,
    error: str | None,
    waits: str | None,
    starts: int,
    load_s: float | None,
    is_beside: bool,
    on_demand: bool,
) -> ServedBackend:
    """All that is told of a backend whose processes are `own`, of which some still `runs`, told as
    `processes`; `is_beside`: its addresses are in no document."""
    state = _state(asked, own, error, runs=runs, on_demand=on_demand)
    return {
        "state": state,
        "error": error if asked is not None else None,
        "waits": waits if state == "starting" else None,
        "starts": starts,
        "load_s": None if load_s is None else round(load_s, 3),
        "addresses": list(asked.in_force) if asked is not None and is_beside else None,
        "processes": processes,
    }


def _state(
    asked: Wanted | None, own: Sequence[Process], error: str | None, *, runs: bool, on_demand: bool
) -> str:
    """How far `own` are what is asked for. With a count of 0 it is stopped, or asleep where the
    next request starts it."""
    if asked is None:
        return "stopping"
    if not asked.count:
        if on_demand:
            return "unloading" if runs else "asleep"
        return "stopping" if runs else "stopped"
    if error:
        return "failed"
    ready = {e.address for e in own if e.state == "ready" and e.version == asked.version}
    is_so = len(ready) >= asked.count and asked.in_force and set(asked.in_force) <= ready
    return "ready" if is_so else "starting"


def fleet(
    revision: int,
    desired: Desired,
    processes: Processes,
    loads: Loads,
    *,
    errors: Callable[[str], str | None],
    waits: Mapping[str, str],
    devices: Sequence[DeviceMessage],
) -> Fleet:
    """All that is told, of the table at `revision`."""
    backends: dict[str, ServedBackend] = {}
    for name in dict.fromkeys([*desired.wanted, *sorted(processes.backends())]):
        asked, own = desired.wanted.get(name), processes.of(name)
        backends[name] = told_backend(
            asked,
            [each.value for each in own],
            [_process(each, asked.version if asked else "") for each in own],
            runs=any(each.pid is not None for each in own),
            error=errors(name),
            waits=waits.get(name),
            starts=loads.starts.get(name, 0),
            load_s=loads.load_s.get(name),
            is_beside=name in desired.beside,
            on_demand=desired.demand.knows(name),
        )
    return {"type": "fleet", "revision": revision, "backends": backends, "devices": devices}


def _process(each: InstanceProcess, version: str) -> ProcessMessage:
    return {
        "address": each.plan.instance.address,
        "pid": each.pid,
        "state": each.state,
        "model": each.plan.model,
        "source": each.plan.source,
        "version": short(each.version),
        "current": each.version == version,
        "is_here": True,
        "started": each.started,
        "restarts": each.restarts,
        "error": each.error,
        "last_error": each.last_error[0] if each.last_error else None,
        "last_error_at": each.last_error[1] if each.last_error else None,
        "devices": list(each.plan.devices),
        "memory": _sum(each.seats.values()),
    }


def short(version: str) -> str:
    """A few letters that tell one version of a model from another."""
    return hashlib.sha256(version.encode()).hexdigest()[:8]


def _sum(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    known = [size for size in found if size is not None]
    return sum(known) if found and len(known) == len(found) else None
