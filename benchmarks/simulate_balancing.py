"""How would the balancing policies fare, without processes and noise?

A discrete-event simulation of open-loop Poisson arrivals at gateway workers in front of
instances with slots, lognormal service times and a queue of their own. It runs the very code
of `gateway.core` with simulated time, so that a change of policy is judged in seconds.

    python -m benchmarks.simulate_balancing
"""

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.core.concurrency_limit import Peers
from gateway.core.health import HealthState
from gateway.core.instance_load import Load, Sent
from gateway.core.queueing import (
    GLANCE_S,
    LOOK_S,
    Admission,
    Refuse,
    beyond_a_guess,
    moment_s,
    place,
    rather_than_refuse,
)
from gateway.core.shared_load import SharedLoad, SharedQueue, lane_at, size
from gateway.core.table import Eject, Health, Queue

HOP_S = 0.0003  # one way, gateway to instance
LOST_S = 5.0  # what a request without an answer counts as


@dataclass(frozen=True, slots=True)
class Machine:
    """An instance as it really is: `slots` at once, each taking `mean_s` on average, lognormal
    or as `takes` says for a moment."""

    slots: int = 2
    mean_s: float = 0.02
    sigma: float = 0.5
    reports: bool = True
    fails: bool = False  # with a 500, in a millisecond
    takes: Callable[[random.Random, float], float] | None = None

    def service_s(self, source: random.Random, now: float) -> float:
        """How long one request takes that begins now."""
        if self.fails:
            return 0.001
        if self.takes is not None:
            return self.takes(source, now)
        return source.lognormvariate(math.log(self.mean_s) - self.sigma**2 / 2, self.sigma)


@dataclass(slots=True)
class Request:
    """One request: when it was meant to be sent, and when and by whom it was answered."""

    arrived: float
    worker: int = 0
    machine: int = -1
    sent: float = 0.0
    known: Sent = (0.0, 0.0)
    answered: float | None = None
    refused: float | None = None
    tries: int = 1
    failed: bool = False

    def latency_s(self) -> float:
        return LOST_S if self.answered is None else min(LOST_S, self.answered - self.arrived)


class Gateway(Protocol):
    """What a simulated worker does with a request and with an answer."""

    loads: list[Load]

    def arrive(self, request: Request, now: float) -> None: ...
    def answer(self, request: Request, now: float, report: dict[str, float] | None) -> None: ...
    def share(self, queue: SharedQueue) -> None: ...


class Fleet:
    """The machines, the wires and the clock."""

    def __init__(self, machines: list[Machine], seed: int) -> None:
        self.machines = machines
        self.random = random.Random(seed)
        self.running = [0] * len(machines)
        self.waiting: list[deque[Request]] = [deque() for _ in machines]
        self.workers: list[Gateway] = []
        self.served = [0] * len(machines)
        self.is_stopped = [False] * len(machines)
        self.paused_until = [0.0] * len(machines)
        self.slow = [(0.0, 0.0)] * len(machines)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, arguments))

    def run(self, until: float) -> None:
        """Lets everything happen that happens before `until`."""
        while self._events and self._events[0][0] <= until:
            now, _, what, arguments = heapq.heappop(self._events)
            what(now, *arguments)

    def stop(self, index: int) -> None:
        """From now on machine `index` takes requests and answers none."""
        self.is_stopped[index] = True

    def pause(self, index: int, until: float) -> None:
        """Machine `index` does nothing before `until`; then it goes on."""
        self.paused_until[index] = until

    def slow_down(self, index: int, until: float, takes_s: float) -> None:
        """What machine `index` begins before `until` takes at least `takes_s`."""
        self.slow[index] = (until, takes_s)

    def send(self, request: Request, machine: int, now: float) -> None:
        request.machine, request.sent = machine, now
        self.at(now + HOP_S, self._reach, request)

    def _reach(self, now: float, request: Request) -> None:
        self.waiting[request.machine].append(request)
        self._start(request.machine, now)

    def _start(self, index: int, now: float) -> None:
        machine = self.machines[index]
        while (
            self.waiting[index]
            and self.running[index] < machine.slots
            and not self.is_stopped[index]
        ):
            request = self.waiting[index].popleft()
            self.running[index] += 1
            took_s = machine.service_s(self.random, now)
            until, least_s = self.slow[index]
            self.at(now + (max(took_s, least_s) if now < until else took_s), self._finish, request)

    def _finish(self, now: float, request: Request) -> None:
        index = request.machine
        machine = self.machines[index]
        if self.is_stopped[index]:
            return
        if now < self.paused_until[index]:
            self.at(self.paused_until[index], self._finish, request)
            return
        request.failed = machine.fails
        self.running[index] -= 1
        self.served[index] += 1
        self._start(index, now)
        report = None
        if machine.reports:
            queue, running = len(self.waiting[index]), self.running[index]
            wait_s = max(0, queue + running + 1 - machine.slots) * machine.mean_s / machine.slots
            report = {
                "queue": queue,
                "running": running,
                "slots": machine.slots,
                "wait_ms": wait_s * 1000,
            }
        self.at(now + HOP_S, self._return, request, report)

    def _return(self, now: float, request: Request, report: dict[str, float] | None) -> None:
        request.answered = now
        self.workers[request.worker].answer(request, now, report)


