"""Which instances answer their health checks?

One task per instance asks its health path, again and again. What it saw, and what the workers
say that requests met, is replayed by `gateway.core.evidence`; what is news goes out at once.
What is known of an instance is keyed by its backend and address and survives every edit that
keeps it. This module refuses to decide who gets requests: it says what was seen.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from gateway.controlplane.watch.health_book import HealthBook, Key, Words
from gateway.controlplane.watch.pacing import FewAtOnce
from gateway.controlplane.watch.probing import CONNECT, Probe, Target, Untrusted, probe
from gateway.controlplane.watch.resolver import Endpoints, addresses_of
from gateway.core.health import ProbeSignal, Word
from gateway.core.table import EMPTY, Backend, Table
from gateway.processes.credentials import Credentials, Held
from gateway.processes.tasks import PAUSE_S, Tasks, told
from gateway.wire.messages import Signals

log = logging.getLogger(__name__)

EAGER_S = 0.2
"""While an instance starts, it is asked this often, so that it serves as soon as it can."""

JITTER = 0.1
"""This part of an interval is chance, or the probes of a thousand instances would march in step."""

MET_WITHIN_S = 2.0
"""So long at most an edit waits for the new ones to be asked, where they take the place of all."""

AT_ONCE, EVERY_S = 20, 0.01
"""So many probes begin every so many seconds, 2,000 in one: the loop is there for edits, scrapes
and workers as well. Of more instances each is asked less often."""

SUSPICIOUS = frozenset({"refused", "turned_away", "unreachable", "untrusted", "reset", "timeout"})
"""Of what requests meet: the probes shall look now."""


def targets_of(
    table: Table, endpoints: Endpoints, held: Mapping[str, Held] = {}
) -> dict[Key, Target]:
    """Every instance of `table` that has an address; backends are met with what is `held`."""
    return {
        Key(backend.name, address): Target(
            hosts[0],
            port,
            backend.health,
            instance.state,
            ((backend.tls and backend.tls.server_name) or instance.host) if instance.secure else "",
            held.get(backend.name),
            tuple(hosts[1:]),
        )
        for backend in table.backends.values()
        for instance in backend.instances
        for address, hosts, port in addresses_of(
            instance, endpoints.get(backend.name, {}).get(instance.url, ())
        )
    }


class Prober:
    """Asks every instance. `on_change`, `on_ejections` and `remembered` are those of its
    `HealthBook`; `on_signals` gets what the probes saw that is news. `causes` says why an instance
    cannot be asked, where more is known than its word."""

    def __init__(
        self,
        on_change: Callable[[Words, Sequence[tuple[Key, Word, Word]]], None],
        *,
        on_signals: Callable[[Signals], None] = lambda _: None,
        on_ejections: Callable[[Sequence[Sequence[Any]]], None] = lambda _: None,
        probe: Probe = probe,
        remembered: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.health = HealthBook(on_change, on_ejections, remembered or {}, clock)
        self._on_signals, self._probe = on_signals, probe
        self._chance, self._clock = chance, clock
        self._table = EMPTY
        self._endpoints: Endpoints = {}
        self._targets: dict[Key, Target] = {}
        self._own = Tasks(_note_failure, pause_s=pause_s)
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._credentials = Credentials(self._own, log.warning)
        self._held: dict[str, Held] = {}
        self.causes: dict[Key, str] = {}
        self._unanswered: dict[Key, list[asyncio.Task[ProbeSignal | None]]] = {}
        self._nudges: dict[Key, asyncio.Event] = {}
        self._asked: dict[Key, int] = {}
        self._answered = asyncio.Event()
        self._few_at_once = FewAtOnce(AT_ONCE, EVERY_S)

    @property
    def words(self) -> Words:
        """Backend → address → word, of every instance that has an address."""
        return self.health.words

    def sync(self, table: Table) -> None:
        """Asks what `table` names from now on: keeps, adds and drops only what changed."""
        self._table = table
        self._arrange()

    def set_endpoints(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._arrange()

    def well(self) -> dict[str, Target]:
        """An instance that is up, per backend that has one."""
        return {
            key.backend: self._targets[key]
            for key in self._tasks
            if self.health.state(key).word == "up"
        }

    def hear(self, told: Iterable[Sequence[Any]]) -> None:
        """Takes in what requests met, and asks at once where that is suspicious."""
        for key, name in self.health.merge(told):
            if name in SUSPICIOUS:
                self._nudges[key].set()

    async def judged(self, within_s: float) -> None:
        """Returns once every instance was asked often enough to be up, or after `within_s`."""
        await self._until(lambda: not any(self._is_open(key) for key in self._targets), within_s)

    async def known(self, backend: Backend) -> None:
        """Returns once one of its instances is up, or all that may get requests were asked often
        enough to be, or after MET_WITHIN_S."""
        await self._until(lambda: self._is_met([backend]), MET_WITHIN_S)

    def replaced(self, previous: Table, table: Table) -> list[list[Backend]]:
        """What `table` puts in the place of what served: the backends of each backend and route
        where none is up of the instances that it has now, and one is of those before."""
        before, after = previous.backends, table.backends
        found = []
        if after is not before:
            for name, each in after.items():
                if name in before and each.instances is not before[name].instances:
                    found.append(([before[name]], [each]))
        if table.routes is not previous.routes:
            for name, route in table.routes.items():
                was = previous.routes.get(name, route)
                if route.split != was.split:
                    found.append(
                        ([before[it] for it in was.backends], [after[it] for it in route.backends])
                    )
        return [
            new
            for old, new in found
            if not any(map(self._serves, new)) and any(map(self._serves, old))
        ]

    async def met(self, previous: Table, table: Table) -> None:
        """Returns once one is up again wherever `table` replaces all that served, or all of the new
        ones were asked often enough to be, or after MET_WITHIN_S."""
        if replaced := self.replaced(previous, table):
            await self._until(lambda: all(map(self._is_met, replaced)), MET_WITHIN_S)

    def _is_met(self, backends: Sequence[Backend]) -> bool:
        keys = [key for each in backends for key in self._keys(each)]
        return any(map(self._serves, backends)) or not any(map(self._is_open, keys))

    def _serves(self, backend: Backend) -> bool:
        """Whether one of its instances that may get requests is up."""
        return any(self.health.state(key).word == "up" for key in self._keys(backend))

    async def _until(self, is_so: Callable[[], bool], within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not is_so():
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            return

    def _keys(self, backend: Backend) -> list[Key]:
        """The instances of `backend` that are asked and may get requests."""
        known = self._endpoints.get(backend.name, {})
        keys = [
            Key(backend.name, address)
            for instance in backend.instances
            if not instance.state
            for address, _, _ in addresses_of(instance, known.get(instance.url, ()))
        ]
        return [key for key in keys if key in self._targets]

    def _is_open(self, key: Key) -> bool:
        """Whether the next probes of an instance that is well would still change its word."""
        rise = self._targets[key].health.rise
        return self.health.state(key).word == "starting" and self._asked.get(key, 0) < rise

    async def close(self) -> None:
        await self._own.close()

    def _stop(self, key: Key) -> None:
        """Asks `key` no more, and hears no more of what was asked."""
        for task in (self._tasks.pop(key), *self._unanswered.pop(key)):
            task.cancel()

    def _arrange(self) -> None:
        self._meet()
        self._targets = targets_of(self._table, self._endpoints, self._held)
        for key in [each for each in self._tasks if each not in self._targets]:
            self._stop(key)
            del self._nudges[key]
            self._asked.pop(key, None)
            self.causes.pop(key, None)
            self.health.drop(key)
        for key in [each for each in self._targets if each not in self._tasks]:
            self.health.add(key)
            self._nudges[key] = asyncio.Event()
            self._unanswered[key] = []
            self._tasks[key] = self._own.keep(
                f"the health checks of {key.address}", partial(self._keep_asking, key)
            )
        serving: dict[str, set[str]] = {}
        for key, target in self._targets.items():
            if not target.state:
                serving.setdefault(key.backend, set()).add(key.address)
        self.health.judge_by(self._table, serving)

    def _meet(self) -> None:
        """Holds what it takes to meet the backends of the table, and nothing for others."""
        before, backends = self._held, self._table.backends
        swap = self._credentials.swap
        found = {name: swap(before.get(name), each) for name, each in backends.items()}
        for name in before.keys() - backends.keys():
            swap(before[name], None)
        self._held = {name: held for name, held in found.items() if held is not None}

    async def _keep_asking(self, key: Key) -> None:
        nudge, unanswered = self._nudges[key], self._unanswered[key]
        while True:
            nudge.clear()
            await self._few_at_once()
            began = self._clock()
            asking = self._own.run(f"a health check of {key.address}", self._ask(key))
            unanswered.append(asking)
            asking.add_done_callback(unanswered.remove)
            await asyncio.wait({asking}, timeout=self._ask_again_s(key))
            if asking.done():
                signal = None if asking.exception() else asking.result()
                await self._pause(key, nudge, signal, self._clock() - began)

    def _ask_again_s(self, key: Key) -> float | None:
        """After how long without an answer to ask once more; None: wait for this one to end.

        One that gets requests and falls silent shall be out `fall` intervals later, the first
        of which may pass before it is asked: so the probes that each wait for their whole
        timeout overlap, where the timeout leaves room for it.
        """
        health = self._targets[key].health
        spare_s = (health.fall - 1.0 - JITTER) * health.interval_s - health.timeout_s
        if self.health.state(key).word != "up" or health.fall < 2 or spare_s <= 0.0:
            return None
        return 0.8 * spare_s / (health.fall - 1)

    async def _ask(self, key: Key) -> ProbeSignal | None:
        signal: ProbeSignal | None
        try:
            signal = await self._probe(self._targets[key])
            self.causes.pop(key, None)
        except Untrusted as cause:
            signal = cause.signal
            self.causes[key] = str(cause)
        if signal == "ready":  # whatever came to nothing before is older news
            this = asyncio.current_task()
            for older in takewhile(lambda each: each is not this, [*self._unanswered[key]]):
                older.cancel()
        if signal is not None:
            news = self.health.note(key, signal)
            if news:
                self._on_signals(news)
        self._asked[key] = self._asked.get(key, 0) + 1
        self._answered.set()
        return signal

    async def _pause(
        self, key: Key, nudge: asyncio.Event, signal: ProbeSignal | None, took_s: float
    ) -> None:
        """Waits for the next turn, after a probe that took `took_s`: the interval is from one
        beginning to the next, or silence would be noticed in twice the time.

        A nudge wakes no sooner than what is urgent: a burst of failing requests is no burst of
        probes.
        """
        interval_s, began = self._targets[key].health.interval_s, self._clock() - took_s
        if not self._is_urgent(key, signal):
            jitter = JITTER * (2.0 * self._chance() - 1.0)
            try:
                async with asyncio.timeout(interval_s * (1.0 + jitter) - took_s):
                    await nudge.wait()
            except TimeoutError:
                return
        await asyncio.sleep(began + min(interval_s, EAGER_S) - self._clock())

    def _is_urgent(self, key: Key, signal: ProbeSignal | None) -> bool:
        """Whether to ask again soon. The word changes after several in a row, and nobody should
        wait for several intervals: for what starts; without what could just not be connected to
        and still gets requests; for the first sign of life where nobody else is up."""
        word = self.health.state(key).word
        if word == "starting" or (signal in CONNECT.values() and word != "down"):
            return True
        others = self.words.get(key.backend, {}).values()
        return signal == "ready" and word != "up" and "up" not in others


def _note_failure(name: str, error: Exception) -> None:
    log.error(f"{name} ended, a fault in headgate itself: {told(error)}; beginning again")
