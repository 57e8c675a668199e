"""Which port does an instance get for which none was written?

One below those that a system gives to clients, so that no connection of somebody else's sits on it
when the instance comes back; and one that no other fleet of this user has chosen: until its
instance listens, which takes Python a while, a port is free for whoever looks. Whoever chooses one
holds the lock on its byte of a common file, and the kernel lets go of it when the fleet ends. So
it is with the gateway's own, which are bound from the start and listen once all models are ready.
"""

import fcntl
import os
import random
import tempfile
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path

from gateway.core.table import Instance
from gateway.processes.sockets import ListenError, bind

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
TRIES = 200  # to find a port that is free
_held: dict[str, int] = {}
"""Address → port, of those whose locks this process holds."""
_kept: set[int] = set()
"""Those where this process itself will listen."""


def keep(ports: Iterable[int]) -> None:
    """From now on no instance is started at one of these, by this process or another fleet."""
    for port in ports:
        _kept.add(port)
        _lock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_free(instance: Instance) -> bool:
    """Whether somebody could listen there now."""
    return refusal(instance) is None


def refusal(instance: Instance) -> str | None:
    """Why nobody could listen there now, in one line."""
    if instance.port in _kept:
        return f"cannot listen on {instance.address}: the port is the gateway's own"
    try:
        (bound,) = bind(instance.address)
    except ListenError as error:
        return str(error)
    bound.close()
    return None


def choose(taken: Container[str], chance: random.Random, host: str = HOST) -> Instance:
    """A free address on `host` that is none of `taken`, the addresses of this fleet, and of no
    other one; ListenError when none is found."""
    for address, port in list(_held.items()):
        if address not in taken:
            _lock(port, fcntl.LOCK_UN)
            del _held[address]
    for _ in range(TRIES):
        port = chance.choice(PORTS)
        found = Instance(f"http://{host}:{port}", host, port)
        if (
            found.address in taken
            or port in _kept
            or not _lock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ):
            continue
        _held[found.address] = port
        if is_free(found):
            return found
    raise ListenError(f"no free port was found from {PORTS.start} to {PORTS.stop - 1}")


def _lock(port: int, how: int) -> bool:
    """Whether no other process has the lock of `port`."""
    if (file := _common()) is None:
        return True
    try:
        fcntl.lockf(file, how, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


@cache
def _common() -> int | None:
    """The file, or None where there can be none: then a port is free for whoever looks."""
    try:
        path = Path(tempfile.gettempdir()) / f"headgate-ports-{os.getuid()}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
