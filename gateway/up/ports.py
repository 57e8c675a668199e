"""Where does the next process of a backend listen?

At the address that was written for it, or where it was before, or else at a port that is chosen:
below those that a system gives to clients, so that no connection of somebody else's sits on it when
the instance comes back. Somebody else who answers there must not be taken for our instance.
"""

import random
from collections.abc import Container, Mapping
from typing import Any

from gateway.core.placement import Start, Wanted
from gateway.core.table import Instance, parse_instance
from gateway.processes.sockets import ListenError, bind
from gateway.up.fleet import StartError

Spec = Mapping[str, Any]
HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
TRIES = 200


def is_free(instance: Instance) -> bool:
    """Whether somebody could listen there now."""
    return refusal(instance) is None


def refusal(instance: Instance) -> str | None:
    """Why nobody could listen there now, in one line."""
    try:
        (bound,) = bind(instance.address)
    except ListenError as error:
        return str(error)
    bound.close()
    return None


def choose(taken: Container[str], chance: random.Random, host: str = HOST) -> Instance:
    """A free address on `host` that is none of `taken`; ListenError when none is found."""
    for _ in range(TRIES):
        port = chance.choice(PORTS)
        found = Instance(f"http://{host}:{port}", host, port)
        if found.address not in taken and is_free(found):
            return found
    raise ListenError(f"no free port was found from {PORTS.start} to {PORTS.stop - 1}")


def url_of(spec: Spec, address: str) -> str:
    """The URL for `address`, as it was written where it was."""
    for url in (*(spec.get("instances") or ()), *(spec.get("placed") or ())):
        if parse_instance(url).address == address:
            return str(url)
    return f"http://{address}"


def instance_of(spec: Spec, address: str) -> Instance:
    return parse_instance(url_of(spec, address))


def instance_for(
    step: Start, spec: Spec, taken: set[str], chance: random.Random
) -> tuple[Instance, str | None]:
    """Where to start it, none of `taken` but where it was, and why it cannot be there."""
    if step.pinned:
        instance = instance_of(spec, step.addresses[0])
        return instance, refusal(instance)
    for address in step.addresses:
        instance = instance_of(spec, address)
        if is_free(instance):
            return instance, None
    return choose(taken, chance), None


def refuse_taken_ports(wanted: Mapping[str, Wanted], specs: Mapping[str, Spec]) -> None:
    """StartError where somebody listens already at an address that was written."""
    for name, asked in wanted.items():
        for address in asked.pins:
            if reason := refusal(instance_of(specs[name], address)):
                raise StartError(f"backend {name}: {reason}")
