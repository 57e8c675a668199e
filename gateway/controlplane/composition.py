"""Which parts has a control process, and which of them knows which?

The composition root: makes each part and gives it the others that it needs. When they come and go
is said in `gateway.control`.
"""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.events import Events
from gateway.controlplane.fleet import HeldFleet
from gateway.controlplane.instance_watch import WatchedInstances
from gateway.controlplane.mirrors.book import Mirrors
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.commands import Commands
from gateway.controlplane.rollouts.controller import VERDICTS, Rollouts
from gateway.controlplane.store.handover import Memory
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.stores import Stores
from gateway.controlplane.supervisor_line import SupervisorLine
from gateway.controlplane.watch.announcing import Announcer
from gateway.controlplane.watch.counters import Totals
from gateway.controlplane.watch.expiry import ShownCertificates
from gateway.controlplane.watch.last_hour import LastHour
from gateway.controlplane.watch.last_hour_file import NAME as LAST_HOUR
from gateway.controlplane.watch.last_hour_file import LastHourFile
from gateway.controlplane.watch.status_view import StatusView
from gateway.controlplane.workers import Workers
from gateway.core.addresses import Listener, is_listener
from gateway.core.table import Table
from gateway.processes import outlet
from gateway.processes.certificates import LastCertificates
from gateway.processes.console import say
from gateway.processes.handshakes import REASONS
from gateway.processes.sockets import is_here, parse_listen
from gateway.processes.tasks import Tasks
from gateway.telemetry.metrics import HANDSHAKES_FAILED, LOG_DROPPED
from gateway.wire.line import ControlStart
from gateway.wire.pairs import NAME as COMPARE_SOCKET

if TYPE_CHECKING:
    from gateway.controlplane.sharing import Participant