@dataclass
class Headgate:
    """A worker that uses the policies of `gateway.core`."""

    fleet: Fleet
    balance: str = "least_loaded"
    max_in_flight: int = 256
    queue: Queue = field(default_factory=Queue)
    remaining_s: float = math.inf
    refused: Callable[[Request, float], None] | None = None
    rotation: int = 0

    def __post_init__(self) -> None:
        self.loads = [Load() for _ in self.fleet.machines]
        self.states = [HealthState("up") for _ in self.loads]
        peers = Peers()
        for load in self.loads:
            load.limit = self.max_in_flight
            load.concurrency.peers = peers
        self.serving = list(range(len(self.loads)))
        self.waiting: deque[Request] = deque()
        self.admission = Admission(self.queue)
        self.is_looking = False
        self.look_s = LOOK_S

    def share(self, queue: SharedQueue) -> None:
        """There are other workers."""
        self.admission = Admission(self.queue, queue)
        self.look_s = GLANCE_S

    def hold(self, machine: int, count: int) -> None:
        """So many tunnels are open at `machine` from now on."""
        self.loads[machine].in_flight += count
        self.loads[machine].held += count

    def arrive(self, request: Request, now: float) -> None:
        self.waiting.append(request)
        self.dispatch(now)
        if request.machine >= 0:
            return
        loads = [self.loads[index] for index in self.serving]
        verdict = self.admission.admit(now, loads, len(self.waiting) - 1, self.remaining_s)
        self.admission.waits(len(self.waiting))
        if isinstance(verdict, Refuse):
            self.waiting.remove(request)
            self.admission.waits(len(self.waiting))
            index = rather_than_refuse(loads, self.rotation, now)
            if index >= 0:
                self._send(request, index, now)
                return
            request.refused = now
            if self.refused is not None:
                self.refused(request, now)
        elif not self.is_looking:
            self.is_looking = True
            self.fleet.at(now + self.look_s, self._look)

    def _look(self, now: float) -> None:
        self.dispatch(now)
        loads = [self.loads[index] for index in self.serving]
        remaining_s = moment_s(loads, self.queue)
        while self.waiting and now - self.waiting[0].arrived > remaining_s:
            index = beyond_a_guess(loads, now)
            if index < 0:
                break
            self._send(self.waiting.popleft(), index, now)
            self.admission.waits(len(self.waiting))
        while self.waiting and now - self.waiting[0].arrived > self.queue.timeout_s:
            self.waiting.popleft().refused = now
            self.admission.waits(len(self.waiting))
        self.is_looking = bool(self.waiting)
        if self.is_looking:
            self.fleet.at(now + self.look_s, self._look)

    def dispatch(self, now: float) -> None:
        loads = [self.loads[index] for index in self.serving]
        while self.waiting:
            self.rotation += 1
            chosen = place(self.balance, loads, len(self.waiting), self.rotation, now)
            if chosen is None:
                return
            request = self.waiting[chosen.position]
            del self.waiting[chosen.position]
            self._send(request, chosen.instance, now)
            self.admission.waits(len(self.waiting))

    def _send(self, request: Request, index: int, now: float) -> None:
        load = self.loads[self.serving[index]]
        request.known = load.sent(now)
        self.fleet.send(request, self.serving[index], now)

    def remove(self, index: int) -> None:
        """The probes say that machine `index` is gone."""
        self.serving.remove(index)

    def answer(self, request: Request, now: float, report: dict[str, float] | None) -> None:
        load = self.loads[request.machine]
        state = self.states[request.machine]
        signal = "error" if request.failed else "success"
        state = self.states[request.machine] = state.after(signal, now, Health(), Eject())
        load.is_new, load.avoid_until = state.is_new, state.avoid_until
        if not request.failed:
            load.answered(now, now - request.sent, request.known)
        if report:
            load.reported(now, **report)
        load.done()
        self.dispatch(now)


