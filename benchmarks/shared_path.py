"""What does the request path alone pay for what workers tell each other?

    python -m benchmarks.shared_path [--others 0 1 3 7] [--rounds 100]

A worker's data plane as in `benchmarks.keyed_path`, without sockets, loop and kernel, beside so
many processes that live, serve the same instance and say so, as workers do. Said is the processor
time of a request, the least of all rounds, in which they take turns, first of one that has no
memory to share. What processors pay for lines of memory that several of them write is not in it.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.heads import Target
from benchmarks.keyed_path import Path
from gateway.dataplane.load_memory import LoadMemory
from gateway.telemetry.book import shared_memory

BEAT_S = 0.25
INSTANCE = "b", "127.0.0.1:9"


def _live(descriptor: int, workers: int, told: int) -> None:
    """Is another worker, until it is killed or left alone."""
    loads, parent = LoadMemory(descriptor, workers), os.getppid()
    loads.load(*INSTANCE)
    loads.beat(time.monotonic())
    os.close(told)
    while os.getppid() == parent:
        time.sleep(BEAT_S)
        loads.beat(time.monotonic())


@contextmanager
def _others(count: int, descriptor: int) -> Iterator[None]:
    """So many of them, which have said that they live."""
    pids = []
    try:
        for _ in range(count):
            heard, told = os.pipe()
            if not (pid := os.fork()):
                os.close(heard)
                _live(descriptor, count + 1, told)
                os._exit(0)
            pids.append(pid)
            os.close(told)
            os.read(heard, 1)
            os.close(heard)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def measure(counts: list[int], rounds: int) -> dict[str, list[float]]:
    """Microseconds of a request, round by round."""
    with ExitStack() as stack:
        loads: dict[str, LoadMemory] = {}
        paths = {"alone, nothing shared": Path({}, (Target(),), 1)}
        for count in counts:
            name, descriptor = f"beside {count}", shared_memory(name="benchmark-loads")
            stack.callback(os.close, descriptor)
            stack.enter_context(_others(count, descriptor))
            loads[name] = LoadMemory(descriptor, count + 1)
            paths[name] = Path({}, (Target(),), count + 1, loads=loads[name])
        for path in paths.values():
            path.batch()
        gc.collect()
        gc.freeze()
        took: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(rounds):
            for name, path in paths.items():
                if name in loads:
                    loads[name].beat(time.monotonic())
                took[name].append(path.batch())
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_path", description=__doc__)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 3, 7])
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    if not hasattr(os, "fork"):
        sys.exit("it takes a system with fork")
    for name, each in measure(options.others, options.rounds).items():
        print(f"{name:22} {min(each):6.2f} µs")


if __name__ == "__main__":
    main()
