"""Uneven instances and overload: who waits where, and what still gets done.

Four stub instances of two slots and 20 ms (lognormal), one of them five times slower, together
320 requests a second by the clock; Poisson arrivals timed from their intended moment. A timer
rings late, never early, and the later the busier its process: goodput is held against what the
instances' slots could do in that very run (`could`), by how long each answer really held one.
"""

import asyncio
import gc
import statistics
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.machine import script
from benchmarks.proxies import Work, missing, proxy
from tests.harness.load import Ask, Reply, open_loop, percentile

SLOTS, SERVICES_S = 2, (0.02, 0.02, 0.02, 0.1)
CAPACITY = sum(SLOTS / service_s for service_s in SERVICES_S)
IN_TIME_S = 0.5
LOST_S = 5.0
Results = dict[str, Any]

UNEVEN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Headgate, by default": ("Headgate", "least", {}),
    "HAProxy leastconn, maxconn 2 by hand": ("HAProxy", "least", {"maxconn": 2}),
    "HAProxy leastconn": ("HAProxy", "least", {}),
    "nginx least_conn": ("nginx", "least", {}),
    "Envoy LEAST_REQUEST": ("Envoy", "least", {}),
}
MIXED = {
    "Headgate, by default": UNEVEN["Headgate, by default"],
    "HAProxy leastconn, maxconn 2 by hand": UNEVEN["HAProxy leastconn, maxconn 2 by hand"],
    "HAProxy leastconn": UNEVEN["HAProxy leastconn"],
}
OVERLOAD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Headgate, by default": ("Headgate", "least", {}),
    "HAProxy, maxconn 4 and queue 64 by hand": (
        "HAProxy",
        "least",
        {"maxconn": 4, "maxqueue": 16, "queue_timeout": "400ms"},
    ),
    "nginx, max_conns 8 by hand": ("nginx", "least", {"max_conns": 8}),
    "Envoy, 32 requests by hand": ("Envoy", "least", {"max_requests": 32}),
    "HAProxy leastconn": ("HAProxy", "least", {}),
}


def _make(number: int) -> Ask:
    return Ask("POST", "/predict", [("Content-Type", "application/json")], b'{"input": 4.0}')


def _undisturbed(run: Coroutine[Any, Any, list[Reply]]) -> list[Reply]:
    """What `run` gives; its thousands of replies are not walked through by a collector that
    would stop the clock of all of them."""
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(run)
    finally:
        gc.enable()


def _loaded(
    rows: dict[str, tuple[str, str, dict[str, Any]]],
    rate: float,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    *more: str,
) -> dict[str, list[list[Reply]]]:
    """Per row the settled replies of each round, with fresh stubs every time; `more` is what they
    are told."""
    replies: dict[str, list[list[Reply]]] = {}
    for number in range(rounds):
        for name, (peer, policy, hand) in rows.items():
            if missing(peer):
                continue
            with script("benchmarks.upstreams", "stubs", *more) as ports:
                work = Work({"main": (1, ports)}, policy=policy, hand=hand)
                with proxy(peer, work) as one:
                    run = open_loop(
                        one.url, rate, seconds, _make, poisson=True, seed=number, timeout=LOST_S
                    )
                    got = _undisturbed(run)
            replies.setdefault(name, []).append(got[len(got) // 5 :])
        say(f"round {number + 1} of {rounds} at {rate:.0f}/s")
    return replies


def uneven(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """p50 and p99 in milliseconds at 70 and 90 % of the capacity; a lost request counts as 5 s."""
    results: Results = {}
    for share in (70, 90):
        rate = CAPACITY * share / 100
        for name, got in _loaded(UNEVEN, rate, rounds, seconds, say).items():
            rows = [[r.took_s if r.ok else LOST_S for r in one] for one in got]
            for percent in (50, 99):
                figures = [percentile(took, percent) for took in rows]
                figure = 1000 * statistics.median(figures)
                results.setdefault(name, {})[f"p{percent}_{share}"] = figure
    return results


def mixed(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """p99 in milliseconds and the share that was refused, of short and long requests at 70 % of the
    capacity, with instances that report their load and with such that do not."""
    results: Results = {}
    for kind, more in (("told", ()), ("silent", ("--silent",))):
        got = _loaded(MIXED, 0.7 * CAPACITY, rounds, seconds, say, "--mixed", *more)
        for name, rows in got.items():
            took = [percentile([r.took_s if r.ok else LOST_S for r in one], 99) for one in rows]
            refused = [sum(not r.ok for r in one) / len(one) for one in rows]
            results.setdefault(name, {})[f"p99_{kind}"] = 1000 * statistics.median(took)
            results[name][f"refused_{kind}"] = statistics.median(refused)
    return results


def could(replies: list[Reply]) -> float:
    """Requests a second that the instances' slots had time for, as their answers tell; of one
    without an answer, what it should have done."""
    held: dict[str, list[float]] = defaultdict(list)
    for reply in replies:
        if reply.ok:
            held[reply.json()["instance"]].append(float(reply.header("x-held-s")))
    usual = {f"i{number}": [service_s] for number, service_s in enumerate(SERVICES_S)}
    return sum(SLOTS / statistics.fmean(times) for times in (usual | held).values())


def overload(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """Goodput as a share of the capacity at three times of it, and how quick refusals are."""
    results: Results = {}
    for name, got in _loaded(OVERLOAD, 3 * CAPACITY, rounds, seconds, say).items():
        goodputs, nominal, refusals = [], [], []
        for one in got:
            span = max(r.intended for r in one) - min(r.intended for r in one)
            good = [r for r in one if r.ok and r.took_s <= IN_TIME_S]
            goodputs.append(len(good) / span / could(one))
            nominal.append(len(good) / span / CAPACITY)
            refused = [r.took_s for r in one if not r.ok and r.status]
            refusals.append(1000 * percentile(refused, 99))
        results[name] = {
            "goodput": statistics.median(goodputs),
            "goodput_nominal": statistics.median(nominal),
            "refusal_p99": statistics.median(refusals),
        }
    return results
