"""What is known here of one instance, and which connections to it are there?

The live side of one configured address: health, load, pool. Kept by identity across edits,
so that an edit resets nothing of what stays. The pool is plain state and one synchronous
decision (`take`). What a request does with a connection is not known here.
"""

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.balancing import Load
from gateway.core.health import CLEAR, Ejection, may_eject, slow_start
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.turns import Turns
from gateway.dataplane.upstream import Upstream

if TYPE_CHECKING:
    from gateway.dataplane.backend import LiveBackend
    from gateway.dataplane.context import Plane

REPORT = ("queue", "running", "slots", "wait_ms")
NEUTRAL_S = 0.02  # an idle connection closed sooner than this teaches nothing of idle limits
LEAST_IDLE_S = 0.1
IDLE_MARGIN_S = 1.0  # what an instance says of its idle limit is true of its own clock and socket
TIMEOUT_WEIGHT = 3  # it held a slot for its whole time, and few come before it has done harm


class LiveInstance(Timed):
    """One address of one backend: health, load, connections. Its deadline ends an ejection
    or moves on its slow start."""

    __slots__ = (
        "address", "backend", "connecting", "connections", "ejection", "gone", "host", "idle",
        "idle_limit_s", "label", "load", "plane", "port", "refused", "report", "returned_at",
        "seen_down", "state", "turns", "word",
    )  # fmt: skip

    def __init__(self, plane: "Plane", backend: "LiveBackend", address: str) -> None:
        super().__init__()
        self.plane = plane
        self.backend = backend
        self.address = address
        self.label = address.encode("latin-1", "replace")
        self.host: str | None = None
        self.port = 0
        self.state = ""
        self.word = "starting"
        self.seen_down = False
        self.ejection: Ejection = CLEAR
        self.load = Load()
        self.turns: Turns | None = None  # where requests are counted over all workers
        self.report: tuple[float, ...] = ()  # the last one, in the order of REPORT
        self.returned_at = -1e9
        self.gone = False
        self.refused = False  # turned a request away since it last answered well
        self.idle: list[Upstream] = []
        self.connections: set[Upstream] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self.idle_limit_s = plane.options.upstream_idle_s

    # the pool

    def take(self, now: float) -> Upstream | None:
        """A pooled connection that may carry a request, newest first; None: open one."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if (
                now - upstream.idle_since < self.idle_limit_s
                and now - upstream.born < self.plane.options.upstream_max_age_s
                and not upstream.transport.is_closing()
            ):
                upstream.is_reused = True
                return upstream
            upstream.abort()
        return None

    def put(self, upstream: Upstream, now: float) -> None:
        """A connection is idle again."""
        if self.gone or self.state == "disabled":
            upstream.abort()
            return
        upstream.idle_since = now
        self.idle.append(upstream)
        self.plane.wheel.set(upstream, now + self.idle_limit_s)

    def forget(self, upstream: Upstream) -> None:
        """An idle connection is not to be used again."""
        if upstream in self.idle:
            self.idle.remove(upstream)

    def lost(self, upstream: Upstream, was_idle: bool) -> None:
        """A connection ended. One that the instance closed while idle teaches its limit."""
        self.connections.discard(upstream)
        if was_idle:
            self.forget(upstream)
            idled_s = self.plane.now() - upstream.idle_since
            if NEUTRAL_S < idled_s < self.idle_limit_s and self.word == "up":
                self.idle_limit_s = max(LEAST_IDLE_S, idled_s * 0.8)

    def announced(self, idle_s: float | None) -> None:
        """The instance says for how long it keeps an idle connection."""
        if idle_s is not None and idle_s - IDLE_MARGIN_S < self.idle_limit_s:
            self.idle_limit_s = idle_s - IDLE_MARGIN_S

    def connect(self, ready: Callable[[Upstream], None], failed: Callable[[str], None]) -> None:
        """Opens a connection and calls one of the two; the task belongs to this instance."""
        task = asyncio.ensure_future(self._connect(ready, failed))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _connect(
        self, ready: Callable[[Upstream], None], failed: Callable[[str], None]
    ) -> None:
        if self.host is None:
            failed("The instance's name has no address yet.")
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.backend.config.timeouts.connect_s):
                _, upstream = await loop.create_connection(
                    lambda: Upstream(self), self.host, self.port
                )
        except TimeoutError:
            failed("Connecting to the instance took too long.")
        except OSError:
            failed("The instance refused the connection.")
        else:
            now = self.plane.now()
            upstream.born = upstream.idle_since = now
            self.connections.add(upstream)
            ready(upstream)

    def close_idle(self) -> None:
        while self.idle:
            self.idle.pop().abort()

    # room

    def limit_to(self, most: int, is_counted: bool) -> None:
        """From now on at most so many requests, each of which takes a turn where they are
        counted."""
        self.load.limit = most
        if is_counted:
            self.turns = self.plane.turns.at(self.backend.name, self.address)
        elif self.turns is not None and not self.turns.held:
            self.turns = None

    def takes(self) -> bool:
        """Whether one more request may be sent, for all that other workers have sent. If so it
        must be, until `freed`; if not, there is no room for a moment."""
        backend = self.backend
        if self.turns is None or not backend.is_counted or self.turns.take(backend.most):
            return True
        self.load.limit = self.load.in_flight
        backend.look_again()
        return False

    def freed(self) -> None:
        """A request is off this instance, however it ended."""
        self.load.done()
        if self.turns is not None:
            self.turns.give()
            self.load.limit = self.backend.most
        if self.gone:
            if not self.load.in_flight:
                self.plane.instances.left(self)
        elif self.backend.waiting:
            self.plane.soon(self.backend)

    # health

    def turned_away(self, now: float) -> None:
        """Takes in that a request was not worked on: no connection was to be had, or whoever is
        there takes none yet, or none any more."""
        self.refused = True
        self.load.refused(now)
        self.backend.turned_away(now)

    def note(self, signal: str, now: float) -> None:
        """Takes passive evidence: `success`, or a failure by its name."""
        if signal == "connect_failure":
            self.turned_away(now)
        if signal == "success" and self.ejection is CLEAR:
            return
        backend = self.backend
        before = self.ejection.until
        allowed = may_eject(self.address, backend.words(), backend.ejected(now))
        for _ in range(TIMEOUT_WEIGHT if signal == "timeout" else 1):
            self.ejection = self.ejection.after(signal, now, backend.config.eject, allowed)
        self.plane.signalled(self, signal)
        if self.ejection.until > max(before, now):
            self.plane.ejected(self, now)
            self.close_idle()
            self.plane.wheel.set(self, self.ejection.until)
            backend.refresh()

    def follow_ejection(self, seconds: float, times: int, now: float) -> None:
        """Another worker ejected this instance, or let it back in (0 seconds)."""
        eject = self.backend.config.eject
        if seconds > 0:
            self.ejection = Ejection(eject.failures, now + seconds, times)
            self.plane.wheel.set(self, self.ejection.until)
        else:
            self.ejection = CLEAR
        self.backend.refresh()

    def hear(self, word: str, now: float) -> bool:
        """Takes the word of the probes; whether it is news."""
        if word == self.word:
            return False
        came_back = word == "up" and self.word != "starting"
        if word == "up":
            self.refused = False
        if word == "up" and (came_back or self.seen_down):
            self.ejection = self.ejection.after("recovered", now, self.backend.config.eject)
            self._return(now)
        if word in ("down", "starting"):
            self.seen_down = True
            self.idle_limit_s = self.plane.options.upstream_idle_s  # a new process, unknown again
            self.close_idle()
        self.word = word
        return True

    def _return(self, now: float) -> None:
        self.returned_at = now
        load = self.load
        load.weight = slow_start(0.0)
        # What was learned before says nothing of it now: one request asks at once.
        load.failures = 0
        load.shunned_until = 0.0
        load.learned_at = -math.inf
        self.plane.wheel.set(self, now + 0.5)

    def expired(self, now: float) -> None:
        """An ejection ended, or slow start moves on."""
        if self.ejection.is_ejected(now):
            self.plane.wheel.set(self, self.ejection.until)
            return
        if self.ejection.until and self.returned_at < self.ejection.until:
            self._return(self.ejection.until)
        self.load.weight = slow_start(now - self.returned_at)
        if self.load.weight < 1.0:
            self.plane.wheel.set(self, now + 0.5)
        self.backend.refresh()

    @property
    def idle_and_gone(self) -> bool:
        return self.gone and not self.load.in_flight