class Composition:
    """The parts of one control process. A failed task of `own` ends it, one of `aside` is told."""

    def __init__(
        self,
        start: ControlStart,
        settings: Settings,
        state: StateDirectory,
        own: Tasks,
        aside: Tasks,
    ) -> None:
        self._start, self._settings, self._state = start, settings, state
        self._own, self._aside = own, aside
        self._listeners = own_listeners(start)
        self.line, self.events, self.hour = SupervisorLine(), Events(), LastHour()
        self.hour_file = LastHourFile(Path(start["directory"]) / LAST_HOUR, self.hour, self.events)
        # Each is given those before it, and asks for those after it when it must.
        self.workers = self._make_workers()
        self.instances = self._make_instances()
        self.stores = self._make_stores()
        self.gateways = self.stores.gateways
        self.fleet = self._make_fleet()
        self.publisher = self._make_publisher()
        self.mirrors = self._make_mirrors()
        self.rollouts = self._make_rollouts()
        self.rollout_commands = Commands(self.rollouts, self.publisher, ready=self._ready)
        self.participant = self._make_participant()
        self.view = self._make_view()
        causes, shares = self.instances.prober.causes, self.view.effective_shares
        self.announcer = Announcer(self.events, causes, shares)
        self.certificates = self._make_certificates()

    def table(self) -> Table:
        """The newest durable table."""
        return self.publisher.table

    @property
    def listen(self) -> str:
        """The URL at which requests are taken, with the port that was bound."""
        scheme = "http" if self._settings.tls is None else "https"
        return _url(scheme, self._listeners[0])

    @property
    def _admin_scheme(self) -> str:
        return "http" if self._settings.admin_tls is None else "https"

    async def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and content of a scrape, for the scraper's Accept header: what workers
        counted, and what the other parts did."""
        dropped: dict[tuple[str, ...], int] = {
            # Nothing is what they begin with: of a series that is new with its first losses no
            # `increase()` tells.
            ("worker", "access"): 0,
            ("worker", "messages"): 0,
            ("control", "messages"): outlet.dropped(),
            ("supervisor", "messages"): self.line.dropped,
        }
        counted = {
            LOG_DROPPED: dropped,
            VERDICTS: self.rollouts.verdicts(),
            **self.mirrors.counters(),
        }
        if self._settings.tls is not None:
            counted[HANDSHAKES_FAILED] = {(reason,): 0 for reason in REASONS}
        gauges = self.rollouts.gauges() | self.certificates.gauges()
        if self.fleet is not None:
            view = self.fleet.view
            counted, gauges = counted | view.counted(), gauges | view.gauges()
        if self.gateways is not None:
            gauges |= self.gateways.gauges()
        return await self.view.metrics(accept, counted, gauges)

    def _make_certificates(self) -> ShownCertificates:
        said = {"tls": self._settings.tls, "admin_tls": self._settings.admin_tls}
        files = {name: each.files["cert"] for name, each in said.items() if each is not None}
        return ShownCertificates(LastCertificates(self._start["certificates_fd"]), files, say)

    def _goes_on(self, revision: int) -> bool:
        return self.gateways is not None and self.gateways.is_behind(revision, self.table())

    def _make_workers(self) -> Workers:
        return Workers(
            {
                **self._settings.dataplane(),
                "listeners": self._listeners,
                "admin_scheme": self._admin_scheme,
            },
            replace=self._replace,
            succeed=lambda pid: self.line.tell({"type": "leaving", "pid": pid}),
            health=lambda backends: self.instances.prober.health.messages(backends),
            on_evidence=lambda signals: self.instances.prober.hear(signals),
            on_workers=lambda what, slot, pid: self.announcer.note_worker(what, slot, pid),
            on_judged=lambda counted: self.rollouts.hear(counted),
            on_asked=lambda names: self.fleet.wake(names) if self.fleet is not None else None,
            goes_on=self._goes_on,
            answer_within_s=self._settings.ack_timeout_s,
        )

    def _make_instances(self) -> WatchedInstances:
        return WatchedInstances(
            self._settings,
            Memory(Path(self._start["directory"]) / "memory.json"),
            self.workers,
            self.table,
            is_ours=lambda host, port: is_listener(host, port, self._listeners, is_here),
            on_table=self._note_table,
            on_health=lambda words, changes: self.announcer.note_health(words, changes),
            on_ejections=lambda ejections: self.announcer.note_ejections(ejections),
        )

    def _make_stores(self) -> Stores:
        return Stores(
            self._settings,
            self._state,
            Path(self._start["directory"]),
            again=self._start["again"],
            admin=_url(self._admin_scheme, self._listeners[1]),
            events=self.events,
            tell_lease=self.workers.set_lease,
        )

    def _make_fleet(self) -> HeldFleet | None:
        placed = self._start["placed"]
        return None if placed is None else HeldFleet(
            placed,
            lambda: self.publisher,
            self.workers,
            self.instances,
            self.events,
            self._own,
            self.line.tell,
            requests=lambda: self.view.requests(),
            canaries=lambda: self.rollouts.canaries(),
        )  # fmt: skip

    def _make_publisher(self) -> Publisher:
        return Publisher(
            self.stores.store,
            self.workers,
            self.instances,
            self.events,
            check=Checks(self._settings),
            holds=None if self.fleet is None else self.fleet.hold,
            gateways=self.gateways,
        )

    def _make_mirrors(self) -> Mirrors:
        return Mirrors(
            str(Path(self._start["directory"]) / COMPARE_SOCKET),
            lambda wanted: self.line.tell({"type": "compare", "wanted": wanted, "hangs": False}),
            hangs=lambda: self.line.tell({"type": "compare", "wanted": True, "hangs": True}),
            counted=lambda route, backend: self.view.compared(route, backend),
        )

    def _make_rollouts(self) -> Rollouts:
        rollouts = Rollouts(
            self.publisher,
            self.stores.keeper,
            self.events,
            driver=self.stores.driver,
            tell=self.workers.set_rollouts,
            working=lambda: self.view.working(),
            why_unwell=lambda backend: self.view.why_unwell(backend),
            agreement=self.mirrors.judged,
        )
        self.publisher.allow = rollouts.allow
        return rollouts

    def _make_participant(self) -> "Participant | None":
        if self.gateways is None or self.stores.driver is None:
            return None
        from gateway.controlplane.sharing import Participant

        return Participant(
            self.gateways,
            self.stores.driver,
            self.publisher,
            self.rollouts,
            self._own,
            self._aside,
            self._start["name"],
        )

    def _make_view(self) -> StatusView:
        return StatusView(
            self.table,
            self.workers,
            self.instances.prober,
            self.instances.resolver,
            Totals(self._start["counters_fd"]),
            fleet=self._others_status,
            asleep=frozenset if self.fleet is None else self.fleet.view.asleep,
            rollouts=self.rollouts.all_shown,
            key_use=self.stores.key_use,
            counted=self.hour.add,
        )

    # -- what one part asks of another

    def _note_table(self, table: Table) -> None:
        self.mirrors.sync(table)
        self.rollouts.sync(table)

    def _replace(self, pid: int) -> None:
        say(f"worker process {pid} does not answer; replacing it")
        self.line.tell({"type": "replace", "pid": pid})

    async def _ready(self, backend: str) -> None:
        """Returns once `backend` is loaded, and known to be well or not; Conflict says why it
        cannot be loaded."""
        if self.fleet is not None:
            await self.fleet.awake(backend)
        if (found := self.table().backends.get(backend)) is not None:
            await self.instances.known(found)

    def _others_status(self) -> dict[str, Any]:
        """What is known of instance processes, of other gateways, and of certificates, where there
        are any."""
        shown = {} if self.fleet is None else self.fleet.view.status()
        if certificates := self.certificates.status():
            shown |= {"certificates": certificates}
        if self.gateways is not None:
            shown |= self.gateways.status(self.table().revision)
        return shown


def own_listeners(start: ControlStart) -> list[Listener]:
    """Where the gateway itself can be reached: the ports that were really bound, data plane first
    and then the admin API."""
    with socket.socket(fileno=os.dup(start["admin_fd"])) as admin:
        host, port = admin.getsockname()[:2]
    return [parse_listen(start["listen"]), (host, port)]


def _url(scheme: str, listener: Listener) -> str:
    host, port = listener
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
