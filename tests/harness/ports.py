"""Which port may a test use that has to name an address before anybody listens there?

One below the range the kernel hands to connecting sockets and below that of which a fleet takes
ports, and one that nobody else was given: a port that was free when looked at is free for the next
who looks, too. Every process that asks holds a lock on one byte of a common file for each port, and
the kernel lets go of them when it ends, however it ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

FIRST, BEYOND = 10_000, 20_000
_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, given to nobody else while this process lives."""
    while True:
        port = random.randrange(FIRST, BEYOND)
        if _taken(port) and _nobody_listens(port):
            return port


def held(host: str, port: int = 0) -> socket.socket:
    """A socket at `port`, or at a free one, that does not listen.

    Whoever else says SO_REUSEADDR may listen there and stop and listen again. Meanwhile the kernel
    gives the port to nobody, neither to another test's server, which would be taken for the one
    that is gone, nor to a client, whose port it would stay for a minute.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind((host, port))
    return place


@cache
def _ledger() -> int:
    path = Path(tempfile.gettempdir()) / f"headgate-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(port: int) -> bool:
    """Whether `port` is ours from now on."""
    if port in _given:  # a process may lock twice what it has locked
        return False
    try:
        fcntl.lockf(_ledger(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _given.add(port)
    return True


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
