"""How does a gateway begin with the sockets and the state of the one that runs?

The other end of `hot_restart`. Before its loop runs it asks what there is (`Succession.begin`), and
checks its own file with that in hand; then it asks for the state, starts its processes, and says
that it serves. Whatever it cannot do it says, and gives everything back by ending.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.processes.leaving import Before
from gateway.processes.tasks import told
from gateway.wire.channel import BadFrame, Channel
from gateway.wire.succession import MEMORY, NAME, FromGateway, ToGateway, frame, unframe

ANSWERS_WITHIN_S = 10.0
MAX_FDS = 250
_LEFT_BEHIND = (NAME, "control.sock", "headgate.yaml", "supervisor.lock")


class NoSuccession(Exception):
    """The gateway that runs cannot be replaced; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a gateway begins with: sockets that listen, the lock of the state, and the memory of
    loads and of counters. `given`: whether the sockets for requests, and that of the admin API, are
    a service manager's, whatever the file says. Of the gateway that it follows, process `pid`:
    `before` are its workers, and `directory` is its private one."""

    data: Sequence[socket.socket] = ()
    admin: socket.socket | None = None
    given: tuple[bool, bool] = (False, False)
    state_fd: int | None = None
    before: Before | None = None
    memory: tuple[int, int] | None = None
    directory: Path | None = None
    pid: int = 0

    def close(self) -> None:
        """Closes all of it, for a gateway that does not begin."""
        for bound in (*self.data, *([self.admin] if self.admin else [])):
            bound.close()
        for fd in (*([self.state_fd] if self.state_fd is not None else []), *(self.memory or ())):
            os.close(fd)


class Succession:
    """A successor's talk with the gateway that runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._channel: Channel[ToGateway, FromGateway] | None = None
        self._is_over = False

    @classmethod
    def begin(cls, directory: Path) -> "Succession | None":
        """The talk with the gateway whose private directory this is; None where none runs."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWERS_WITHIN_S)
        try:
            connection.connect(str(directory / NAME))
        except OSError:
            connection.close()
            return None
        return cls(connection)

    def inherit(self, workers: int) -> Inheritance:
        """What it hands over; NoSuccession when it does not."""
        asked: ToGateway = {
            "type": "take_over", "pid": os.getpid(), "memory": MEMORY, "workers": workers,
        }  # fmt: skip
        message, data, fds = None, b"", []
        try:
            self._connection.sendall(frame(asked))
            while message is None:
                more, came, _, _ = socket.recv_fds(self._connection, 65536, MAX_FDS)
                fds += came
                if not more:
                    raise NoSuccession("the gateway that runs hung up; it may be an older one")
                message, data = unframe(data + more)
        except OSError as error:
            raise NoSuccession(f"the gateway that runs does not answer: {told(error)}") from None
        if message["type"] != "offer":
            raise NoSuccession(str(message.get("why", "the gateway that runs refused")))
        for fd in fds:
            os.set_inheritable(fd, False)
        count = int(message["data"])
        state_fd, channels_fd, *memory = fds[count + 1 :]
        return Inheritance(
            [socket.socket(fileno=fd) for fd in fds[:count]],
            socket.socket(fileno=fds[count]),
            (bool(message["given"]), bool(message["gives_admin"])),
            state_fd,
            Before(channels_fd, tuple(message["workers"])),
            (memory[0], memory[1]) if message["shares"] else None,
            Path(message["directory"]),
            int(message["pid"]),
        )

    def refuse(self, why: str) -> None:
        """Tells the gateway that runs, which serves on, why this one does not; before `take`."""
        if not self._is_over:
            self._is_over = True
            try:
                self._connection.sendall(frame({"type": "failed", "why": why}))
            except OSError:
                pass
            self._connection.close()

    async def take(self) -> None:
        """Returns when the state is this process's. NoSuccession when that will not be."""
        self._connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=self._connection)
        self._channel = Channel(reader, writer)
        self._channel.send_soon({"type": "yield"})
        if (why := await self._hear()) is not None:
            raise NoSuccession(why)

    async def follow(self, failed: Callable[[str], None]) -> None:
        """Listens until the gateway before lets go; calls `failed` if it wants everything back."""
        why = await self._hear()
        self._is_over = True
        if why is not None:
            failed(why)

    def serves(self) -> None:
        """Tells that this process serves."""
        if self._channel is not None:
            self._channel.send_soon({"type": "serving"})

    async def _hear(self) -> str | None:
        """Why this gateway shall not be, None if it shall. One before it that died on the way needs
        nothing back."""
        assert self._channel is not None
        try:
            message = await self._channel.receive()
        except BadFrame as error:
            return f"the gateway that runs cannot be understood: {told(error)}"
        return message["why"] if message is not None and message["type"] == "failed" else None

    def close(self, why: str) -> None:
        """Ends the talk; when it is not over, with `why`. By then no process of ours runs."""
        if self._channel is not None:
            if not self._is_over:
                self._channel.send_soon({"type": "failed", "why": why})
            self._channel.close()


def keep(before: Path, after: Path) -> None:
    """Copies what the private directory `before` holds of a gateway's state, for the control
    process that follows: health, and with `store: memory` the table."""
    try:
        for path in before.iterdir():
            if path.is_file() and path.name not in _LEFT_BEHIND:
                shutil.copy2(path, after / path.name)
    except OSError:
        pass  # it ended; what is there will do
