"""How are the processes of instances held to the table (`headgate up`)?

The control process's side of it: the fleet, which starts them, is told what the table asks for and
how it is used, and tells where they are; what it takes in the table are edits like anybody's.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from gateway.controlplane.events import Events
from gateway.controlplane.instance_watch import WatchedInstances
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.store import StoreError
from gateway.controlplane.watch.demand import Demand
from gateway.controlplane.watch.fleet_places import FleetPlaces
from gateway.controlplane.watch.fleet_view import FleetView, serves
from gateway.controlplane.watch.health_book import Key
from gateway.controlplane.watch.scaler import Scaler
from gateway.controlplane.watch.tallies import Tally
from gateway.controlplane.workers import Workers
from gateway.core.faults import Conflict, Invalid, Missing
from gateway.core.placement import addresses, place, set_replicas, with_places
from gateway.core.table import Backend, Document, Table
from gateway.processes.console import say
from gateway.processes.tasks import Tasks
from gateway.telemetry.series import Labels
from gateway.wire.line import ForFleet, FromFleet, Place

PLACE_AGAIN_S = 1.0


class HeldFleet:
    """The fleet, as `tell` reaches it; `view` is what it said last. `placed` are the URLs of what
    was started before there was a gateway, by backend. `publisher()` tells `hold` of each table;
    `requests()` are those counted so far, `canaries()` the backends that rollouts lead to."""

    def __init__(
        self,
        placed: Mapping[str, Sequence[str]],
        publisher: Callable[[], Publisher],
        workers: Workers,
        instances: WatchedInstances,
        events: Events,
        own: Tasks,
        tell: Callable[[ForFleet], None],
        *,
        requests: Callable[[], Mapping[Labels, Tally]],
        canaries: Callable[[], Collection[str]],
    ) -> None:
        self._placed, self._publisher, self._workers = placed, publisher, workers
        self._prober, self._own, self._tell = instances.prober, own, tell
        self._held: Mapping[str, Backend] = {}
        self._held_to = 0
        self.view = FleetView(events, tell)
        self._places = FleetPlaces(
            workers,
            known=lambda: instances.resolver.endpoints,
            set_fleet=instances.resolver.set_fleet,
            expect=lambda name, address: self._prober.health.expect(Key(name, address)),
            learn=instances.served.learn,
            in_flight=workers.loads.in_flight,
            tell=tell,
        )
        self._scaler = Scaler(self._table, workers.loads, self.view.state, self._scale)
        self._demand = Demand(self._table, workers.loads, requests, canaries, self.view, tell)

    def with_places(self, document: Document) -> Document:
        """`document`, which says where the processes are that were started for it."""
        return with_places(document, self._placed)

    def begin(self, table: Table) -> None:
        """What was started serves `table` from now on."""
        self._places.begin(self._placed, table)

    def hold(self, table: Table) -> None:
        """Tells who starts processes that they are to be held to `table`, which is in force."""
        backends, self._held = self._held, table.backends
        self._held_to = table.revision
        if table.backends is not backends:  # an edit of weights is no news to them
            self._tell(serves(table, self._prober.health))

    def hold_to_newest(self) -> None:
        """Holds them to the newest table, too, if it was not in force everywhere at first."""
        if self._held_to != self._table().revision:
            self.hold(self._table())

    def hear(self, message: FromFleet) -> None:
        """Takes in what the fleet says."""
        match message["type"]:
            case "fleet":
                self.view.take(message)
                self._places.take(message)
                self._workers.set_demand(self.view.demand)
            case "cluster":
                self.view.take_cluster(message["away_since"])
            case "logs":
                self.view.hear(message)
            case "place":
                self._own.run("placing instances", self._place(message))
            case "endpoints":
                self._own.run("following instances", self._places.place(message))

    async def beat(self, counted_at: float) -> None:
        """Looks at this second who is used, by what was counted until `counted_at`, and who waits
        too long."""
        self._demand.beat(counted_at)
        if self._scaler.scaled and not self.view.follows:  # one scales for all
            await self._workers.look()
            self._scaler.beat(time.monotonic())

    def wake(self, backends: Collection[str]) -> None:
        """Requests wait for these."""
        self._demand.ask(backends)

    async def awake(self, backend: str) -> None:
        """Returns when `backend` is loaded; Conflict says why it cannot be."""
        await self._demand.awake(backend)

    def _table(self) -> Table:
        return self._publisher().table

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
                await self._publisher().publish(
                    partial(place, backend=name, version=message["version"], urls=urls, keep=keep),
                    who="up", why=why.format(", ".join(urls)) if urls else "none of it runs",
                    places=True,
                )  # fmt: skip
        except (Conflict, Missing):
            pass  # another edit came first: what it asks for is told below
        except (Invalid, NotInForce, StoreError) as error:
            say(f"backend {name}: {', '.join(urls)} cannot get requests yet: {error}")
            await asyncio.sleep(PLACE_AGAIN_S)
        self._held = {}  # it waits for an answer
        self.hold(self._table())

    def _scale(self, backend: str, count: int, why: str) -> None:
        self._own.run(f"scaling {backend}", self._set_replicas(backend, count, why))

    async def _set_replicas(self, backend: str, count: int, why: str) -> None:
        try:
            await self._publisher().publish(
                partial(set_replicas, backend=backend, count=count), who="up", why=why
            )
        except (Conflict, Missing, Invalid, NotInForce, StoreError) as error:
            say(f"backend {backend} is not scaled to {count}: {error}")
