"""A data-plane worker process, from its start to its end.

It follows the control process, listens once it has a first table, serves, and on SIGTERM
leaves in order: lame duck (health says 503, answers end their connections), no new
connections once its successor accepts them, what is in flight finishes, exit 0. A second
SIGTERM ends it within a second. `gateway.core.leaving` says what else may end it.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.core.leaving import Event, Leaving
from gateway.core.options import DataplaneOptions
from gateway.dataplane.connection import Connection
from gateway.dataplane.control_client import CannotServe, ControlChannel, ControlClient
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.leased import LeasedExchange, LeasedTracedExchange
from gateway.dataplane.listener import Client
from gateway.dataplane.load_memory import LoadMemory
from gateway.dataplane.pair_channel import keep_open
from gateway.dataplane.permits import PermitsFile
from gateway.dataplane.plane import Plane
from gateway.dataplane.traced import TracedExchange
from gateway.processes.accepting import Acceptor
from gateway.processes.certificates import Certificate, CertificateError, LastCertificates
from gateway.processes.children import FAULT
from gateway.processes.console import say
from gateway.processes.handshakes import FailedHandshakes
from gateway.processes.sockets import BACKLOG
from gateway.processes.tasks import Tasks, first_of, told
from gateway.telemetry import logs
from gateway.telemetry.book import Book
from gateway.telemetry.metrics import HANDSHAKES_FAILED, Counters
from gateway.telemetry.tracing import from_environment
from gateway.wire.messages import HAND_OVER_S

log = logging.getLogger(__name__)
POLL_S = 0.02
TURNS = 10  # of the loop
AT_ONCE = 64  # connections by TLS that are accepted before others are attended to
MAX_AGREEING = 4096  # at a time, on TLS
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH)
RESERVED = 40  # descriptors for sockets, channel, log, and names
UPSTREAMS = 4096  # and for connections to instances, where there are many


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker must know before it has a channel. Everything else is sent to it.

    `permits` is the descriptor of what `dataplane.permits` and `dataplane.load_memory` are about,
    None without others; `counters` that of the memory in which all workers count, None where
    nobody reads it; `certificates` that of `processes.certificates`, None where nobody comes
    after; `compare` the path at which pairs of answers are taken, "" where they are not.
    `retry_min_s` and `retry_max_s` bound the pause before the channel is opened again;
    `set_up_logs` is off where the worker runs inside another program.
    """

    retry_min_s: float = 0.05
    retry_max_s: float = 1.0
    set_up_logs: bool = True
    permits: int | None = None
    counters: int | None = None
    certificates: int | None = None
    compare: str = ""


async def serve(
    options: WorkerOptions, sockets: list[socket.socket], channel_path: str, slot: int
) -> int:
    """Serves on `sockets`, which are bound, until told to go; the process's exit code."""
    if options.set_up_logs:
        logs.set_up()
    worker = Worker(options, sockets, channel_path, slot)
    return await worker.run()


