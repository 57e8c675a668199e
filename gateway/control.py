"""The control process: the order in which its parts come and go.

Which parts there are is said in `controlplane.composition`. It reads the file, makes them, begins
with the table, lets workers and operators in, and tells the supervisor when all workers serve.
Nothing of what the parts do is in here.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.controlplane.admin.app import admin_application
from gateway.controlplane.admin.calls import AdminParts
from gateway.controlplane.admin.listener import AdminListener
from gateway.controlplane.admin.security import admin_tokens
from gateway.controlplane.composition import Composition
from gateway.controlplane.configuration.reading import ConfigurationError, Loaded, load
from gateway.controlplane.configuration.rereading import reread
from gateway.controlplane.published import Applied, start_notes
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.store import StoreError
from gateway.controlplane.watch.traffic import Traffic
from gateway.controlplane.worker_channels import accept_workers
from gateway.core.faults import Invalid
from gateway.core.placement import unplaced
from gateway.core.served import ways
from gateway.core.table import Document
from gateway.processes.certificates import Certificate, LastCertificates
from gateway.processes.children import FAULT
from gateway.processes.console import is_for_people, say
from gateway.processes.tasks import Tasks, told
from gateway.telemetry import logs
from gateway.wire.line import ControlStart, Ready

SWITCH_S = 0.0005
"""How long a thread that reads the history or examines a table may keep the interpreter while the
loop, or the thread that stores an edit, wants it: an edit asks for it twenty times over."""

SLOWER = 4
"""How many times longer than this one a control process that follows it may take to be there: a
machine on which a gateway is replaced has more to do."""


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
        await asyncio.to_thread(process.parts.stores.store.close)
        say(f"{start['name']}: {error}")
        return FAULT


class Control:
    """One control process, from its first table until `stop` is set; `parts` are what it is made
    of."""

    def __init__(self, start: ControlStart, loaded: Loaded, stop: asyncio.Event) -> None:
        self._start, self._settings = start, loaded.settings
        self._document, self._stop = loaded.document, stop
        self._failed = self._ready = self._is_left = False
        self._is_late = start["late"]  # as the supervisor knows it
        self._took_s = 0.0  # until workers decided by its table
        self._own = Tasks(self._note_failure)
        self._aside = Tasks(lambda name, error: say(f"control: {name}: {told(error)}"))
        # Two gateways on one state directory would undo each other's edits: the supervisor has
        # locked it, and so it stays while a process of that gateway runs.
        self._state = StateDirectory(Path(start["state_dir"]), start["state_fd"])
        self._tokens, self._new_token = admin_tokens(self._settings, self._state.token)
        self._traffic = Traffic(time.monotonic()) if is_for_people() else None
        self.parts = Composition(start, self._settings, self._state, self._own, self._aside)

    async def run(self) -> int:
        """Serves until `stop` is set; the exit code."""
        parts, again = self.parts, self._start["again"]
        if is_for_people() and not again:
            logs.show(logging.WARNING)  # that models come up was seen
        parts.hour_file.take_up(time.monotonic())
        applied = self._begin()
        gc.freeze()  # the table stays: no collection shall walk through it, and stop the loop
        if not again:
            # Clients wait in the backlog meanwhile: better than being told that nobody is
            # well because nobody was asked yet. Later on, what is remembered will do.
            await parts.instances.look()
        if parts.gateways is not None:
            parts.gateways.go_on()
        async with AsyncExitStack() as stack:
            # In this order: whoever connects finds the table, its names and its health.
            parts.instances.tell_workers()
            await parts.workers.put_in_force(parts.table())
            stack.push_async_callback(self._own.close)
            stack.push_async_callback(self._aside.close)
            await self._open_line()
            parts.mirrors.announce()
            await accept_workers(parts.workers, self._start, self._own, stack)
            await self._open_admin(stack)
            parts.instances.close_with(stack)
            self._own.run("the watch over the workers", parts.workers.watch(self._on_beat))
            self._own.run("the mirrors", parts.mirrors.run())
            self._own.run("the rollouts", parts.rollouts.run())
            parts.instances.run(self._own)
            self._aside.keep("keeping the last hour", parts.hour_file.run)
            self._own.run("the report of the start", self._report_ready(applied))
            await self._stop.wait()
            if parts.gateways is not None and not parts.workers.stopping:
                # While workers hear of it; of no use where the supervisor, and all, has ended.
                is_followed = not self._failed and not self._is_left
                await parts.gateways.stay(SLOWER * self._took_s if is_followed else 0.0)
        await parts.publisher.close()
        parts.stores.key_use.close()
        await parts.hour_file.close()
        self._state.close()
        return 1 if self._failed else 0

    # -- coming up

    def _begin(self) -> Applied:
        """What became of the file; from now on there is a table."""
        parts, again = self.parts, self._start["again"]
        is_late = again and self._start["late"]
        why = f"start with {self._start['name']}"
        applied = parts.publisher.start(
            self._document,
            why=why,
            again=again and not is_late,
            with_places=self._with_places,
            meets=parts.rollouts.given_back,
            former=parts.stores.former(),
        )
        parts.stores.begun()
        if parts.fleet is not None and not again:
            parts.fleet.begin(parts.table())
        if parts.gateways is not None:
            if not again:
                parts.gateways.refuse_older(parts.table())
            if note := parts.gateways.note(parts.table()):
                say(note)
        if is_late:  # what a start says is not told again
            for line in start_notes(applied):
                say(line)
        return applied

    def _with_places(self, document: Document) -> Document:
        """The table to start with says where the processes are, or nothing of it."""
        if self.parts.fleet is None:
            return unplaced({}, document)
        return document if self._start["again"] else self.parts.fleet.with_places(document)

    async def _open_line(self) -> None:
        parts = self.parts
        await parts.line.open(self._start["line_fd"])
        if parts.fleet is not None:
            parts.fleet.hold(parts.table())
        await parts.line.expect_workers(parts.workers)
        self._own.run("the line to the supervisor", self._follow_line())

    async def _follow_line(self) -> None:
        def reload() -> None:
            self._own.run("reading the file again", self._reload())

        await self.parts.line.follow(self.parts.workers, self.parts.fleet, reload)
        self._is_left = True
        self._stop.set()

    async def _reload(self) -> None:
        publisher, file = self.parts.publisher, Path(self._start["name"])
        for line in await reread(file, publisher, self._settings):
            say(line)

    async def _open_admin(self, stack: AsyncExitStack) -> None:
        parts = self.parts
        for_admin = AdminParts(
            publisher=parts.publisher,
            settings=self._settings,
            view=parts.view,
            events=parts.events,
            tokens=self._tokens,
            metrics=parts.metrics,
            ready=self._is_ready,
            rollouts=parts.rollouts,
            rollout_commands=parts.rollout_commands,
            mirrors=parts.mirrors,
            hour=parts.hour,
            listen=parts.listen,
            fleet=None if parts.fleet is None else parts.fleet.view,
            keys_used=parts.view.keys_used,
        )
        bound = socket.socket(fileno=self._start["admin_fd"])
        certificate = self._admin_certificate()
        listener = AdminListener(admin_application(for_admin), bound, certificate=certificate)
        await listener.start()
        stack.push_async_callback(listener.close)

    def _admin_certificate(self) -> Certificate | None:
        """What the admin listener shows; None where it is not reached by TLS."""
        if self._settings.admin_tls is None:
            return None
        last = LastCertificates(self._start["certificates_fd"])
        certificate = Certificate(self._settings.admin_tls.files, say, last, "admin_tls")
        self._own.keep("the watch over the admin certificate", certificate.watch)
        return certificate

    async def _report_ready(self, applied: Applied) -> None:
        parts = self.parts
        await parts.workers.all_serve(self._start["workers"])
        self._ready, self._took_s = True, time.monotonic() - self._start["began"]
        if parts.participant is not None:
            self._own.run("following other gateways", parts.participant.join())
        self._aside.keep("the watch over the dates of certificates", parts.certificates.watch)
        self._tell_late()
        logs.show(logging.NOTSET)
        table = parts.instances.table_with_paths()
        ready: Ready = {
            "type": "ready",
            "notes": start_notes(applied),
            "token": self._new_token,
            "routes": [(route.match.path, ways(route)) for route in table.routes.values()],
        }
        await parts.line.tell_ready(ready)

    # -- while it runs

    def _is_ready(self) -> bool:
        """Whether requests can be served: all workers were there once, and one is now."""
        return self._ready and self.parts.workers.serves

    async def _on_beat(self) -> None:
        parts = self.parts
        parts.line.tell({"type": "alive"})
        self._tell_late()
        if parts.fleet is not None:
            parts.fleet.hold_to_newest()
        if parts.participant is not None:
            parts.participant.beat()
        gateways = parts.gateways
        out = gateways.begin_look() if gateways is not None else frozenset()
        await parts.view.beat()
        if gateways is not None:
            gateways.looked(parts.view.busy(out))
        parts.announcer.announce_shares()
        if parts.fleet is not None:
            await parts.fleet.beat(parts.view.read_at)
        if self._traffic is not None:
            line = self._traffic.line(parts.view.counted, time.monotonic())
            if line:
                say(line)
        parts.instances.keep_health()

    def _tell_late(self) -> None:
        late = self.parts.publisher.late is not None
        if late != self._is_late:
            self._is_late = late
            self.parts.line.tell({"type": "late", "late": late})

    def _note_failure(self, name: str, error: Exception) -> None:
        # A control process that lacks a part is worse than one that starts again.
        say(f"control: {name} ended: {told(error)}")
        self._failed = True
        self._stop.set()
