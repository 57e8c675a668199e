"""One history of a gateway from one seed: what is done to it, and what must hold meanwhile.

    python -m tests.simulation.history 17 [SECONDS]

tells the history of seed 17, as far as it is simulated or until something does not hold.
"""

import asyncio
import copy
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.core.health import HealthState
from gateway.core.table import Document
from gateway.processes.tasks import Tasks
from tests.simulation.house import House, SimInstance, SimWorker
from tests.simulation.virtual import VirtualLoop

PORTS = (9001, 9002, 9003, 9004, 9005)
RATE = 40.0
CALM_S = 12.0  # after the last thing that was done to it, all is well again
WELL_S = 8.0  # who has answered for so long is known to be up
LOOK_S = 0.02
AGREE_S = 0.2  # all who hear at once know the same so soon


class Broken(AssertionError):
    """What must hold does not."""


class Asking(asyncio.Protocol):
    """A client: asks for one thing after another on a connection, as it likes."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes] | None] | None = None
        self.is_open = True
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    async def ask(self, target: bytes) -> tuple[int, bytes] | None:
        """Status and body; None when the connection ended before."""
        self.answer = asyncio.get_running_loop().create_future()
        if not self.is_open:
            return None
        self.transport.write(b"GET %b HTTP/1.1\r\nHost: gw.test\r\n\r\n" % target)
        return await self.answer

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, end, rest = self._came.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(rest) < length:
            return
        if len(rest) > length:
            raise Broken(f"more than one answer: {self._came!r}")
        self._came = b""
        assert self.answer is not None
        self.answer.set_result((int(lines[0].split(b" ")[1]), rest))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)


@dataclass
class History:
    """`lines` tell what happened; `counts` how requests ended."""

    seed: int
    seconds: float
    lines: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def run(self) -> "History":
        """Broken where something does not hold."""
        loop, said = VirtualLoop(Random(self.seed)), logging.getLogger("gateway")
        before = said.level
        said.setLevel(logging.CRITICAL)  # that instances die is no news here
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._run(loop))
        finally:
            said.setLevel(before)
        return self

    async def _run(self, loop: VirtualLoop) -> None:
        self.loop, self.chance = loop, loop.chance
        self.house = House(loop, PORTS, 2)
        self._began = loop.time()
        self._own = Tasks(self._failed)
        self._broken: list[str] = []
        self._asked = 0
        await self.house.start(self._first())
        self._own.run("what everybody knows", self._compare())
        self._own.run("requests", self._ask_again_and_again(loop.time() + self.seconds + CALM_S))
        until = loop.time() + self.seconds
        steps = [
            (6, self._shift_weights), (4, self._change_instances), (2, self._kill_worker),
            (2, self._kill_control), (2, self._delay_worker), (3, self._die), (2, self._freeze),
            (2, self._not_ready),
        ]  # fmt: skip
        weights = [weight for weight, _ in steps]
        while loop.time() < until:
            await asyncio.sleep(self.chance.expovariate(0.8))
            step = self.chance.choices([step for _, step in steps], weights)[0]
            self._own.run(step.__name__, step())
            self._look()
        await self._calm_down()
        self._look()
        self._look_at_the_end()
        await self.house.stop()
        await self._own.close()

    def _first(self) -> Document:
        backends = {
            "a": {"instances": [self._url(9001), self._url(9002)]},
            "b": {"instances": [self._url(9003)]},
        }
        for backend in backends.values():
            backend |= {  # type: ignore[assignment]
                "health": {"path": "/health", "interval": "500ms", "timeout": "500ms"},
                "timeouts": {"connect": "500ms", "response": "3s"},
            }
        return {
            "backends": backends,
            "routes": {
                "one": {"match": "/one", "split": {"a": 50, "b": 50}},
                "two": {"match": "/two", "split": {"a": 100}},
            },
        }

    # what is done

    async def _shift_weights(self) -> None:
        percent = self.chance.choice((0, 10, 50, 90, 100))

        def change(document: Document) -> Document:
            changed = copy.deepcopy(document)
            changed["routes"]["one"]["split"] = {"a": 100 - percent, "b": percent}
            return changed

        await self._edit(f"b gets {percent} %", change)

    async def _change_instances(self) -> None:
        free = self.chance.choice((9004, 9005))

        def change(document: Document) -> Document:
            changed = copy.deepcopy(document)
            instances = changed["backends"]["b"]["instances"]
            url = self._url(free)
            if url in instances:
                instances.remove(url)
            else:
                instances.append(url)
            return changed

        await self._edit(f"{free} comes or goes", change)

    async def _edit(self, what: str, change: Callable[[Document], Document]) -> None:
        self._tell(f"edit: {what}")
        revision = await self.house.edit(change)
        if revision is None:
            self._tell(f"nobody took: {what}")
            return
        self._tell(f"revision {revision} is acknowledged: {what}")
        for worker in self.house.listening():
            if worker.revision < revision:
                self._break(
                    f"worker {worker.pid} serves {worker.revision}, acknowledged is {revision}"
                )

    async def _kill_worker(self) -> None:
        if workers := self.house.listening():
            worker = self.chance.choice(workers)
            self._tell(f"worker {worker.pid} is killed")
            await self.house.kill_worker(worker.pid)

    async def _kill_control(self) -> None:
        if self.house.control is not None and self.house.is_reachable:
            self._tell("the control process is killed")
            await self.house.kill_control()
            self._tell("the control process is there again")

    async def _delay_worker(self) -> None:
        if workers := self.house.listening():
            worker = self.chance.choice(workers)
            seconds = self.chance.choice((0.1, 0.5, 4.0))
            self._tell(f"worker {worker.pid} hears all {seconds} s later")
            worker.delay(seconds)
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))
            worker.delay(0.0)

    async def _die(self) -> None:
        await self._harm("dead")

    async def _freeze(self) -> None:
        await self._harm("frozen")

    async def _not_ready(self) -> None:
        await self._harm("starting")

    async def _harm(self, state: str) -> None:
        instance = self.house.instances[self.chance.choice(PORTS)]
        if instance.state != "up":
            return
        self._tell(f"{instance.port} is {state}")
        instance.become(state)
        await asyncio.sleep(self.chance.uniform(0.1, 5.0))
        self._tell(f"{instance.port} is up")
        instance.become("up")

    async def _calm_down(self) -> None:
        """Lets come to an end what was begun, and everybody hear of it."""
        self._tell("calm")
        await asyncio.sleep(CALM_S)

    # requests

    async def _ask_again_and_again(self, until: float) -> None:
        kept: dict[int, Asking] = {}
        while self.loop.time() < until:
            await asyncio.sleep(self.chance.expovariate(RATE))
            workers = self.house.listening()
            if workers:
                worker = self.chance.choice(workers)
                self._asked += 1
                self._own.run("a request", self._ask(worker, kept, self._asked))

    async def _ask(self, worker: SimWorker, kept: dict[int, Asking], number: int) -> None:
        route = self.chance.choice(("one", "two"))
        target = b"/%b/%d" % (route.encode(), number)
        began, oldest = self.loop.time(), self.house.acknowledged
        client = kept.pop(worker.pid, None)
        if client is None or not client.is_open or self.chance.random() < 0.5:
            client = Asking()
            self.house.connect(worker, client)
        answer = await client.ask(target)
        if answer is None:
            # A worker that was killed takes its requests along; nothing else may.
            is_lost = worker not in self.house.workers
            self._count("cut")
            if not is_lost:
                self._break(f"{target!r} was cut by worker {worker.pid}, which is there")
            return
        kept[worker.pid] = client
        status, body = answer
        self._count(str(status))
        if status == 200:
            self._check_answer(target, route, body, oldest)
            return
        is_met = (status == 504 and self._is_one_frozen(began)) or (
            status == 502 and self._may_meet_only_dead_ones(route, began, oldest)
        )
        if not is_met and self._had_somewhere_to_go(route, began, oldest):
            self._break(f"{target!r} got {status} {body!r}")

    def _check_answer(self, target: bytes, route: str, body: bytes, oldest: int) -> None:
        address, _, asked = body.partition(b" ")
        if asked != target:
            self._break(f"{target!r} got the answer to {asked!r}")
        if address.decode() not in self._addresses(route, oldest):
            self._break(
                f"{target!r} was answered by {address!r}, which no table from {oldest} on names"
            )

    def _tables(self, oldest: int) -> list[Any]:
        """What may decide a request that came when `oldest` was acknowledged."""
        found = []
        while self.house.stored.get(oldest) is not None:
            found.append(self.house.table(oldest))
            oldest += 1
        return found

    def _addresses(self, route: str, oldest: int) -> set[str]:
        return {
            instance.address
            for table in self._tables(oldest)
            for name, weight in table.routes[route].split
            if weight
            for instance in table.backends[name].instances
        }

    def _is_one_frozen(self, began: float) -> bool:
        """Whether an instance was frozen since `began`: it may have been asked."""
        return any(each.state == "frozen" or each.since > began for each in self._instances())

    def _may_meet_only_dead_ones(self, route: str, began: float, oldest: int) -> bool:
        """Whether so many of a backend died of late that each attempt may have met one of them."""
        dead = {
            each.address
            for each in self._instances()
            if each.since > began or (each.state == "dead" and each.since > began - WELL_S)
        }
        return any(
            len([each for each in table.backends[name].instances if each.address in dead])
            >= table.routes[route].retries.attempts
            for table in self._tables(oldest)
            for name, weight in table.routes[route].split
            if weight
        )

    def _instances(self) -> list[SimInstance]:
        return list(self.house.instances.values())

    def _had_somewhere_to_go(self, route: str, began: float, oldest: int) -> bool:
        """Whether each backend that may have been drawn had an instance that is known to be up."""
        ports = {each.address: each for each in self.house.instances.values()}
        return all(
            any(
                all(
                    instance.address in {it.address for it in other.backends[name].instances}
                    for other in self._tables(max(1, oldest - 3))
                )
                and ports[instance.address].state == "up"
                and ports[instance.address].since < began - WELL_S
                for instance in table.backends[name].instances
            )
            for table in self._tables(oldest)
            for name, weight in table.routes[route].split
            if weight
        )

    # what must hold

    def _look(self) -> None:
        problems = self._broken + self.house.faults
        if problems:
            raise Broken("\n".join([*self.lines[-60:], f"seed {self.seed}:", *problems]))

    async def _compare(self) -> None:
        """Looks all the time whether control process and workers know the same of the instances."""
        since: dict[tuple[str, str], float] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            now = self.loop.time()
            different = self._different()
            since = {key: since.get(key, now) for key in different}
            for key, begun in since.items():
                if now - begun > AGREE_S:
                    self._break(f"{key} is not the same to all: {different[key]}")
                    return

    def _different(self) -> dict[tuple[str, str], list[Any]]:
        """What is known of instances, by backend and address, where not all know the same. Only
        those are asked who have been there for a while, and hear at once."""
        control = self.house.control
        if control is None or not self.house.is_reachable or not control.is_settled():
            return {}
        told = [control.prober.health.states]
        for worker in self.house.listening():
            if worker.hears_at_once():
                states = self.house.states(worker)
                told.append({name: _told(each) for name, each in states.items()})
        keys = {(name, address) for each in told[1:] for name in each for address in each[name]}
        found = {}
        for name, address in keys:
            known = [each.get(name, {}).get(address) for each in told]
            if any(each != known[0] for each in known):
                found[name, address] = known
        return found

    def _look_at_the_end(self) -> None:
        house = self.house
        control = house.control
        assert control is not None
        newest = control.publisher.table.revision
        if newest < house.acknowledged:
            self._break(f"{house.acknowledged} was acknowledged, {newest} is there")
        known = control.prober.health.states
        for worker in house.live_workers():
            if worker.revision != newest:
                self._break(f"worker {worker.pid} serves {worker.revision}, not {newest}")
            for backend, states in house.states(worker).items():
                for address, state in states.items():
                    if state.word != "up" or state.told() != known[backend][address]:
                        self._break(
                            f"worker {worker.pid} knows {state} of {address}, the control process"
                            f" {known[backend][address]}"
                        )
            self._look_for_leftovers(worker)
        self._look()

    def _look_for_leftovers(self, worker: SimWorker) -> None:
        assert worker.plane is not None
        for backend in worker.plane.live.backends.values():
            if backend.waiting:
                self._break(f"worker {worker.pid}: requests still wait for {backend.name}")

    def _break(self, what: str) -> None:
        self._tell(f"BROKEN: {what}")
        self._broken.append(what)

    def _failed(self, name: str, error: Exception) -> None:
        self._break(f"{name}: {error!r}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _tell(self, what: str) -> None:
        self.lines.append(f"{self.loop.time() - self._began:8.3f} {what}")

    def _url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}"


def _told(states: Mapping[str, HealthState]) -> dict[str, list[Any]]:
    return {address: state.told() for address, state in states.items()}


def main() -> None:
    history = History(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
    try:
        history.run()
    except Broken as error:
        print(error)
        sys.exit(1)
    print("\n".join(history.lines))
    print(history.counts)


if __name__ == "__main__":
    main()
