"""Which instances answer their health checks?

One task per instance asks its health path, again and again, and the state machine of
`gateway.core.health` makes words of what it saw; every change of a word goes out at once.
What is known of an instance is keyed by its backend and address and survives every edit that
keeps it. This module refuses to decide who gets requests: it says what probes saw.
"""

import asyncio
import errno
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from gateway.controlplane.resolver import Endpoints, addresses_of
from gateway.core.health import Probed, ProbeSignal, Word
from gateway.core.table import EMPTY, Health, Table

EAGER_S = 0.2
"""While an instance starts, it is asked this often, so that it serves as soon as it can."""

JITTER = 0.1
"""This part of an interval is chance, or the probes of a thousand instances would march in step."""

HEAD_LIMIT = 32 << 10
OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Key(NamedTuple):
    backend: str
    address: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask and how."""

    host: str
    port: int
    health: Health


Words = dict[str, dict[str, Word]]
Probe = Callable[[Target], Awaitable[ProbeSignal | None]]


async def probe(target: Target) -> ProbeSignal | None:
    """One health check over a connection of its own: `ready`, `unready` or `unreachable`.

    None when we could not even ask, for want of descriptors, ports or memory of our own: that
    says nothing about an instance.

    Redirects are not followed: an instance must not be able to send us elsewhere.
    """
    limit_s = target.health.timeout_s
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(
                target.host, target.port, limit=HEAD_LIMIT
            )
    except OSError as error:
        return None if error.errno in OUR_OWN else "unreachable"
    try:
        async with asyncio.timeout(limit_s):
            host = f"[{target.host}]" if ":" in target.host else target.host
            writer.write(
                f"GET {target.health.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\n"
                "User-Agent: headgate-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            return "ready" if is_success(await reader.readuntil(b"\r\n\r\n")) else "unready"
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return "unready"
    finally:
        writer.close()


def is_success(head: bytes) -> bool:
    """Whether the head of an answer begins with a 2xx status line."""
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    return len(parts) >= 2 and parts[0].startswith(b"HTTP/1.") and parts[1][:1] == b"2"


def targets_of(table: Table, endpoints: Endpoints) -> dict[Key, Target]:
    """Every instance of `table` that has an address."""
    return {
        Key(backend.name, address): Target(host, instance.port, backend.health)
        for backend in table.backends.values()
        for instance in backend.instances
        for address, host in addresses_of(
            instance, endpoints.get(backend.name, {}).get(instance.url, ())
        )
    }


class Prober:
    """Keeps `words` true. `on_change(words, changes)` gets all of them and what changed."""

    def __init__(
        self,
        on_change: Callable[[Words, Sequence[tuple[Key, Word, Word]]], None],
        *,
        probe: Probe = probe,
        remembered: Mapping[str, Mapping[str, Word]] | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change, self._probe = on_change, probe
        self._chance, self._clock = chance, clock
        self._remembered = remembered or {}
        self._table = EMPTY
        self._endpoints: Endpoints = {}
        self._targets: dict[Key, Target] = {}
        self._probed: dict[Key, Probed] = {}
        self._since: dict[Key, float] = {}
        self._words: Words | None = None
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._unanswered: dict[Key, list[asyncio.Task[ProbeSignal | None]]] = {}
        self._nudges: dict[Key, asyncio.Event] = {}
        self._asked: dict[Key, int] = {}
        self._answered = asyncio.Event()

    @property
    def words(self) -> Words:
        """Backend → address → word, of every instance that has an address."""
        if self._words is None:
            self._words = {}
            for key, probed in self._probed.items():
                self._words.setdefault(key.backend, {})[key.address] = probed.word
        return self._words

    def since_s(self, key: Key) -> float:
        """For how many seconds the word of `key` has been what it is."""
        return self._clock() - self._since[key]

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
            for key, probed in self._probed.items()
            if probed.word == "up"
        }

    def nudge(self, keys: Iterable[tuple[str, str]], refused: bool = False) -> None:
        """Asks these now: a worker saw one of them fail, or was refused a connection."""
        for backend, address in keys:
            key = Key(backend, address)
            if (event := self._nudges.get(key)) is not None:
                if refused:
                    self._probed[key] = self._probed[key].was_refused()
                event.set()

    async def settled(self, within_s: float) -> None:
        """Returns once every instance was asked often enough to be up, or after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while any(self._is_open(key) for key in self._targets):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            return

    def _is_open(self, key: Key) -> bool:
        """Whether the next probes of an instance that is well would still change its word."""
        rise = self._targets[key].health.rise
        return self._probed[key].word == "starting" and self._asked.get(key, 0) < rise

    async def close(self) -> None:
        tasks = [task for key in list(self._tasks) for task in self._stop(key)]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, key: Key) -> list[asyncio.Task[Any]]:
        """Asks `key` no more, and hears no more of what was asked; the tasks that end."""
        tasks = [self._tasks.pop(key), *self._unanswered.pop(key)]
        for task in tasks:
            task.cancel()
        return tasks

    def _arrange(self) -> None:
        self._targets = targets_of(self._table, self._endpoints)
        self._words = None
        for key in self._tasks.keys() - self._targets.keys():
            self._stop(key)
            del self._probed[key], self._nudges[key], self._since[key]
            self._asked.pop(key, None)
        for key in self._targets.keys() - self._tasks.keys():
            word = self._remembered.get(key.backend, {}).get(key.address)
            self._probed[key] = Probed() if word is None else Probed(word)
            self._since[key] = self._clock()
            self._nudges[key] = asyncio.Event()
            self._unanswered[key] = []
            self._tasks[key] = asyncio.create_task(self._keep_asking(key))

    async def _keep_asking(self, key: Key) -> None:
        nudge, unanswered = self._nudges[key], self._unanswered[key]
        while True:
            nudge.clear()
            began = self._clock()
            asking = asyncio.create_task(self._ask(key))
            unanswered.append(asking)
            asking.add_done_callback(unanswered.remove)
            await asyncio.wait({asking}, timeout=self._patience_s(key))
            if asking.done():
                await self._pause(key, nudge, asking.result(), self._clock() - began)

    def _patience_s(self, key: Key) -> float | None:
        """After how long without an answer to ask once more; None: wait for this one to end.

        One that gets requests and falls silent shall be out `fall` intervals later, the first
        of which may pass before it is asked: so the probes that each wait for their whole
        timeout overlap, where the timeout leaves room for it.
        """
        health = self._targets[key].health
        spare_s = (health.fall - 1.0 - JITTER) * health.interval_s - health.timeout_s
        if self._probed[key].word != "up" or health.fall < 2 or spare_s <= 0.0:
            return None
        return 0.8 * spare_s / (health.fall - 1)

    async def _ask(self, key: Key) -> ProbeSignal | None:
        signal = await self._probe(self._targets[key])
        if signal == "ready":  # whatever came to nothing before is older news
            this = asyncio.current_task()
            for older in takewhile(lambda each: each is not this, [*self._unanswered[key]]):
                older.cancel()
        if signal is not None:
            self._note(key, signal)
        self._asked[key] = self._asked.get(key, 0) + 1
        self._answered.set()
        return signal

    def _note(self, key: Key, signal: ProbeSignal) -> None:
        before = self._probed[key]
        after = self._probed[key] = before.after(signal, self._targets[key].health)
        if after.word != before.word:
            self._since[key] = self._clock()
            self._words = None
            self._on_change(self.words, [(key, before.word, after.word)])

    async def _pause(
        self, key: Key, nudge: asyncio.Event, signal: ProbeSignal | None, took_s: float
    ) -> None:
        """Waits for the next turn, after a probe that took `took_s`: the interval is from one
        beginning to the next, or silence would be noticed in twice the time.

        A nudge wakes no sooner than what is urgent: a burst of failing requests is no burst of
        probes.
        """
        interval_s = self._targets[key].health.interval_s
        eager_s = max(0.0, min(interval_s, EAGER_S) - took_s)
        await asyncio.sleep(eager_s)
        if self._is_urgent(key, signal):
            return
        jitter = JITTER * (2.0 * self._chance() - 1.0)
        pause_s = interval_s * (1.0 + jitter) - took_s - eager_s
        try:
            async with asyncio.timeout(pause_s):
                await nudge.wait()
        except TimeoutError:
            return

    def _is_urgent(self, key: Key, signal: ProbeSignal | None) -> bool:
        """Whether to ask again soon. The word changes after several in a row, and nobody should
        wait for several intervals: for what starts; without what could just not be connected to
        and still gets requests; for the first sign of life where nobody else is up."""
        word = self._probed[key].word
        if word == "starting" or (signal == "unreachable" and word != "down"):
            return True
        others = self.words.get(key.backend, {}).values()
        return signal == "ready" and word != "up" and "up" not in others
