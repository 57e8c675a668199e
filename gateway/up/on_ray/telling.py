"""How is told what a cluster runs? As it is of one machine, with the host in each address."""

from collections.abc import Callable, Mapping, Sequence

from gateway.core.placement import Wanted
from gateway.up.desired import Desired
from gateway.up.on_ray.held import Held
from gateway.up.telling import short
from gateway.wire.line import Fleet, InstanceProcess, ServedBackend


def fleet(
    revision: int,
    desired: Desired,
    held: Sequence[Held],
    error: Callable[[str], str | None],
    waits: Mapping[str, str],
    starts: Mapping[str, int],
    load_s: Mapping[str, float],
    *,
    follows: bool,
) -> Fleet:
    """All that is told, of the table at `revision`."""
    names = dict.fromkeys([*desired.wanted, *sorted({each.seat.backend for each in held})])
    backends: dict[str, ServedBackend] = {}
    for name in names:
        asked = desired.wanted.get(name)
        own = [each for each in held if each.seat.backend == name]
        state = _state(asked, own, error(name), on_demand=desired.demand.knows(name))
        loaded = load_s.get(name)
        backends[name] = {
            "state": state,
            "error": error(name),
            "waits": waits.get(name) if state == "starting" else None,
            "starts": starts.get(name, 0),
            "load_s": None if loaded is None else round(loaded, 3),
            "addresses": list(asked.in_force) if asked and name in desired.beside else None,
            "processes": [
                _process(each, asked.version if asked else "")
                for each in own
                if each.address is not None or each.state == "failed"
            ],
        }
    told: Fleet = {"type": "fleet", "revision": revision, "backends": backends, "devices": []}
    return {**told, "follows": True} if follows else told


def _state(asked: Wanted | None, own: Sequence[Held], error: str | None, *, on_demand: bool) -> str:
    if asked is None:
        return "stopping"
    if not asked.count:
        if on_demand:
            return "unloading" if own else "asleep"
        return "stopping" if own else "stopped"
    if error:
        return "failed"
    ready = {e.address for e in own if e.state == "ready" and e.version == asked.version}
    is_so = len(ready) >= asked.count and asked.in_force and set(asked.in_force) <= ready
    return "ready" if is_so else "starting"


def _process(each: Held, version: str) -> InstanceProcess:
    told = each.seen.told
    return {
        "address": each.address or "",
        "pid": told["pid"] if told else None,
        "state": each.state,
        "model": each.plan.model,
        "source": each.plan.source,
        "version": short(each.version),
        "current": each.version == version,
        "is_here": False,
        "started": None,
        "last_error": None,
        "last_error_at": None,
        "restarts": told["restarts"] if told else 0,
        "error": told["error"] if told else each.plan.fault,
        "devices": list(each.plan.devices),
        "memory": None,
    }
