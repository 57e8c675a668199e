"""What does a request find in its worker?

The Plane: what everything shares, and on top of it the current snapshot, the live side of its
table and the clients. It decides nothing.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping

from mypy_extensions import mypyc_attr

from gateway.core.matching import Matcher
from gateway.core.options import DataplaneOptions
from gateway.core.strangers import Strangers
from gateway.core.table import Table
from gateway.dataplane.connection import Connection
from gateway.dataplane.deadlines import Clock
from gateway.dataplane.deciding import DecidingBodies
from gateway.dataplane.judge import judges
from gateway.dataplane.live_table import LiveTable
from gateway.dataplane.load_memory import LoadMemory
from gateway.dataplane.permits import PermitsFile
from gateway.dataplane.room import Room
from gateway.dataplane.route_table import Snapshot
from gateway.dataplane.shared import Shared
from gateway.telemetry.metrics import Counters
from gateway.telemetry.tracing import Tracing
from gateway.wire.messages import Endpoints, Judging


@mypyc_attr(allow_interpreted_subclasses=True)
class Plane(Shared):
    """One worker's data plane."""

    __slots__ = (
        "clients", "deciding", "documents", "had_lease", "is_replaced", "lame", "lease_until",
        "live", "room", "snapshot", "strangers", "tracing",
    )  # fmt: skip

    def __init__(
        self,
        options: DataplaneOptions,
        loop: Clock,
        tracing: Tracing | None = None,
        permits: PermitsFile | None = None,
        counters: Counters | None = None,
        load_memory: LoadMemory | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options, loop, permits, counters, load_memory, now)
        self.tracing = tracing
        self.lame = False
        self.strangers = Strangers()
        self.is_replaced = False  # by another gateway, which has the same sockets
        # Where several gateways share a table, one holds a lease before anybody counts on it.
        self.lease_until = -math.inf if options.is_shared else math.inf
        self.had_lease = False
        self.clients: set[Connection] = set()
        self.room = Room(self.clients)
        self.deciding = DecidingBodies(options.match_memory)
        self.documents: dict[bytes, tuple[bytes, bytes]] = {}
        self.live = LiveTable(self)
        self.snapshot = Snapshot.empty(self, self.live.backends)

    def swap(
        self,
        table: Table,
        endpoints: Endpoints | None = None,
        matcher: Matcher | None = None,
        changed: Collection[str] | None = None,
    ) -> None:
        """Serves `table` from the next request on. `matcher` is made here unless it is given, and
        any route may be another one than before unless `changed` names those that are."""
        # Runtime first, table second: between these two lines a request may still read the
        # old table, and every instance it can name exists.
        before = self.snapshot
        self.live.swap(table, endpoints)
        matcher = matcher or Matcher.of(table.routes.values())
        self.snapshot = before.next(table, matcher, changed)
        self.generation += 1
        if self.snapshot.limits_more:
            for client in self.clients:
                client.count_under_way()

    @property
    def serves_lost(self) -> bool:
        """Whether requests are answered while the lease that there was is lost."""
        return self.had_lease and not self.options.refuses_lost

    def serve_at(self, paths: Mapping[str, str]) -> None:
        """Where models answer that `serve` starts: backend → path, for routes without a rewrite."""
        self.served = paths
        self.snapshot.mark = object()  # what clients remember was decided without it

    def judge(self, routes: Mapping[str, Judging]) -> None:
        """Counts for these rollouts from the next request on, and for no others."""
        self.judges = judges(routes, self.judges)
        self.snapshot.judge()
