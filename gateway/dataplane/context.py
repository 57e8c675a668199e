"""What do all requests of one worker share?

The Plane: options, clock, current snapshot, live instances, counters, log. One object, made
once, handed to whoever serves a request; there is no global state. It decides nothing.
"""

import asyncio
import ipaddress
import math
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.core.options import DataplaneOptions
from gateway.core.retrying import RetryBudget
from gateway.core.sampling import Sampling
from gateway.core.table import EMPTY, Table
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.current import Snapshot
from gateway.dataplane.deadlines import Clock, Wheel
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.instances import Endpoints, Instances
from gateway.dataplane.traced import TracedExchange
from gateway.dataplane.turns import TurnsFile
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Counters
from gateway.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from gateway.dataplane.listener import Client

_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835  # 2^128/φ: ids that follow each other look unlike
_MASK = (1 << 128) - 1


class Plane:
    """One worker's data plane. `now` gives monotonic seconds."""

    __slots__ = (
        "_awake", "_id", "_loop", "_trusted", "budget", "clients", "counters", "documents",
        "draining", "ejected_news", "exchange", "failures_news", "generation", "instances",
        "lame", "ledger", "log", "mirrored", "most_clients", "node", "notify", "now", "options",
        "signals", "snapshot", "tracing", "turns", "wheel",
    )  # fmt: skip

    def __init__(
        self,
        options: DataplaneOptions,
        loop: asyncio.AbstractEventLoop | Any,
        tracing: Tracing | None = None,
        turns: TurnsFile | None = None,
    ) -> None:
        self.options = options
        self.turns = turns or TurnsFile(None)
        self.tracing = tracing
        self.exchange = Exchange if tracing is None else TracedExchange
        self.now = time.monotonic
        self._loop = loop
        clock: Clock = loop
        self.wheel = Wheel(clock, self.now)
        self.node = options.node.encode("latin-1")
        self._trusted = [ipaddress.ip_network(each) for each in options.trusted_proxies]
        self._id = secrets.randbits(128)
        self._awake: set[LiveBackend] = set()
        self.generation = 1
        self.lame = False
        self.draining = False
        self.mirrored = 0
        self.clients: set[Client] = set()
        self.most_clients = math.inf
        self.counters = Counters()
        which = Sampling(options.access_log_percent, options.access_log_slow_s)
        self.log = AccessLog(options.access_log, which)
        self.ledger = Ledger(self.log, loop.call_later, self._noted)
        self.budget = RetryBudget(options.retry_percent / 100.0, options.retry_min_per_s)
        self.notify: Callable[[], None] = _nobody
        self.signals: list[tuple[str, str, str]] = []
        self.ejected_news: list[tuple[str, str, float, int]] = []
        self.failures_news: dict[tuple[str, str], tuple[int, bool]] = {}
        self.documents: dict[bytes, tuple[bytes, bytes]] = {}
        self.instances = Instances(self)
        self.snapshot = Snapshot(self, EMPTY, None)

    def swap(self, table: Table, endpoints: Endpoints | None = None) -> None:
        """Serves `table` from the next request on."""
        # Runtime first, table second: between these two lines a request may still read the
        # old table, and every instance it can name exists.
        before = self.snapshot
        self.instances.sync(table, endpoints)
        self.snapshot = Snapshot(self, table, before)
        self.generation += 1

    def random(self) -> int:
        return secrets.randbits(64)

    def fresh_id(self) -> bytes:
        """An id that no other request has: 32 hexadecimal digits, as a trace's."""
        self._id = ident = (self._id + _ODD) & _MASK
        return b"%032x" % ident

    def trusts(self, address: str) -> bool:
        """Whether what a peer at `address` says of its own clients is believed."""
        if not self._trusted:
            return False
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._trusted)

    def _noted(self, count: int) -> None:
        self.budget.note_request(self.now(), count)

    def may_spend(self) -> bool:
        """Whether one retry is paid for; it is then spent."""
        self.ledger.settle()
        return self.budget.try_spend(self.now())

    def soon(self, backend: LiveBackend) -> None:
        """Looks again at who waits for `backend`, after the current event."""
        if not self._awake:
            self._loop.call_soon(self._wake)
        self._awake.add(backend)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._loop.call_later(seconds, what)

    def _wake(self) -> None:
        awake, self._awake = self._awake, set()
        for backend in awake:
            backend.dispatch()

    # observations for the control process; the channel takes them away

    def signalled(self, instance: LiveInstance, signal: str) -> None:
        if len(self.signals) < 1000:
            self.signals.append((instance.backend.name, instance.address, signal))
        self.notify()

    def failed(self, instance: LiveInstance) -> None:
        """Its row of failed answers became longer, or ended: the others shall know."""
        if self.options.workers > 1:
            key = (instance.backend.name, instance.address)
            count, after_success = self.failures_news.get(key, (0, False))
            is_over = not instance.load.failures
            self.failures_news[key] = (0, True) if is_over else (count + 1, after_success)
            self.notify()

    def ejected(self, instance: LiveInstance, now: float) -> None:
        self.counters.ejected(instance.backend.name, instance.address)
        left = instance.ejection.until - now
        self.ejected_news.append(
            (instance.backend.name, instance.address, left, instance.ejection.times)
        )
        self.notify()


def _nobody() -> None:
    """Whom a plane without a channel notifies."""
