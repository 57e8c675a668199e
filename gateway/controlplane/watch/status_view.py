"""The status view: who is well, who gets requests, how many and how fast.

Brings together what the prober, the resolver and the workers know, for the status, the metrics and
the events. It decides nothing: who may get requests is said in `standing`, how the status looks in
`status`, and what subscribers hear in `announcing`.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any

from gateway.controlplane.events import utc_now
from gateway.controlplane.watch.alerts import alerts
from gateway.controlplane.watch.counters import Totals
from gateway.controlplane.watch.effective import Effective, Shares, shares
from gateway.controlplane.watch.health_book import Key
from gateway.controlplane.watch.key_use import KeyUse, UseFile
from gateway.controlplane.watch.pacing import Coalesced
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.rates import GATEWAY, Sums, Window
from gateway.controlplane.watch.resolver import Resolver
from gateway.controlplane.watch.retiring import Retiring, consumers_gone, places_of
from gateway.controlplane.watch.standing import BackendStanding, Standing
from gateway.controlplane.watch.status import (
    Health,
    Load,
    backends_of,
    routes_of,
    why_unwell,
    workers_of,
)
from gateway.controlplane.watch.tallies import Change, Tally
from gateway.controlplane.workers import Workers
from gateway.core.table import Table
from gateway.telemetry import exposition
from gateway.telemetry.catalogue import Gone
from gateway.telemetry.metrics import COMPARED, CONSUMED, REQUESTS
from gateway.telemetry.series import Labels

KEYS_S = 10.0
"""How often is read what was counted of consumers while nobody asks for it: all of ten thousand
may have been there since."""

READ_PART, READ_WITHIN_S = 0.01, 5.0
"""While nobody asks, no more of a core than this part is spent on reading what was counted; but it
is read that often, whatever it takes."""

SECOND_S = 1.0
"""How long rates are of at least, which are asked for more often."""

SLICE_S = 0.005
"""How long reading, or the answer to a scrape, may keep the loop of the control process at a
time."""


class StatusView:
    """The live view of the table that `table()` gives. `fleet` adds the instance processes, where
    some are held to it, and `asleep` names those that start once a request asks for them;
    `rollouts` are those that are remembered, by route; `counted` is told what was counted, and
    until when; `spent` are the seconds of processor time that were spent here so far."""

    def __init__(
        self,
        table: Callable[[], Table],
        workers: Workers,
        prober: Prober,
        resolver: Resolver,
        totals: Totals,
        *,
        fleet: Callable[[], Mapping[str, Any]] = dict,
        asleep: Callable[[], frozenset[str]] = frozenset,
        rollouts: Callable[[], Mapping[str, Any]] = dict,
        key_use: KeyUse | None = None,
        counted: Callable[[float, Sums], object] = lambda now, sums: None,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._table, self._workers = table, workers
        self._prober, self._resolver = prober, resolver
        self._clock, self._fleet, self._coming = clock, fleet, asleep
        self._rollouts = rollouts
        self._counted, self._spent = counted, spent
        self._begun, self._begun_at = clock(), utc_now()
        self._totals, self._exposition = totals, exposition.Exposition(totals)
        self._window, self._key_use = Window(), key_use or KeyUse(UseFile(None), clock=clock)
        self._queued_at: dict[str, float] = {}
        self._retiring, self._retiring_keys = Retiring(), Retiring()
        self._keys_at, self._of_keys = -math.inf, list[Change]()
        self.read_at, self._read_next = -math.inf, -math.inf
        self._rated_at, self._reading = -math.inf, asyncio.Lock()
        self._look = Coalesced("reading the counters", self._look_once)
        self._beaten = Coalesced("asking the workers", self._look_at_workers)
        self._scraped = Coalesced("reading the counters", self._look_at_all_counters)
        self._effective = Effective()
        self._standing = Standing(
            table, lambda: prober.words, prober.health.ejected, lambda: resolver.endpoints
        )

    # -- what is asked

    async def status(self) -> dict[str, Any]:
        """Everything, as `/admin/v1/status` shows it."""
        await self._look()
        table, standing = self._table(), self._standing.backends()
        found: dict[str, Any] = {
            "revision": table.revision,
            "control": {
                "pid": os.getpid(),
                "started": self._begun_at,
                "uptime_s": round(self._clock() - self._begun, 3),
            },
            "workers": workers_of(
                self._workers.slots, {link.pid: link.revision for link in self._workers.connected}
            ),
            "silent_workers": self._workers.silent,
            "gateway": self._window.of(*GATEWAY),
            "routes": routes_of(table.routes, self.effective_shares(), self._window),
            "backends": backends_of(
                standing, self._asleep(), self._health(), self._load(standing), self._window
            ),
            **self._fleet(),
        }
        for route, rollout in self._rollouts().items():
            if route in found["routes"]:
                found["routes"][route]["rollout"] = rollout
        return {**found, "alerts": alerts(found)}

    async def metrics(
        self,
        accept: str,
        counted: Mapping[str, Mapping[Labels, int]],
        others: Mapping[str, Mapping[Labels, float]],
    ) -> tuple[str, bytes]:
        """Content type and content of a scrape, for the scraper's Accept header; `counted` is
        what others than the workers counted, `others` are gauges of which nothing is known here."""
        await self._scraped()
        loads = self._workers.loads
        live = exposition.Gauges(
            self._table(), self.up(), self.effective_shares(),
            loads.in_flight(), loads.queue_depth(), loads.limits(), counted, others,
        )  # fmt: skip
        kind, pieces = self._exposition.pieces(live, accept)
        return kind, await joined(pieces)

    async def _look_once(self) -> None:
        await self._workers.look()
        await self._note()
        if self._clock() - self._rated_at >= SECOND_S:
            self._rate()

    async def _look_at_workers(self) -> None:
        await self._workers.look(reports=False)

    async def _look_at_all_counters(self) -> None:
        await self._workers.look(reports=False)
        await self._note(keys=True, shown=True)

    async def _note(self, *, keys: bool = False, shown: bool = False) -> None:
        """Takes in what was counted, and that of `keys` if that is asked or due, and makes ready
        what is shown if it shall be; a little at a time, so that others are attended to meanwhile.
        """
        loop = asyncio.get_running_loop()
        async with self._reading:
            now = self._clock()
            keys, until = keys or now - self._keys_at >= KEYS_S, loop.time() + SLICE_S
            times = self._totals.settling() if shown else ()
            for _ in chain(self._totals.reading(apart=keys), times):
                if loop.time() > until:
                    self._note_told()
                    await asyncio.sleep(0)
                    until = loop.time() + SLICE_S
            self._note_told()
            self.read_at = now
            if keys:
                self._keys_at = now
                self._key_use.note(self._of_keys)
                self._of_keys = []

    def _note_told(self) -> None:
        changes = self._totals.told()
        self._window.note(changes)
        self._of_keys += [change for change in changes if change.metric == CONSUMED]

    def _rate(self) -> None:
        """What was noted since the last time was counted until now: rates are of that."""
        self._rated_at = self._clock()
        self._counted(self._rated_at, self._window.beat(self._rated_at))

    def busy(self, instances: Collection[str]) -> list[str]:
        """Which of `instances`, BACKEND/ADDRESS each, may have requests of this gateway in flight,
        or get those that wait already: all of them while a worker does not say."""
        if self._workers.silent:
            return sorted(instances)
        found, waiting = self._workers.loads.in_flight(), self._workers.loads.queue_depth()
        return sorted(
            {
                f"{name}/{instance.address}"
                for name, seen in self._standing.backends().items()
                for instance, address in seen.instances
                if instance.state
                and (found.get(name, {}).get(address) or (waiting.get(name) and not seen.serving))
            }.intersection(instances)
        )

    async def keys_used(self) -> dict[str, dict[str, Any]]:
        """Key → `last_used`, `requests_per_s`, and how many `requests` there were and how many of
        them were `refused`."""
        await self._scraped()
        return {
            name: {**self._key_use.of(name), "requests_per_s": self._key_use.per_s(name)}
            for name in self._table().keys
        }

    def effective(self, route: str) -> Shares:
        """Backend → the share of `route`'s requests that it gets now; {} for no such route.

        The shares add up to 1, or to less where requests are refused, or go where nobody
        answers.
        """
        return self.effective_shares().get(route, {})

    def effective_shares(self) -> Mapping[str, Shares]:
        """`effective` of every route."""
        available, working = self.available(), self.working()
        takes = available - self._lost(available - working)
        return self._effective.of(
            self._table().routes,
            takes,
            working,
            lambda route: {
                name: share if name in working else 0.0
                for name, share in shares(route, takes).items()
            },
        )

    def _lost(self, names: frozenset[str]) -> frozenset[str]:
        """The backends whose requests go to others of their routes: each instance is lost, so that
        workers call them vacant."""
        standing, state = self._standing.backends(), self._prober.health.state
        return frozenset(
            name
            for name in names
            if name in standing
            and standing[name].serving
            and all(
                state(Key(name, address)).is_lost(standing[name].backend.eject)
                for address in standing[name].serving
            )
        )

    def _asleep(self) -> frozenset[str]:
        """The backends that start once a request asks for them."""
        backends = self._table().backends
        return frozenset(n for n in self._coming() if n in backends and backends[n].on_demand)

    def requests(self) -> Mapping[Labels, Tally]:
        """What was counted of requests, by route, backend and instance."""
        return self._totals.of(REQUESTS)

    def counted(self) -> tuple[int, int]:
        """How many requests met a route since the gateway started, and how many of them failed
        (5xx)."""
        requests = failed = 0
        for (route, *_), tally in self._totals.of(REQUESTS).items():
            for key, count in tally.counts.items() if route else ():
                requests += int(count)
                failed += int(count) if isinstance(key, tuple) and key[1] >= "500" else 0
        return requests, failed

    def compared(self, route: str, backend: str) -> dict[str, int]:
        """Verdict → how often workers came to it for a pair with the mirror `backend`."""
        found: dict[str, int] = {}
        for labels, tally in self._totals.of(COMPARED).items():
            for key, count in tally.counts.items():
                *which, verdict = (*labels, *(key if isinstance(key, tuple) else ()))
                if which == [route, backend]:
                    found[verdict] = found.get(verdict, 0) + int(count)
        return found

    def up(self) -> Mapping[str, Mapping[str, bool]]:
        """Backend → address → whether it is well: ready, not ejected, not out by command.

        When none is, some that are not well may still get requests (fail open).
        """
        return self._standing.up()

    def available(self) -> frozenset[str]:
        """The backends that have an instance that may get requests, or have one started then."""
        return self._standing.available() | self._asleep()

    def working(self) -> frozenset[str]:
        """The backends of `available` of which anybody knows that they answer: one of their
        instances is well, or, where none is and requests go to those that are not (fail open),
        one of them answered all the same while the probes failed that say so."""
        up = self.up()
        return (
            frozenset(
                name
                for name in self.available()
                if any(up.get(name, {}).values()) or self._answers(name)
            )
            | self._asleep()
        )

    def why_unwell(self, backend: str) -> str:
        """Why no instance of `backend` can serve; "" if it has none."""
        seen = self._standing.backends().get(backend)
        return "" if seen is None else why_unwell(backend, seen, self._causes())

    def _answers(self, name: str) -> bool:
        backend = self._table().backends.get(name)
        if backend is None:
            return False
        health = backend.health
        failing_s = health.fall * max(health.interval_s, health.timeout_s)
        return self._window.was_answered(name, self._clock() - failing_s)

    # -- what is told

    async def beat(self) -> None:
        """Looks at this second; at what was counted in it as well, unless that took long a moment
        ago: who asks reads it anyway."""
        await self._beaten()
        now = self._clock()
        queued = self._workers.loads.queue_depth()
        self._queued_at = {name: self._queued_at.get(name, now) for name, n in queued.items() if n}
        self._key_use.beat(self._table().keys)
        if now >= self._read_next:
            before = self._spent()
            await self._take_in(now)
            took_s = self._spent() - before
            self._read_next = now + min(took_s / READ_PART, READ_WITHIN_S)

    async def _take_in(self, now: float) -> None:
        """Reads what was counted until `now`, and retires what has long been gone."""
        read_at = self._keys_at
        await self._note()
        self._rate()
        self._retire(self._retiring, places_of(self._totals.of(REQUESTS)), now)
        if self._keys_at != read_at:
            consumed = self._totals.of(CONSUMED)
            gone = consumers_gone(consumed, self._table().keys)
            self._retire(self._retiring_keys, gone, now)

    def _retire(self, retiring: Retiring, counted: set[Gone], now: float) -> None:
        """Counts together what has been gone for long."""
        gone, name = retiring.due(counted, self._is_here, now)
        if gone:
            self._totals.retire(gone, name)
            self._workers.retire(gone, name)

    def _is_here(self, key: Gone) -> bool:
        """Whether the table has that route, backend, instance or consumer."""
        if key[0] == "route":
            return key[1] in self._table().routes
        if key[0] == "consumer":
            return key[1] in self._table().keys
        backend = self._standing.backends().get(key[1])
        return backend is not None and (key[0] == "backend" or key[2] in backend.up)

    # -- inside

    def _causes(self) -> Mapping[Key, str]:
        unresolved = self._resolver.causes()
        return {**unresolved, **self._prober.causes} if unresolved else self._prober.causes

    def _health(self) -> Health:
        book = self._prober.health
        return Health(book.words, self._causes(), book.since_s(), book.ejected())

    def _load(self, standing: Mapping[str, BackendStanding]) -> Load:
        loads, now = self._workers.loads, self._clock()
        reports = {
            Key(name, address): loads.report(name, address)
            for name, seen in standing.items()
            for _, address in seen.instances
        }
        queued_s = {name: now - since for name, since in self._queued_at.items()}
        return Load(loads.in_flight(), loads.limits(), reports, loads.queue_depth(), queued_s)


async def joined(pieces: Iterator[bytes]) -> bytes:
    """All `pieces`, made a few at a time, so that others are attended to meanwhile."""
    loop = asyncio.get_running_loop()
    found, until = [], loop.time() + SLICE_S
    for piece in pieces:
        found.append(piece)
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + SLICE_S
    return b"".join(found)
