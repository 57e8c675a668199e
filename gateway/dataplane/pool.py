"""The connection pool of one instance: which may carry the next request?

A connection pool: plain state and one synchronous decision (`take`). What a request does with a
connection is not known here.
"""

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.core.addresses import is_listener
from gateway.core.health import connect_signal
from gateway.core.pooling import IdleLimit
from gateway.core.table import Timeouts
from gateway.dataplane.deadlines import fault
from gateway.dataplane.shared import Shared
from gateway.dataplane.upstream import STATES, Owner, Upstream
from gateway.processes.connecting import connect_any
from gateway.processes.credentials import CredentialError, Held, why_not_trusted
from gateway.processes.sockets import is_here

ConnectFailed = Callable[[str, str], None]
"""Gets the signal, a key of NO_CONNECTION, `exhausted` or `untrusted`; and a client's words."""

NO_CONNECTION: Final = {
    "refused": "The instance refused the connection.",
    "unreachable": "No connection to the instance could be made in time.",
    "unresolved": "The instance has no address yet, or one that no instance may have.",
}
"""Why no connection was to be had, and in the words that a client is told."""

EXHAUSTED: Final = "The gateway has no file descriptor, port or memory left for a connection."

GLANCE_S: Final = 0.1
"""Whether a connection that was idle for longer was ended meanwhile, the kernel is asked. After a
moment in which this process could not run it knows of all that were, and we of none."""

MAX_WATCHED: Final = 4  # connections of an instance that are kept without use, for what they teach
ALIVE_S: Final = 2.0  # bytes that came of it within this time show that somebody is there


