"""What do keys cost at the door, where each of ten thousand consumers has one?

    python -m benchmarks.keys [--keys 10000] [--rounds 8] [--seconds 4] [--workers 1]

The same gateway without keys, with so many of them, and with a limit on each that nobody reaches,
one after another in every round, with the load whose requests are all different. Each request
brings a key, and each key comes as often as the next; without keys requests lack that line. Said is
what part of its rate a gateway loses, by the median of the rounds, and the processor time of each.
"""

import argparse
import statistics
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from benchmarks.heads import Target
from benchmarks.proxies import Proxy, Work, proxy
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk
from gateway.core.access import hash_of, minted

PLAIN, KEYS, LIMITS = "without keys", "with keys", "with a limit on each"


def secrets(count: int) -> list[str]:
    return [minted(number.to_bytes(32, "big")) for number in range(count)]


def section(count: int) -> dict[str, Any]:
    """So many keys, as a file has them."""
    return {f"c{n}": {"hashes": [hash_of(secret)]} for n, secret in enumerate(secrets(count))}


def measure(count: int, rounds: int, seconds: float, workers: int) -> dict[str, list[Load]]:
    """What wrk saw of each gateway, round by round."""
    keys = {"keys": section(count)}
    sections: dict[str, dict[str, Any]] = {
        PLAIN: {},
        KEYS: keys,
        LIMITS: {**keys, "default_limits": {"requests": "100000/s", "in_flight": 1000}},
    }
    with_key = tuple(Target(headers=(("X-API-Key", secret),)) for secret in secrets(count))
    loads: dict[str, list[Load]] = defaultdict(list)
    with nginx_upstreams(1) as ports, ExitStack() as stack:
        gateways: list[tuple[str, Proxy, tuple[Target, ...]]] = []
        for name, more in sections.items():
            hand = {"sections": more, "gateway": {"workers": workers}}
            work = Work({"one": (1, ports)}, check="/-/health" if more else "/", hand=hand)
            asked = with_key if more else (Target(),)
            gateways.append((name, stack.enter_context(proxy("Headgate", work)), asked))
        for _, one, asked in gateways:
            known = 0  # each consumer is counted somewhere for the first time
            while known < len(asked):
                known += _asked(one, 2, asked).requests
        for number in range(rounds):
            for name, one, asked in gateways if number % 2 else gateways[::-1]:
                loads[name].append(_asked(one, seconds, asked))
    return loads


def _asked(one: Proxy, seconds: float, asked: tuple[Target, ...]) -> Load:
    return wrk(one.url, 32, seconds, kind="different", targets=asked, watched=one.running)


def lines(loads: dict[str, list[Load]]) -> list[str]:
    """The medians, for people."""
    found = []
    for name, seen in loads.items():
        pairs = zip(loads[PLAIN], seen, strict=True)
        lost = statistics.median(1 - load.rate / plain.rate for plain, load in pairs)
        took_us = statistics.median(load.user_us + load.system_us for load in seen)
        rate = statistics.median(load.rate for load in seen)
        errors = sum(load.errors for load in seen)
        part = "" if name == PLAIN else f", {100 * lost:.1f} % less"
        found.append(f"{name}: {rate:,.0f}/s{part}, {took_us:.1f} µs each, {errors} errors")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    loads = measure(options.keys, options.rounds, options.seconds, options.workers)
    print("\n".join(lines(loads)))


if __name__ == "__main__":
    main()