def max_clients(descriptors: float) -> float:
    """How many clients a process with so many file descriptors can serve.

    Each may need a connection to an instance; a client that is let in and then finds no
    descriptor for that is worse off than one that is turned away. Where there are many
    descriptors most clients are idle, and UPSTREAMS are enough.
    """
    left = descriptors - RESERVED
    return max(1, left // 2, left - UPSTREAMS)


class Worker:
    """One worker: its plane, its listening sockets and its way out."""

    def __init__(
        self, options: WorkerOptions, sockets: list[socket.socket], channel_path: str, slot: int
    ) -> None:
        self._sockets = sockets
        self._slot = slot
        self._compare = options.compare
        self._last = LastCertificates(options.certificates)
        self._shared = options.permits
        self._permits = PermitsFile(options.permits)
        self._counters = Counters(Book(options.counters), Book(options.counters, apart=True))
        self._servers: list[asyncio.Server | Acceptor] = []
        self._plane: Plane | None = None
        self._certificate: Certificate | None = None
        self._listening: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._now = asyncio.Event()
        self._leaving = Leaving()
        self._code = 0
        self._own = Tasks(self._note_failure)
        self._control = ControlClient(
            partial(ControlChannel.open, channel_path),
            slot,
            os.getpid(),
            self._make,
            self._listen_once,
            (options.retry_min_s, options.retry_max_s),
            self._own,
        )

    async def run(self) -> int:
        """Serves until it is told to go; the process's exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._hear, "told")
        # A person waits for the prompt, and no balancer in front has to be told first.
        loop.add_signal_handler(signal.SIGINT, self._hear, "interrupted")
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._reopen)
        # Another gateway accepts on the same sockets: nobody has to be sent elsewhere.
        loop.add_signal_handler(signal.SIGWINCH, self._hear, "replaced")
        self._own.run("following the control process", self._control.follow())
        try:
            await self._leave.wait()
            await self._go()
        finally:
            self._control.tell_judged()
            if self._plane is not None:
                self._plane.live.give_up_copies()
            await self._own.close()
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            if self._plane is not None:
                self._plane.ledger.flush()
                self._plane.count_dropped()
                self._plane.log.close()
                if self._plane.tracing is not None:
                    self._plane.tracing.close()
        return self._code

    def _note_failure(self, name: str, error: Exception) -> None:
        """A worker that lacks a part is worse than the one that is started in its place."""
        is_told = isinstance(error, CannotServe)
        say(f"worker {self._slot}: {error if is_told else f'{name} ended: {told(error)}'}")
        self._code = FAULT if is_told else 1
        self._hear("failed")

    def _make(self, settings: Mapping[str, Any]) -> Plane:
        options = DataplaneOptions.from_dict(settings)
        who = f"{options.node}/{self._slot}"
        tracing = from_environment(os.environ, "headgate", who)
        memory = LoadMemory(self._shared if options.workers > 1 else None, options.workers)
        memory.beat(time.monotonic())
        try:
            self._plane = Plane(
                options, asyncio.get_running_loop(), tracing, self._permits, self._counters, memory
            )
        except OSError as error:
            raise CannotServe(f"access_log: {error.filename}: {error.strerror}") from None
        if options.tls is not None:
            try:
                self._certificate = Certificate(options.tls, say, self._last)
            except CertificateError as error:
                raise CannotServe(f"gateway.tls: {error}") from None
            self._own.keep("the watch over the certificate", self._certificate.watch)
        if self._compare:
            ways = partial(keep_open, self._plane.outbox, self._compare)
            self._own.keep("the way to the compare process", ways)
        self._plane.room.most = max_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return self._plane

    def _listen_once(self) -> None:
        if self._listening is None:
            self._listening = self._own.run("listening for clients", self._listen())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        plane = self._plane
        assert plane is not None
        exchange_of: type[Exchange] = Exchange if plane.tracing is None else TracedExchange
        if plane.options.refuses_lost:
            exchange_of = LeasedExchange if plane.tracing is None else LeasedTracedExchange
        # What is there now stays; requests leave no cycles behind, so that the collector need
        # not look after every few hundred of them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        if self._certificate is not None:
            failed = self._failed_handshakes()
            for each in self._sockets:
                each.listen(BACKLOG)
                listener = Acceptor(
                    each,
                    lambda: Client(plane, exchange_of),
                    plane.tasks,
                    at_once=AT_ONCE,
                    certificate=self._certificate,
                    within_s=plane.options.head_timeout_s,
                    most=lambda: min(plane.room.left(plane.now()), MAX_AGREEING),
                    failed=failed.note,
                )
                listener.begin()
                self._servers.append(listener)
        else:
            for each in self._sockets:
                server = await loop.create_server(
                    lambda: Client(plane, exchange_of), sock=each, backlog=BACKLOG
                )
                self._servers.append(server)
        self._control.listening()

    def _failed_handshakes(self) -> FailedHandshakes:
        count = partial(self._counters.add, HANDSHAKES_FAILED)
        return FailedHandshakes("gateway.tls", say, time.monotonic, count)

    def _hear(self, event: Event) -> None:
        """Takes note of what ends this worker, or ends it faster."""
        before, self._leaving = self._leaving, self._leaving.after(event)
        self._leave.set()
        if self._leaving.is_hurried:
            self._now.set()
        if self._plane is not None:
            # Whoever asks for health learns first and has the time to send others elsewhere;
            # connections are still accepted meanwhile.
            self._plane.lame = True
            self._plane.is_replaced = self._leaving.is_replaced
        if self._leaving.is_replaced:
            self._control.handed_over.set()
        if self._leaving.told and not before.has_begun:
            self._control.leaving()

    def _reopen(self) -> None:
        if self._plane is not None:
            self._plane.log.reopen()

    async def _go(self) -> None:
        """Leaves in order; each step is cut short by a second signal."""
        plane = self._plane
        if self._listening is not None:
            await asyncio.wait([self._listening])  # who was accepted meanwhile is served
        if plane is None or not self._servers:
            return  # nobody was ever served here
        options = plane.options
        lame_duck_s, drain_s = self._leaving.limits_s(options.lame_duck_s, options.drain_s)
        if not self._leaving.accepts:
            self._close_servers()
        await self._pause(lame_duck_s)
        if self._leaving.accepts:
            await self._hand_over()
        self._close_servers()
        await self._pause(POLL_S)  # who was accepted by then is a client only now
        told: set[Connection] = set()
        until = plane.now() + drain_s
        while (plane.clients or self._is_agreeing) and plane.now() < until:
            for client in plane.clients - told:  # by TLS one may become a client only later
                client.shut()
            told |= plane.clients
            await self._pause(POLL_S)
            if self._now.is_set():
                break
        for client in list(plane.clients):
            client.cut()
        await asyncio.sleep(POLL_S)  # also for who hurries: it takes a moment to say that it ends
        for client in list(plane.clients):
            client.abort()
        for _ in range(TURNS):  # by TLS a connection is lost some later; then its line is written
            await asyncio.sleep(0)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()

    @property
    def _is_agreeing(self) -> bool:
        """Whether somebody who was accepted has yet to agree on TLS."""
        return any(isinstance(each, Acceptor) and each.agreeing for each in self._servers)

    async def _hand_over(self) -> None:
        """Accepts connections until the successor does: they would wait for its start, or for
        the end of this process's last stream."""
        if not self._control.is_open:
            return  # nobody is there who could start one
        await first_of(self._control.handed_over.wait(), self._now.wait(), timeout=HAND_OVER_S)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._now.wait()
        except TimeoutError:
            pass
