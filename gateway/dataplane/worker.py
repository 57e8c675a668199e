"""What does a data-plane worker process do from its start to its end?

It follows the control process, listens once it has a first table, serves, and on SIGTERM
leaves in order: lame duck (health says 503, answers end their connections), no new
connections once its successor accepts them, what is in flight finishes, exit 0. A second
SIGTERM ends it within a second.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import NoRoom
from gateway.core.options import DataplaneOptions
from gateway.dataplane.context import Plane
from gateway.dataplane.intake import TUNNEL
from gateway.dataplane.link import Link
from gateway.dataplane.listener import Client
from gateway.dataplane.turns import TurnsFile
from gateway.telemetry import logs
from gateway.telemetry.tracing import from_environment

log = logging.getLogger(__name__)
BACKLOG = 1024
POLL_S = 0.02
GOODBYE_S = 0.5
RELIEF_S = 10.0  # what a successor may take to start before nobody accepts for a while
RESERVED = 40  # descriptors for sockets, channel, log, and names
UPSTREAMS = 4096  # and for connections to instances, where there are many


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker must know before it has a channel. Everything else is sent to it.

    `turns` is the descriptor of the file that `dataplane.turns` is about, None without others.
    `retry_least_s` and `retry_most_s` bound the pause before the channel is opened again;
    `set_up_logs` is off where the worker runs inside another program.
    """

    retry_least_s: float = 0.05
    retry_most_s: float = 1.0
    set_up_logs: bool = True
    turns: int | None = None


async def serve(
    options: WorkerOptions, sockets: list[socket.socket], channel_path: str, slot: int
) -> int:
    """Serves on `sockets`, which are bound, until told to go; the process's exit code."""
    if options.set_up_logs:
        logs.set_up()
    worker = Worker(options, sockets, channel_path, slot)
    return await worker.run()


def most_clients(descriptors: float) -> float:
    """How many clients a process with so many file descriptors can serve.

    Each may need a connection to an instance; a client that is let in and then finds no
    descriptor for that is worse off than one that is turned away. Where there are many
    descriptors most clients are idle, and UPSTREAMS are enough.
    """
    left = descriptors - RESERVED
    return max(1, left // 2, left - UPSTREAMS)


def _cut(client: Client) -> None:
    """Time is up: a request without an answer gets one that says so, a stream breaks off."""
    exchange = client.exchange
    if exchange is not None and exchange.state < TUNNEL:
        exchange.fail(NoRoom("The gateway is shutting down.", "draining"))
    else:
        client.abort()


class Worker:
    """One worker: its plane, its listening sockets and its way out."""

    def __init__(
        self, options: WorkerOptions, sockets: list[socket.socket], channel_path: str, slot: int
    ) -> None:
        self._sockets = sockets
        self._slot = slot
        self._turns = TurnsFile(options.turns)
        self._servers: list[asyncio.Server] = []
        self._plane: Plane | None = None
        self._listening: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._now = asyncio.Event()
        self._limits_s: tuple[float, float] | None = None
        self._link = Link(
            channel_path,
            slot,
            self._make,
            self._listen_once,
            (options.retry_least_s, options.retry_most_s),
        )

    async def run(self) -> int:
        """Serves until it is told to go; the process's exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        following = asyncio.create_task(self._link.follow())
        try:
            await self._leave.wait()
            await self._go()
            await self._say_goodbye()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if self._plane is not None:
                self._plane.ledger.settle()
                self._plane.log.close()
                if self._plane.tracing is not None:
                    self._plane.tracing.close()
        return 0

    def _make(self, settings: dict[str, Any]) -> Plane:
        options = DataplaneOptions.from_dict(settings)
        who = f"{options.node}/{self._slot}"
        tracing = from_environment(os.environ, "headgate", who)
        self._plane = Plane(options, asyncio.get_running_loop(), tracing, self._turns)
        self._plane.most_clients = most_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return self._plane

    def _listen_once(self) -> None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        plane = self._plane
        assert plane is not None
        # What is there now stays; requests leave no cycles behind, so that the collector need
        # not look after every few hundred of them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        for each in self._sockets:
            server = await loop.create_server(lambda: Client(plane), sock=each, backlog=BACKLOG)
            self._servers.append(server)
        self._link.listening()

    def _signalled(self) -> None:
        if self._leave.is_set():
            self._now.set()
        else:
            self._link.leaving()
        self._leave.set()

    def _interrupted(self) -> None:
        """A person waits for the prompt, and no balancer in front has to be told first."""
        if self._plane is not None:
            self._limits_s = (0.0, self._plane.options.drain_s)
        self._signalled()

    async def _go(self) -> None:
        """Leaves in order; each step is cut short by a second signal."""
        plane = self._plane
        if plane is None or not self._servers:
            return  # nobody was ever served here
        lame_duck_s, drain_s = self._limits_s or (plane.options.lame_duck_s, plane.options.drain_s)
        # Whoever asks for health learns first and has the time to send others elsewhere;
        # connections are still accepted meanwhile.
        plane.lame = True
        await self._pause(lame_duck_s)
        await self._be_relieved()
        for server in self._servers:
            server.close()
        plane.draining = True
        for client in list(plane.clients):
            client.shut()
        until = plane.now() + drain_s
        while plane.clients and plane.now() < until and not self._now.is_set():
            await self._pause(POLL_S)
        for client in list(plane.clients):
            _cut(client)
        await self._pause(POLL_S)
        for client in list(plane.clients):
            client.abort()
        await asyncio.sleep(0)

    async def _be_relieved(self) -> None:
        """Accepts connections until the successor does: they would wait for its start, or for
        the end of this process's last stream."""
        if not self._link.is_open:
            return  # nobody is there who could start one
        relieved = asyncio.create_task(self._link.relieved.wait())
        hurried = asyncio.create_task(self._now.wait())
        try:
            await asyncio.wait(
                {relieved, hurried}, timeout=RELIEF_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            relieved.cancel()
            hurried.cancel()

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._link.last_words()
        except TimeoutError:
            log.warning("the control process does not listen: what was counted last is lost")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._now.wait()
        except TimeoutError:
            pass
