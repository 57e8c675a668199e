"""Where does the next process of a backend listen?

At the address that was written for it, or where it was before, or else at a port that is chosen.
Somebody else who answers there must not be taken for our instance.
"""

import random
from collections.abc import Mapping
from typing import Any

from gateway.core.placement import Start, Wanted
from gateway.core.table import Instance, parse_instance
from gateway.up import ports
from gateway.up.fleet import StartError

Spec = Mapping[str, Any]


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
        return instance, ports.refusal(instance)
    for address in step.addresses:
        instance = instance_of(spec, address)
        if ports.is_free(instance):
            return instance, None
    return ports.choose(taken, chance), None


def refuse_taken_ports(wanted: Mapping[str, Wanted], specs: Mapping[str, Spec]) -> None:
    """StartError where somebody listens already at an address that was written."""
    for name, asked in wanted.items():
        for address in asked.pins:
            if reason := ports.refusal(instance_of(specs[name], address)):
                raise StartError(f"backend {name}: {reason}")
