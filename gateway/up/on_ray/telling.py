"""How is told what a cluster runs? As it is of one machine, with the host in each address."""

from collections.abc import Callable, Mapping, Sequence

from gateway.up.desired import Desired
from gateway.up.on_ray.held import Held
from gateway.up.telling import short, told_backend
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
        shown = [each for each in own if each.address is not None or each.state == "failed"]
        backends[name] = told_backend(
            asked,
            [each.value for each in own],
            [_process(each, asked.version if asked else "") for each in shown],
            runs=bool(own),
            error=error(name),
            waits=waits.get(name),
            starts=starts.get(name, 0),
            load_s=load_s.get(name),
            is_beside=name in desired.beside,
            on_demand=desired.demand.knows(name),
        )
    told: Fleet = {"type": "fleet", "revision": revision, "backends": backends, "devices": []}
    return {**told, "follows": True} if follows else told


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
