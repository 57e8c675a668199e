"""What does a table that lies in etcd cost the requests that it decides?

    python -m benchmarks.stores [PAIRS]

Two gateways that differ by `store` alone, sqlite and etcd (one member), stand before the same
upstreams, and are asked in turn, each of them first as often as the other: the median of pairs
tells a difference that two long runs do not. Processor time is that of all processes of a gateway,
in microseconds a request: the control process, which holds a lease and watches, is among them.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.machine import (
    PROXY_CORE,
    PYTHON,
    Running,
    new_folder,
    on_core,
    start,
    took_s,
    wait_for,
)
from benchmarks.upstreams import nginx_upstreams
from benchmarks.watched import quiet
from benchmarks.wrk import Load, wrk
from tests.harness.etcd import etcd_cluster
from tests.harness.ports import free_port

SECONDS = 2.0
IDLE_S = 20.0


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    url: str
    running: Running

    def load(self) -> tuple[Load, float]:
        """What wrk saw, and microseconds of processor time a request."""
        family = self.running.family()
        before = took_s(family)
        load = wrk(self.url, 32, SECONDS, kind="different")
        return load, 1e6 * (took_s(family) - before) / max(1, load.requests)

    def idle(self) -> float:
        """Seconds of processor time in a second in which nobody asks for anything."""
        family = self.running.family()
        before = took_s(family)
        time.sleep(IDLE_S)
        return (took_s(family) - before) / IDLE_S


@contextmanager
def gateway(ports: list[int], **settings: Any) -> Iterator[Gateway]:
    """A gateway with these `settings` in front of two nginx."""
    folder, port = new_folder(), free_port()
    document = {
        "gateway": {
            "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{free_port()}",
            "access_log": str(folder / "access.log"), "lame_duck": "0s", **settings,
        },
        "backends": {
            name: {"instances": [f"http://127.0.0.1:{one}"], "health": {"path": "/"}}
            for name, one in zip("ab", ports, strict=True)
        },
        "routes": {"all": {"match": "/", "split": {"a": 90, "b": 10}}},
    }  # fmt: skip
    (folder / "headgate.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [PYTHON, "-m", "gateway", "gateway", str(folder / "headgate.yaml")]
    running = start(on_core(PROXY_CORE, [*command, "--state-dir", str(folder / "state")]), folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/-/health", running)
        yield Gateway(f"http://127.0.0.1:{port}", running)
    finally:
        running.stop()


def measured(pairs: int) -> Iterator[str]:
    """A line for each pair, and one for all."""
    with ExitStack() as stack:
        cluster = stack.enter_context(etcd_cluster())
        ports = stack.enter_context(nginx_upstreams(2))
        etcd = {"endpoints": cluster.urls, "prefix": "/headgate/bench"}
        both = {
            "sqlite": stack.enter_context(gateway(ports)),
            "etcd": stack.enter_context(gateway(ports, store="etcd", etcd=etcd)),
        }
        for each in both.values():
            each.load()
        rates, costs = [], []
        seen: dict[str, list[float]] = {name: [] for name in both}
        for name, each in both.items():
            yield f"{name}: {1e3 * each.idle():.2f} ms of processor time a second with no request"
        for number in range(pairs):
            order = list(both) if number % 2 == 0 else list(both)[::-1]
            loads = {name: both[name].load() for name in order}
            rates.append(loads["etcd"][0].rate / loads["sqlite"][0].rate)
            costs.append(loads["etcd"][1] / loads["sqlite"][1])
            for name, (_, used) in loads.items():
                seen[name].append(used)
            yield f"{number + 1}: {rates[-1]:.3f} × the rate, {costs[-1]:.3f} × the processor time"
        yield (
            f"etcd: {statistics.median(rates):.3f} × the requests/s of sqlite, and"
            f" {statistics.median(costs):.3f} × its processor time a request"
            f" ({min(costs):.3f} to {max(costs):.3f} in {pairs} pairs); the quietest quarter"
            f" {quiet(seen['etcd']) / quiet(seen['sqlite']):.3f} × {quiet(seen['sqlite']):.0f} µs"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stores", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pairs", type=int, nargs="?", default=10, help="pairs (10)")
    for line in measured(parser.parse_args().pairs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
