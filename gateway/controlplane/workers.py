"""Which workers are there, what do they serve, and what do they see?

The control process's ends of the channels (`gateway.messages`). Tables, endpoints and health
go to every worker; ejections and loads are passed from each to all others; counters are
asked for and kept when a worker retires. `spread` is the guarantee behind every edit: when
it returns, no worker decides a new request by an older table, because each has said so or
has been replaced.

It refuses to know how processes are started: the supervisor tells which process runs in
which slot (`expect`) and kills what `replace` is called with.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from gateway.channel import Channel
from gateway.controlplane.counters import fold, nothing
from gateway.controlplane.relay import Relay, Words
from gateway.core.table import EMPTY, Table
from gateway.messages import Metrics

HELLO_WITHIN_S = 10.0
ANSWER_WITHIN_S = 5.0
SCRAPE_WITHIN_S = 1.0
BEAT_S = 1.0
MISSED_BEATS = 10
HEALTH_TOGETHER_S = 0.002

Endpoints = Mapping[str, Mapping[str, Sequence[str]]]


class Link:
    """One worker as the control process knows it."""

    __slots__ = (
        "channel", "heard", "in_flight", "leaving", "listening", "metrics", "missed", "pid",
        "relieved", "revision", "slot",
    )  # fmt: skip

    def __init__(self, channel: Channel, slot: int, pid: int) -> None:
        self.channel, self.slot, self.pid, self.revision = channel, slot, pid, 0
        self.metrics: Metrics | None = None
        self.in_flight: Mapping[str, Mapping[str, int]] = {}
        self.heard, self.missed = True, 0
        self.listening = self.leaving = self.relieved = False


class Workers:
    """The links to all workers, by process: in one slot there are two while a worker that was
    told to go finishes what it has.

    `configure` is what a worker is told first. `replace(pid)` has that process killed and
    another started; `succeed(pid)` has another one started beside it. `on_signals` and
    `on_ejections` hear what workers report.
    """

    def __init__(
        self,
        configure: Mapping[str, Any],
        *,
        replace: Callable[[int], None],
        succeed: Callable[[int], None] = lambda _: None,
        on_signals: Callable[[Sequence[Sequence[Any]]], None] = lambda _: None,
        on_ejections: Callable[[Sequence[Sequence[Any]]], None] = lambda _: None,
        on_workers: Callable[[str, int, int], None] = lambda _what, _slot, _pid: None,
        retired: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._configure = dict(configure)
        self._replace, self._succeed = replace, succeed
        self._on_signals, self._on_ejections = on_signals, on_ejections
        self._on_workers = on_workers
        self._answer_within_s = answer_within_s
        self._table = EMPTY
        self._endpoints: Endpoints = {}
        self._words: Words = {}
        self._health_due = False
        self._documents: Mapping[str, tuple[str, str]] = {}
        self._links: dict[int, Link] = {}
        self._pids: list[int | None] = []
        self._leaving: set[int] = set()
        self._stopping = False
        self._serving: set[int] = set()
        self._told = False
        self._changed = asyncio.Event()
        self._scrapes: dict[int, dict[int, asyncio.Future[Metrics]]] = {}
        self._scrape_id = 0
        self._relay = Relay(lambda: self.links, clock)
        self.retired = retired if retired is not None else nothing()
        self._last: dict[int, Metrics] = {}

    # -- what the supervisor says

    def expect(
        self,
        pids: Sequence[int | None],
        leaving: Sequence[int] = (),
        *,
        stopping: bool = False,
    ) -> None:
        """The process in each slot, None where there is none now; those that are `leaving`
        and have a successor; and whether all shall go.

        Those of the first call were there before this control process: they may serve
        another table already, so `spread` waits for them although they never said hello.
        """
        running = {pid for pid in pids if pid is not None} | set(leaving)
        if not self._told:
            self._told = True
            self._serving |= running
        self._pids, self._leaving, self._stopping = list(pids), set(leaving), stopping
        self._serving &= running
        self._retire()
        self._relieve()
        self._note_change()

    # -- what the planes and the prober ask

    @property
    def links(self) -> list[Link]:
        """The workers that are connected, by slot."""
        return sorted(self._links.values(), key=lambda link: (link.slot, not link.leaving))

    @property
    def slots(self) -> list[int | None]:
        """The process id per slot, None where a worker is just being replaced."""
        return list(self._pids)

    async def spread(self, table: Table) -> int:
        """How many workers serve `table` now; no other worker decides anything any more."""
        self._table = table
        self._send_all(self._table_message())
        if not await self._settled(table.revision, self._answer_within_s):
            for pid in self._behind(table.revision):
                self._replace(pid)
            # Killed processes leave `expect`; nothing waits for their successors, which get
            # this table before they serve at all.
            await self._settled(table.revision, self._answer_within_s)
        return self._serve(table.revision)

    async def all_serve(self, count: int) -> None:
        """Returns when `count` workers serve the newest table."""
        while self._serve(self._table.revision) < count:
            await self._next_change()

    def set_endpoints(self, endpoints: Endpoints) -> None:
        """What names resolve to from now on."""
        self._endpoints = endpoints
        self._send_all({"type": "endpoints", "endpoints": endpoints})

    def set_health(self, words: Words) -> None:
        """What the probes say from now on. Who is up again is not ejected any more."""
        if recovered := self._relay.recovered(self._words, words):
            self._on_ejections(recovered)
        self._words = words
        if not self._health_due:
            # Whole each time, so that changes which come together are sent together.
            self._health_due = True
            asyncio.get_running_loop().call_later(HEALTH_TOGETHER_S, self._send_health)

    def _send_health(self) -> None:
        self._health_due = False
        self._send_all({"type": "health", "instances": self._words})

    def set_documents(self, documents: Mapping[str, tuple[str, str]]) -> None:
        """What workers serve below `/-/` from now on: path → (content type, text)."""
        self._documents = documents
        self._send_all({"type": "documents", "documents": documents})

    async def scrape(self) -> list[Metrics]:
        """The counters of every worker as of now, and of the retired together.

        A worker that does not answer within a second counts as it did last.
        """
        self._scrape_id += 1
        scrape_id = self._scrape_id
        loop = asyncio.get_running_loop()
        waiting = {link.pid: loop.create_future() for link in self.links}
        self._scrapes[scrape_id] = waiting
        try:
            self._send_all({"type": "scrape", "id": scrape_id})
            if waiting:
                await asyncio.wait(waiting.values(), timeout=SCRAPE_WITHIN_S)
        finally:
            del self._scrapes[scrape_id]
        return [*self._last.values(), self.retired]

    def ejected(self) -> dict[tuple[str, str], float]:
        """Seconds left per ejected (backend, address)."""
        return self._relay.ejected()

    # -- what runs all the time

    async def watch(self, on_beat: Callable[[Sequence[Metrics]], None]) -> None:
        """Asks for counters each second and hands them on; replaces a worker that says
        nothing any more."""
        while True:
            await asyncio.sleep(BEAT_S)
            on_beat(await self.scrape())
            for link in self.links:
                # Beats are counted, not seconds: after a pause of our own the answers that
                # wait in the socket must be read before anybody is judged.
                link.missed = 0 if link.heard else link.missed + 1
                link.heard = False
                if link.missed >= MISSED_BEATS:
                    self._replace(link.pid)

    async def attend(self, channel: Channel) -> None:
        """Serves one channel until it ends."""
        link: Link | None = None
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                hello = await channel.receive()
            if hello is None or hello.get("type") != "hello":
                return
            link = self._welcome(channel, hello)
            while (message := await channel.receive()) is not None:
                link.heard = True
                self._hear(link, message)
        except TimeoutError:
            return
        finally:
            channel.close()
            if link is not None and self._links.get(link.pid) is link:
                del self._links[link.pid]
                self._on_workers("lost", link.slot, link.pid)
                self._relay.share_loads()
                self._retire()
            self._note_change()

    # -- inside

    def _welcome(self, channel: Channel, hello: Mapping[str, Any]) -> Link:
        # Whatever revision it says it serves: what counts is that it applies what is sent now.
        link = Link(channel, hello["slot"], hello["pid"])
        before = self._links.get(link.pid)
        if before is not None:
            before.channel.close()
        self._links[link.pid] = link
        self._serving.add(link.pid)
        channel.send_soon({"type": "configure", "settings": self._configure})
        channel.send_soon(self._table_message())
        channel.send_soon({"type": "health", "instances": self._words})
        if self._documents:
            channel.send_soon({"type": "documents", "documents": self._documents})
        if ejected := self._relay.ejections_message():
            channel.send_soon(ejected)
        self._on_workers("joined", link.slot, link.pid)
        link.listening = hello.get("listening", False)
        if hello.get("leaving"):
            self._leave(link)
        return link

    def _hear(self, link: Link, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "applied":
                link.revision = message["revision"]
                self._note_change()
            case "listening":
                link.listening = True
                self._relieve()
            case "leaving":
                self._leave(link)
            case "metrics":
                self._take_metrics(link, cast(Metrics, message))
            case "signals":
                self._on_signals(message["signals"])
            case "ejections":
                self._relay.take_ejections(link, message["ejections"])
                self._on_ejections(message["ejections"])
            case "failures":
                self._relay.pass_on(link, message)
            case "loads":
                link.in_flight = message["in_flight"]
                self._relay.share_loads()

    def _take_metrics(self, link: Link, metrics: Metrics) -> None:
        link.metrics = self._last[link.pid] = metrics
        waiting = self._scrapes.get(metrics["id"], {}).get(link.pid)
        if waiting is not None and not waiting.done():
            waiting.set_result(metrics)

    def _leave(self, link: Link) -> None:
        link.leaving = True
        if not self._stopping and link.pid not in self._leaving:
            self._succeed(link.pid)
        self._relieve()

    def _relieve(self) -> None:
        """Tells workers that leave whose slots are in other hands, or shall be in none."""
        taken = {link.slot for link in self._links.values() if link.listening and not link.leaving}
        for link in self._links.values():
            if link.leaving and not link.relieved and (self._stopping or link.slot in taken):
                link.relieved = True
                link.channel.send_soon({"type": "relieved"})

    def _retire(self) -> None:
        """Folds the last words of processes that are gone, once and for good."""
        alive = set(self._links) | set(self._pids) | self._leaving
        for pid in [pid for pid in self._last if pid not in alive]:
            self.retired = fold(self.retired, self._last.pop(pid))

    def _table_message(self) -> dict[str, Any]:
        return {
            "type": "table",
            "revision": self._table.revision,
            "document": self._table.document,
            "endpoints": self._endpoints,
        }

    def _send_all(self, message: Mapping[str, Any]) -> None:
        for link in self._links.values():
            link.channel.send_soon(message)

    def _behind(self, revision: int) -> list[int]:
        """The processes that may decide by a table older than `revision`."""
        current = {link.pid for link in self._links.values() if link.revision >= revision}
        return sorted((self._serving | set(self._links)) - current)

    def _serve(self, revision: int) -> int:
        """In how many slots there is a worker that serves `revision`."""
        return len({link.slot for link in self._links.values() if link.revision >= revision})

    async def _settled(self, revision: int, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while self._behind(revision):
                    await self._next_change()
        except TimeoutError:
            return False
        return True

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()
