"""Does a request cost more where there are many workers?

    python -m benchmarks.workers [--workers 1 2 4 8] [--rounds 5] [--seconds 4] [--rate 2400]

Gateways that differ only in how many workers they have stand beside each other and are asked one
after another in every round, over 128 connections that the kernel deals out to the workers, with
the load whose requests are all different; in three ways:

* `together`: the same requests/s of all of them. The more workers, the fewer requests each finds
  when it wakes;
* `each`: the same requests/s of each worker, the rate divided by the most workers. So each has as
  much to do, whoever stands beside it;
* `full`: as many as the gateway answers. Nobody waits.

Told is the processor time of a request, in the workers and in the other processes, by the medians
of the rounds; how much more that is than with the first number of workers, by the median of what
the rounds say; and how often a request had a worker wait, and had it put aside by the scheduler.
All workers share one core here, and each finds its caches full of what the others did.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from benchmarks.machine import took_s
from benchmarks.proxies import Proxy, Work, proxy
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import wrk

CONNECTIONS = 128
Key = tuple[str, int]


@dataclass(frozen=True)
class Cost:
    """Of one request: microseconds of processor time, and switches; how many there were a
    second, and how many failed."""

    worker_us: float
    other_us: float
    waits: float
    put_aside: float
    rate: float
    errors: int

    @property
    def us(self) -> float:
        return self.worker_us + self.other_us


class Gateway:
    """One that stands, told apart by what its processes do."""

    def __init__(self, one: Proxy) -> None:
        assert one.running is not None
        self.url, family = one.url, one.running.family()
        self.workers = [each for each in family if "_worker" in each.cmdline()]
        self.others = [each for each in family if each not in self.workers]

    def asked(self, rate: float, seconds: float) -> Cost:
        """What requests cost, so many a second; 0: as many as are answered."""
        before = self._seen()
        load = wrk(self.url, CONNECTIONS, seconds, rate, kind="different")
        counts = [b - a for a, b in zip(before, self._seen(), strict=True)]
        each = [count / max(1, load.requests) for count in counts]
        return Cost(1e6 * each[0], 1e6 * each[1], each[2], each[3], load.rate, load.errors)

    def _seen(self) -> tuple[float, float, float, float]:
        switches = [
            psutil.Process(thread.id).num_ctx_switches()
            for worker in self.workers
            for thread in worker.threads()
        ]
        return (
            took_s(self.workers),
            took_s(self.others),
            sum(each.voluntary for each in switches),
            sum(each.involuntary for each in switches),
        )


def measure(
    counts: Sequence[int], rounds: int, seconds: float, rate: float
) -> dict[Key, list[Cost]]:
    """What requests cost each gateway, round by round."""
    found: dict[Key, list[Cost]] = defaultdict(list)
    with nginx_upstreams(2) as ports, ExitStack() as stack:
        backends = {"big": (9, ports[:1]), "small": (1, ports[1:])}
        gateways = {}
        for count in counts:
            work = Work(backends, check="/", hand={"gateway": {"workers": count}})
            gateways[count] = Gateway(stack.enter_context(proxy("Headgate", work)))
        for number in range(-1, rounds):
            for count in counts if number % 2 else counts[::-1]:
                rates = {"together": rate, "each": rate * count / max(counts), "full": 0.0}
                for kind, asked in rates.items():
                    cost = gateways[count].asked(asked, seconds)
                    if number >= 0:  # before, connections and counters were made
                        found[kind, count].append(cost)
    return found


def lines(found: dict[Key, list[Cost]], counts: Sequence[int]) -> list[str]:
    """The medians, for people."""
    return [
        _line(kind, count, found[kind, count], found[kind, counts[0]])
        for kind in ("together", "each", "full")
        for count in counts
    ]


def _line(kind: str, count: int, costs: list[Cost], first: list[Cost]) -> str:
    more = statistics.median(b.us / a.us - 1 for a, b in zip(first, costs, strict=True))
    rate, worker_us, other_us, waits, put_aside = (
        statistics.median(getattr(cost, figure) for cost in costs)
        for figure in ("rate", "worker_us", "other_us", "waits", "put_aside")
    )
    return (
        f"{kind:8} {count} worker{'s' * (count > 1):1} {rate:6,.0f}/s: {worker_us:6.1f} µs in"
        f" workers, {other_us:5.1f} in others, {100 * more:+5.1f} %; {waits:.2f} waits,"
        f" {put_aside:.2f} put aside, {sum(cost.errors for cost in costs)} errors"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rate", type=float, default=2400, help="requests a second of all")
    options = parser.parse_args()
    found = measure(options.workers, options.rounds, options.seconds, options.rate)
    print("\n".join(lines(found, options.workers)))


if __name__ == "__main__":
    main()
