"""What do etcd and Ray cost the requests of a gateway?

    python -m benchmarks.engines [ROUNDS]

The same gateway before two instances of the same model, three times at once: as `headgate up`
starts it on one machine; with `store: etcd` (one member), before the instances of the first; and
with `--on ray`, where a cluster of one host has two more. They are asked in turn, each of them
first as often as the others. Figures are of processor time, in microseconds a request, of the
worker and of the control process; beside them the requests/s, which on a machine that does other
things say little. What the helper that knows Ray takes is said for a second: it does nothing for a
request.
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import yaml

from benchmarks.machine import (
    LOAD_CORE,
    PROXY_CORE,
    PYTHON,
    ROOT,
    Running,
    new_folder,
    start,
    took_s,
    wait_for,
)
from benchmarks.watched import quiet
from benchmarks.wrk import wrk
from tests.harness.etcd import etcd_cluster
from tests.harness.ports import free_port
from tests.harness.ray_cluster import running_cluster

SECONDS = 2.0
MODEL = ROOT / "benchmarks" / "models" / "headgate_square.py"
ROLES = {"_worker": "worker", "_control": "control", "_ray": "helper"}
START_S = 120.0


@dataclass(frozen=True)
class Round:
    """What one of the gateways took: seconds of each role, for so many requests in a time."""

    used: Mapping[str, float]
    requests: int
    seconds: float
    rate: float

    def us(self, role: str) -> float:
        return 1e6 * self.used[role] / max(1, self.requests)


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    url: str
    roles: Mapping[str, psutil.Process]

    def load(self) -> Round:
        before, began = self._used(), time.monotonic()
        load = wrk(self.url, 32, SECONDS, kind="different")
        assert not load.errors, load
        after, took = self._used(), time.monotonic() - began
        used = {role: after[role] - s for role, s in before.items()}
        return Round(used, load.requests, took, load.rate)

    def _used(self) -> dict[str, float]:
        return {role: took_s([process]) for role, process in self.roles.items()}


@contextmanager
def gateway(
    words: list[str], backend: Mapping[str, Any], environment: Mapping[str, str], **settings: Any
) -> Iterator[Gateway]:
    """`headgate` with these `words` on a file with one `backend`, its processes on one core."""
    folder, port = new_folder(), free_port()
    document = {
        "gateway": {
            "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{free_port()}",
            "access_log": str(folder / "access.log"), "lame_duck": "0s", **settings,
        },
        "backends": {"square": backend},
        "routes": {"all": {"match": "/predict", "split": {"square": 1}}},
    }  # fmt: skip
    word, *more = words
    file = folder / "headgate.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [PYTHON, "-m", "gateway", word, str(file), *more]
    environment = {**os.environ, **environment}
    running = start([*command, "--state-dir", str(folder / "state")], folder, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/-/health", running, START_S)
        for each in running.family():
            _keep_to(each, LOAD_CORE)
        roles = dict(_roles(running))
        for each in roles.values():
            _keep_to(each, PROXY_CORE)
        yield Gateway(url, roles)
    finally:
        running.stop()


def _roles(running: Running) -> Iterator[tuple[str, psutil.Process]]:
    for process in running.family():
        for word in process.cmdline():
            if word in ROLES:
                yield ROLES[word], process


def _keep_to(process: psutil.Process, core: str) -> None:
    command = ["taskset", "-a", "-p", "-c", core, str(process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def three() -> Iterator[dict[str, Gateway]]:
    """The three ways to run it."""
    ports = [free_port(), free_port()]
    at = [f"http://127.0.0.1:{port}" for port in ports]
    serve = {"model": f"{MODEL}:Square", "devices": "cpu"}
    with ExitStack() as stack:
        ray = stack.enter_context(running_cluster(cpus=4))
        head = psutil.Process(ray.pid)
        for each in [head, *head.children(recursive=True)]:
            _keep_to(each, LOAD_CORE)  # and what it starts from now on
        etcd = stack.enter_context(etcd_cluster())
        shared = {"endpoints": etcd.urls, "prefix": "/headgate/bench"}
        yield {
            "up": stack.enter_context(gateway(["up"], {"instances": at, "serve": serve}, {})),
            "etcd": stack.enter_context(
                gateway(["gateway"], {"instances": at}, {}, store="etcd", etcd=shared)
            ),
            "ray": stack.enter_context(
                gateway(["up", "--on", "ray"], {"serve": {**serve, "replicas": 2}}, ray.environment)
            ),
        }


def measured(rounds: int) -> Iterator[str]:
    """A line for each round, and one for each way to run it."""
    with three() as gateways:
        for each in gateways.values():
            each.load()
        seen: dict[str, list[Round]] = {name: [] for name in gateways}
        names = list(gateways)
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                seen[name].append(gateways[name].load())
            yield f"{number + 1}: " + ", ".join(
                f"{name} {found[-1].us('worker'):.1f} + {found[-1].us('control'):.1f} µs"
                f" at {found[-1].rate:.0f}/s"
                for name, found in seen.items()
            )
        for name, found in seen.items():
            yield f"{name}: {_said(found, seen['up'])}"
        helper = [one.used["helper"] / one.seconds for one in seen["ray"]]
        yield f"the helper for Ray: {1e3 * statistics.median(helper):.1f} ms a second"


def _said(found: list[Round], plain: list[Round]) -> str:
    parts = []
    for role in ("worker", "control"):
        ratio = statistics.median(
            one.us(role) / other.us(role) for one, other in zip(found, plain, strict=True)
        )
        least = quiet([one.us(role) for one in found])
        parts.append(f"{role} {ratio:.3f} × (the quietest quarter {least:.1f} µs)")
    pairs = zip(found, plain, strict=True)
    rate = statistics.median(one.rate / other.rate for one, other in pairs)
    return f"{', '.join(parts)}, {rate:.3f} × the requests/s"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("rounds", type=int, nargs="?", default=12, help="rounds of all three (12)")
    for line in measured(parser.parse_args().rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
