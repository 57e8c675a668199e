"""The control process's end of the channel of each worker (`gateway.wire.messages`).

Tables, endpoints and health go to every worker; evidence is passed from each to all others.
`put_in_force` is the guarantee behind every edit: when it returns, no worker decides a new request
by an older table, because each has said so or has been replaced.

It refuses to know how processes are started: the supervisor tells which process runs in
which slot (`expect`) and kills what `replace` is called with.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from gateway.controlplane.parts import difference, document_pieces, whole_table, with_health
from gateway.controlplane.published import NotInForce
from gateway.controlplane.worker_loads import WorkerLoads
from gateway.controlplane.worker_slots import NO_SLOT, ConnectedWorker, WorkerChannel, WorkerSlots
from gateway.core.deltas import Delta
from gateway.core.table import EMPTY, Table
from gateway.processes.leaving import is_there
from gateway.processes.tasks import first_of
from gateway.telemetry.catalogue import Gone
from gateway.wire.channel import pass_over
from gateway.wire.messages import (
    Endpoints,
    FromWorker,
    HealthMessage,
    Hello,
    JudgedMessage,
    Judging,
    Observed,
    Signals,
    TableMessage,
    ToWorker,
)

log = logging.getLogger(__name__)
HELLO_WITHIN_S = 10.0
ANSWER_WITHIN_S = 5.0
TRIES = 4  # times to wait for all workers, and to have the silent ones replaced
LOOK_WITHIN_S = 1.0
BEAT_S = 1.0
MISSED_BEATS = 10  # after which a worker is replaced
TOGETHER_S = 0.002  # what is seen at once is told at once
REMINDED = 100  # instances of which a beat says again what is known: two milliseconds of a worker
RETIRED_AT_ONCE = 20  # routes, backends or instances: about three milliseconds of a worker


class Workers:
    """The ends of all channels.

    `configure` is what a worker is told first. `replace(pid)` has that process killed and
    another started; `succeed(pid)` has another one started beside it. `health` gives what a
    worker has to know of the instances of some backends, or all (None); `on_evidence` hears the
    signals that workers report. `goes_on(revision)`: a worker that decides by that revision shall
    go on by it, as the table that is here is an older one; asked again each second, and when there
    is another table here.
    """

    def __init__(
        self,
        configure: Mapping[str, Any],
        *,
        replace: Callable[[int], None],
        succeed: Callable[[int], None] = lambda _: None,
        health: Callable[[Collection[str] | None], Sequence[HealthMessage]] = lambda _: (),
        on_evidence: Callable[[Signals], None] = lambda _: None,
        on_workers: Callable[[str, int, int], None] = lambda _what, _slot, _pid: None,
        on_judged: Callable[[JudgedMessage], None] = lambda _: None,
        on_asked: Callable[[Sequence[str]], None] = lambda _: None,
        goes_on: Callable[[int], bool] = lambda _: False,
        answer_within_s: float = ANSWER_WITHIN_S,
        look_within_s: float = LOOK_WITHIN_S,
        is_there: Callable[[int], bool] = is_there,
    ) -> None:
        # By its type, what holds until it is said anew: who comes is told all of it.
        self._lasting: dict[str, ToWorker] = {
            "configure": {"type": "configure", "settings": configure},
            "served": {"type": "served", "paths": {}},
            "demand": {"type": "demand", "backends": {}},
            "rollouts": {"type": "rollouts", "routes": {}},
        }
        self._replace, self._succeed = replace, succeed
        self._health, self._on_evidence = health, on_evidence
        self._on_workers, self._on_judged = on_workers, on_judged
        self._on_asked, self._goes_on, self._is_there = on_asked, goes_on, is_there
        self._answer_within_s, self._look_within_s = answer_within_s, look_within_s
        self._table = EMPTY
        self._endpoints: Endpoints = {}
        self._seen: list[tuple[str, float, str, str]] = []
        self._documents: Mapping[str, tuple[str, str]] = {}
        self._had_lease = False
        self._slots = WorkerSlots()
        self._ahead: set[WorkerChannel] = set()  # of workers that go on by a newer table
        self.loads = WorkerLoads()
        self._to_remind: list[str] = []
        self._looks = 0
        self._ended = 0  # the newest look that is over
        self._answered = asyncio.Event()

    # -- what the supervisor says

    def expect(
        self, pids: Sequence[int | None], leaving: Sequence[int] = (), *, stopping: bool = False
    ) -> None:
        """The process in each slot, None where there is none now; those that are `leaving`
        and have a successor; and whether all shall go. From the first call on `put_in_force` waits
        also for those that never said hello."""
        self._slots.expect(pids, leaving, stopping)
        self._hand_over()

    # -- what the planes and the prober ask

    @property
    def connected(self) -> list[ConnectedWorker]:
        """The workers that are connected, by slot."""
        return self._slots.in_order()

    @property
    def stopping(self) -> bool:
        """Whether all shall go, and nobody comes after them."""
        return self._slots.stopping

    @property
    def silent(self) -> list[int]:
        """The processes that may have requests, and did not say at the last look which."""
        return self._slots.unheard(self._ended)

    @property
    def slots(self) -> list[int | None]:
        """The process id per slot, None where a worker is just being replaced."""
        return list(self._slots.pids)

    async def put_in_force(self, table: Table) -> int:
        """How many workers serve `table` now; no other worker decides anything any more.

        NotInForce when that cannot be said of a process that is neither up to date nor gone.
        """
        before, self._table = self._table, table
        self._slots.note_change()
        news = difference(before, table)
        changed = Delta.between(before.document, table.document).put.get("backends", {})
        # What no request could find without it goes with the table, all else comes after it.
        moved = {name for name in changed if _has_moved(before, table, name)}
        first = with_health(news or whole_table(table, self._endpoints), moved, self._health)
        for worker in self._slots.connected.values():
            if worker.told == table.revision:
                continue
            if worker.told != before.revision:
                self._tell_whole(worker)
            elif news is None:
                self._tell_whole(worker, first)
            else:
                self._tell(worker, first)
                self._tell_health(worker, changed.keys() - moved)
        for _ in range(TRIES):
            # Killed processes leave `expect`; nothing waits for their successors, which get
            # this table before they serve at all.
            late = await self._slots.late(table.revision, self._answer_within_s)
            if not late:
                return self._slots.serving(table.revision)
            for pid in late:
                self._replace(pid)
        if behind := self._slots.behind(table.revision):
            raise NotInForce(table.revision, behind)
        return self._slots.serving(table.revision)

    async def all_serve(self, count: int) -> None:
        """Returns when `count` workers serve the newest table, or go on by a newer one."""
        while self._slots.serving(self._table.revision) + len(self._ahead) < count:
            await self._slots.next_change()

    @property
    def serves(self) -> bool:
        """Whether a worker serves the newest table, or goes on by a newer one."""
        return bool(self._ahead or self._slots.serving(self._table.revision))

    def set_endpoints(self, endpoints: Endpoints) -> None:
        """What names resolve to from now on."""
        self._endpoints = endpoints
        self.send_all({"type": "endpoints", "endpoints": endpoints})

    def tell(self, signals: Signals) -> None:
        """What the probes saw goes to every worker."""
        if not self._seen:
            asyncio.get_running_loop().call_later(TOGETHER_S, self._tell_seen)
        self._seen += signals

    def _tell_seen(self) -> None:
        seen, self._seen = self._seen, []
        self.send_all({"type": "evidence", "signals": seen})

    def set_documents(self, documents: Mapping[str, tuple[str, str]]) -> None:
        """What workers serve below `/-/` from now on: path → (content type, text)."""
        news = {k: each for k, each in documents.items() if self._documents.get(k) != each}
        self._documents = documents
        self._send_documents(self._slots.connected.values(), news)

    def _send_documents(
        self, links: Iterable[ConnectedWorker], documents: Mapping[str, tuple[str, str]]
    ) -> None:
        for worker in links:
            for path, (content_type, text) in documents.items():
                for piece in document_pieces(path, content_type, text):
                    worker.channel.send_soon(piece)

    def reopen_logs(self) -> None:
        """Has every worker open its access log anew."""
        self.send_all({"type": "reopen"})

    def set_served(self, paths: Mapping[str, str]) -> None:
        """At which path each model answers that `serve` starts."""
        self._keep_told({"type": "served", "paths": paths})

    def set_demand(self, backends: Mapping[str, tuple[float, bool]]) -> None:
        """How long backends load that start on demand, and which of them cannot be loaded."""
        self._keep_told({"type": "demand", "backends": backends})

    def tell_health(self, backends: Collection[str]) -> None:
        """Tells every worker what is known of the instances of `backends`."""
        for message in self._health(backends):
            self.send_all(message)

    def set_lease(self, until: float, gateways: int) -> None:
        """Until when this gateway is one of so many that share a table; 0: it is not."""
        self._had_lease = self._had_lease or until > 0.0
        self._keep_told(
            {"type": "lease", "until": until, "was": self._had_lease, "gateways": gateways}
        )

    def set_rollouts(self, routes: Mapping[str, Judging]) -> None:
        """For which rollouts workers count from now on."""
        self._keep_told({"type": "rollouts", "routes": routes})

    async def look(self, *, reports: bool = True) -> bool:
        """Whether every worker has counted what has ended, and said what is live.

        A worker that does not do so within a second is as it was last.
        """
        self._looks += 1
        look, asked = self._looks, self.connected
        self.send_all({"type": "look", "id": look, "reports": reports})
        try:
            async with asyncio.timeout(self._look_within_s):
                while any(it.looked < look and self._slots.has(it) for it in asked):
                    await self._answered.wait()
        except TimeoutError:
            return False
        finally:
            self._ended = max(self._ended, look)
        return True

    def retire(self, gone: Sequence[Gone], name: str) -> None:
        """Lets workers count what was counted at what is `gone` as `name`'s, a few at a time: they
        serve requests in between."""
        for start in range(0, len(gone), RETIRED_AT_ONCE):
            end = start + RETIRED_AT_ONCE
            more = end < len(gone)
            self.send_all({"type": "retire", "gone": gone[start:end], "name": name, "more": more})

    # -- what runs all the time

    async def watch(self, on_beat: Callable[[], Awaitable[None]]) -> None:
        """Calls `on_beat`, which looks, each second; replaces a worker that says nothing any
        more."""
        while True:
            await asyncio.sleep(BEAT_S)
            await on_beat()
            self.remind()
            for worker in self.connected:
                # Beats are counted, not seconds: after a pause of our own the answers that
                # wait in the socket must be read before anybody is judged.
                worker.missed = 0 if worker.heard else worker.missed + 1
                worker.heard = False
                if worker.missed >= MISSED_BEATS:
                    self._replace(worker.pid)

    def remind(self) -> None:
        """Tells every worker again what is known of some instances, of others each time.

        Nothing gets lost on a channel; but where this process stood still for long, workers
        have put what they saw meanwhile in another order than it did, and came to other ends.
        """
        if not self._to_remind:
            self._to_remind = list(self._table.backends)
        names, room = [], REMINDED
        while self._to_remind and room > 0:
            name = self._to_remind.pop()
            backend = self._table.backends.get(name)
            if backend is not None:
                names.append(name)
                room -= 1 + len(backend.instances)
        for message in self._health(names) if names else ():
            self.send_all(message)

    async def attend(self, channel: WorkerChannel, *, is_ours: bool = True) -> None:
        """Serves one channel until it ends; of a worker that is not `is_ours`, but of the gateway
        that this one follows, it is in no slot."""
        worker: ConnectedWorker | None = None
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                hello = await channel.receive()
            if hello is None or hello["type"] != "hello":
                return
            if self._goes_on(hello["revision"]):
                await self._let_go_on(channel, hello["revision"], is_ours)
                return  # it opens another one
            worker = self._welcome(channel, hello, is_ours)
            while (message := await channel.receive()) is not None:
                worker.heard = True
                self._hear(worker, message)
        except TimeoutError:
            return
        finally:
            channel.close()
            if worker is not None and self._slots.has(worker):
                self._slots.lose(worker, self._is_there(worker.pid))
                self.loads.drop(worker.pid)
                self._on_workers("lost", worker.slot, worker.pid)
                self._answer()
            self._slots.note_change()

    # -- inside

    async def _let_go_on(self, channel: WorkerChannel, revision: int, is_ours: bool) -> None:
        """Returns once a worker need not go on by its newer table, or is gone. Until then it is
        told nothing: what is known here is of the backends of an older one."""

        async def heard() -> None:
            while await channel.receive() is not None:
                pass

        async def newer() -> None:
            while self._goes_on(revision):
                await first_of(self._slots.next_change(), timeout=BEAT_S)

        if is_ours:
            self._ahead.add(channel)
            self._slots.note_change()
        try:
            await first_of(heard(), newer())
        finally:
            self._ahead.discard(channel)

    def _welcome(self, channel: WorkerChannel, hello: Hello, is_ours: bool) -> ConnectedWorker:
        # Whatever revision it says it serves: what counts is that it applies what is sent now.
        slot = hello["slot"] if is_ours else NO_SLOT - hello["slot"]
        worker = ConnectedWorker(channel, slot, hello["pid"])
        self._slots.join(worker)
        self.loads.begin(worker.pid)
        # Before it is told what is known: that overrides what it knows by itself.
        self._take_evidence(worker, hello["signals"])
        for message in self._lasting.values():
            channel.send_soon(message)
        self._tell_whole(worker)
        self._send_documents([worker], self._documents)
        channel.send_soon({"type": "welcome"})
        self._on_workers("joined", worker.slot, worker.pid)
        worker.listening = hello["listening"]
        if hello["leaving"]:
            self._leave(worker)
        return worker

    def _hear(self, worker: ConnectedWorker, message: FromWorker) -> None:
        match message["type"]:
            case "applied":
                worker.revision = message["revision"]
                if "error" in message and not worker.is_whole:
                    self._tell_whole(worker)  # it does not serve what the difference was made to
                self._slots.note_change()
            case "taking":
                worker.part = message["part"]
            case "listening":
                worker.listening = True
                self._hand_over()
            case "leaving":
                self._leave(worker)
            case "evidence":
                self._take_evidence(worker, message["signals"])
            case "asked":
                self._on_asked(message["backends"])
            case "observed":
                self._observe(worker, message)
            case "judged":
                self._on_judged(message)
            case "hello":
                pass  # once only
            case _:
                pass_over(message)

    def _take_evidence(self, worker: ConnectedWorker, signals: Signals) -> None:
        """What `worker` saw is for all other workers, so that N of them behave as one would."""
        if not signals:
            return
        for other in self._slots.connected.values():
            if other is not worker:
                other.channel.send_soon({"type": "evidence", "signals": signals})
        self._on_evidence(signals)

    def _observe(self, worker: ConnectedWorker, message: Observed) -> None:
        if self._slots.has(worker):  # not what is left of a channel before
            self.loads.take(worker.pid, message)
        if message["id"]:
            worker.looked = message["id"]
            self._answer()

    def _answer(self) -> None:
        self._answered.set()
        self._answered = asyncio.Event()

    def _leave(self, worker: ConnectedWorker) -> None:
        worker.leaving = True
        if self._slots.lacks_successor(worker.pid):
            self._succeed(worker.pid)
        self._hand_over()

    def _hand_over(self) -> None:
        """Tells workers that leave whose slots are in other hands, or shall be in none."""
        for worker in self._slots.replaced():
            if not worker.has_handed_over:
                worker.has_handed_over = True
                worker.channel.send_soon({"type": "handed_over"})

    def _tell(self, worker: ConnectedWorker, messages: Sequence[TableMessage]) -> None:
        """Sends the newest table to `worker`, as `messages`."""
        worker.told, worker.is_whole = self._table.revision, False
        for message in messages:
            worker.channel.send_soon(message)

    def _tell_whole(
        self, worker: ConnectedWorker, messages: Sequence[TableMessage] | None = None
    ) -> None:
        """Sends all of the newest table to `worker`, as `messages` where they are made, and what is
        known of all instances: it is judged by that table, also what came before."""
        self._tell(worker, messages or whole_table(self._table, self._endpoints))
        worker.is_whole = True
        self._tell_health(worker, None)

    def _tell_health(self, worker: ConnectedWorker, backends: Collection[str] | None) -> None:
        """Tells what is known of the instances of `backends`, or of all."""
        for message in self._health(backends):
            worker.channel.send_soon(message)

    def _keep_told(self, message: ToWorker) -> None:
        """Tells every worker that is connected, and each that comes, what is news."""
        if message != self._lasting.get(message["type"]):
            self._lasting[message["type"]] = message
            self.send_all(message)

    def send_all(self, message: ToWorker) -> None:
        """Queues `message` for every worker that is connected."""
        for worker in self._slots.connected.values():
            worker.channel.send_soon(message)


def _has_moved(before: Table, table: Table, name: str) -> bool:
    """Whether the backend has instances in `table` that it did not have `before`."""
    was = before.backends.get(name)
    return was is None or table.backends[name].instances != was.instances
