"""How long does one consumer wait beside another one that floods, over the workers of a gateway?

    python -m benchmarks.simulate_turns [--seconds 60] [--flood 64]

Runs the code of the request path in a time of its own: two workers that share their loads, one
instance that computes some requests at once, and two consumers with keys. One asks politely, twenty
times a second; the other one keeps many requests waiting, on connections to both workers or to one.
Says the polite one's 50th and 99th percentile alone and beside the other one, how many of its
requests were refused, and how much of the instance's time was used for both.
"""

import argparse
import asyncio
import json
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.access import hash_of, minted
from gateway.core.health import UNKNOWN
from gateway.core.options import DataplaneOptions
from gateway.core.table import Table
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.listener import Client
from gateway.dataplane.load_memory import LoadMemory
from gateway.dataplane.plane import Plane
from gateway.telemetry.book import shared_memory
from tests.simulation.virtual import VirtualLoop, connected

POLITE, FLOOD = minted(b"p" * 32), minted(b"f" * 32)
RATE = 20.0
ADDRESS = ("127.0.0.1", 9001)


@dataclass(frozen=True)
class Case:
    """An instance that computes `slots` at once in `service_s`, and on which workers the
    connections of who floods and of the polite one are."""

    name: str
    slots: int = 4
    service_s: float = 0.02
    flood_on: tuple[int, ...] = (0, 1)
    polite_on: tuple[int, ...] = (0, 1)
    reports: bool = True
    queue: int = 512


CASES = (
    Case("even"),
    Case("flood on one worker, polite on the other", flood_on=(0,), polite_on=(1,)),
    Case("flood on one worker, polite on both", flood_on=(0,)),
    Case("both on one worker", flood_on=(0,), polite_on=(0,)),
    Case("a queue that is full, apart", flood_on=(0,), polite_on=(1,), queue=16),
    Case("one at a time, even", slots=1, service_s=0.005),
    Case("one at a time, apart", slots=1, service_s=0.005, flood_on=(0,), polite_on=(1,)),
    Case("sixteen at a time, apart", slots=16, service_s=0.08, flood_on=(0,), polite_on=(1,)),
    Case("without a load report, apart", flood_on=(0,), polite_on=(1,), reports=False),
)


class Lane(LoadMemory):
    """The lane of a worker that shares its process with the others."""

    def __init__(self, descriptor: int, workers: int, lane: int) -> None:
        self._mine = lane
        super().__init__(descriptor, workers)

    def _claim(self, descriptor: int | None) -> int | None:
        return self._mine


class Machine:
    """What computes: `slots` at once, the others in the order in which they came."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.running = 0
        self.waiting: deque[Instance] = deque()

    def begin(self, connection: "Instance") -> None:
        if self.running >= self.case.slots:
            self.waiting.append(connection)
            return
        self.running += 1
        loop = asyncio.get_running_loop()
        taken_s = self.case.service_s * random.uniform(0.5, 1.5)
        loop.call_later(taken_s, self._end, connection)

    def _end(self, connection: "Instance") -> None:
        self.running -= 1
        if self.waiting:
            self.begin(self.waiting.popleft())
        connection.answer(self.running, len(self.waiting))


class Instance(asyncio.Protocol):
    """A connection to the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.machine.begin(self)

    def answer(self, running: int, waiting: int) -> None:
        case, report = self.machine.case, ""
        if case.reports:
            wait_ms = round(1000 * case.service_s * waiting / case.slots)
            metrics = {"queue": waiting, "running": running, "slots": case.slots}
            load = {"named_metrics": {**metrics, "wait_ms": wait_ms}}
            report = f"endpoint-load-metrics: JSON {json.dumps(load)}\r\n"
        self.transport.write(f"HTTP/1.1 200 OK\r\n{report}Content-Length: 0\r\n\r\n".encode())


