"""`headgate up --on ray` before a cluster of three hosts, in network namespaces: one of them dies,
or is cut off and comes back."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from examples.hosts.network import Network
from tests.harness.gateway import ROOT, eventually
from tests.harness.load import Client, Reply
from tests.harness.own_network import in_own_network

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="needs Ray, which is an extra: pip install 'headgate[ray]'",
    ),
]
START_S = 120.0
MODEL = """
import os

class Echo:
    def setup(self, device):
        pass

    def predict(self, x):
        return os.getpid()
"""


@dataclass
class Asked:
    """One request: when it began, and what came of it."""

    at: float
    reply: Reply


class Hosts:
    """Ray's head and `headgate up` on host a, room for models on b and c."""

    def __init__(self, network: Network, folder: Path, environment: Mapping[str, str]) -> None:
        self.network, self.folder = network, folder
        self.head = f"{network.address('a', 'hosts')}:6379"
        self._environment = {**os.environ, **environment, "RAY_memory_monitor_refresh_ms": "0"}
        self._running: list[subprocess.Popen[bytes]] = []
        self.client = Client()

    def run(self, name: str, log: str, *command: str, **more: str) -> None:
        with (self.folder / log).open("ab") as out:
            self._running.append(
                subprocess.Popen(
                    [*self.network.on(name), sys.executable, "-m", *command],
                    cwd=ROOT, env={**self._environment, **more},
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                )
            )  # fmt: skip

    async def ray(self, name: str, *more: str) -> None:
        """One after the other: they choose names of sockets in one folder."""
        log = f"ray-{name}.log"
        self.run(
            name, log, "ray.scripts.scripts", "start", "--block",
            "--node-ip-address", self.network.address(name, "hosts"), "--num-gpus", "0",
            "--object-store-memory", "80000000", "--disable-usage-stats",
            "--min-worker-port", "0", "--max-worker-port", "0", *more,
        )  # fmt: skip
        await eventually(lambda: "Ray runtime started" in self.log(log), START_S, f"ray on {name}")

    def log(self, name: str) -> str:
        return (self.folder / name).read_text(errors="replace")

    async def ask(self) -> Reply:
        url = f"http://{self.network.address('a')}:8080/a"
        return await self.client.json("POST", url, {"x": 1}, timeout=30)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[list[Asked]]:
        """What comes of requests that are sent all the while, four at a time."""
        found: list[Asked] = []

        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                began = time.monotonic()
                found.append(Asked(began, await self.ask()))
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(ask()) for _ in range(4)]
        try:
            yield found
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def here(self, name: str) -> list[psutil.Process]:
        """Every process on that host."""
        holder = self.network.on(name)[1].removeprefix("--net=")
        space = Path(holder).stat().st_ino
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):
                if Path(f"/proc/{process.pid}/ns/net").stat().st_ino == space:
                    found.append(process)
        return [each for each in found if f"/proc/{each.pid}/ns/net" != holder]

    def kill(self, name: str) -> None:
        """It loses its power."""
        for process in self.here(name):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    async def close(self) -> None:
        await self.client.close()
        for name in self.network.names:
            self.kill(name)
        for process in self._running:
            process.wait(20)


@asynccontextmanager
async def cluster() -> AsyncIterator[Hosts]:
    """Four replicas, two on each of the hosts b and c; on each there is room for one more."""
    command = [sys.executable, "-m", "gateway", "ray-env"]
    with (
        closing(Network("abc")) as network,
        tempfile.TemporaryDirectory(prefix="hg-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        (folder / "models.py").write_text(MODEL)
        storage = folder / "storage"
        storage.mkdir()
        printed = subprocess.run(
            [*command, "--storage", str(storage)], cwd=ROOT, capture_output=True, text=True
        ).stdout
        lines = [line for line in printed.splitlines() if not line.startswith("#")]
        hosts = Hosts(network, folder, dict(line.split("=", 1) for line in lines))
        try:
            await hosts.ray(
                "a", "--head", "--port", "6379", "--num-cpus", "0",
                "--include-dashboard", "false", "--temp-dir", str(folder / "r"),
            )  # fmt: skip
            for each in "bc":
                await hosts.ray(each, "--address", hosts.head, "--num-cpus", "3")
            file = folder / "models.yaml"
            file.write_text(yaml.safe_dump(document(network, folder)))
            hosts.run(
                "a", "up.log", "gateway", "up", str(file), "--on", "ray",
                "--state-dir", str(folder / "state"), RAY_ADDRESS=hosts.head,
            )  # fmt: skip
            await eventually(lambda: _answers(hosts), START_S, "models answer")
            yield hosts
        finally:
            await hosts.close()


def document(network: Network, folder: Path) -> dict[str, Any]:
    serve = {"model": f"{folder / 'models.py'}:Echo", "devices": "cpu", "replicas": 4}
    health = {"interval": "1s", "fall": 2, "rise": 1}
    retries = {"attempts": 3, "on": ["connect_failure", "reset"], "retry_safe": True}
    return {
        "gateway": {"listen": f"{network.address('a')}:8080", "admin": "127.0.0.1:8081",
                    "access_log": "off", "lame_duck": "0s", "drain": "5s"},
        "backends": {"a": {"health": health, "serve": serve}},
        "routes": {"a": {"match": "/a", "split": {"a": 1}, "retries": retries}},
    }  # fmt: skip


async def _answers(hosts: Hosts) -> bool:
    return (await hosts.ask()).ok


async def lost(begin: Callable[[Hosts], None], end: Callable[[Hosts], None]) -> None:
    """What follows when host c is lost, and when it comes back."""
    async with cluster() as hosts:
        there = hosts.network.address("c", "hosts")

        def places(since: float) -> set[str]:
            return {one.reply.header("X-Headgate-Instance") for one in found if one.at >= since}

        async with hosts.asked() as found:
            await eventually(lambda: len(places(0)) == 4, what="all four answer")
            assert {at.partition(":")[0] for at in places(0)} == {
                hosts.network.address(each, "hosts") for each in "bc"
            }
            begin(hosts)
            gone = time.monotonic()
            # How soon that is to be is a sum of waits, which test_ray_keeper holds.
            await eventually(
                lambda: hosts.log("up.log").count("its host or its actor is gone") == 2,
                what="Ray's word takes its addresses out",
            )
            out = time.monotonic()
            # One of its two is started where there is room; for the other one there is none.
            await eventually(lambda: len(places(out) - {""}) == 3, what="one is replaced")
            await eventually(lambda: "a needs 1 CPU; 0 of 3 are free" in hosts.log("up.log"))
            end(hosts)
            back = time.monotonic()
            await eventually(lambda: len(found) and found[-1].at > back + 5, what="it goes on")
        assert not any(at.startswith(there) for at in places(out)), "it answers, and gets nothing"
        failed = [one.reply for one in found if one.at > gone and not one.reply.ok]
        assert not failed, failed[:3]


@in_own_network
async def test_a_host_dies_and_what_ran_there_is_started_elsewhere() -> None:
    await lost(lambda hosts: hosts.kill("c"), lambda hosts: None)


@in_own_network
async def test_a_host_that_was_cut_off_and_is_back_gets_no_requests_for_what_was_replaced() -> None:
    await lost(lambda hosts: hosts.network.cut("c"), lambda hosts: hosts.network.heal("c"))
