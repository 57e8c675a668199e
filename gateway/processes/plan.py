"""What does a supervisor run?"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.processes.leaving import Before


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    `configuration` is the file called `name` as it was read at the start, so that a control process
    that takes over hours later does not stumble over an edit of it. `drain_timeout_s` is how long a
    drain may take in all. `state_dir`, whose lock is `state_fd`, is used for what is usually
    temporary where there is no other place to write to. `placed` are the instances that were
    started for each backend; None where nobody starts any. `workers` is how many there are, 0: one
    per socket; `given`: whether those sockets, and that of the admin API, are a service manager's.
    Where there was a gateway before, `memory` is that of loads and of counters, and `before` are
    its workers; `arguments` are those with which one after it is run.
    """

    data: Sequence[socket.socket]
    admin: socket.socket
    configuration: bytes
    name: str
    drain_timeout_s: float
    environment: Mapping[str, str]
    state_dir: Path
    state_fd: int | None = None
    placed: Mapping[str, Sequence[str]] | None = None
    workers: int = 0
    given: tuple[bool, bool] = (False, False)
    memory: tuple[int, int] | None = None
    before: Before | None = None
    arguments: Sequence[str] = ()
