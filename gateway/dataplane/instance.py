"""What is known here of one instance, and does it take one more request?

The live side of one configured address: health, load, pool. Kept by identity across edits,
so that an edit resets nothing of what stays.
"""

import math
from abc import abstractmethod
from collections.abc import Sized
from typing import Final

from gateway.core.evidence import Evidence
from gateway.core.health import UNKNOWN, HealthState, slow_start
from gateway.core.instance_load import Load
from gateway.core.table import Backend, Instance
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.meeting import Meeting
from gateway.dataplane.permits import Permits
from gateway.dataplane.pool import Pool
from gateway.dataplane.shared import Shared

REPORT: Final = ("queue", "running", "slots", "wait_ms")


class Group(Timed):
    """The backend that an instance belongs to, as far as its instances and those who ask them
    know it."""

    __slots__ = (
        "config", "evidence", "is_counted", "max_in_flight", "met", "name", "serving",
        "timeout_line", "waiting",
    )  # fmt: skip
    name: str
    config: Backend
    evidence: Evidence
    serving: "tuple[LiveInstance, ...]"
    waiting: Sized
    met: Meeting
    timeout_line: bytes  # and the lines of `met` behind it
    max_in_flight: int
    is_counted: bool

    @abstractmethod
    def refresh(self) -> None: ...
    @abstractmethod
    def look_who_takes(self, now: float) -> None: ...
    @abstractmethod
    def look_again(self) -> None: ...
    @abstractmethod
    def wake(self) -> None: ...
    @abstractmethod
    def turn_away(self) -> None: ...