class Asker(asyncio.Protocol):
    """A client's connection: `ask` gives the status of the answer."""

    def __init__(self, secret: str) -> None:
        self._request = f"GET / HTTP/1.1\r\nHost: gw\r\nX-API-Key: {secret}\r\n\r\n".encode()
        self._came = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def ask(self) -> int:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(self._request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, end, body = self._came.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                self._came = body[length:]
                self._answer.set_result(int(head[9:12]))


class Gateway:
    """Two workers on one machine."""

    def __init__(self, loop: VirtualLoop, case: Case) -> None:
        self.loop = loop
        descriptor = shared_memory()
        machine = Machine(case)
        loop.listeners[ADDRESS] = lambda: Instance(machine)
        table = Table.from_document(
            {
                "backends": {
                    "main": {
                        "instances": ["http://127.0.0.1:9001"],
                        "queue": {"size": case.queue},
                    }
                },
                "routes": {"main": {"match": "/", "split": {"main": 1}}},
                "keys": {
                    "polite": {"hashes": [hash_of(POLITE)]},
                    "flood": {"hashes": [hash_of(FLOOD)]},
                },
            },
            1,
        )
        self.planes = []
        for lane in range(2):
            memory = Lane(descriptor, 2, lane)
            options = DataplaneOptions(workers=2)
            plane = Plane(options, loop, load_memory=memory, now=loop.time)
            memory.beat(loop.time())
            plane.swap(table)
            plane.live.hear({"main": {"127.0.0.1:9001": replace(UNKNOWN, word="up")}}, [])
            self.planes.append(plane)
            self._beat(memory)

    def _beat(self, memory: LoadMemory) -> None:
        memory.beat(self.loop.time())
        self.loop.call_later(0.25, self._beat, memory)

    def connect(self, worker: int, secret: str) -> Asker:
        asker = Asker(secret)
        connected(self.loop, asker, Client(self.planes[worker], Exchange))
        return asker


async def politely(gateway: Gateway, case: Case, seconds: float) -> tuple[list[float], int]:
    """The times of the answers to who asks politely, and how many got none."""
    loop, idle = gateway.loop, {worker: [] for worker in case.polite_on}
    times: list[float] = []
    refused = 0

    async def once(worker: int) -> None:
        nonlocal refused
        asker = idle[worker].pop() if idle[worker] else gateway.connect(worker, POLITE)
        began = loop.time()
        if await asker.ask() == 200:
            times.append(loop.time() - began)
        else:
            refused += 1
        idle[worker].append(asker)

    tasks = []
    for number in range(int(seconds * RATE)):
        tasks.append(asyncio.create_task(once(case.polite_on[number % len(case.polite_on)])))
        await asyncio.sleep(loop.chance.expovariate(RATE))
    await asyncio.gather(*tasks)
    return sorted(times), refused


async def flooding(asker: Asker, answered: list[float]) -> None:
    """Asks again as soon as there is an answer, and notes when there was a good one."""
    loop = asyncio.get_running_loop()
    while True:
        if await asker.ask() == 200:
            answered.append(loop.time())
        else:
            await asyncio.sleep(0.01)


async def tried(loop: VirtualLoop, case: Case, seconds: float, clients: int) -> tuple[float, int]:
    """How many times as long the 99th percentile is beside who floods, and how many requests of the
    polite one were refused."""
    gateway = Gateway(loop, case)
    alone, _ = await politely(gateway, case, seconds)
    answered: list[float] = []
    workers = [case.flood_on[n % len(case.flood_on)] for n in range(clients)]
    floods = [
        asyncio.create_task(flooding(gateway.connect(worker, FLOOD), answered))
        for worker in workers
    ]
    await asyncio.sleep(2.0)
    began = loop.time()
    beside, refused = await politely(gateway, case, seconds)
    used = sum(at > began for at in answered) + len(beside)
    used_part = used * case.service_s / case.slots / (loop.time() - began)
    for each in floods:
        each.cancel()
    ratio = at(beside, 99) / at(alone, 99)
    print(
        f"{case.name:42} p50 {at(alone, 50):6.1f} → {at(beside, 50):6.1f} ms   p99"
        f" {at(alone, 99):6.1f} → {at(beside, 99):6.1f} ms  {ratio:5.2f} ×   {refused} refused"
        f"   {100 * used_part:5.1f} % of the instance used"
    )
    return ratio, refused


def at(times: list[float], percent: int) -> float:
    return 1e3 * times[min(len(times) - 1, len(times) * percent // 100)] if times else float("inf")


def simulated(case: Case, seconds: float, clients: int) -> tuple[float, int]:
    """What `tried` says of `case`, in a time of its own."""
    random.seed(1)
    loop = VirtualLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(tried(loop, case, seconds, clients))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--flood", type=int, default=64)
    options = parser.parse_args()
    for case in CASES:
        simulated(case, options.seconds, options.flood)


if __name__ == "__main__":
    main()
