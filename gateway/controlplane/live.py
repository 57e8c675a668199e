"""What is live now: who is well, who gets requests, how many and how fast?

Brings together what the prober, the resolver and the workers know, for the status page, the
metrics and the events. It decides nothing; who may get requests is said by the same pure
`gateway.core.health.serving` that the workers ask, so that what is shown is what is done.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.prober import Key, Prober, Words
from gateway.controlplane.rates import Window, sample
from gateway.controlplane.resolver import Resolver, addresses_of
from gateway.controlplane.workers import Workers
from gateway.core.health import Word, serving
from gateway.core.splitting import Split
from gateway.core.table import Backend, Instance, Route, Table
from gateway.messages import Metrics

log = logging.getLogger(__name__)


class Live:
    """The live view of the table that `table()` gives."""

    def __init__(
        self,
        table: Callable[[], Table],
        workers: Workers,
        prober: Prober,
        resolver: Resolver,
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._workers = table, workers
        self._prober, self._resolver, self._events = prober, resolver, events
        self._clock = clock
        self._begun, self._begun_at = clock(), utc_now()
        self._window = Window()
        self._announced: dict[str, dict[str, float]] = {}

    # -- what is asked

    async def status(self) -> dict[str, Any]:
        """Everything, as `/admin/v1/status` shows it."""
        metrics = await self.scrape()
        table = self._table()
        return {
            "revision": table.revision,
            "control": {
                "pid": os.getpid(),
                "started": self._begun_at,
                "uptime_s": round(self._clock() - self._begun, 3),
            },
            "workers": self._worker_states(),
            "routes": {
                route.name: {
                    "weights": route.weights,
                    "effective": self.effective(route.name),
                    **self._window.of("route", route.name),
                }
                for route in table.routes.values()
            },
            "backends": {
                backend.name: self._backend(backend, metrics) for backend in table.backends.values()
            },
        }

    async def scrape(self) -> list[Metrics]:
        """The counters of every worker and, last, of those that are gone."""
        return await self._workers.scrape()

    def effective(self, route: str) -> dict[str, float]:
        """Backend → the share of `route`'s requests that it gets now; {} for no such route.

        The shares add up to 1, or to less where requests are refused.
        """
        table = self._table()
        return shares(table.routes[route], self.available()) if route in table.routes else {}

    def effective_shares(self) -> dict[str, dict[str, float]]:
        """`effective` of every route."""
        available = self.available()
        return {name: shares(route, available) for name, route in self._table().routes.items()}

    def up(self) -> dict[str, dict[str, bool]]:
        """Backend → address → whether it is well: ready, not ejected, not out by command.

        When none is, some that are not well may still get requests (fail open).
        """
        words, ejected = self._prober.words, self._workers.ejected()
        return {
            backend.name: {
                address: words.get(backend.name, {}).get(address) == "up"
                and (backend.name, address) not in ejected
                and not instance.state
                for instance, address in self._instances(backend)
            }
            for backend in self._table().backends.values()
        }

    def available(self) -> frozenset[str]:
        """The backends that have an instance that may get requests."""
        return frozenset(b.name for b in self._table().backends.values() if self._serving(b))

    # -- what is told

    def note_beat(self, metrics: Sequence[Metrics]) -> None:
        """Takes in the counters of this second, for the rates."""
        self._window.add(sample(metrics, self._clock()))
        self.announce_shares()

    def note_health(self, _words: Words, changes: Sequence[tuple[Key, Word, Word]]) -> None:
        """Tells subscribers which instances changed, and which routes that moves."""
        for key, before, after in changes:
            log.info(f"instance {key.address} of {key.backend}: {before}, now {after}")
            self._events.publish(
                {
                    "type": "health",
                    "backend": key.backend,
                    "instance": key.address,
                    "from": before,
                    "to": after,
                }
            )
        self.announce_shares()

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
        self.announce_shares()

    def note_worker(self, what: str, slot: int, pid: int) -> None:
        """Tells subscribers that a worker `joined` or was `lost`."""
        self._events.publish({"type": "worker", "what": what, "slot": slot, "pid": pid})

    def announce_shares(self) -> None:
        """Tells subscribers the effective shares of each route for which they changed."""
        now = self.effective_shares()
        for route, share in now.items():
            if self._announced.get(route, share) != share:
                self._events.publish({"type": "effective", "route": route, "effective": share})
        self._announced = now

    # -- inside

    def _worker_states(self) -> list[dict[str, Any]]:
        links = {link.pid: link for link in self._workers.links}
        return [
            {
                "slot": slot,
                "pid": pid,
                "revision": links[pid].revision if pid in links else None,
                "connected": pid in links,
            }
            for slot, pid in enumerate(self._workers.slots)
        ]

    def _backend(self, backend: Backend, metrics: Sequence[Metrics]) -> dict[str, Any]:
        instances = {
            address: self._instance(backend, instance, address, metrics)
            for instance, address in self._instances(backend)
        }
        queued = (each for one in metrics for each in one["queue_depth"])
        return {
            "queue_depth": sum(count for (name, *_), count in queued if name == backend.name),
            "in_flight": sum(one["in_flight"] for one in instances.values()),
            "available": bool(self._serving(backend)),
            **self._window.of("backend", backend.name),
            "instances": instances,
        }

    def _instance(
        self, backend: Backend, instance: Instance, address: str, metrics: Sequence[Metrics]
    ) -> dict[str, Any]:
        word = self._prober.words.get(backend.name, {}).get(address)
        seen = [one["live"].get(backend.name, {}).get(address, {}) for one in metrics]
        reports = [each["report"] for each in seen if each.get("report")]
        ejected_s = self._workers.ejected().get((backend.name, address), 0.0)
        return {
            "url": instance.url,
            "state": instance.state,
            "health": word or "starting",
            "since_s": round(self._prober.since_s(Key(backend.name, address)), 3) if word else None,
            "ejected_s": round(max(0.0, ejected_s), 3),
            "in_flight": sum(each.get("in_flight", 0) for each in seen),
            "report": reports[0] if reports else None,
        }

    def _instances(self, backend: Backend) -> list[tuple[Instance, str]]:
        """Each instance with its identity; a name that was never resolved stands for itself."""
        known = self._resolver.endpoints.get(backend.name, {})
        found = []
        for instance in backend.instances:
            addresses = addresses_of(instance, known.get(instance.url, ()))
            found += [(instance, address) for address, _ in addresses] or [
                (instance, instance.address)
            ]
        return found

    def _serving(self, backend: Backend) -> frozenset[str]:
        words = self._prober.words.get(backend.name, {})
        asked = {a for instance, a in self._instances(backend) if not instance.state}
        ejected = frozenset(a for (b, a) in self._workers.ejected() if b == backend.name)
        return serving({a: word for a, word in words.items() if a in asked}, ejected)


def shares(route: Route, available: frozenset[str]) -> dict[str, float]:
    """Backend → share of the route's requests, given which backends can serve at all."""
    split = Split.of(route.split)
    configured: Mapping[str, float] = split.shares()
    can = {name: share if name in available else 0.0 for name, share in configured.items()}
    policy = route.on_unavailable
    if policy.policy == "redistribute":
        left = split.among(available).shares()
        return {name: left.get(name, 0.0) for name in can}
    if policy.policy == "fallback" and policy.backend in available and policy.backend is not None:
        missing = sum(configured.values()) - sum(can.values())
        can[policy.backend] = can.get(policy.backend, 0.0) + missing
    return can