class LiveInstance(Timed):
    """One address of one backend: health, load, connections. Its deadline ends an ejection
    or moves on its slow start."""

    __slots__ = (
        "address", "backend", "gone", "health", "is_suspect", "label", "load", "permits", "pool",
        "report", "reported", "returned_at", "shared", "state", "taken",
    )  # fmt: skip

    def __init__(self, shared: Shared, backend: Group, address: str) -> None:
        super().__init__()
        self.shared = shared
        self.backend = backend
        self.pool = Pool(shared, backend.config.timeouts)
        self.address = address
        self.label = address.encode("latin-1", "replace")
        self.state = ""
        self.health: HealthState = UNKNOWN
        self.is_suspect = True  # a good answer would be news
        self.load = Load()
        self.load.shared = shared.load_memory.load(backend.name, address)
        self.permits: Permits | None = None  # where requests are counted over all workers
        self.taken = 0  # permits that its requests have
        self.report = (0.0, 0.0, 0.0, 0.0)  # the last one, in the order of REPORT
        self.reported = b""  # as it came
        self.returned_at = -1e9
        self.gone = False

    def __repr__(self) -> str:
        of = f"{self.address} of {self.backend.name}"
        return f"<{of}: {self.health.word}, in flight {self.load.in_flight}, {self.pool!r}>"

    def configure(self, configured: Instance, hosts: tuple[str, ...]) -> None:
        """Takes an edit of the instance or its backend, or the addresses that a name leads to."""
        pool = self.pool
        pool.lead_to(hosts, configured.port)
        pool.timeouts = self.backend.config.timeouts
        tls = self.backend.config.tls
        name = (tls and tls.server_name) or configured.host
        pool.meet(configured.secure, name if configured.secure else "", self.backend.met.credential)
        self.state = configured.state
        pool.is_closed = configured.state == "disabled"
        if pool.is_closed:
            pool.close_idle()

    def leave(self) -> None:
        """Gives the instance nothing new, as it was removed; it finishes what it has."""
        self.gone = self.pool.is_closed = True
        if self.permits is not None:
            self.permits.resign()
        self.pool.close_idle()
        if self.load.shared is not None:
            self.load.shared = None
            self.shared.load_memory.leave(self.backend.name, self.address)

    # -- room

    def limit_to(self, limit: int, is_counted: bool) -> None:
        """From now on at most so many requests, each of which takes a permit where they are
        counted."""
        self.load.limit = limit
        if is_counted:
            self.permits = self.shared.permits.at(self.backend.name, self.address)
            # Those that were sent uncounted count from now on as well.
            while self.taken < min(self.load.in_flight, limit) and self.permits.adopt(limit):
                self.taken += 1
        else:
            self._give(self.taken)
            self.permits = None

    def takes(self) -> bool:
        """Whether one more request may be sent, for all that other workers have sent. If so it
        must be, until `freed`; if not, there is no room for a moment."""
        backend = self.backend
        if self.permits is None or not backend.is_counted:
            return True
        if self.permits.acquire(backend.max_in_flight) or self._replaces_a_stalled_one():
            self.taken += 1
            return True
        self.load.limit = self.load.in_flight
        backend.look_again()
        return False

    def pass_over(self) -> None:
        """Leaves the next permit to another worker, and looks again in a moment."""
        if self.permits is not None:
            self.permits.resign()
        self.load.limit = self.load.in_flight
        self.backend.look_again()

    def _replaces_a_stalled_one(self) -> bool:
        """Whether there is a permit beyond the limit, for one of a worker that does nothing: it
        gives none back, and whoever waits for that is not answered until it goes on or ends."""
        shared = self.load.shared
        stalled = shared.stalled() if shared is not None else 0
        if not stalled or self.permits is None:
            return False
        return self.permits.adopt(self.backend.max_in_flight + stalled)

    def held(self) -> None:
        """A request is there from now on without being computed: somebody else may be."""
        self.load.stop_computing()
        if self.backend.waiting:
            self.shared.soon(self.backend.wake)

    def freed(self, is_held: bool = False) -> None:
        """A request is off this instance, however it ended."""
        self.load.done(is_held)
        if self.permits is not None:
            self._give(self.taken - self.load.in_flight)
            self.load.limit = self.backend.max_in_flight
        if self.backend.waiting and not self.gone:
            self.shared.soon(self.backend.wake)

    def _give(self, count: int) -> None:
        for _ in range(count):
            assert self.permits is not None
            self.permits.release()
            self.taken -= 1

    # -- health

    def note(self, signal: str, now: float) -> None:
        """Takes in what a request met here. What is news goes to all other workers too."""
        evidence = self.backend.evidence
        seen = evidence.note(self.address, signal, now)
        if seen is not None:
            self.shared.signalled(self.backend.name, seen)
            self.become(evidence.states[self.address], now)

    def become(self, state: HealthState, now: float) -> None:
        """From now on `state` is what is known of this instance."""
        before, self.health = self.health, state
        load = self.load
        self.is_suspect = not state.is_clear
        self.pool.is_up = state.word == "up"
        load.is_new = state.is_new
        load.avoid_until = state.avoid_until
        if state.returned_at > before.returned_at:
            self._return(state.returned_at, now)
        if state.word != before.word and state.word in ("down", "starting"):
            self.pool.start_afresh()
        is_out = state.ejected_until > max(before.ejected_until, now)
        if is_out:
            if self.backend.evidence.has_ejected(self.address):
                self.shared.ejected(self.backend.name, self.address)
            self.pool.close_idle()
            self.shared.wheel.set(self, state.ejected_until)
        if is_out or state.word != before.word or state.ejected_until < before.ejected_until:
            self.backend.refresh()
        if state.is_away or before.is_away or state.ill or before.ill:
            self.backend.look_who_takes(now)

    def _return(self, at: float, now: float) -> None:
        """Gives an instance that came back its load little by little (slow start)."""
        self.returned_at = at
        self.load.weight = slow_start(now - at)
        # What was learned before says nothing of it now: one request asks at once.
        self.load.learned_at = -math.inf
        self.shared.wheel.set(self, now + 0.5)

    def expired(self, now: float) -> None:
        """An ejection ended, or slow start moves on."""
        until = self.health.ejected_until
        if until > now:
            self.shared.wheel.set(self, until)
            return
        if until > self.returned_at:
            self._return(until, now)
        self.load.weight = slow_start(now - self.returned_at)
        if self.load.weight < 1.0:
            self.shared.wheel.set(self, now + 0.5)
        self.backend.refresh()

    def give_up(self) -> None:
        """A fault of ours while an ejection ended: it is tried again."""
        self.shared.wheel.set(self, self.shared.now() + 1.0)