@dataclass
class LeastConnections:
    """A peer: fewest connections first, at most `most` each, the rest waits in one queue."""

    fleet: Fleet
    most: int = 1 << 30
    rotation: int = 0

    def __post_init__(self) -> None:
        self.loads = [Load() for _ in self.fleet.machines]
        self.waiting: deque[Request] = deque()

    def arrive(self, request: Request, now: float) -> None:
        self.waiting.append(request)
        self.dispatch(now)

    def share(self, queue: SharedQueue) -> None:
        """It knows its own connections only."""

    def dispatch(self, now: float) -> None:
        while self.waiting:
            self.rotation += 1
            order = [(i + self.rotation) % len(self.loads) for i in range(len(self.loads))]
            least = min(order, key=lambda i: self.loads[i].in_flight)
            if self.loads[least].in_flight >= self.most:
                return
            self.loads[least].in_flight += 1
            self.fleet.send(self.waiting.popleft(), least, now)

    def answer(self, request: Request, now: float, report: dict[str, float] | None) -> None:
        self.loads[request.machine].in_flight -= 1
        self.dispatch(now)


@dataclass
class Oracle(LeastConnections):
    """Least expected delay with every instance's speed known, and no queue at the gateway."""

    def dispatch(self, now: float) -> None:
        while self.waiting:
            self.rotation += 1

            def delay(i: int) -> float:
                machine, ahead = self.fleet.machines[i], self.loads[i].in_flight + 1
                return machine.mean_s * max(1.0, ahead / machine.slots)

            order = [(i + self.rotation) % len(self.loads) for i in range(len(self.loads))]
            least = min(order, key=delay)
            self.loads[least].in_flight += 1
            self.fleet.send(self.waiting.popleft(), least, now)


def arrivals(phases: list[tuple[float, float]], source: random.Random) -> Iterator[float]:
    """Moments of a Poisson process through `phases` of (seconds, rate a second)."""
    begin = 0.0
    for seconds, rate in phases:
        now = begin + source.expovariate(rate)
        while now < begin + seconds:
            yield now
            now += source.expovariate(rate)
        begin += seconds


def simulate(
    gateways: Callable[[Fleet], Gateway],
    machines: list[Machine],
    phases: list[tuple[float, float]],
    seed: int = 1,
    workers: int = 1,
    events: dict[float, Callable[[Fleet], None]] | None = None,
) -> tuple[list[Request], Fleet]:
    """Every request of a run through `phases`, with what became of it, and the fleet."""
    fleet = Fleet(machines, seed)
    fleet.workers = [gateways(fleet) for _ in range(workers)]
    requests = []
    for when in arrivals(phases, random.Random(seed + 1000)):
        request = Request(when, worker=fleet.random.randrange(workers))
        requests.append(request)
        fleet.at(when, lambda now, r: fleet.workers[r.worker].arrive(r, now), request)
    for when, event in (events or {}).items():
        fleet.at(when, lambda _, event: event(fleet), event)
    seconds = sum(phase[0] for phase in phases)
    if workers > 1:
        _share(fleet.workers)
    fleet.run(seconds + LOST_S)
    return requests, fleet


def _share(workers: list[Gateway]) -> None:
    """Gives the workers memory that they share."""
    lanes = len(workers)
    of_queue = [0.0] * size(lanes)
    of_instances = [[0.0] * size(lanes) for _ in workers[0].loads]
    for lane, worker in enumerate(workers):
        others = [lane_at(other) for other in range(lanes) if other != lane]
        queue = SharedQueue(of_queue, lane, others)
        worker.share(queue)
        for load, cells in zip(worker.loads, of_instances, strict=True):
            load.shared = SharedLoad(cells, lane, others, queue)