class Pool(Owner):
    """The connections to one instance. It `is_closed` to those that end their request; `is_up`
    says that what the instance closes, it closes for being idle."""

    __slots__ = (
        "connecting", "connections", "credential", "hosts", "idle", "idle_limit_s", "idling",
        "is_closed", "is_secure", "is_up", "port", "server_name", "watched",
    )  # fmt: skip

    def __init__(self, shared: Shared, timeouts: Timeouts) -> None:
        self.shared = shared
        self.timeouts = timeouts
        self.hosts: tuple[str, ...] = ()  # its addresses: the one in use, and others that may do
        self.port = 0
        self.credential: Held | None = None
        self.is_secure = False
        self.server_name = ""
        self.is_closed = False
        self.is_up = False
        self.idle: list[Upstream] = []
        self.connections: set[Upstream] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self.watched: set[Upstream] = set()
        self.idling = IdleLimit(shared.options.upstream_idle_s)
        self.idle_limit_s = self.idling.limit_s

    def __repr__(self) -> str:
        states = Counter(STATES[each.state] for each in self.connections)
        counts = [f"{states[word]} {word}" for word in STATES if states[word]]
        watched = [f"{len(self.watched)} watched"] if self.watched else []
        return f"<connections: {', '.join(counts + watched) or 'none'}>"

    def take(self, now: float) -> Upstream | None:
        """A pooled connection that may carry a request, newest first; None: open one."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            idled_s = now - upstream.idle_since
            if idled_s > GLANCE_S and upstream.is_hung_up():
                # Its end is on the way to us, and teaches what there is to learn.
                self.shared.wheel.drop(upstream)
                continue
            if (
                idled_s < self.idle_limit_s
                and now - upstream.born < self.shared.options.upstream_max_age_s
                and not upstream.transport.is_closing()
            ):
                upstream.is_reused = True
                return upstream
            self._retire(upstream, now)
        return None

    def put(self, upstream: Upstream, now: float) -> None:
        if self.is_closed:
            upstream.abort()
            return
        upstream.idle_since = now
        self.idle.append(upstream)
        self.shared.wheel.set(upstream, now + self.idle_limit_s)

    def forget(self, upstream: Upstream) -> None:
        self.watched.discard(upstream)
        if upstream in self.idle:
            self.idle.remove(upstream)

    def rested(self, upstream: Upstream, now: float) -> None:
        """An idle connection is past the limit, or was watched for long enough."""
        if upstream not in self.watched:
            self.idle.remove(upstream)
            self._retire(upstream, now)
            return
        idled_s = now - upstream.idle_since
        self.idling.outlived(idled_s)
        self.idle_limit_s = self.idling.limit_s
        self.watched.discard(upstream)
        if idled_s < self.shared.options.upstream_idle_s:
            self._retire(upstream, now, 2.0 * idled_s)
        else:
            upstream.abort()

    def _retire(self, upstream: Upstream, now: float, least_s: float = 0.0) -> None:
        """Uses a connection no more. A few are kept for a while, to see whether the instance
        keeps them too."""
        watch_s = self.idling.watch_s
        if watch_s is None or len(self.watched) >= MAX_WATCHED or upstream.transport.is_closing():
            upstream.abort()
            return
        self.watched.add(upstream)
        self.shared.wheel.set(upstream, max(now, upstream.idle_since + max(watch_s, least_s)))

    def lost(self, upstream: Upstream, was_idle: bool) -> None:
        """A connection ended. One that the instance closed while idle teaches its limit."""
        self.connections.discard(upstream)
        if was_idle:
            self.forget(upstream)
            if self.is_up:
                now = self.shared.now()
                self.idling.closed(now, now - upstream.idle_since)
                self.idle_limit_s = self.idling.limit_s

    def announced(self, idle_s: float | None) -> None:
        if idle_s is not None:
            self.idling.announced(idle_s)
            self.idle_limit_s = self.idling.limit_s

    def connect(
        self, ready: Callable[[Upstream], None], failed: ConnectFailed, give_up: Callable[[], None]
    ) -> None:
        """Opens a connection and calls one of the first two, or `give_up` after a fault of
        ours; the task belongs to this instance."""
        work = self._guarded(self._connect(ready, failed), give_up)
        task = self.shared.tasks.run("connecting to an instance", work)
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _guarded(self, work: Awaitable[None], give_up: Callable[[], None]) -> None:
        try:
            await work
        except Exception:
            fault(give_up)

    async def _connect(self, ready: Callable[[Upstream], None], failed: ConnectFailed) -> None:
        # Judged here, at each connection: names and this machine's addresses change.
        ours = self.shared.options.listeners
        hosts = [each for each in self.hosts if not is_listener(each, self.port, ours, is_here)]
        if not hosts:
            failed("unresolved", NO_CONNECTION["unresolved"])
            return
        try:
            upstream = await connect_any(hosts, self.timeouts.connect_s, self._open)
        except TimeoutError:
            failed("unreachable", NO_CONNECTION["unreachable"])
        except (ssl.SSLError, CredentialError) as error:
            failed("untrusted", f"The instance {why_not_trusted(error)}.")
        except OSError as error:
            signal = connect_signal(error.errno)
            failed(signal, NO_CONNECTION.get(signal, EXHAUSTED))
        else:
            now = self.shared.now()
            upstream.born = upstream.idle_since = now
            self.connections.add(upstream)
            ready(upstream)

    async def _open(self, host: str) -> Upstream:
        """A connection as instances are met now, if that changes meanwhile too."""
        loop = asyncio.get_running_loop()
        while True:
            met = self.credential
            secure: dict[str, Any] = {}
            if met is not None:
                context = (await met.get()).context
                if self.is_secure:
                    secure = {"ssl": context, "server_hostname": self.server_name}
            _, upstream = await loop.create_connection(
                lambda: Upstream(self), host, self.port, **secure
            )
            if met is self.credential:
                self._use(host)
                return upstream
            upstream.abort()

    def lead_to(self, hosts: tuple[str, ...], port: int) -> None:
        """Takes the addresses that its name leads to now. What it used goes on as long as it is one
        of them; else all traffic follows."""
        was = self.hosts[:1]
        self.hosts, self.port = hosts, port
        if was and was[0] in hosts:
            self._prefer(was[0])
        elif was:
            self.renew()

    def _use(self, host: str) -> None:
        """A connection to `host` was made, and none to those before it."""
        if host in self.hosts[1:]:
            self._prefer(host)
            self.renew()

    def _prefer(self, host: str) -> None:
        self.hosts = (host, *[each for each in self.hosts if each != host])

    def meet(self, is_secure: bool, server_name: str, credential: Held | None) -> None:
        """From the next connection on instances are met like this."""
        if (
            credential is not self.credential
            or is_secure != self.is_secure
            or server_name != self.server_name
        ):
            self.is_secure, self.server_name = is_secure, server_name
            self.credential = credential
            self.renew()

    def renew(self) -> None:
        """No request is begun any more on the connections that there are."""
        for each in self.connections:
            each.born = -math.inf
        self.close_idle()

    def close_idle(self) -> None:
        """Ends all connections that carry no request."""
        for pool in (self.idle, self.watched):
            while pool:
                pool.pop().abort()

    def start_afresh(self) -> None:
        """Whoever answers at this address next is a new process: nothing is known of it."""
        self.close_idle()
        self.idling = IdleLimit(self.shared.options.upstream_idle_s)
        self.idle_limit_s = self.idling.limit_s

    def is_alive(self, now: float) -> bool:
        """Whether bytes of it came lately: a stream that goes on shows that somebody is there,
        whoever gets no connection."""
        idle_s = self.timeouts.idle_s
        return any(
            each.is_answering and each.deadline - idle_s > now - ALIVE_S
            for each in self.connections
        )
