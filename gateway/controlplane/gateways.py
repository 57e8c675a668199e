"""Which gateways share the table, and where is an edit in force?

The control process's side of a store that is shared: its own lease, the others as they say that
they are, whom an edit waits for and who is lost. How that gets through etcd is the store's.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.published import Everywhere, NotEverywhere
from gateway.controlplane.store.etcd.membership import BEHIND, Lease
from gateway.controlplane.store.etcd.watch import NOT_YET, Seen
from gateway.controlplane.store.store import Member, NotYet, Revision, Unavailable
from gateway.core.table import Table

log = logging.getLogger(__name__)
REMEMBERED_S = 3600.0
"""How long a gateway that lost its lease is named."""

WAIT_S = 30.0
"""How long an edit waits for a gateway that keeps its lease and does not take a revision over."""


LATER_S = 0.05
"""How long what nobody waits to hear may be kept for what comes next."""

FIRST_S = 10.0
"""How long the first edit waits for a lease that was not taken yet, unless it is known why: on a
busy machine a control process that starts again may need some seconds."""
COMING = (Lease().why, NOT_YET, BEHIND)


def out_by_command(table: Table) -> frozenset[str]:
    """The instances that get nothing new because somebody said so, as BACKEND/ADDRESS."""
    return frozenset(
        f"{name}/{each.address}"
        for name, backend in table.backends.items()
        for each in backend.instances
        if each.state
    )


class SharedStore(Protocol):
    """What is asked of the store; it calls back on a loop of its own."""

    is_copy: bool
    copied_gateways: int

    def follow(self, after: int, hear: Callable[[Revision], None]) -> None: ...

    def join(
        self,
        *,
        look: Callable[[Seen], None],
        told: Callable[[Lease], None],
        alive: Callable[[], Any],
    ) -> None: ...

    def announce(self, own: Member | None, within_s: float = 0.0) -> None: ...

    def stay(self, within_s: float = 0.0) -> None: ...


class SharedGateways:
    """The gateways of one store: this one, `own`, and the others. `tell(until, gateways,
    revision)` passes on to the workers until when they may count on the lease (monotonic seconds),
    and how many gateways there are, and notes it beside the revision by which they decide; `before`
    is what the control process before this one had told."""

    def __init__(
        self,
        store: SharedStore,
        own: Member,
        events: Events,
        tell: Callable[[float, int, int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
        before: tuple[float, int, int] = (0.0, 1, 0),
    ) -> None:
        self._store, self._own = store, own
        self._events, self._tell, self._clock = events, tell, clock
        self._wait_s = wait_s
        self._seen, self._lease, self._before = Seen(), Lease(), before[:2]
        self._decided = before[2]  # the revision by which workers decide
        self._changed = asyncio.Event()
        self._lost: dict[str, tuple[float, str]] = {}
        self._withdrawn = ""
        self._out: frozenset[str] = frozenset()
        self._just_out: frozenset[str] = frozenset()  # since the last look began
        self._was_held = False
        self._is_first = True
        self.heard: asyncio.Queue[Revision] = asyncio.Queue()
        self.on_rollouts: Callable[[Mapping[str, bytes]], object] = lambda kept: None
        """Hears what is kept of rollouts, whenever it changed."""
        self.behind = ""
        """Why workers were told nothing while etcd was away; empty where they were."""

    def go_on(self) -> None:
        """Has workers count on the lease that the control process before this one had: until it
        ends others wait for this gateway, which begins with the newest table."""
        self._pass_on()

    async def begin(self, after: int) -> None:
        """Hears of every revision after number `after`, and is one of the gateways once it has
        announced a table. On the loop of the control process."""
        loop = asyncio.get_running_loop()

        def here(call: Callable[..., None], *values: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call, *values)

        async def alive() -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_answered(), loop))

        join = partial(
            self._store.join,
            look=lambda seen: here(self._look, seen),
            told=lambda lease: here(self._note, lease),
            alive=alive,
        )
        await asyncio.to_thread(join)
        await asyncio.to_thread(
            self._store.follow, after, lambda revision: here(self.heard.put_nowait, revision)
        )

    async def seen(self) -> None:
        """Returns once etcd has said what is there."""
        while self._seen.away:
            await self._changed.wait()

    # -- what the publisher asks

    def check(self) -> None:
        """Raises Unavailable while the lease is not held: nothing could be said of the others.
        NotYet where it has just started, and takes one."""
        if not self.holds:
            kind = NotYet if self._is_coming else Unavailable
            raise kind(f"this gateway does not hold its lease in etcd ({self.why})")

    async def settled(self) -> None:
        """Returns once the lease was taken for the first time, or it is known why not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S):
                while self._is_coming:
                    await self._changed.wait()
        self._is_first = False

    @property
    def _is_coming(self) -> bool:
        return self._is_first and not self.holds and self.why in COMING

    def announce(self, table: Table, workers: int, *, awaited: bool = True) -> None:
        """All workers of this gateway decide by `table` now. What was edited here nobody else waits
        to hear of: unless `awaited`, it is said with what comes next, or a moment later."""
        before, self._out = self._out, out_by_command(table)
        # What was sent to who has just been taken out is not known yet.
        self._just_out |= self._out - before
        finishing = self._out & {*self._own.finishing, *self._just_out}
        self._withdrawn = ""
        self._decided = table.revision
        self._own = replace(
            self._own, applied=table.revision, workers=workers, finishing=tuple(sorted(finishing))
        )
        self._store.announce(self._own, 0.0 if awaited else LATER_S)
        self._pass_on()
        self._stir()

    def begin_look(self) -> frozenset[str]:
        """The instances that get nothing new by command, as BACKEND/ADDRESS: a look at the workers
        that begins now says at which of them are requests."""
        self._just_out = frozenset()
        return self._out

    def looked(self, busy: Collection[str]) -> None:
        """Tells the others at which of these instances requests are still in flight: those that the
        look found `busy`."""
        finishing = tuple(sorted(self._out & {*busy, *self._just_out}))
        if finishing != self._own.finishing:
            self._own = replace(self._own, finishing=finishing)
            if self._own.applied and not self._withdrawn:
                self._store.announce(self._own)

    def withdraw(self, why: str) -> None:
        """Gives up the lease, as this gateway cannot take over what the others decide by: nobody is
        to wait for it."""
        log.error(f"{why}; this gateway gives up its lease")
        self._withdrawn = why
        self._store.announce(None)

    async def stay(self, within_s: float) -> None:
        """Only this control process ends, and the workers decide on by the table that they have:
        the others are not told that this gateway goes. Another one follows in order within so many
        seconds, for which the lease lasts; 0: in none that is known."""
        await asyncio.to_thread(self._store.stay, within_s)

    async def in_force(self, revision: int) -> Everywhere:
        """Where `revision` is in force, once it is on every gateway that holds its lease."""
        end = self._clock() + self._wait_s
        while True:
            changed, late = self._changed, self._late(revision)
            if not self.holds:
                raise NotEverywhere(
                    revision,
                    f"this gateway has lost its lease meanwhile ({self.why}): others may still"
                    " decide by an older one",
                )
            if late is not None and not late:
                others = [each for each in self._live() if each.name != self._own.name]
                workers = self._own.workers + sum(each.workers for each in others)
                return Everywhere(1 + len(others), workers, self.lost)
            try:
                async with asyncio.timeout(min(1.0, max(0.0, end - self._clock()))):
                    await changed.wait()
            except TimeoutError:
                if self._clock() >= end:
                    raise NotEverywhere(
                        revision, f"gateway {', '.join(late or ['?'])} does not take it over"
                    ) from None

    def _late(self, revision: int) -> list[str] | None:
        """Who decides by an older one; None while what is known is older itself."""
        if self._seen.away or self._seen.head.number < revision:
            return None
        own = self._own.name
        return [e.name for e in self._live() if e.applied < revision and e.name != own]

    def note(self, table: Table) -> str:
        """What is worth knowing of a start with `table`; empty if nothing is."""
        if not self._store.is_copy:
            return ""
        return (
            f"etcd cannot be reached: going on with the copy of revision {table.revision} in the"
            " state directory; edits are refused until etcd is back"
        )

    def is_behind(self, revision: int, table: Table) -> bool:
        """Whether `table` is of a copy that is older than `revision`, by which a worker decides,
        and not known to be the newest that etcd has."""
        if not self._store.is_copy or revision <= table.revision:
            return False
        if self._seen.head.number == table.revision:
            return False
        if not self.behind:
            self.behind = (
                f"the copy in the state directory, of revision {table.revision}, is older than what"
                f" workers decide by, {revision}: they go on, and are told nothing until etcd is"
                " back"
            )
            log.error(f"etcd: {self.behind}")
        return True

    def refuse_older(self, table: Table) -> None:
        """Raises Unavailable where `table` is of a copy that is older than what the gateway decides
        by whose place this one is to take."""
        if self.is_behind(self._decided, table):
            raise Unavailable(f"etcd cannot be reached, and {self.behind}")

    # -- what is known

    @property
    def name(self) -> str:
        """That of this gateway."""
        return self._own.name

    @property
    def holds(self) -> bool:
        """Whether this gateway holds its lease."""
        return self._lease.until > self._clock()

    @property
    def why(self) -> str:
        """Why it does not; empty where it does."""
        return "" if self.holds else self._withdrawn or self._lease.why or "it was not renewed"

    @property
    def lost(self) -> list[str]:
        """The gateways that were there, and lost their lease without saying that they go."""
        now = self._clock()
        self._lost = {n: e for n, e in self._lost.items() if now - e[0] < REMEMBERED_S}
        return sorted(self._lost)

    def status(self, revision: int) -> dict[str, Any]:
        """`{"store": …, "gateways": {name: …}}` for the status page; `revision` is the one that is
        in force here."""
        newest = max(revision, self._seen.head.number)
        gateways: dict[str, Any] = {
            each.name: self._shown(each, newest) for each in self._live() if each.name
        }
        own = self._shown(self._own, newest)
        gateways[self._own.name] = {**own, "live": self.holds, "self": True}
        for name in self.lost:
            gateways.setdefault(name, {"live": False, "lost": self._lost[name][1]})
        store = {
            "kind": "etcd",
            "state": "away" if self._seen.away else "connected",
            "lease": "held" if self.holds else "lost",
            "why": self._away or self.why,
            "revision": self._seen.head.number,
            "copy": self._store.is_copy and not self._seen.head.number,
        }
        return {
            "store": store,
            "gateways": {name: gateways[name] for name in sorted(gateways)},
            "limits": {"divided_by": self._sharing},
        }

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Metric → labels → value."""
        revisions: dict[tuple[str, ...], float] = {
            (each.name,): float(each.applied) for each in self._live()
        }
        revisions[self._own.name,] = float(self._own.applied)
        return {
            "headgate_gateways": {(): float(len(self._live()))},
            "headgate_gateway_revision": revisions,
            "headgate_lease_held": {(): float(self.holds)},
            "headgate_store_up": {(): float(not self._seen.away)},
        }

    @property
    def driven_elsewhere(self) -> set[str]:
        """The routes whose rollouts other gateways drive."""
        return {route for route, name in self._seen.drivers.items() if name != self._own.name}

    def driver_elsewhere(self, route: str) -> str:
        """The other gateway that drives the rollout of `route`; "" where none does."""
        name = self._seen.drivers.get(route, "")
        return "" if name == self.name else name

    def admin_of(self, name: str) -> str:
        """Where that gateway's admin API is, as far as it is known."""
        member = self._seen.members.get(name)
        return member.admin if member is not None else "?"

    @property
    def _away(self) -> str:
        """Why nothing newer is known than what is here; empty where it is."""
        return "; ".join(filter(None, (self._seen.away, self.behind))) if self._seen.away else ""

    def _shown(self, member: Member, newest: int) -> dict[str, Any]:
        said: Mapping[str, Any] = asdict(member)
        shown = {key: said[key] for key in ("workers", "since", "admin", "finishing")}
        return {
            "live": True,
            "revision": member.applied,
            "behind": max(0, newest - member.applied),
            **shown,
        }

    @property
    def _sharing(self) -> int:
        """How many gateways share the limits: until one can look, as many as were there before."""
        if self._seen.head.number:
            return max(1, len(self._live()))
        return max(self._before[1], self._store.copied_gateways)

    def _live(self) -> list[Member]:
        """Whoever holds a lease and does not go."""
        return [each for each in self._seen.members.values() if each.workers]

    # -- what the store tells

    def _look(self, seen: Seen) -> None:
        before, self._seen = self._seen, seen
        if not seen.away:
            for name in before.members.keys() - seen.members.keys():
                if before.members[name].workers and name != self._own.name:
                    self._lost[name] = (self._clock(), utc_now())
                    self._say(name, "lost")
            for name in seen.members.keys() - before.members.keys():
                self._lost.pop(name, None)
                self._say(name, "joined")
        if before.away != seen.away:
            log.warning(f"etcd: {seen.away}" if seen.away else "etcd: connected")
        if before.rollouts != seen.rollouts and not seen.away:
            self.on_rollouts(seen.rollouts)
        self._pass_on()
        self._stir()

    def _note(self, lease: Lease) -> None:
        why, self._lease = self._lease.why, lease
        self._is_first = self._is_first and not self.holds
        if self.holds:
            self._before = (0.0, 1)
        is_news = self._was_held or lease.why not in (NOT_YET, BEHIND)
        if self.holds != self._was_held or (not self.holds and lease.why != why and is_news):
            self._was_held = self.holds
            said = "holds its lease" if self.holds else f"does not hold its lease: {self.why}"
            log.warning(f"etcd: this gateway {said}")
        self._pass_on()
        self._stir()

    def _pass_on(self) -> None:
        # Who begins with a copy may have an older table than was counted on.
        until = 0.0 if self._store.is_copy else self._before[0]
        self._tell(max(until, self._lease.until), self._sharing, self._decided)

    def _stir(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _say(self, name: str, what: str) -> None:
        self._events.publish({"type": "gateway", "gateway": name, "what": what})


async def _answered() -> None:
    """The loop does its work."""
