"""What do a rollout and a compared mirror cost the requests of a route?

    python -m benchmarks.watched [PAIRS]

One gateway, four routes with the same split: `plain`; `judged`, on which a rollout runs; `copied`,
of which a fifth goes to a mirror; and `compared`, where its answers are compared as well. Each is
measured right after `plain`, again and again: on a machine that does other things too, the median
of pairs tells a difference that two long runs do not. Processor time is the worker's own, in
microseconds a request; the latency of a client is taken at half of the rate that `plain` can do.
"""

import argparse
import json
import statistics
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import yaml

from benchmarks.heads import Target
from benchmarks.machine import PROXY_CORE, PYTHON, Running, new_folder, on_core, start, wait_for
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk
from tests.harness.ports import free_port

SECONDS = 1.0
PERCENT = 20
WATCHED = ("judged", "copied", "compared")


@dataclass(frozen=True)
class Gateway:
    """One that runs, and its only worker."""

    url: str
    worker: psutil.Process

    def load(self, route: str, rate: float = 0) -> tuple[Load, float]:
        """What wrk saw of `route`, and the worker's microseconds of processor time a request."""
        before = self.worker.cpu_times()
        load = wrk(self.url, 32, SECONDS, rate, targets=(Target(path=f"/{route}"),))
        after = self.worker.cpu_times()
        used = after.user + after.system - before.user - before.system
        return load, 1e6 * used / max(1, load.requests)


@contextmanager
def gateway(ports: list[int]) -> Iterator[Gateway]:
    """A gateway in front of three nginx, with the routes above."""
    folder, port, admin = new_folder(), free_port(), free_port()
    names = ("old", "new", "shadow")
    split = {"old": 90, "new": 10}
    routes: dict[str, Any] = {
        name: {"match": f"/{name}", "split": split} for name in ("plain", *WATCHED)
    }
    mirror = {"backend": "shadow", "percent": PERCENT}
    routes["copied"]["mirror"] = mirror
    routes["compared"]["mirror"] = {**mirror, "compare": {"fields": {"": "exact"}}}
    document = {
        "gateway": {
            "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}",
            "access_log": str(folder / "access.log"), "lame_duck": "0s",
        },
        "backends": {
            name: {"instances": [f"http://127.0.0.1:{one}"], "health": {"path": "/"}}
            for name, one in zip(names, ports, strict=True)
        },
        "routes": routes,
    }  # fmt: skip
    (folder / "headgate.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [PYTHON, "-m", "gateway", "gateway", str(folder / "headgate.yaml")]
    running = start(on_core(PROXY_CORE, [*command, "--state-dir", str(folder / "state")]), folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/plain", running)
        plan = {"to": "new", "steps": [10, 100], "hold": "10h", "warmup": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{admin}/admin/v1/routes/judged/rollout",
            json.dumps(plan).encode(), {"Content-Type": "application/json"}, method="PUT",
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=10).close()
        yield Gateway(f"http://127.0.0.1:{port}", _worker(running))
    finally:
        running.stop()


def _worker(running: Running) -> psutil.Process:
    (found,) = [each for each in running.family() if "_worker" in each.cmdline()]
    return found


def measured(pairs: int) -> Iterator[str]:
    """A line for each route beside the plain one."""
    with nginx_upstreams(3) as ports, gateway(ports) as one:
        for route in ("plain", *WATCHED):
            one.load(route)
        half = one.load("plain")[0].rate / 2
        for route in WATCHED:
            costs, lates, alone = [], [], []
            for _ in range(pairs):
                _, plain = one.load("plain")
                _, watched = one.load(route)
                alone.append(plain)
                costs.append(watched / plain)
                lates.append(one.load(route, half)[0].p99 / one.load("plain", half)[0].p99)
            yield (
                f"{route:<9} {statistics.median(costs):.3f} × the processor time of"
                f" {statistics.median(alone):.0f} µs ({min(costs):.3f} to {max(costs):.3f});"
                f" p99 at {half:.0f} requests/s {statistics.median(lates):.2f} ×"
                f" ({min(lates):.2f} to {max(lates):.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watched", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pairs", type=int, nargs="?", default=10, help="pairs of each (10)")
    for line in measured(parser.parse_args().pairs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
