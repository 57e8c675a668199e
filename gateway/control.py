"""What is the control process made of, and in which order does it come and go?

Composes store, publisher, admin API, prober, resolver and the links to the workers, gives
each the others it needs, and tells the supervisor when all workers serve. Nothing of what
these parts do is in here.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.channel import Channel
from gateway.console import say
from gateway.controlplane.admin import admin_application
from gateway.controlplane.calls import AdminParts
from gateway.controlplane.checks import cross_faults
from gateway.controlplane.configuration import ConfigurationError, Loaded, load
from gateway.controlplane.documents import Documents
from gateway.controlplane.events import Events
from gateway.controlplane.listener import AdminRunner
from gateway.controlplane.live import Live
from gateway.controlplane.memory import Memory
from gateway.controlplane.prober import Key, Prober, Words
from gateway.controlplane.publisher import Applied, Publisher
from gateway.controlplane.resolver import Endpoints, Resolver
from gateway.controlplane.security import admin_tokens
from gateway.controlplane.sqlite_store import SqliteStore
from gateway.controlplane.state_directory import StateDirectory
from gateway.controlplane.store import StoreError
from gateway.controlplane.workers import Workers
from gateway.core.faults import Refused
from gateway.core.health import Word
from gateway.core.table import Table
from gateway.messages import Metrics
from gateway.supervisor import FAULT
from gateway.telemetry import exposition

NAMES_WITHIN_S = 3.0
LOOK_WITHIN_S = 2.0
SUSPICIOUS = frozenset({"connect_failure", "reset", "timeout"})


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """What the supervisor tells. `file` is its own copy of the file that is called `name`;
    `directory` is the gateway's private one; `again`: the gateway was ready before."""

    file: Path
    name: str
    state_dir: Path
    directory: Path
    admin_fd: int
    channels_fd: int
    line_fd: int
    workers: int
    again: bool


class Instances:
    """What the publisher calls when instances come or go: names first, then probes."""

    def __init__(self, resolver: Resolver, prober: Prober, told: Callable[[], None]) -> None:
        self._resolver, self._prober, self._told = resolver, prober, told

    def sync(self, table: Table) -> None:
        self._resolver.sync(table)
        self._prober.set_endpoints(self._resolver.endpoints)
        self._prober.sync(table)
        self._told()


