"""The request path: rate, added latency, latency at half load, many routes, idle costs."""

import contextlib
import math
import resource
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.heads import Target
from benchmarks.machine import Running
from benchmarks.proxies import Proxy, Work, missing, proxy
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import KINDS, Load, wrk
from gateway.dataplane.worker import max_clients

PEERS = ("Headgate", "Envoy", "HAProxy", "nginx", "Caddy", "plain aiohttp")
Results = dict[str, Any]
Loads = dict[str, dict[str, list[Load]]]  # of one kind: proxy, then what was measured
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
    """Of each proxy with both loads: rate, latency and processor time at 32 connections, p50 at
    one, p99 at half of Headgate's rate."""
    names = available(say)
    loads: dict[str, Loads] = {kind: defaultdict(lambda: defaultdict(list)) for kind in KINDS}
    with nginx_upstreams(2) as ports, started(names, _split(ports), say) as proxies:
        targets: list[tuple[str, str, Running | None]] = [
            ("direct", f"http://127.0.0.1:{ports[0]}", None)
        ]
        targets += [(one.name, one.url, one.running) for one in proxies]
        for _, url, _ in targets:
            for kind in KINDS:
                wrk(url, seconds=1, kind=kind)
        for number in range(rounds):
            for kind in KINDS:
                for name, url, running in targets:
                    seen = loads[kind][name]
                    seen["many"].append(wrk(url, 32, seconds, kind=kind, watched=running))
                    seen["one"].append(wrk(url, 1, seconds, kind=kind))
                say(f"round {number + 1}, {kind} heads: " + _rates(loads[kind]))
        for kind in KINDS:
            half = statistics.median(x.rate for x in loads[kind]["Headgate"]["many"]) / 2
            for _ in range(rounds):
                for name, url, _ in targets:
                    load = wrk(url, seconds=seconds, rate=half, kind=kind)
                    loads[kind][name]["half"].append(load)
    return {
        kind: {name: _medians(one) for name, one in seen.items()} for kind, seen in loads.items()
    }


def _rates(loads: Loads) -> str:
    return ", ".join(f"{name} {one['many'][-1].rate:,.0f}/s" for name, one in loads.items())


def _medians(loads: dict[str, list[Load]]) -> Results:
    def median(kind: str, figure: str) -> float:
        return float(statistics.median(getattr(load, figure) for load in loads[kind]))

    figures = {
        "rate": median("many", "rate"),
        "p50": median("many", "p50"),
        "p99": median("many", "p99"),
        "one": median("one", "p50"),
        "half_rate": median("half", "rate"),
        "half_p50": median("half", "p50"),
        "half_p99": median("half", "p99"),
        "errors": sum(load.errors for kind in loads.values() for load in kind),
    }
    if not math.isnan(loads["many"][0].user_us):
        figures["user_us"] = median("many", "user_us")
        figures["system_us"] = median("many", "system_us")
    return figures


@dataclass(frozen=True)
class Many:
    """A table of many routes: what is matched for each, and what is asked to hit each."""

    what: str
    matches: list[dict[str, Any]]
    targets: list[Target]


def _tables() -> dict[str, Many]:
    thousand = range(1000)
    paths = [f"/team{n % 40}/model{n}" for n in thousand]
    hosts = [f"tenant{n}.example" for n in range(10_000)]
    return {
        "path": Many(
            "1,000 routes by path",
            [{"path": path} for path in paths],
            [Target(f"{path}/predict") for path in paths],
        ),
        "host": Many(
            "1,000 routes by host",
            [{"path": "/predict", "hosts": [hosts[n]]} for n in thousand],
            [Target(host=hosts[n]) for n in thousand],
        ),
        "header": Many(
            "1,000 routes by header",
            [{"path": "/predict", "headers": {"X-Tenant": f"t{n}"}} for n in thousand],
            [Target(headers=(("X-Tenant", f"t{n}"),)) for n in thousand],
        ),
        "hosts": Many(
            "10,000 hosts, ten of each route",
            [{"path": "/predict", "hosts": hosts[10 * n : 10 * n + 10]} for n in thousand],
            [Target(host=host) for host in hosts],
        ),
    }


