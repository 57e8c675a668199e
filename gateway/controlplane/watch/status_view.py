"""The status view: who is well, who gets requests, how many and how fast.

Brings together what the prober, the resolver and the workers know, for the status page, the
metrics and the events. It decides nothing: who may get requests is said in `standing`.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import is_not
from typing import Any

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.watch.alerts import alerts
from gateway.controlplane.watch.counters import Tally, Totals
from gateway.controlplane.watch.effective import Effective, Shares, shares
from gateway.controlplane.watch.health_book import Key, Words
from gateway.controlplane.watch.key_use import KeyUse, UseFile
from gateway.controlplane.watch.pacing import Paced
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.rates import Window
from gateway.controlplane.watch.resolver import Resolver
from gateway.controlplane.watch.standing import Standing
from gateway.controlplane.workers import Workers
from gateway.core.health import Word
from gateway.core.table import Backend, Instance, Table
from gateway.processes.tasks import Tasks, told
from gateway.telemetry import exposition
from gateway.telemetry.book import Labels
from gateway.telemetry.catalogue import Gone, stands_for_many
from gateway.telemetry.metrics import COMPARED, CONSUMED, REQUESTS

log = logging.getLogger(__name__)
GONE_S = 600.0
"""How long after its end a route, backend or instance has series of its own: longer than any
scrape interval."""

RETIRED = "retired-"
SLICE_S = 0.005
"""How long the answer to a scrape may keep the loop of the control process at a time."""


class StatusView:
    """The live view of the table that `table()` gives. `fleet` adds the instance processes, where
    some are held to it, and `asleep` names those that start once a request asks for them."""

    def __init__(
        self,
        table: Callable[[], Table],
        workers: Workers,
        prober: Prober,
        resolver: Resolver,
        events: Events,
        totals: Totals,
        *,
        fleet: Callable[[], Mapping[str, Any]] = dict,
        asleep: Callable[[], frozenset[str]] = frozenset,
        key_use: KeyUse | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._workers = table, workers
        self._prober, self._events = prober, events
        self._clock, self._fleet, self._coming = clock, fleet, asleep
        self._begun, self._begun_at = clock(), utc_now()
        self._totals, self._exposition = totals, exposition.Exposition(totals)
        self._window, self._key_use = Window(), key_use or KeyUse(UseFile(None))
        self._queued_at: dict[str, float] = {}
        self._gone_at: dict[Gone, float] = {}
        self._look = Together(self._look_once)
        self._scraped = Together(self._look_at_counters)
        self._announced: Mapping[str, Shares] = {}
        self._effective = Effective()
        self._standing = Standing(
            table,
            lambda: prober.words,
            prober.health.ejected,
            lambda: resolver.endpoints,
        )
        self._announce = Paced(self.announce_shares)

    # -- what is asked

    async def status(self) -> dict[str, Any]:
        """Everything, as `/admin/v1/status` shows it."""
        await self._look()
        table = self._table()
        status = {
            "revision": table.revision,
            "control": {
                "pid": os.getpid(),
                "started": self._begun_at,
                "uptime_s": round(self._clock() - self._begun, 3),
            },
            "workers": self._worker_states(),
            "routes": self._routes(table),
            "backends": self._backends(),
            **self._fleet(),
        }
        return {**status, "alerts": alerts(status)}

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
        self._note()

    async def _look_at_counters(self) -> None:
        await self._workers.look(reports=False)
        self._note()

    def _note(self) -> None:
        changes = self._totals.read()
        self._window.note(changes)
        self._key_use.note(changes)

    async def keys_used(self) -> dict[str, dict[str, Any]]:
        """Key → `last_used`, `requests_per_s`, and how many `requests` there were and how many of
        them were `refused`."""
        await self._scraped()
        return {
            name: {**self._key_use.of(name), "requests_per_s": self._window.per_s("consumer", name)}
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
        available, working = self.available(), self._working()
        return self._effective.of(
            self._table().routes,
            available,
            working,
            lambda route: {
                name: share if name in working else 0.0
                for name, share in shares(route, available).items()
            },
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

    def _working(self) -> frozenset[str]:
        """Those of the `available` of which anybody knows that they answer: one of their
        instances is well, or, where none is and requests go to those that are not (fail open),
        one of them answered lately all the same."""
        up = self.up()
        return (
            frozenset(
                name
                for name in self.available()
                if any(up.get(name, {}).values()) or self._window.was_answered(name)
            )
            | self._asleep()
        )

    # -- what is told

    async def beat(self) -> None:
        """Looks at this second, for the rates."""
        await self._scraped()
        now = self._clock()
        self._window.beat(now)
        self._key_use.beat(self._table().keys)
        queued = self._workers.loads.queue_depth()
        self._queued_at = {name: self._queued_at.get(name, now) for name, n in queued.items() if n}
        self._retire(now)
        self.announce_shares()

    def _retire(self, now: float) -> None:
        """Counts together what has been gone for long, so that routes, backends and instances that
        come and go do not make scrapes longer and longer.

        What they are counted as is another name each time: to Prometheus that is a series
        that ends and one that begins with all that there was, and so no increase.
        """
        counted = counted_of(self._totals.of(REQUESTS))
        counted |= {("consumer", labels[0]) for labels in self._totals.of(CONSUMED)}
        names = {key for key in counted if not stands_for_many(key[0], key[-1])}
        gone = {key for key in names if not self._is_here(key)}
        self._gone_at = {key: self._gone_at.get(key, now) for key in gone}
        due = {key for key, since in self._gone_at.items() if now - since >= GONE_S}
        if not due:
            return
        before = counted - names
        number = 1 + max(
            (int(key[-1].strip("()").removeprefix(RETIRED)) for key in before), default=0
        )
        kinds = {key[:-1] for key in due}
        all_gone = sorted(due | {key for key in before if key[:-1] in kinds})
        self._totals.retire(all_gone, f"{RETIRED}{number}")
        self._workers.retire(all_gone, f"{RETIRED}{number}")

    def _is_here(self, key: Gone) -> bool:
        """Whether the table has that route, backend or instance."""
        if key[0] == "route":
            return key[1] in self._table().routes
        if key[0] == "consumer":
            return key[1] in self._table().keys
        backend = self._standing.backends().get(key[1])
        return backend is not None and (key[0] == "backend" or key[2] in backend.up)

    def note_health(self, _words: Words, changes: Sequence[tuple[Key, Word, Word]]) -> None:
        """Tells subscribers which instances changed, and which routes that moves."""
        for key, before, after in changes:
            cause = self._prober.causes.get(key)
            why = f": {cause}" if cause else ""
            log.info(f"instance {key.address} of {key.backend}: {before}, now {after}{why}")
            self._events.publish(
                {
                    "type": "health",
                    "backend": key.backend,
                    "instance": key.address,
                    "from": before,
                    "to": after,
                    **({"cause": cause} if cause else {}),
                }
            )
        self._announce()

    def note_ejections(self, ejections: Sequence[Sequence[Any]]) -> None:
        """Tells subscribers who was ejected, for how long, or came back (0 seconds)."""
        for backend, address, seconds, times in ejections:
            what = f"ejected for {seconds:.1f} s" if seconds else "no longer ejected"
            log.info(f"instance {address} of {backend}: {what}")
            self._events.publish(
                {
                    "type": "ejection",
                    "backend": backend,
                    "instance": address,
                    "ejected_s": seconds,
                    "times": times,
                }
            )
        self._announce()

    def note_worker(self, what: str, slot: int, pid: int) -> None:
        """Tells subscribers that a worker `joined` or was `lost`."""
        self._events.publish({"type": "worker", "what": what, "slot": slot, "pid": pid})

    def announce_shares(self) -> None:
        """Tells subscribers the effective shares of each route for which they changed."""
        now = self.effective_shares()
        if now is self._announced:
            return
        # All in C: of twenty thousand routes most have the shares that they had.
        differ = map(is_not, map(self._announced.get, now), now.values())
        for route, share in compress(now.items(), differ):
            if self._announced.get(route, share) != share:
                self._events.publish({"type": "effective", "route": route, "effective": share})
        self._announced = now

    # -- inside

    def _worker_states(self) -> list[dict[str, Any]]:
        links = {link.pid: link for link in self._workers.connected}
        return [
            {
                "slot": slot,
                "pid": pid,
                "revision": links[pid].revision if pid in links else None,
                "connected": pid in links,
            }
            for slot, pid in enumerate(self._workers.slots)
        ]

    def _routes(self, table: Table) -> dict[str, Any]:
        effective = self.effective_shares()
        return {
            name: {
                "weights": route.weights,
                "effective": effective[name],
                **self._rates("route", name),
            }
            for name, route in table.routes.items()
        }

    def _rates(self, kind: str, name: str) -> dict[str, Any]:
        return {**self._window.of(kind, name), "reasons_per_s": self._window.reasons(kind, name)}

    def _backends(self) -> dict[str, Any]:
        loads = self._workers.loads
        in_flight, queued, limits = loads.in_flight(), loads.queue_depth(), loads.limits()
        ejected, now = self._prober.health.ejected(), self._clock()
        found, asleep = {}, self._asleep()
        for name, seen in self._standing.backends().items():
            instances = {
                address: self._instance(seen.backend, instance, address, ejected)
                | {
                    "in_flight": in_flight.get(name, {}).get(address, 0),
                    "learned_limit": limits.get(name, {}).get(address),
                }
                for instance, address in seen.instances
            }
            found[name] = {
                "queue_depth": queued.get(name, 0),
                "queued_s": round(now - self._queued_at.get(name, now), 3),
                "in_flight": sum(one["in_flight"] for one in instances.values()),
                "available": bool(seen.serving) or name in asleep,
                **self._rates("backend", name),
                "instances": instances,
            }
        return found

    def _instance(
        self,
        backend: Backend,
        instance: Instance,
        address: str,
        ejected: Mapping[tuple[str, str], float],
    ) -> dict[str, Any]:
        book = self._prober.health
        word = book.words.get(backend.name, {}).get(address)
        return {
            "url": instance.url,
            "state": instance.state,
            "health": word or "starting",
            "cause": self._prober.causes.get(Key(backend.name, address)),
            "since_s": round(book.since_s(Key(backend.name, address)), 3) if word else None,
            "ejected_s": round(max(0.0, ejected.get((backend.name, address), 0.0)), 3),
            "report": self._workers.loads.report(backend.name, address),
        }


def counted_of(series: Iterable[Labels]) -> set[Gone]:
    """The routes, backends and instances at which requests were counted; an instance of a backend
    that stands for many goes with it."""
    counted: set[Gone] = set()
    for route, backend, instance in series:
        if route:
            counted.add(("route", route))
        if backend:
            counted.add(("backend", backend))
            if instance and not stands_for_many("backend", backend):
                counted.add(("instance", backend, instance))
    return counted


class Together:
    """Does `work` once for all who ask before it begins: who asks while it runs gets the next
    one, for what they see must not be older than their asking."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        # Whoever asked is told as well, unless they have left meanwhile.
        self._own = Tasks(lambda name, error: log.error(f"{name} failed: {told(error)}"))
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        if self._next is None:
            self._next = self._own.run("reading the counters", self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        await self._work()


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
