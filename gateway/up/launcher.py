"""How does one command bring up a whole file: its instances and the gateway before them?

`headgate up` reads the file and takes the ports first, for that is quick and may fail; then
it starts the instances, waits until each is ready, and becomes the gateway's supervisor. From
then on the fleet is told of each edit of what is served. It stops in the opposite order: the
gateway drains while its instances still answer, they come last. However it ends, nothing it
started is left running.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from gateway.app import CannotStart, Prepared, announce, inherited, prepare, signed
from gateway.controlplane.store.names import STARTED
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.store import Store, Stored, StoreError
from gateway.core.merging import merge, same
from gateway.core.table import Document
from gateway.processes import leftovers, signals
from gateway.processes.console import say, take_over
from gateway.processes.service_manager import ServiceManager
from gateway.processes.supervisor import Supervisor
from gateway.processes.tasks import first_of, told
from gateway.up import ports, screen
from gateway.up.fleet import Started, StartError, follow
from gateway.up.local_fleet import LocalFleet
from gateway.up.plan import Site, cpu_count
from gateway.up.progress import Progress, progress
from gateway.up.ray_fleet import RayFleet
from gateway.up.watching import Watch
from gateway.wire.line import Ready

INSTANCE_DRAIN_S = 10.0


def run_up(
    file: str | os.PathLike[str],
    state_dir: str | os.PathLike[str],
    access_log: str | None = None,
    *,
    source: Path | None = None,
    text: str | None = None,
    dev_tls: bool = False,
    reload: bool = False,
    on: str | None = None,
    follows: bool = False,
) -> int:
    """The exit code, once everything that `file` describes has been stopped. Instances are started
    here, or `on` a cluster of that kind, where they go on; a gateway that `follows` starts none and
    sends requests to those that another one has placed there. `access_log` counts before what the
    file says of it. `source` is the code that the file is made for, with this `text`: models are
    looked for from there. With `dev_tls` clients come by https, with a certificate for trying. With
    `reload` models follow the code as it changes."""
    if access_log is not None:
        os.environ[screen.ACCESS_LOG] = access_log
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    try:
        prepared = prepare(
            Path(file),
            Path(state_dir),
            source,
            lambda settings: inherited(manager),
            dev_tls=dev_tls,
            text=text,
        )
    except CannotStart as error:
        for line in str(error).splitlines():
            say(line)
        return 1
    try:
        document = first_document(prepared, is_here=on is None, follows=follows)
    except StoreError as error:
        say(f"{file}: {error}")
        prepared.close()
        return 1
    take_over()
    # Bound, and not listened on before all is ready: for whoever looks they are free until then.
    ports.keep(bound.getsockname()[1] for bound in (*prepared.plan.data, prepared.plan.admin))
    site = Site(source or Path(file), Path.cwd(), cpu_count(), os.environ)
    make = partial(RayFleet, site, say, follows=follows) if on == "ray" else None
    return asyncio.run(_launch(prepared, document, site, manager, make, watch=reload))


def first_document(prepared: Prepared, *, is_here: bool, follows: bool = False) -> Document:
    """What the gateway will begin with: the file, three ways with what its state holds. StoreError
    where that cannot be read, and where it does not go with instances that are started here
    (`is_here`), or elsewhere by another gateway."""
    settings, path = prepared.settings, prepared.state.database
    served = [n for n, b in (prepared.document.get("backends") or {}).items() if "serve" in b]
    is_shared = settings.store == "etcd"
    if follows and not is_shared:
        raise StoreError(
            "`headgate gateway --on ray` is one of several gateways, which share a table: set"
            " `gateway.store: etcd`; the first, or only one, is `headgate up --on ray`"
        )
    if is_shared and is_here and served:
        # Where processes of one machine are is nothing that other gateways could use.
        raise StoreError(
            f"backends/{served[0]}/serve: `headgate up` starts no instances with `store: etcd`;"
            " start them with `headgate instance`, name their addresses in `instances`, and"
            " run `headgate gateway`; or have a cluster start them, with `--on ray`"
        )
    if settings.store == "memory" or not (is_shared or path.exists()):
        return prepared.document
    stored = _stored(prepared)
    if stored is None:
        return prepared.document
    return merge(stored.applied or {}, prepared.document, stored.newest.document).document


def _stored(prepared: Prepared) -> Stored | None:
    settings, path = prepared.settings, prepared.state.database
    store: Store
    if settings.store == "etcd":
        from gateway.controlplane.sharing import shared_store

        store = shared_store(settings, prepared.state.path)
    else:
        store = SqliteStore(path, keep=settings.history, keep_bytes=settings.history_bytes)
    try:
        return store.load()
    finally:
        store.close()


async def _launch(
    prepared: Prepared,
    document: Document,
    site: Site,
    manager: ServiceManager,
    make: Callable[[], Started] | None,
    *,
    watch: bool,
) -> int:
    if not screen.is_wanted():
        announced, plain = partial(announce, prepared), progress()
        fleet = make() if make is not None else _local(prepared, site, plain)
        launch = Launch(prepared, document, fleet, manager, plain, announced, watch=watch)
        return await launch.run()
    shown = screen.Screen(prepared)
    try:
        fleet = make() if make is not None else _local(prepared, site, shown)
        launch = Launch(
            prepared, document, fleet, manager, shown, shown.announce, shown.stopping, watch=watch
        )
        return await launch.run()
    finally:
        shown.end()


def _local(prepared: Prepared, site: Site, progress: Progress) -> LocalFleet:
    """Processes of this machine. What those of the run before had left behind when that was killed
    is ended first: it may hold a GPU's memory."""
    mark, ended = leftovers.follow_on(prepared.state.path / STARTED)
    if ended:
        say(f"ended {ended} process{'es' * (ended > 1)} that models of the run before left behind")
    return LocalFleet(site, progress, say, mark=mark)


