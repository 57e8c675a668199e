"""A gateway in one process and a time of its own: control process, workers, instances, clients.

The parts are the real ones: publisher, links to the workers, prober, and in each worker the data
plane from the client's bytes to the instance's. What is made of memory is what lies between them:
connections, channels, the supervisor, the disk. What processes do to each other happens here:
each may be killed at any moment, be slow to hear, or be started again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from gateway.controlplane.events import Events
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.store import Page, Revision, Stored, StoreError
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.probing import Target
from gateway.controlplane.workers import Workers
from gateway.core.health import HealthState, ProbeSignal
from gateway.core.options import DataplaneOptions
from gateway.core.table import Document, Table
from gateway.dataplane.control_client import ControlClient
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.listener import Client
from gateway.dataplane.plane import Plane
from gateway.processes.tasks import Tasks
from tests.controlplane.memory_store import MemoryStore
from tests.simulation.virtual import End, MemoryChannel, VirtualLoop, connected

SETTLED_S = 6.0  # after which what was late is there
OPTIONS = {"access_log": "off", "workers": 2, "describe": False, "node": "gw"}
ANSWER_WITHIN_S = 2.0


class Disk:
    """A control process's way to what is stored (`controlplane.store`), which outlives it."""

    def __init__(self, stored: MemoryStore) -> None:
        self._stored = stored
        self.is_there = True

    def load(self) -> Stored | None:
        return self._store().load()

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        self._store().commit(revision, applied)

    def applied_again(self, applied: Document, number: int) -> None:
        self._store().applied_again(applied, number)

    def history(self, *, limit: int, before: int | None = None) -> Page:
        return self._store().history(limit=limit, before=before)

    def get(self, number: int) -> Revision | None:
        return self._store().get(number)

    def close(self) -> None:
        pass

    def _store(self) -> MemoryStore:
        if not self.is_there:
            raise StoreError("the process is gone")
        return self._stored


class SimInstance(asyncio.Protocol):
    """What answers at one address: `up`, `dead` (refuses), `frozen` (accepts and says nothing) or
    `starting` (503 to its health check)."""

    def __init__(self, loop: VirtualLoop, port: int) -> None:
        self.loop, self.port = loop, port
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.state = "up"
        self.since = loop.time()
        self.ends: dict[Answering, None] = {}
        loop.listeners["127.0.0.1", port] = self._accept

    def become(self, state: str) -> None:
        self.state, self.since = state, self.loop.time()
        if state == "dead":
            for end in list(self.ends):
                end.transport.die()
            self.ends.clear()
        elif state == "up":
            for end in list(self.ends):
                end.go_on()

    def _accept(self) -> asyncio.Protocol:
        if self.state == "dead":
            raise ConnectionRefusedError(111, "nobody listens there")
        return Answering(self)

    async def probe(self, timeout_s: float) -> ProbeSignal:
        await asyncio.sleep(self.loop.delay())
        if self.state == "dead":
            return "probe_refused"
        if self.state == "frozen":
            await asyncio.sleep(timeout_s)
            return "late"
        return "ready" if self.state == "up" else "unready"


class Answering(asyncio.Protocol):
    """One connection of an instance: each request is answered with the address and its target."""

    def __init__(self, of: SimInstance) -> None:
        self.of = of
        self.unread = b""
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self.transport = transport
        self.of.ends[self] = None

    def connection_lost(self, error: Exception | None) -> None:
        self.of.ends.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        self.go_on()

    def go_on(self) -> None:
        """Begins with the next request, if there is one."""
        if self.is_busy or self.of.state == "frozen" or b"\r\n\r\n" not in self.unread:
            return
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        self.is_busy = True
        target = head.split(b" ")[1]
        chance = self.of.loop.chance
        takes_s = chance.choice((0.002, 0.02)) * chance.uniform(0.5, 2.0)
        self.of.loop.call_later(takes_s, self._answer, target)

    def _answer(self, target: bytes) -> None:
        self.is_busy = False
        if self.transport.is_closing() or self.of.state == "frozen":
            return
        body = self.of.address.encode() + b" " + target
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        self.go_on()


