"""Which port does an instance get for which none was written?

One below those that a system gives to clients, so that no connection of somebody else's sits on it
when the instance comes back.
"""

import random
from collections.abc import Container

from gateway.core.table import Instance
from gateway.processes.sockets import ListenError, bind

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
