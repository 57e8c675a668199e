"""What does everything in one worker share?

Options, clock, chance, deadlines, counters, the log, and the news for the control process. One
object, made once and handed to whoever serves a request; there is no global state. It knows
nobody on the walk of a request, so that everybody may know it, and decides nothing.
"""

import ipaddress
import logging
import random
import secrets
import time
from binascii import hexlify
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.addresses import client_of
from gateway.core.evidence import Signal
from gateway.core.options import DataplaneOptions
from gateway.core.retrying import RetryBudget
from gateway.core.sampling import Sampling
from gateway.dataplane.buckets import Buckets
from gateway.dataplane.deadlines import Clock, Wheel
from gateway.dataplane.idle_queue import IdleQueue
from gateway.dataplane.judge import Judge
from gateway.dataplane.load_memory import LoadMemory
from gateway.dataplane.pairing import Outbox
from gateway.dataplane.permits import PermitsFile
from gateway.processes.credentials import Credentials
from gateway.processes.tasks import Tasks, told
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.book import Book
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import EJECTIONS, LOG_DROPPED, Counters

log: Final = logging.getLogger(__name__)
MAX_SIGNALS: Final = 1000  # until the channel takes them; of more the last ones say how it is now
_ODD: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835  # 2^128/φ: ids that follow each other look unlike
_MASK: Final = (1 << 128) - 1
# So many ids are made at once, as one number that has them side by side; what one of them carries
# over into the next does not matter there.
_IDS: Final = 64
_EACH: Final = sum(1 << 128 * place for place in range(_IDS))
_STEPS: Final = sum((_ODD * place & _MASK) << 128 * place for place in range(_IDS))
_ALL: Final = (1 << 128 * _IDS) - 1
_MAX_CLIENTS: Final = 4096  # behind proxies are kept by what those say,
_MAX_HOPS: Final = 256  # in so many bytes at most