UNEVEN = [Machine(), Machine(), Machine(), Machine(mean_s=0.1)]
FLEETS = {
    "all alike": [Machine()] * 4,
    "one of four slow": UNEVEN,
    "one of two slow": [Machine(), Machine(mean_s=0.1)],
    "two of eight slow": [Machine()] * 6 + [Machine(mean_s=0.06), Machine(mean_s=0.1)],
    "20, 25, 30 and 35 ms": [Machine(mean_s=ms / 1000) for ms in (20, 25, 30, 35)],
    "one fast, one slot": [Machine(slots=1, mean_s=0.004), *[Machine()] * 3],
    "many slots and few": [Machine(slots=8), *[Machine()] * 2, Machine(mean_s=0.06)],
    "times vary wildly": [Machine(sigma=1.2)] * 3 + [Machine(mean_s=0.1, sigma=1.2)],
    "alike and silent": [Machine(reports=False)] * 4,
    "uneven and silent": [Machine(reports=False)] * 3 + [Machine(mean_s=0.1, reports=False)],
}


def capacity_of(machines: list[Machine]) -> float:
    """Requests a second that `machines` can answer, in the mean."""
    return sum(machine.slots / machine.mean_s for machine in machines)


CAPACITY = capacity_of(UNEVEN)


def percentile_s(requests: list[Request], share: float) -> float:
    """The latency within which `share` of `requests` were answered."""
    latencies = sorted(request.latency_s() for request in requests)
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))]


def goodput(requests: list[Request], seconds: float, within_s: float) -> float:
    """Answers a second that came within `within_s`."""
    return sum(request.latency_s() <= within_s for request in requests) / seconds


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_balancing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    policies: dict[str, tuple[Callable[[Fleet], Gateway], int]] = {
        "least connections": (LeastConnections, 1),
        "least connections, 2 at most": (lambda fleet: LeastConnections(fleet, 2), 1),
        "oracle, no queue": (Oracle, 1),
        "headgate": (Headgate, 1),
        "headgate, 2 workers": (Headgate, 2),
        "headgate, 4 workers": (Headgate, 4),
    }
    print(f"{'policy':34}{'p99 at 70 %':>12}{'at 90 %':>10}{'slow one':>10}")
    for name, (gateways, workers) in policies.items():
        tails: dict[float, list[float]] = {0.7: [], 0.9: []}
        slow = []
        for seed in range(1, 8):
            for load, found in tails.items():
                requests, fleet = simulate(
                    gateways, UNEVEN, [(20.0, load * CAPACITY)], seed, workers
                )
                found.append(percentile_s(requests, 0.99))
                if load == 0.7:
                    slow.append(fleet.served[-1] / len(requests))
        middle = [sorted(found)[3] * 1000 for found in tails.values()]
        print(f"{name:34}{middle[0]:>9.0f} ms{middle[1]:>7.0f} ms{sorted(slow)[3]:>9.1%}")
    print(f"\n{'headgate, p99 at 70 %':34}{'1 worker':>12}{'4 workers':>10}")
    for name, machines in FLEETS.items():
        phases = [(20.0, 0.7 * capacity_of(machines))]
        line = f"{name:34}"
        for workers in (1, 4):
            runs = (simulate(Headgate, machines, phases, seed, workers)[0] for seed in range(1, 8))
            line += f"{sorted(percentile_s(run, 0.99) for run in runs)[3] * 1000:>7.0f} ms"
        print(line)
    print(f"\n{'three times the capacity':34}{'within 500 ms':>14}{'refused':>9}")
    for name, (gateways, workers) in policies.items():
        if "headgate" in name:
            requests, _ = simulate(gateways, UNEVEN, [(20.0, 3 * CAPACITY)], workers=workers)
            good = goodput(requests, 20.0, 0.5) / CAPACITY
            refused = sum(request.refused is not None for request in requests) / len(requests)
            print(f"{name:34}{good:>14.1%}{refused:>9.1%}")


if __name__ == "__main__":
    main()
