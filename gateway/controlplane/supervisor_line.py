"""What the supervisor tells and is told: the control process's end of their line
(`gateway.wire.line`)."""

import asyncio
import socket
from collections.abc import Callable

from gateway.controlplane.fleet import HeldFleet
from gateway.controlplane.workers import Workers
from gateway.wire.channel import Channel, pass_over
from gateway.wire.line import FromControl, Ready, ToControl, WorkersMessage


class SupervisorLine:
    """The line, closed at first. `dropped` counts the lines of the supervisor's own that nobody
    read."""

    def __init__(self) -> None:
        self.dropped = 0
        self._line: Channel[FromControl, ToControl] | None = None

    async def open(self, fd: int) -> None:
        """Opens the line, whose socket is `fd`."""
        bound = socket.socket(fileno=fd)
        self._line = Channel(*await asyncio.open_connection(sock=bound))

    def tell(self, message: FromControl) -> None:
        """Sends `message`, and waits for nobody; lost while the line is closed."""
        if self._line is not None:
            self._line.send_soon(message)

    async def tell_ready(self, message: Ready) -> None:
        """Sends `message` and returns when the supervisor can read it."""
        if self._line is not None:
            await self._line.send(message)

    async def expect_workers(self, workers: Workers) -> None:
        """Takes in the first message of all: which processes are workers."""
        assert self._line is not None
        first = await self._line.receive()
        if first is not None and first["type"] == "workers":
            _expect(workers, first)

    async def follow(
        self, workers: Workers, fleet: HeldFleet | None, reload: Callable[[], None]
    ) -> None:
        """Passes on what the supervisor tells, until it ends; `reload` reads the file again."""
        assert self._line is not None
        while (message := await self._line.receive()) is not None:
            match message["type"]:
                case "workers":
                    _expect(workers, message)
                case "dropped":
                    self.dropped = message["lines"]
                case "reopen":
                    workers.reopen_logs()
                case "reload":
                    workers.reopen_logs()
                    reload()
                case "fleet" | "cluster" | "logs" | "place" | "endpoints":
                    if fleet is not None:
                        fleet.hear(message)
                case _:
                    pass_over(message)


def _expect(workers: Workers, message: WorkersMessage) -> None:
    workers.expect(message["pids"], message["leaving"], stopping=message["stopping"])
