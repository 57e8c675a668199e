"""The request path: rate, added latency, latency at half load, many routes, idle costs."""

import contextlib
import resource
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.proxies import Proxy, Work, missing, proxy
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk
from gateway.dataplane.worker import most_clients

PEERS = ("Headgate", "Envoy", "HAProxy", "nginx", "plain aiohttp")
Results = dict[str, Any]
IDLE_PAIRS = 20


def available(say: Callable[[str], None]) -> list[str]:
    """The proxies that can run here; the others are named and left out."""
    found = []
    for name in PEERS:
        if why := missing(name):
            say(f"left out: {name} ({why})")
        else:
            found.append(name)
    return found


@contextmanager
def started(names: list[str], work: Work, say: Callable[[str], None]) -> Iterator[list[Proxy]]:
    """All proxies at once, idle but for the one being measured."""
    with contextlib.ExitStack() as stack:
        proxies = []
        for name in names:
            try:
                proxies.append(stack.enter_context(proxy(name, work)))
            except RuntimeError as error:
                say(f"left out: {name} did not start: {error}")
        yield proxies


def _split(ports: list[int]) -> Work:
    return Work({"big": (9, ports[:1]), "small": (1, ports[1:2])}, check="/")


def requests(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """Rate at 32 connections, p50 at one, p99 at half of Headgate's rate, for each proxy."""
    names = available(say)
    loads: dict[str, dict[str, list[Load]]] = defaultdict(lambda: defaultdict(list))
    with nginx_upstreams(2) as ports, started(names, _split(ports), say) as proxies:
        targets = [("direct", f"http://127.0.0.1:{ports[0]}")]
        targets += [(one.name, one.url) for one in proxies]
        for _, url in targets:
            wrk(url, seconds=1)
        for number in range(rounds):
            for name, url in targets:
                loads[name]["many"].append(wrk(url, 32, seconds))
                loads[name]["one"].append(wrk(url, 1, seconds))
            say(f"round {number + 1}: " + _rates(loads))
        half = statistics.median(x.rate for x in loads["Headgate"]["many"]) / 2
        for _ in range(rounds):
            for name, url in targets:
                loads[name]["half"].append(wrk(url, seconds=seconds, rate=half))
    return {name: _medians(one) for name, one in loads.items()}


def _rates(loads: dict[str, dict[str, list[Load]]]) -> str:
    return ", ".join(f"{name} {one['many'][-1].rate:,.0f}/s" for name, one in loads.items())


def _medians(loads: dict[str, list[Load]]) -> Results:
    def median(kind: str, figure: str) -> float:
        return statistics.median(getattr(load, figure) for load in loads[kind])

    return {
        "rate": median("many", "rate"),
        "p50": median("many", "p50"),
        "p99": median("many", "p99"),
        "one": median("one", "p50"),
        "half_rate": median("half", "rate"),
        "half_p50": median("half", "p50"),
        "half_p99": median("half", "p99"),
        "errors": sum(load.errors for kind in loads.values() for load in kind),
    }


def many_routes(rounds: int, seconds: float) -> Results:
    """Headgate with two routes against Headgate with 1,000 routes of four backends each."""
    rates: dict[str, list[float]] = {"few": [], "many": []}
    with nginx_upstreams(4) as ports:
        few = Work({f"b{n}": (1, [port]) for n, port in enumerate(ports)}, check="/")
        more = {
            f"r{n}": {"match": f"/team{n % 40}/model{n}", "split": dict.fromkeys(few.backends, 1)}
            for n in range(1000)
        }
        many = Work(few.backends, hand={"more_routes": more}, check="/")
        with proxy("Headgate", few) as plain, proxy("Headgate", many) as full:
            for _ in range(rounds):
                rates["few"].append(wrk(plain.url, seconds=seconds).rate)
                path = "/team39/model999/predict"
                rates["many"].append(wrk(full.url, seconds=seconds, path=path).rate)
    few_rate, many_rate = (statistics.median(rates[kind]) for kind in ("few", "many"))
    return {"few": few_rate, "many": many_rate, "loss": 1 - many_rate / few_rate}


def idle(rounds: int, seconds: float, connections: int = 10_000) -> Results:
    """Memory per idle connection, the rate lost to them, and wake-ups with nothing to do.

    A gateway keeps some of its descriptors for instances, and wrk needs a few: fewer
    connections are made where the machine allows few. The rate of a shared machine wanders by more
    than they cost: a second of a gateway with them is held against the next of one without.
    """
    allowed = most_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    connections = min(connections, int(allowed) - 64)
    with (
        nginx_upstreams(2) as ports,
        proxy("Headgate", _split(ports)) as crowded,
        proxy("Headgate", _split(ports)) as empty,
    ):
        assert crowded.running is not None
        for each in (crowded, empty):
            wrk(each.url, seconds=2)
        wakeups = _wakeups(crowded, 10)
        rss = crowded.running.rss()
        with _connected(crowded.port, connections) as made:
            time.sleep(1)
            size = (crowded.running.rss() - rss) / max(1, made)
            ratios = []
            for number in range(2 if rounds * seconds <= 2 else IDLE_PAIRS):
                pair = (crowded, empty) if number % 2 else (empty, crowded)
                rate = {each.url: wrk(each.url, seconds=1).rate for each in pair}
                ratios.append(rate[crowded.url] / rate[empty.url])
    loss = 1 - statistics.median(ratios)
    return {"connections": made, "bytes_each": size, "loss": loss, "wakeups": wakeups}


@contextmanager
def _connected(port: int, count: int) -> Iterator[int]:
    made = []
    try:
        for number in range(count):
            try:
                # Many addresses: one has too few ports for everybody.
                source = (f"127.0.1.{1 + number % 200}", 0)
                made.append(socket.create_connection(("127.0.0.1", port), 5, source))
            except OSError:
                break
        yield len(made)
    finally:
        for one in made:
            one.close()


def _wakeups(headgate: Proxy, seconds: float) -> dict[str, float]:
    """Voluntary context switches per second of each process while nothing is asked."""
    assert headgate.running is not None
    time.sleep(2)
    family = headgate.running.family()

    def switches(process: psutil.Process) -> int:
        return sum(
            psutil.Process(thread.id).num_ctx_switches().voluntary for thread in process.threads()
        )

    before = {process.pid: switches(process) for process in family}
    time.sleep(seconds)
    return {
        str(process.pid): (switches(process) - before[process.pid]) / seconds for process in family
    }
