"""What outlives the processes of a gateway, and how does each of them get its part of it?

Sockets, shared memory and the private directory are the supervisor's; its children inherit the
descriptors with the commands that are made here.
"""

import json
import os
import socket
import time
from collections.abc import Callable

from gateway.processes.children import Command
from gateway.processes.plan import Plan
from gateway.processes.private_directory import SOCKET, PrivateDirectory
from gateway.processes.sockets import address_of, dealt, listen_unix
from gateway.telemetry.book import shared_memory
from gateway.wire.line import CompareStart, ControlStart, WorkerStart
from gateway.wire.pairs import NAME as COMPARE_SOCKET


class Inherited:
    """The descriptors of `plan`, and those of a gateway's own; `program` gives the command line of
    one of its processes."""

    def __init__(self, plan: Plan, program: Callable[..., list[str]]) -> None:
        self._plan, self._program = plan, program
        self.directory = PrivateDirectory(plan.state_dir)
        self._channel_path = self.directory.path / SOCKET
        self._channels = listen_unix(self._channel_path)
        self._compare_path = self.directory.path / COMPARE_SOCKET
        self._pairs = listen_unix(self._compare_path)
        self._file = self.directory.path / "headgate.yaml"
        self._file.write_bytes(plan.configuration)
        self._permits, self._counters = plan.memory or (
            shared_memory(self.directory.path, "headgate-loads"),
            shared_memory(self.directory.path),
        )
        self._certificates = shared_memory(self.directory.path, "headgate-certificates")
        self._dealt = dealt(plan.data, plan.workers or len(plan.data))

    @property
    def workers(self) -> int:
        """How many workers there are sockets for."""
        return len(self._dealt)

    def control(self, line: socket.socket, *, again: bool, late: bool, before: bool) -> Command:
        """Runs a control process, whose line to the supervisor is `line`. `again`: the gateway was
        ready before; `late`: its file was still to be applied then; `before`: workers of the
        gateway before it are still there."""
        plan = self._plan
        before_fd = plan.before.channels_fd if plan.before is not None and before else None
        start: ControlStart = {
            "file": str(self._file),
            "name": plan.name,
            "state_dir": str(plan.state_dir),
            "listen": address_of(plan.data[0]),
            "directory": str(self.directory.path),
            "admin_fd": plan.admin.fileno(),
            "channels_fd": self._channels.fileno(),
            "before_fd": before_fd,
            "line_fd": line.fileno(),
            "state_fd": plan.state_fd,
            "counters_fd": self._counters,
            "certificates_fd": self._certificates,
            "workers": self.workers,
            "again": again,
            "late": late,
            "began": time.monotonic(),
            "placed": plan.placed,
        }
        memory = (self._counters, self._certificates)
        kept = [fd for fd in (plan.state_fd, before_fd) if fd is not None]
        fds = (start["admin_fd"], start["channels_fd"], start["line_fd"], *memory, *kept)
        return Command(self._program("_control", json.dumps(start)), fds, plan.environment)

    def worker(self, slot: int) -> Command:
        """Runs a worker in `slot`."""
        start: WorkerStart = {
            "slot": slot,
            "data_fds": [bound.fileno() for bound in self._dealt[slot]],
            "permits_fd": self._permits,
            "counters_fd": self._counters,
            "certificates_fd": self._certificates,
            "channel": str(self._channel_path),
            "compare": str(self._compare_path),
        }
        fds = (*start["data_fds"], self._permits, self._counters, self._certificates)
        return Command(self._program("_worker", json.dumps(start)), fds, self._plan.environment)

    def compare(self) -> Command:
        """Runs a compare process."""
        start: CompareStart = {"fd": self._pairs.fileno()}
        program = self._program("_compare", json.dumps(start))
        return Command(program, (start["fd"],), self._plan.environment)

    def offered(self, shares: bool) -> tuple[list[socket.socket], list[int]]:
        """What a successor gets: the sockets for requests, and the other descriptors, with those of
        the memory if it `shares` that."""
        plan, memory = self._plan, [self._permits, self._counters] if shares else []
        assert plan.state_fd is not None
        fds = [plan.admin.fileno(), plan.state_fd, self._channels.fileno(), *memory]
        return [*plan.data], fds

    def close(self) -> None:
        """Closes the sockets and gives back the memory; the directory is closed last, and apart."""
        for bound in (*self._plan.data, self._plan.admin, self._channels, self._pairs):
            bound.close()
        for memory in (self._permits, self._counters, self._certificates):
            os.close(memory)
