"""What do a rollout and a compared mirror cost the requests of a route?

    python -m benchmarks.watched [--processor | --models] [PAIRS] [ROUTE...]

One gateway, five routes with the same split: `plain`; `alike`, which is like it and shows what
chance makes of a pair; `judged`, on which a rollout runs; `copied`, of which a fifth goes to a
mirror; and `compared`, where its answers are compared as well. Each is measured beside `plain`,
before it and after it in turn: on a machine that does other things too, the median of pairs tells a
difference that two long runs do not. Processor time is the worker's own, in microseconds a request;
the latency of a client is taken at half of the rate that `plain` can do, and not at all with
`--processor`. With `--models` it is all that is taken, in front of models that take 5 ms for a
request and eight at a time, at half of what those can do: what a client of a model may notice.
"""

import argparse
import json
import statistics
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import yaml

from benchmarks.heads import Target
from benchmarks.machine import (
    PROXY_CORE,
    PYTHON,
    Running,
    new_folder,
    on_core,
    script,
    start,
    took_s,
    wait_for,
)
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk
from tests.harness.ports import free_port

SECONDS = 1.0
SERVICE_S, SLOTS, OF_THE_OLD = 0.005, 8, 0.9
MODEL = ("stubs", "--count", "1", "--slow", "1", f"--service={SERVICE_S}", f"--slots={SLOTS}")
PERCENT = 20
WATCHED = ("alike", "judged", "copied", "compared")


@dataclass(frozen=True)
class Gateway:
    """One that runs, and its only worker."""

    url: str
    worker: psutil.Process

    def load(self, route: str, rate: float = 0, seconds: float = SECONDS) -> tuple[Load, float]:
        """What wrk saw of `route`, and the worker's microseconds of processor time a request."""
        before = took_s([self.worker])
        load = wrk(self.url, 32, seconds, rate, targets=(Target(path=f"/{route}"),))
        return load, 1e6 * (took_s([self.worker]) - before) / max(1, load.requests)

    def pair(self, route: str, plain_first: bool) -> tuple[float, float]:
        """Microseconds a request takes on the plain route, and on `route`."""
        order = ["plain", route] if plain_first else [route, "plain"]
        took = {each: self.load(each)[1] for each in order}
        return took["plain"], took[route]

    def late(self, route: str, rate: float, seconds: float = SECONDS) -> tuple[float, float]:
        """The p99 of `route`, and that of the plain one, at `rate`."""
        return (
            self.load(route, rate, seconds)[0].p99,
            self.load("plain", rate, seconds)[0].p99,
        )


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


def measured(pairs: int, routes: Sequence[str], with_latency: bool) -> Iterator[str]:
    """A line for each of `routes` beside the plain one."""
    with nginx_upstreams(3) as ports, gateway(ports) as one:
        for route in ("plain", *routes):
            one.load(route)
        half = one.load("plain")[0].rate / 2
        seen: dict[str, list[tuple[float, float]]] = {route: [] for route in routes}
        lates: dict[str, list[tuple[float, float]]] = {route: [] for route in routes}
        for number in range(pairs):
            for route in routes:
                seen[route].append(one.pair(route, number % 2 == 0))
                if with_latency:
                    lates[route].append(one.late(route, half))
        for route in routes:
            costs = [watched / plain for plain, watched in seen[route]]
            plain, watched = (quiet(each) for each in zip(*seen[route], strict=True))
            yield (
                f"{route:<9} {statistics.median(costs):.3f} × the processor time{_spread(costs)};"
                f" the quietest quarter {watched / plain:.3f} × {plain:.0f} µs"
            )
            if with_latency:
                yield f"{'':<9} {_lateness(lates[route], half)}"


def with_models(pairs: int, routes: Sequence[str]) -> Iterator[str]:
    """A line for each of `routes`: the p99 beside the plain one, at half of what models can do."""
    half = SLOTS / SERVICE_S / OF_THE_OLD / 2
    with ExitStack() as stack:
        models = [script("benchmarks.upstreams", *MODEL) for _ in range(3)]  # in no one's way
        ports = [stack.enter_context(each)[0] for each in models]
        one = stack.enter_context(gateway(ports))
        for route in ("plain", *routes):
            one.load(route, half)
        lates: dict[str, list[tuple[float, float]]] = {route: [] for route in routes}
        for _ in range(pairs):
            for route in routes:
                lates[route].append(one.late(route, half, 2.0))
        for route in routes:
            yield f"{route:<9} {_lateness(lates[route], half)}"


def _lateness(lates: Sequence[tuple[float, float]], rate: float) -> str:
    """The p99s of a route beside those of the plain one: their medians, and pair by pair."""
    watched, plain = (statistics.median(each) for each in zip(*lates, strict=True))
    ratios = [each / beside for each, beside in lates]
    return (
        f"p99 {watched:.2f} ms where the plain one has {plain:.2f}"
        f" ({watched / plain:.2f} ×) at {rate:.0f} requests/s;"
        f" of pairs {statistics.median(ratios):.2f}{_spread(ratios)}"
    )


def quiet(figures: Sequence[float]) -> float:
    """What the quietest quarter of `figures` is below: others on the machine only ever add."""
    return statistics.quantiles(figures, n=4)[0] if len(figures) > 1 else figures[0]


def _spread(ratios: Sequence[float]) -> str:
    """Between which half of `ratios` lie, and all."""
    if len(ratios) < 4:
        return ""
    low, _, high = statistics.quantiles(ratios, n=4)
    return (
        f" (half of the pairs {low:.3f} to {high:.3f}, all {min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watched", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pairs", type=int, nargs="?", default=10, help="pairs of each (10)")
    parser.add_argument("route", nargs="*", help=f"of {', '.join(WATCHED)} (all)")
    parser.add_argument("--processor", action="store_true", help="no latencies: half of the time")
    parser.add_argument("--models", action="store_true", help="latencies in front of models")
    asked = parser.parse_args()
    if unknown := [route for route in asked.route if route not in WATCHED]:
        parser.error(f"no such route: {unknown[0]}")
    routes = asked.route or WATCHED
    how = with_models(asked.pairs, routes) if asked.models else None
    for line in how or measured(asked.pairs, routes, not asked.processor):
        print(line, flush=True)


if __name__ == "__main__":
    main()