def many_routes(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """Headgate with one route against Headgate with 1,000 routes of four backends each, asked for
    the same: all of them with different heads, the last one with equal heads."""
    results: Results = {}
    with nginx_upstreams(4) as ports:
        few = Work({f"b{n}": (1, [port]) for n, port in enumerate(ports)}, check="/")
        split = dict.fromkeys(few.backends, 1)
        with proxy("Headgate", few) as plain:
            for name, table in _tables().items():
                more = {
                    f"r{n}": {"match": match, "split": split}
                    for n, match in enumerate(table.matches)
                }
                many = Work(few.backends, hand={"more_routes": more}, check="/")
                with proxy("Headgate", many) as full:
                    results[name] = {"what": table.what}
                    for kind in KINDS:
                        lost = _lost(plain, full, rounds, seconds, kind, table.targets)
                        results[name][kind] = lost
                        say(f"{table.what}, {kind} heads: {100 * lost['loss']:.1f} % lost")
    return results


def _lost(
    plain: Proxy, full: Proxy, rounds: int, seconds: float, kind: str, targets: list[Target]
) -> Results:
    """What a thousand routes cost, in pairs that begin with the one and the other in turn."""
    for each in (plain, full):
        wrk(each.url, seconds=2, kind=kind, targets=targets)  # every counter is made
    seen: dict[str, list[Load]] = {plain.url: [], full.url: []}
    for number in range(max(2, rounds)):
        for each in (full, plain) if number % 2 else (plain, full):
            load = wrk(each.url, 32, seconds, kind=kind, targets=targets, watched=each.running)
            seen[each.url].append(load)
    pairs = list(zip(seen[plain.url], seen[full.url], strict=True))

    def took_us(load: Load) -> float:
        return load.user_us + load.system_us

    return {
        "few": statistics.median(few.rate for few, _ in pairs),
        "many": statistics.median(many.rate for _, many in pairs),
        "loss": 1 - statistics.median(many.rate / few.rate for few, many in pairs),
        "few_us": statistics.median(took_us(few) for few, _ in pairs),
        "many_us": statistics.median(took_us(many) for _, many in pairs),
        "errors": sum(load.errors for loads in seen.values() for load in loads),
    }


def idle(rounds: int, seconds: float, connections: int = 10_000) -> Results:
    """Memory per idle connection, the rate lost to them, and wake-ups with nothing to do.

    A gateway keeps some of its descriptors for instances, and wrk needs a few: fewer
    connections are made where the machine allows few. The rate of a shared machine wanders by more
    than they cost: a second of a gateway with them is held against the next of one without.
    """
    allowed = max_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    connections = min(connections, int(allowed) - 64)
    with (
        nginx_upstreams(2) as ports,
        proxy("Headgate", _split(ports)) as crowded,
        proxy("Headgate", _split(ports)) as empty,
    ):
        assert crowded.running is not None
        for each in (crowded, empty):
            for kind in KINDS:
                wrk(each.url, seconds=1, kind=kind)
        wakeups = _wakeups(crowded, 10)
        rss = crowded.running.rss()
        with _connected(crowded.port, connections) as made:
            time.sleep(1)
            size = (crowded.running.rss() - rss) / max(1, made)
            pairs = 2 if rounds * seconds <= 2 else IDLE_PAIRS
            loss = {kind: _lost_to_idle(crowded, empty, pairs, kind) for kind in KINDS}
    return {"connections": made, "bytes_each": size, "loss": loss, "wakeups": wakeups}


def _lost_to_idle(crowded: Proxy, empty: Proxy, pairs: int, kind: str) -> float:
    """The share of its rate that a gateway with idle connections is slower."""
    ratios = []
    for number in range(pairs):
        pair = (crowded, empty) if number % 2 else (empty, crowded)
        rate = {each.url: wrk(each.url, seconds=1, kind=kind).rate for each in pair}
        ratios.append(rate[crowded.url] / rate[empty.url])
    return 1 - statistics.median(ratios)


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