class _Process:
    """The loop as one process knows it: after its end nothing that it wanted happens."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.is_alive = True

    def call_soon(self, what: Callable[..., None], *args: Any) -> asyncio.Handle:
        return self._loop.call_soon(self._guarded(what), *args)

    def call_later(self, delay: float, what: Callable[..., None], *args: Any) -> asyncio.Handle:
        return self._loop.call_later(delay, self._guarded(what), *args)

    def _guarded(self, what: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if self.is_alive:
                what(*args)

        return call


class _Plane(Plane):
    """A plane whose chance is that of the simulation."""

    __slots__ = ("chance",)
    chance: Random

    def random(self) -> int:
        return self.chance.getrandbits(64)


def _end(transport: asyncio.BaseTransport) -> End:
    assert isinstance(transport, End)
    return transport


class SimWorker:
    """One worker process: its data plane and its channel."""

    def __init__(self, house: "House", slot: int, pid: int) -> None:
        self.house, self.slot, self.pid = house, slot, pid
        self.process = _Process(house.loop)
        self.plane: _Plane | None = None
        self.is_listening = False
        self.channel: MemoryChannel | None = None
        self.slow_s = 0.0
        self._since = house.loop.time()
        self._own = Tasks(self._failed)
        self._control = ControlClient(
            self._reach, slot, pid, self._make, self._listen, (0.05, 1.0), self._own
        )
        self._own.run("following the control process", self._control.follow())

    async def _reach(self) -> MemoryChannel:
        self.channel = self.house.reach()
        self.delay(self.slow_s)
        return self.channel

    def delay(self, seconds: float) -> None:
        """From now on the worker hears, and is heard, so much later."""
        self.slow_s, self._since = seconds, self.house.loop.time()
        if self.channel is not None:
            self.channel.slow_s = self.channel.other.slow_s = seconds

    def hears_at_once(self) -> bool:
        """Whether it knows all by now that the others told."""
        return not self.slow_s and self.house.loop.time() > self._since + SETTLED_S

    def _make(self, settings: dict[str, Any]) -> Plane:
        _Plane.chance = self.house.loop.chance  # wanted while it is made
        loop = self.house.loop
        self.plane = _Plane(DataplaneOptions.from_dict(settings), self.process, now=loop.time)
        return self.plane

    def _listen(self) -> None:
        if not self.is_listening:
            self.is_listening = True
            self._control.listening()

    def _failed(self, name: str, error: Exception) -> None:
        self.house.faults.append(f"worker {self.pid}: {name}: {error!r}")

    def accept(self) -> Client:
        """The worker's end of a new client connection."""
        assert self.plane is not None
        return Client(self.plane, Exchange)

    @property
    def revision(self) -> int:
        return self.plane.snapshot.revision if self.plane is not None else 0

    async def kill(self) -> None:
        """Ends at once, as by SIGKILL."""
        self.process.is_alive = self.is_listening = False
        if self.channel is not None:
            self.channel.close()
        plane = self.plane
        if plane is not None:
            ends = [client.transport for client in plane.clients]
            for backend in plane.live.backends.values():
                for instance in backend.instances.values():
                    ends += [each.transport for each in instance.pool.connections]
            for end in sorted(map(_end, ends), key=lambda end: end.number):
                end.die()
            await plane.tasks.close()
        await self._own.close()


