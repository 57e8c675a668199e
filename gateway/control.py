"""The control process: its parts, and the order in which they come and go.

Composes store, publisher, admin API, prober, resolver and the links to the workers, gives
each the others it needs, and tells the supervisor when all workers serve. Nothing of what
these parts do is in here.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.controlplane.admin.app import admin_application
from gateway.controlplane.admin.calls import AdminParts
from gateway.controlplane.admin.listener import AdminListener
from gateway.controlplane.admin.security import admin_tokens
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.configuration.reading import ConfigurationError, Loaded, load
from gateway.controlplane.configuration.rereading import reread
from gateway.controlplane.docs.documents import Documents
from gateway.controlplane.docs.served import Paths, ServedPaths
from gateway.controlplane.events import Events
from gateway.controlplane.mirrors.book import Mirrors
from gateway.controlplane.published import Applied, NotInForce, start_notes
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.controller import VERDICTS, Rollouts
from gateway.controlplane.rollouts.driving import Driver
from gateway.controlplane.rollouts.keeping import NAME as ROLLOUTS
from gateway.controlplane.rollouts.keeping import Keeper, RolloutFile
from gateway.controlplane.store.handover import Memory
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.store import Store, StoreError
from gateway.controlplane.watch.counters import Totals
from gateway.controlplane.watch.demand import Demand
from gateway.controlplane.watch.fleet_places import FleetPlaces
from gateway.controlplane.watch.fleet_view import FleetView, serves
from gateway.controlplane.watch.health_book import Key, Words
from gateway.controlplane.watch.key_use import NAME as KEY_USE
from gateway.controlplane.watch.key_use import KeyUse, UseFile
from gateway.controlplane.watch.pacing import Paced
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.probing import probe
from gateway.controlplane.watch.resolver import Endpoints, Resolver
from gateway.controlplane.watch.scaler import Scaler
from gateway.controlplane.watch.status_view import StatusView
from gateway.controlplane.watch.traffic import Traffic
from gateway.controlplane.workers import Workers
from gateway.core.addresses import Listener, is_listener
from gateway.core.faults import Conflict, Invalid, Missing
from gateway.core.health import Word
from gateway.core.placement import addresses, place, set_replicas, settled, unplaced
from gateway.core.served import filled, ways
from gateway.core.table import Backend, Document, Table
from gateway.processes import outlet
from gateway.processes.certificates import Certificate
from gateway.processes.children import FAULT
from gateway.processes.console import is_for_people, say
from gateway.processes.sockets import is_here, parse_listen
from gateway.processes.tasks import Tasks, told
from gateway.telemetry import logs
from gateway.telemetry.metrics import LOG_DROPPED
from gateway.wire.channel import Channel, pass_over
from gateway.wire.line import ControlStart, FromControl, Place, Ready, ToControl, WorkersMessage
from gateway.wire.pairs import NAME as COMPARE_SOCKET

if TYPE_CHECKING:
    from gateway.controlplane.gateways import SharedGateways

SWITCH_S = 0.0005
"""How long a thread that reads the history or examines a table may keep the interpreter while the
loop, or the thread that stores an edit, wants it: an edit asks for it twenty times over."""

NAMES_WITHIN_S = 3.0
LOOK_WITHIN_S = 2.0
PLACE_AGAIN_S = 1.0


class NamesThenProbes:
    """What the publisher calls when instances come or go; `told` hears of every table."""

    def __init__(self, resolver: Resolver, prober: Prober, told: Callable[[Table], None]) -> None:
        self._resolver, self._prober, self._told = resolver, prober, told
        self._backends: Mapping[str, Backend] = {}

    def sync(self, table: Table) -> None:
        """Resolves and probes what `table` names from now on, and nothing else."""
        if table.backends is self._backends:
            self._told(table)
            return
        self._backends = table.backends
        self._resolver.sync(table)
        self._prober.set_endpoints(self._resolver.endpoints)
        self._prober.sync(table)
        self._told(table)


async def control(start: ControlStart) -> int:
    """Runs the control process until SIGTERM or the end of the supervisor; the exit code."""
    sys.setswitchinterval(SWITCH_S)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        process = Control(start, load(Path(start["file"])), stop)
    except (ConfigurationError, StoreError) as error:
        say(str(error))
        return FAULT
    try:
        return await process.run()
    except (Invalid, StoreError) as error:
        await asyncio.to_thread(process.store.close)
        say(f"{start['name']}: {error}")
        return FAULT


class Control:
    """The parts of one control process, and the wires between them."""

    def __init__(self, start: ControlStart, loaded: Loaded, stop: asyncio.Event) -> None:
        self._stop = stop
        self._failed = False
        self._own = Tasks(self._note_failure)
        self._aside = Tasks(lambda name, error: say(f"control: {name}: {told(error)}"))
        self._going_on: asyncio.Task[None] | None = None
        self._start, self._settings = start, loaded.settings
        self._document = loaded.document
        # Two gateways on one state directory would undo each other's edits: the supervisor has
        # locked it, and so it stays while a process of that gateway runs.
        self._state = StateDirectory(Path(start["state_dir"]), start["state_fd"])
        self._listeners = self._own_listeners()
        self._tokens, self._new_token = admin_tokens(self._settings, self._state.token)
        self._memory = Memory(Path(start["directory"]) / "memory.json")
        self._remember = Paced(self._keep_health)
        self._line: Channel[FromControl, ToControl] | None = None
        self._ready = False
        self._supervisor_dropped = 0
        self._traffic = Traffic(time.monotonic()) if is_for_people() else None
        self._events = Events()
        self._fleet = (
            None if start["placed"] is None else FleetView(self._events, self._tell_supervisor)
        )
        self._held: Mapping[str, Backend] = {}
        self._held_to = 0
        self._workers = self._make_workers()
        self._resolver = self._make_resolver()
        self._prober = self._make_prober()
        self.store, self._gateways = self._stores()
        self._publisher = Publisher(
            self.store,
            self._workers,
            NamesThenProbes(self._resolver, self._prober, self._on_table),
            self._events,
            check=Checks(self._settings),
            holds=None if self._fleet is None else self._hold,
            gateways=self._gateways,
        )
        self._mirrors = Mirrors(
            str(Path(start["directory"]) / COMPARE_SOCKET),
            lambda wanted: self._tell_supervisor({"type": "compare", "wanted": wanted}),
            counted=lambda route, backend: self._view.compared(route, backend),
        )
        keeper, driver = self._rollout_keeper()
        self._rollouts = Rollouts(
            self._publisher,
            keeper,
            self._events,
            driver=driver,
            tell=self._workers.set_rollouts,
            effective=lambda route: self._view.effective(route),
            agreement=self._mirrors.judged,
            awake=self._awake,
        )
        self._publisher.allow = self._rollouts.allow
        self._served = ServedPaths(
            lambda: self._publisher.table,
            self._prober.well,
            self._on_served,
            remembered=self._memory.served,
        )
        self._documents = Documents(
            lambda: filled(self._publisher.table, self._served.paths),
            self._prober.well,
            self._workers.set_documents,
        )
        self._scaler = (
            None
            if self._fleet is None
            else Scaler(
                lambda: self._publisher.table, self._workers.loads, self._fleet.state, self._scale
            )
        )
        self._places, self._demand = self._make_places(), self._make_demand()
        self._key_use = KeyUse(UseFile(self._kept_in() / KEY_USE))
        self._view = StatusView(
            lambda: self._publisher.table,
            self._workers,
            self._prober,
            self._resolver,
            self._events,
            Totals(self._start["counters_fd"]),
            fleet=self._others_status,
            asleep=frozenset if self._fleet is None else self._fleet.asleep,
            key_use=self._key_use,
        )

    def _make_places(self) -> FleetPlaces:
        return FleetPlaces(
            self._workers,
            known=lambda: self._resolver.endpoints,
            set_fleet=self._resolver.set_fleet,
            expect=lambda name, address: self._prober.health.expect(Key(name, address)),
            learn=self._served.learn,
            in_flight=self._workers.loads.in_flight,
            tell=self._tell_supervisor,
        )

    async def _awake(self, backend: str) -> None:
        if self._demand is not None:
            await self._demand.awake(backend)

    def _make_demand(self) -> Demand | None:
        return None if self._fleet is None else Demand(
            lambda: self._publisher.table,
            self._workers.loads,
            lambda: self._view.requests(),
            self._rollouts.canaries,
            self._fleet,
            self._tell_supervisor,
        )  # fmt: skip

    def _others_status(self) -> dict[str, Any]:
        """What is known of instance processes and of other gateways, where there are any."""
        shown = {} if self._fleet is None else self._fleet.status()
        if self._gateways is not None:
            shown |= self._gateways.status(self._publisher.table.revision)
        return shown

    def _make_workers(self) -> Workers:
        return Workers(
            {**self._settings.dataplane(), "listeners": self._listeners},
            replace=self._replace,
            succeed=lambda pid: self._tell_supervisor({"type": "leaving", "pid": pid}),
            health=lambda backends: self._prober.health.messages(backends),
            on_evidence=lambda signals: self._prober.hear(signals),
            on_workers=lambda what, slot, pid: self._view.note_worker(what, slot, pid),
            on_judged=lambda counted: self._rollouts.hear(counted),
            on_asked=lambda names: self._demand.ask(names) if self._demand is not None else None,
            answer_within_s=self._settings.ack_timeout_s,
        )

    def _make_resolver(self) -> Resolver:
        return Resolver(
            self._on_endpoints,
            remembered=self._memory.endpoints,
            networks=[str(network) for network in self._settings.instance_networks],
            is_ours=self._is_ours,
            say=say,
        )

    def _make_prober(self) -> Prober:
        return Prober(
            self._on_health,
            probe=partial(probe, is_ours=self._is_ours),
            on_signals=self._workers.tell,
            on_ejections=lambda ejections: self._view.note_ejections(ejections),
            remembered=self._memory.health,
        )

    def _own_listeners(self) -> list[Listener]:
        """Where the gateway itself can be reached: the ports that were really bound."""
        with socket.socket(fileno=os.dup(self._start["admin_fd"])) as admin:
            host, port = admin.getsockname()[:2]
        return [parse_listen(self._start["listen"]), (host, port)]

    def _is_ours(self, host: str, port: int) -> bool:
        return is_listener(host, port, self._listeners, is_here)

    def _kept_in(self) -> Path:
        """The folder of what is kept. `memory` means until the gateway ends, not until its control
        process is killed."""
        in_memory = self._settings.store == "memory"
        return Path(self._start["directory"]) if in_memory else self._state.path

    def _stores(self) -> "tuple[Store, SharedGateways | None]":
        """The store, and this gateway among those that share it."""
        if self._settings.store != "etcd":
            return self._own_store(), None
        from gateway.controlplane.sharing import gateway_of, shared_store

        store = shared_store(self._settings, self._state.path)
        host, port = self._listeners[1]
        admin = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        gateways = gateway_of(
            store, self._settings, self._state.path, admin, self._events, self._workers.set_lease
        )
        return store, gateways

    def _rollout_keeper(self) -> tuple[Keeper, Driver | None]:
        """What keeps rollouts, and, with several gateways, who drives which."""
        if self._gateways is None:
            return RolloutFile(self._kept_in() / ROLLOUTS), None
        from gateway.controlplane.sharing import rollouts_of

        driver = rollouts_of(self.store, self._settings.node, self._gateways)
        self._gateways.on_rollouts = lambda kept: self._aside.run(
            "rollouts of other gateways", self._rollouts.follow(driver.read(kept))
        )
        return driver.keys, driver

    def _own_store(self) -> Store:
        in_memory = self._settings.store == "memory"
        path = self._kept_in() / "state.db" if in_memory else self._state.database
        if self._start["again"] and not path.exists():
            raise StoreError(f"{path} is gone; the workers serve on with the table they have")
        return SqliteStore(
            path, keep=self._settings.history, keep_bytes=self._settings.history_bytes
        )

    async def run(self) -> int:
        """Serves until `stop` is set; the exit code."""
        if is_for_people() and not self._start["again"]:
            logs.show(logging.WARNING)  # that models come up was seen
        why = f"start with {self._start['name']}"
        again = self._start["again"]
        applied = self._publisher.start(self._document, why=why, again=again, settle=self._settle)
        if not again:
            self._places.begin(self._start["placed"] or {}, self._publisher.table)
        if self._gateways is not None and (note := self._gateways.note(self._publisher.table)):
            say(note)
        gc.freeze()  # the table stays: no collection shall walk through it, and stop the loop
        if not self._start["again"]:
            # Clients wait in the backlog meanwhile: better than being told that nobody is
            # well because nobody was asked yet. Later on, what is remembered will do.
            await self._resolver.resolved(NAMES_WITHIN_S)
            await self._prober.judged(LOOK_WITHIN_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_WITHIN_S):
                    await self._served.look()
        async with AsyncExitStack() as stack:
            # In this order: whoever connects finds the table, its names and its health.
            self._workers.set_endpoints(self._resolver.endpoints)
            self._workers.set_served(self._served.paths)
            await self._workers.put_in_force(self._publisher.table)
            stack.push_async_callback(self._own.close)
            stack.push_async_callback(self._aside.close)
            await self._open_line()
            self._mirrors.announce()
            await self._open_channels(stack)
            await self._open_admin(stack)
            stack.push_async_callback(self._resolver.close)
            stack.push_async_callback(self._prober.close)
            self._own.run("the watch over the workers", self._workers.watch(self._on_beat))
            self._own.run("the mirrors", self._mirrors.run())
            self._own.run("the rollouts", self._rollouts.run())
            self._own.run("the paths of served models", self._served.keep())
            if self._settings.describe:
                self._own.run("the route documents", self._documents.keep())
            self._own.run("the report of the start", self._report_ready(applied))
            await self._stop.wait()
        await self._publisher.close()
        self._key_use.close()
        self._state.close()
        return 1 if self._failed else 0

    # -- coming up

    async def _join(self, gateways: "SharedGateways") -> None:
        """Is one of the gateways, as soon as all workers decide by what others decide by."""
        await gateways.begin(self._publisher.table.revision)
        await self._publisher.follow(gateways.heard)

    async def _apply_late(self) -> None:
        """What the file of the start could not change while the store was away."""
        file, self._publisher.late = self._publisher.late, None
        if file is None:
            return
        try:
            why = f"start with {self._start['name']}"
            await self._publisher.apply(file, who="file", why=why)
        except (Conflict, Invalid, NotInForce, StoreError) as error:
            say(f"{self._start['name']}: not applied: {error}")

    async def _open_line(self) -> None:
        bound = socket.socket(fileno=self._start["line_fd"])
        self._line = Channel(*await asyncio.open_connection(sock=bound))
        if self._fleet is not None:
            self._hold(self._publisher.table)
        first = await self._line.receive()
        if first is not None and first["type"] == "workers":
            self._expect(first)
        self._own.run("the line to the supervisor", self._hear_supervisor(self._line))

    async def _hear_supervisor(self, line: Channel[FromControl, ToControl]) -> None:
        while (message := await line.receive()) is not None:
            match message["type"]:
                case "workers":
                    self._expect(message)
                case "dropped":
                    self._supervisor_dropped = message["lines"]
                case "reopen":
                    self._workers.reopen_logs()
                case "reload":
                    self._workers.reopen_logs()
                    self._own.run("reading the file again", self._reload())
                case "fleet":
                    if self._fleet is not None:
                        self._fleet.take(message)
                        self._places.take(message)
                        self._workers.set_demand(self._fleet.demand)
                case "logs":
                    if self._fleet is not None:
                        self._fleet.hear(message)
                case "place":
                    self._own.run("placing instances", self._place(message))
                case "endpoints":
                    self._own.run("following instances", self._places.place(message))
                case _:
                    pass_over(message)
        self._stop.set()

    async def _reload(self) -> None:
        for line in await reread(Path(self._start["name"]), self._publisher, self._settings):
            say(line)

    def _settle(self, document: Document) -> Document:
        """The table to start with says where the processes are, or nothing of it."""
        placed = self._start["placed"]
        if placed is None:
            return unplaced({}, document)
        return document if self._start["again"] else settled(document, placed)

    def _hold(self, table: Table) -> None:
        """Tells who starts processes that they are to be held to `table`, which is in force."""
        backends, self._held = self._held, table.backends
        self._held_to = table.revision
        if table.backends is not backends:  # an edit of weights is no news to them
            self._tell_supervisor(serves(table))

    async def _place(self, message: Place) -> None:
        """Lets the table name where the processes of a backend are, and answers with it.

        First those that are ready besides those that go, then without them: a worker knows that
        the new ones are well before it knows nobody else.
        """
        name, urls = message["backend"], message["urls"]
        for address in set(addresses(urls)) - self._prober.words.get(name, {}).keys():
            self._prober.health.expect(Key(name, address))
        try:
            for keep, why in ((True, "ready: {}"), (False, "now at {}")):
                await self._publisher.publish(
                    partial(place, backend=name, version=message["version"], urls=urls, keep=keep),
                    who="up", why=why.format(", ".join(urls)), places=True,
                )  # fmt: skip
        except (Conflict, Missing):
            pass  # another edit came first: what it asks for is told below
        except (Invalid, NotInForce, StoreError) as error:
            say(f"backend {name}: {', '.join(urls)} cannot get requests yet: {error}")
            await asyncio.sleep(PLACE_AGAIN_S)
        self._held = {}  # it waits for an answer
        self._hold(self._publisher.table)

    def _scale(self, backend: str, count: int, why: str) -> None:
        self._own.run(f"scaling {backend}", self._set_replicas(backend, count, why))

    async def _set_replicas(self, backend: str, count: int, why: str) -> None:
        try:
            await self._publisher.publish(
                partial(set_replicas, backend=backend, count=count), who="up", why=why
            )
        except (Conflict, Missing, Invalid, NotInForce, StoreError) as error:
            say(f"backend {backend} is not scaled to {count}: {error}")

    def _expect(self, message: WorkersMessage) -> None:
        self._workers.expect(message["pids"], message["leaving"], stopping=message["stopping"])

    async def _open_channels(self, stack: AsyncExitStack) -> None:
        async def attend(
            is_ours: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            try:
                await self._workers.attend(Channel(reader, writer), is_ours=is_ours)
            except Exception as error:
                # It opens another one, and is told everything anew.
                say(f"control: a worker cannot be understood ({told(error)}); closed its channel")

        def accept(
            is_ours: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            self._own.run("the channel of a worker", attend(is_ours, reader, writer))

        ours, before = self._start["channels_fd"], self._start["before_fd"]
        for fd in (ours,) if before is None else (ours, before):
            bound = socket.socket(fileno=fd)
            server = await asyncio.start_unix_server(partial(accept, fd == ours), sock=bound)
            stack.callback(server.close)

    async def _open_admin(self, stack: AsyncExitStack) -> None:
        parts = AdminParts(
            publisher=self._publisher,
            settings=self._settings,
            view=self._view,
            events=self._events,
            tokens=self._tokens,
            metrics=self._metrics,
            ready=self._is_ready,
            rollouts=self._rollouts,
            mirrors=self._mirrors,
            fleet=self._fleet,
            keys_used=self._view.keys_used,
        )
        bound = socket.socket(fileno=self._start["admin_fd"])
        listener = AdminListener(admin_application(parts), bound, context=self._admin_context())
        await listener.start()
        stack.push_async_callback(listener.close)

    def _admin_context(self) -> ssl.SSLContext | None:
        """By which TLS the admin listener is reached; None: by none."""
        if self._settings.admin_tls is None:
            return None
        certificate = Certificate(self._settings.admin_tls.files, say, waits=self._start["again"])
        self._own.keep("the watch over the admin certificate", certificate.watch)
        return certificate.context

    def _is_ready(self) -> bool:
        """Whether requests can be served: all workers were there once, and one is now."""
        revision = self._publisher.table.revision
        return self._ready and any(link.revision >= revision for link in self._workers.connected)

    async def _report_ready(self, applied: Applied) -> None:
        await self._workers.all_serve(self._start["workers"])
        self._ready = True
        if self._gateways is not None:
            self._own.run("following other gateways", self._join(self._gateways))
        logs.show(logging.NOTSET)
        if self._line is not None:
            ready: Ready = {
                "type": "ready",
                "notes": start_notes(applied),
                "token": self._new_token,
                "routes": [
                    (route.match.path, ways(route))
                    for route in filled(self._publisher.table, self._served.paths).routes.values()
                ],
            }
            await self._line.send(ready)

    def _note_failure(self, name: str, error: Exception) -> None:
        # A control process that lacks a part is worse than one that starts again.
        say(f"control: {name} ended: {told(error)}")
        self._failed = True
        self._stop.set()

    # -- what one part tells another

    def _replace(self, pid: int) -> None:
        say(f"worker process {pid} does not answer; replacing it")
        self._tell_supervisor({"type": "replace", "pid": pid})

    def _tell_supervisor(self, message: FromControl) -> None:
        if self._line is not None:
            self._line.send_soon(message)

    def _on_endpoints(self, endpoints: Endpoints) -> None:
        self._prober.set_endpoints(endpoints)
        self._workers.set_endpoints(endpoints)
        self._memory.endpoints = endpoints
        self._memory.keep()

    def _on_health(self, words: Words, changes: Sequence[tuple[Key, Word, Word]]) -> None:
        # Before a worker acts on it: a successor must not know less than they do.
        self._remember()
        self._view.note_health(words, changes)
        self._stir()

    def _keep_health(self) -> None:
        self._memory.health = self._prober.health.states
        self._memory.keep()

    def _on_table(self, table: Table) -> None:
        self._mirrors.sync(table)
        self._stir()

    def _stir(self) -> None:
        """What models say of themselves may be another thing now."""
        self._served.stir()
        self._documents.stir()

    def _on_served(self, paths: Paths) -> None:
        self._workers.set_served(paths)
        self._memory.served = paths
        self._memory.keep()
        self._documents.stir()

    async def _on_beat(self) -> None:
        self._tell_supervisor({"type": "alive"})
        if self._fleet is not None and self._held_to != self._publisher.table.revision:
            self._hold(self._publisher.table)  # an edit came that was not in force everywhere
        if self._gateways is not None and self._gateways.holds:
            if self._publisher.late is not None:
                self._own.run("applying the file", self._apply_late())
            if self._rollouts.canaries() and (self._going_on is None or self._going_on.done()):
                going_on = self._rollouts.go_on(self._gateways.driven_elsewhere)
                self._going_on = self._aside.run("going on with rollouts", going_on)
        await self._view.beat()
        if self._demand is not None:
            self._demand.beat(time.monotonic())
        if self._scaler is not None and self._scaler.scaled:
            await self._workers.look()
            self._scaler.beat(time.monotonic())
        if self._traffic is not None:
            line = self._traffic.line(self._view.counted, time.monotonic())
            if line:
                say(line)
        self._keep_health()

    async def _metrics(self, accept: str) -> tuple[str, bytes]:
        dropped: dict[tuple[str, ...], int] = {
            ("control", "messages"): outlet.dropped(),
            ("supervisor", "messages"): self._supervisor_dropped,
        }
        counted = {
            LOG_DROPPED: dropped,
            VERDICTS: self._rollouts.verdicts(),
            **self._mirrors.counters(),
        }
        gauges = self._rollouts.gauges()
        if self._fleet is not None:
            counted, gauges = counted | self._fleet.counted(), gauges | self._fleet.gauges()
        if self._gateways is not None:
            gauges |= self._gateways.gauges()
        return await self._view.metrics(accept, counted, gauges)