@mypyc_attr(allow_interpreted_subclasses=True)
class Shared:
    """What is there once per worker. `now` gives monotonic seconds; `generation` grows with each
    change of who serves."""

    __slots__ = (
        "_awake", "_bits", "_buckets", "_clients", "_credentials", "_date", "_dropped", "_gateways",
        "_id", "_ids", "_loop", "_trusted", "asked", "budget", "counters", "demand", "generation",
        "idle_queue", "judges", "ledger", "load_memory", "log", "mirrored", "node", "notify", "now",
        "options", "outbox", "permits", "served", "signals", "tasks", "wall", "wheel",
    )  # fmt: skip

    def __init__(
        self,
        options: DataplaneOptions,
        loop: Clock,
        permits: PermitsFile | None = None,
        counters: Counters | None = None,
        load_memory: LoadMemory | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.load_memory = load_memory or LoadMemory(None, options.workers)
        self.permits = permits or PermitsFile(None)
        self.now = now
        self._buckets: Buckets | None = None
        self._gateways = 1
        self._credentials: Credentials | None = None
        self.wall: Callable[[], float] = time.time
        self._date = (-1, b"")
        self._loop = loop
        self.wheel = Wheel(loop, self.now)
        self.tasks = Tasks(lambda name, error: log.error(f"{name} ended: {told(error)}"))
        self.node = options.node.encode("latin-1")
        self._trusted = [ipaddress.ip_network(each) for each in options.trusted_proxies]
        self._clients: dict[tuple[bytes, bytes], bytes] = {}
        self._id = secrets.randbits(128)
        self._ids: list[bytes] = []
        self._bits = random.Random().getrandbits  # noqa: S311 -- which arm, not a secret
        self._awake: dict[Callable[[], None], None] = {}  # in the order of their wishes
        self.generation = 1
        self.idle_queue = IdleQueue(loop.call_soon, self.now)
        self.counters = counters or Counters(Book())
        which = Sampling(options.access_log_percent, options.access_log_slow_s)
        self.log = AccessLog(options.access_log, which)
        self._dropped = (0, 0)
        memory = options.compare_memory
        self.outbox = Outbox(self.counters, options.compare_body, memory, self.later)
        self.ledger = Ledger(self.log, loop.call_later, self._noted)
        self.budget = RetryBudget(options.retry_percent / 100.0, options.retry_min_per_s)
        self.notify: Callable[[], None] = _nobody
        self.signals: deque[tuple[str, float, str, str]] = deque(maxlen=MAX_SIGNALS)
        self.asked: dict[str, None] = {}  # backends that requests wait for to be started
        self.demand: Mapping[str, tuple[float, bool]] = {}
        """Of those that start on demand: how long they load, and whether they cannot be loaded."""
        self.served: Mapping[str, str] = {}
        self.judges: Mapping[str, Judge] = {}  # by route, while a rollout runs there

    @property
    def buckets(self) -> Buckets:
        """What is counted of limits, with the other workers; made when a limit is configured."""
        if self._buckets is None:
            self._buckets = Buckets(self.permits.file, self.options.workers)
            self._buckets.gateways = self._gateways
        return self._buckets

    def share_limits(self, gateways: int) -> None:
        """Of each limit of a key or a route this gateway takes its part from now on."""
        self._gateways = gateways
        if self._buckets is not None:
            self._buckets.gateways = gateways

    @property
    def credentials(self) -> Credentials:
        """How instances are met by more than plain HTTP; made when that is configured."""
        if self._credentials is None:
            self._credentials = Credentials(self.tasks)
        return self._credentials

    def random(self) -> int:
        """A number in [0, 2^64), for draws: nobody's secret, and the system's own chance would take
        a tenth of a request."""
        return self._bits(64)

    def fresh_id(self) -> bytes:
        """An id that no other request has: 32 hexadecimal digits, as a trace's."""
        return (self._ids or self._more_ids()).pop()

    def _more_ids(self) -> list[bytes]:
        made = hexlify(((self._id * _EACH + _STEPS) & _ALL).to_bytes(16 * _IDS, "big"))
        self._id = (self._id + _IDS * _ODD) & _MASK
        self._ids = ids = [made[at : at + 32] for at in range(0, len(made), 32)]
        return ids

    def date(self) -> bytes:
        """Now, as a Date header says it; made once a second."""
        second = int(self.wall())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    def trusts(self, address: str) -> bool:
        """Whether what a peer at `address` says of its own clients is believed."""
        if not self._trusted:
            return False
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._trusted)

    def client_of(self, peer: bytes, hops: bytes) -> bytes:
        """Who asked, where a trusted `peer` says for whom: its X-Forwarded-For is `hops`."""
        said = (peer, hops)
        client = self._clients.get(said)
        if client is None:
            client = client_of(peer, hops, self.trusts)
            if len(hops) <= _MAX_HOPS:
                if len(self._clients) >= _MAX_CLIENTS:
                    self._clients.clear()
                self._clients[said] = client
        return client

    def _noted(self, count: int) -> None:
        self.budget.note_request(self.now(), count)

    def count_dropped(self) -> None:
        """Counts the lines that the logs lost since this was last called."""
        dropped = self.log.dropped
        for log, lines, before in zip(("access", "messages"), dropped, self._dropped, strict=True):
            if lines > before:
                self.counters.add(LOG_DROPPED, "worker", log, count=lines - before)
        self._dropped = dropped

    def can_pay(self) -> bool:
        """Whether one more retry can be paid for."""
        self.ledger.flush()
        return self.budget.can_pay(self.now())

    def soon(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once, after the current event."""
        if not self._awake:
            self._loop.call_soon(self._wake)
        self._awake[wake] = None

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._loop.call_later(seconds, what)

    def _wake(self) -> None:
        awake, self._awake = self._awake, {}
        for wake in awake:
            wake()

    # observations for the control process; the channel takes them away

    def signalled(self, backend: str, signal: Signal) -> None:
        """What was seen of an instance is news: the others shall know."""
        self.signals.append((backend, *signal))
        self.notify()

    def ask_for(self, backend: str) -> None:
        """A request waits for `backend` to be started: whoever starts it shall know."""
        self.asked[backend] = None
        self.notify()

    def ejected(self, backend: str, address: str) -> None:
        """Counts an ejection for which a signal of this worker's own was the last one."""
        self.counters.add(EJECTIONS, backend, address)


def _nobody() -> None:
    """Whom a worker without a channel notifies."""