class SimControl:
    """One control process: what `gateway.control` composes, without its admin API, names and
    pages."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.own = Tasks(self._failed)
        self.disk = Disk(house.stored)
        self._began = house.loop.time()
        self.channels: list[MemoryChannel] = []
        self.workers = Workers(
            OPTIONS,
            replace=self._replace,
            health=lambda backends: self.prober.health.messages(backends),
            on_evidence=lambda signals: self.prober.hear(signals),
            answer_within_s=ANSWER_WITHIN_S,
            is_there=lambda pid: pid in [each.pid for each in house.live_workers()],
        )
        self.prober = Prober(
            self._on_health,
            on_signals=self.workers.tell,
            probe=house.probe,
            remembered=house.remembered,
            chance=house.loop.chance.random,
            clock=house.loop.time,
        )
        self.publisher = Publisher(self.disk, self.workers, self.prober, Events())

    async def start(self, document: Document, *, again: bool) -> None:
        self.publisher.start(document, why="start", again=again)
        if not again:
            await self.prober.judged(2.0)
        self.house.tell_supervised()
        await self.workers.put_in_force(self.publisher.table)
        self.own.run("the watch over the workers", self.workers.watch(self._on_beat))
        self.house.is_reachable = True

    def is_settled(self) -> bool:
        """Whether all workers have long been told what it knows."""
        return self.house.loop.time() > self._began + SETTLED_S

    def attend(self, channel: MemoryChannel) -> None:
        self.channels.append(channel)
        self.own.run("a channel", self.workers.attend(channel))

    async def _on_beat(self) -> None:
        await self.workers.look(reports=False)

    def _on_health(self, words: Any, changes: Any) -> None:
        self.house.remembered = {
            name: {address: list(told) for address, told in each.items()}
            for name, each in self.prober.health.states.items()
        }

    def _replace(self, pid: int) -> None:
        if self.disk.is_there:
            self.house.replace(pid)

    def _failed(self, name: str, error: Exception) -> None:
        self.house.faults.append(f"control: {name}: {error!r}")

    async def kill(self) -> None:
        """Ends at once, as by SIGKILL: whatever still runs reaches nobody any more."""
        self.house.is_reachable = self.disk.is_there = False
        for channel in self.channels:
            channel.close()
        await self.prober.close()
        await self.own.close()


class House:
    """All of it. `acknowledged` is the newest revision that an editor was told of."""

    def __init__(self, loop: VirtualLoop, ports: Sequence[int], workers: int) -> None:
        self.loop = loop
        self.stored = MemoryStore()
        self.faults: list[str] = []
        self.remembered: Mapping[str, Mapping[str, Sequence[Any]]] = {}
        self.instances = {port: SimInstance(loop, port) for port in ports}
        self.workers: list[SimWorker | None] = [None] * workers
        self.control: SimControl | None = None
        self.is_reachable = False
        self.acknowledged = 0
        self._own = Tasks(self._failed)
        self._pid = 100

    async def start(self, document: Document) -> None:
        self.control = SimControl(self)
        await self.control.start(document, again=False)
        self.note_acknowledged(self.control.publisher.table.revision)
        for slot in range(len(self.workers)):
            self._spawn(slot)
        await self.control.workers.all_serve(len(self.workers))

    async def stop(self) -> None:
        await self._own.close()
        for worker in self.live_workers():
            await worker.kill()
        if self.control is not None:
            await self.control.kill()

    def _failed(self, name: str, error: Exception) -> None:
        self.faults.append(f"{name}: {error!r}")

    # what lies between the processes

    def reach(self) -> MemoryChannel:
        """A channel to the control process."""
        if self.control is None or not self.is_reachable:
            raise ConnectionRefusedError(111, "no control process")
        here, there = MemoryChannel.pair(self.loop)
        self.control.attend(there)
        return here

    async def probe(self, target: Target) -> ProbeSignal:
        return await self.instances[target.port].probe(target.health.timeout_s)

    def connect(self, worker: SimWorker, client: asyncio.Protocol) -> End:
        """A client's connection to a worker."""
        return connected(self.loop, client, worker.accept())[0]

    # the supervisor

    def live_workers(self) -> list[SimWorker]:
        return [worker for worker in self.workers if worker is not None]

    def listening(self) -> list[SimWorker]:
        return [worker for worker in self.live_workers() if worker.is_listening]

    def tell_supervised(self) -> None:
        if self.control is not None:
            pids = [worker.pid if worker is not None else None for worker in self.workers]
            self.control.workers.expect(pids)

    def _spawn(self, slot: int) -> None:
        self._pid += 1
        self.workers[slot] = SimWorker(self, slot, self._pid)
        self.tell_supervised()

    def replace(self, pid: int) -> None:
        """What the control process asks of the supervisor."""
        self._own.run(f"replacing {pid}", self.kill_worker(pid))

    async def kill_worker(self, pid: int) -> None:
        for slot, worker in enumerate(self.workers):
            if worker is not None and worker.pid == pid:
                self.workers[slot] = None
                await worker.kill()
                self.tell_supervised()
                await asyncio.sleep(self.loop.chance.uniform(0.05, 0.5))
                self._spawn(slot)

    async def kill_control(self) -> None:
        """The control process is gone, and started again after a while."""
        control, self.control = self.control, None
        if control is None:
            return  # it is gone already
        await control.kill()
        await asyncio.sleep(self.loop.chance.uniform(0.1, 3.0))
        control = SimControl(self)
        self.control = control
        await control.start({}, again=True)

    # edits

    def note_acknowledged(self, revision: int) -> None:
        self.acknowledged = max(self.acknowledged, revision)

    async def edit(self, change: Callable[[Document], Document]) -> int | None:
        """The revision that was acknowledged; None when nobody was there to do it."""
        control = self.control
        if control is None or not self.is_reachable:
            return None
        try:
            published = await control.publisher.publish(change, who="somebody")
        except (StoreError, NotInForce):
            if self.control is control:
                raise
            return None
        if self.control is not control:
            return None  # who would say so is gone
        self.note_acknowledged(published.table.revision)
        return published.table.revision

    def table(self, revision: int) -> Table:
        stored = self.stored.get(revision)
        assert stored is not None
        return Table.from_document(stored.whole().document, revision)

    def states(self, worker: SimWorker) -> dict[str, dict[str, HealthState]]:
        """What a worker knows of the instances."""
        assert worker.plane is not None
        return {
            name: {address: each.health for address, each in backend.instances.items()}
            for name, backend in worker.plane.live.backends.items()
        }