async def control(options: ControlOptions) -> int:
    """Runs the control process until SIGTERM or the end of the supervisor; the exit code."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        process = Control(options, load(options.file), stop)
    except (ConfigurationError, StoreError) as error:
        say(str(error))
        return FAULT
    try:
        return await process.run()
    except (Refused, StoreError) as error:
        say(f"{options.name}: {error}")
        return FAULT


class Control:
    """The parts of one control process, and the wires between them."""

    def __init__(self, options: ControlOptions, loaded: Loaded, stop: asyncio.Event) -> None:
        self._stop = stop
        self._failure: BaseException | None = None
        self._options, self._settings = options, loaded.settings
        self._document = loaded.document
        # Two gateways on one state directory would undo each other's edits: this locks it.
        self._state = StateDirectory(options.state_dir)
        self._tokens, self._new_token = admin_tokens(self._settings, self._state.token)
        self._memory = Memory(options.directory / "memory.json")
        self._line: Channel | None = None
        self._ready = False
        self._events = Events()
        self._workers = Workers(
            self._settings.dataplane(),
            replace=self._replace,
            succeed=lambda pid: self._tell_supervisor("leaving", pid),
            on_signals=self._on_signals,
            on_ejections=lambda ejections: self._live.note_ejections(ejections),
            on_workers=lambda what, slot, pid: self._live.note_worker(what, slot, pid),
            retired=self._memory.retired,
            answer_within_s=self._settings.ack_timeout_s,
        )
        self._resolver = Resolver(
            self._on_endpoints,
            remembered=self._memory.endpoints,
            networks=[str(network) for network in self._settings.instance_networks],
            say=say,
        )
        self._prober = Prober(self._on_health, remembered=self._memory.words)
        self._publisher = Publisher(
            self._store(),
            self._workers,
            Instances(self._resolver, self._prober, lambda: self._documents.stir()),
            self._events,
            check=lambda document: cross_faults(document, self._settings),
        )
        self._documents = Documents(
            lambda: self._publisher.table, self._prober.well, self._workers.set_documents
        )
        self._live = Live(
            lambda: self._publisher.table,
            self._workers,
            self._prober,
            self._resolver,
            self._events,
        )

    def _store(self) -> SqliteStore:
        # `memory` means until the gateway ends, not until its control process is killed.
        in_memory = self._settings.store == "memory"
        path = self._options.directory / "state.db" if in_memory else self._state.database
        if self._options.again and not path.exists():
            raise StoreError(f"{path} is gone; the workers serve on with the table they have")
        return SqliteStore(path, keep=self._settings.history)

    async def run(self) -> int:
        """Serves until `stop` is set; the exit code."""
        applied = self._publisher.start(self._document, why=f"start with {self._options.name}")
        if not self._options.again:
            # Clients wait in the backlog meanwhile: better than being told that nobody is
            # well because nobody was asked yet. Later on, what is remembered will do.
            await self._resolver.settled(NAMES_WITHIN_S)
            await self._prober.settled(LOOK_WITHIN_S)
        async with AsyncExitStack() as stack:
            # In this order: whoever connects finds the table, its names and its health.
            self._workers.set_endpoints(self._resolver.endpoints)
            self._workers.set_health(self._prober.words)
            await self._workers.spread(self._publisher.table)
            await self._open_line(stack)
            await self._open_channels(stack)
            await self._open_admin(stack)
            stack.push_async_callback(self._resolver.close)
            stack.push_async_callback(self._prober.close)
            self._own(stack, self._workers.watch(self._on_beat))
            self._own(stack, self._documents.keep())
            self._own(stack, self._report_ready(applied))
            await self._stop.wait()
        await self._publisher.close()
        self._state.close()
        if self._failure is not None:
            raise self._failure
        return 0

    # -- coming up

    async def _open_line(self, stack: AsyncExitStack) -> None:
        bound = socket.socket(fileno=self._options.line_fd)
        self._line = Channel(*await asyncio.open_connection(sock=bound))
        first = await self._line.receive()
        if first is not None:
            self._expect(first)
        self._own(stack, self._hear_supervisor(self._line))

    async def _hear_supervisor(self, line: Channel) -> None:
        while (message := await line.receive()) is not None:
            self._expect(message)
        self._stop.set()

    def _expect(self, message: Mapping[str, Any]) -> None:
        self._workers.expect(message["pids"], message["leaving"], stopping=message["stopping"])

    async def _open_channels(self, stack: AsyncExitStack) -> None:
        async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._workers.attend(Channel(reader, writer))

        bound = socket.socket(fileno=self._options.channels_fd)
        server = await asyncio.start_unix_server(attend, sock=bound)
        stack.callback(server.close)

    async def _open_admin(self, stack: AsyncExitStack) -> None:
        parts = AdminParts(
            publisher=self._publisher,
            settings=self._settings,
            live=self._live,
            events=self._events,
            tokens=self._tokens,
            metrics=self._metrics,
            ready=self._is_ready,
        )
        runner = AdminRunner(admin_application(parts))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, socket.socket(fileno=self._options.admin_fd)).start()

    def _is_ready(self) -> bool:
        """Whether requests can be served: all workers were there once, and one is now."""
        revision = self._publisher.table.revision
        return self._ready and any(link.revision >= revision for link in self._workers.links)

    async def _report_ready(self, applied: Applied) -> None:
        await self._workers.all_serve(self._options.workers)
        self._ready = True
        if self._line is not None:
            ready = {
                "type": "ready",
                "notes": [f"the file overrides a live edit: {lost}" for lost in applied.overridden],
                "token": self._new_token,
                "routes": [
                    (route.match.path, ", ".join(f"{name} {w}" for name, w in route.split))
                    for route in self._publisher.table.routes.values()
                ],
            }
            await self._line.send(ready)

    def _own(self, stack: AsyncExitStack, work: Any) -> None:
        """Runs `work` as long as `stack` is open; its failure is the process's."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_end)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        # A control process that lacks a part is worse than one that starts again.
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._stop.set()

    # -- what one part tells another

    def _replace(self, pid: int) -> None:
        say(f"worker process {pid} does not answer; replacing it")
        self._tell_supervisor("replace", pid)

    def _tell_supervisor(self, what: str, pid: int) -> None:
        if self._line is not None:
            self._line.send_soon({"type": what, "pid": pid})

    def _on_signals(self, signals: Sequence[Sequence[Any]]) -> None:
        for backend, address, word in signals:
            if word in SUSPICIOUS:
                self._prober.nudge([(backend, address)], refused=word == "connect_failure")

    def _on_endpoints(self, endpoints: Endpoints) -> None:
        self._prober.set_endpoints(endpoints)
        self._workers.set_endpoints(endpoints)
        self._memory.endpoints = endpoints
        self._memory.keep()

    def _on_health(self, words: Words, changes: Sequence[tuple[Key, Word, Word]]) -> None:
        self._memory.words = words
        if changes:  # before a worker acts on it: a successor must not know less than they do
            self._memory.keep()
        self._workers.set_health(words)
        self._live.note_health(words, changes)
        self._documents.stir()

    def _on_beat(self, metrics: Sequence[Metrics]) -> None:
        if self._line is not None:
            self._line.send_soon({"type": "alive"})
        self._live.note_beat(metrics)
        self._memory.retired = metrics[-1]
        self._memory.keep()

    async def _metrics(self, accept: str) -> tuple[str, bytes]:
        table = self._publisher.table
        live = exposition.Live(table, self._live.up(), self._live.effective_shares())
        return exposition.render(await self._live.scrape(), live, accept)
