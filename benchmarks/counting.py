"""What does it cost a worker to count a request, with few routes and with many?

    python -m benchmarks.counting [--requests 200000]

Requests hit routes with two instances each at random, so that with a thousand of them little of
what counts them is in the processor's caches. Processor time, the best of five. Half of the
answers are streamed: their first byte falls into another bucket than their last.
"""

import argparse
import gc
import random
import time

from gateway.telemetry.book import Book
from gateway.telemetry.metrics import Cell, Counters

ROUTES = (1, 10, 100, 1000)
TIMES = 50_000


def counted_in_us(routes: int, requests: int) -> float:
    """Microseconds of processor time that one request takes."""
    chance, counters = random.Random(1), Counters(Book())
    cells = [
        counters.cell(f"r{n}", f"b{n % 10}", f"127.0.0.1:{9001 + instance}")
        for n in range(routes)
        for instance in (0, 1)
    ]
    seconds = [chance.lognormvariate(-4, 0.5) for _ in range(TIMES)]
    times = [(t, t * chance.choice((1.0, 0.8)), t / 100) for t in seconds]
    for cell in cells:  # each has the buckets that a running gateway has
        count([cell] * 60, chance.sample(times, 60))
    asked = [chance.choice(cells) for _ in range(requests)]
    gc.collect()
    gc.freeze()
    took_s = min(_timed(asked, times) for _ in range(5))
    return 1e6 * took_s / requests


def _timed(asked: list[Cell], times: list[tuple[float, float, float]]) -> float:
    began = time.thread_time()
    count(asked, times)
    return time.thread_time() - began


def count(asked: list[Cell], times: list[tuple[float, float, float]]) -> None:
    for number, cell in enumerate(asked):
        cell.count(b"GET", 200, "")
        cell.times.count(*times[number % len(times)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    options = parser.parse_args()
    for routes in ROUTES:
        print(f"{routes:5} routes: {counted_in_us(routes, options.requests):5.2f} µs a request")


if __name__ == "__main__":
    main()