class Launch:
    """One run of `headgate up`."""

    def __init__(
        self,
        prepared: Prepared,
        document: Document,
        fleet: Started,
        manager: ServiceManager,
        progress: Progress,
        announce: Callable[[Ready], None],
        stopping: Callable[[], None] = lambda: None,
        *,
        watch: bool = False,
    ) -> None:
        self._prepared, self._document, self._progress = prepared, document, progress
        self._announce, self._stopping = announce, stopping
        self._fleet = fleet
        self._watch, self._manager = watch, manager
        self._supervisor: Supervisor | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """The exit code, when nothing runs any more."""
        signals.handle(self.stop, self._reload, self._reopen)
        try:
            return await self._start_and_serve()
        except Exception as error:
            self._prepared.close()
            self._progress.close()
            is_told = isinstance(error, StartError)
            say(str(error) if is_told else f"a fault in headgate itself: {told(error)}")
            self._hurry.set()
            return 1
        finally:
            self._progress.close()
            await self._fleet.stop(INSTANCE_DRAIN_S, self._hurry)

    def stop(self, number: signal.Signals) -> None:
        """The first call stops in order, the second at once."""
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._stopping()
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.stop(number)

    def _reload(self) -> None:
        if self._supervisor is not None:
            self._supervisor.reload()
        else:
            say("the file was read already; it can be read again once all models are ready")

    def _reopen(self) -> None:
        if self._supervisor is not None:
            self._supervisor.reopen()

    async def _start_and_serve(self) -> int:
        if not await self._start_instances():
            self._prepared.close()
            return 0
        self._progress.close()
        self._supervisor = Supervisor(
            replace(self._prepared.plan, placed=self._fleet.placed),
            on_ready=self._announce,
            for_fleet=self._fleet.take,
            say=say,
            manager=self._manager,
        )
        signed(self._prepared, self._supervisor)
        self._fleet.attach(self._supervisor.tell)
        if self._stop.is_set():
            self._supervisor.stop()
        code = 0

        async def serve() -> None:
            nonlocal code
            assert self._supervisor is not None
            code = await self._supervisor.run()

        works = [serve(), follow(self._fleet, self._supervisor.tell)]
        if self._watch:
            works.append(Watch(lambda: self._fleet.folders, self._fleet.renew, say).run())
        await first_of(*works)
        return code

    def _is_live(self, name: str) -> bool:
        """Whether an edit, and not the file, made of backend `name` what it is."""
        backends = self._prepared.document.get("backends") or {}
        file = (backends.get(name) or {}).get("serve")
        return not same(file, self._document["backends"][name].get("serve"))

    async def _start_instances(self) -> bool:
        """Whether every instance became ready before somebody asked to stop."""
        is_ready = False

        async def start() -> None:
            nonlocal is_ready
            await self._fleet.start(self._document.get("backends") or {}, self._is_live)
            is_ready = True

        await first_of(start(), self._stop.wait())
        return is_ready
