"""How does a test get a Ray cluster of three hosts? In network namespaces: Ray's head is on host a,
models are on b and c."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from examples.hosts.network import Network
from tests.harness.gateway import ROOT, eventually
from tests.harness.load import Client, Reply
from tests.harness.orphans import kill_all

START_S = 180.0
STARTED = "Ray runtime started"
MODEL = """
import os

class Echo:
    def setup(self, device):
        self.device = str(device)

    def predict(self, x):
        return {"device": self.device, "sees": os.environ.get("CUDA_VISIBLE_DEVICES")}
"""

# As much of torch as an instance looks at, on a host whose GPUs Ray alone believes in.
TORCH = """
from contextlib import nullcontext as inference_mode
from types import SimpleNamespace

def get_num_threads():
    return 1

def set_num_threads(count):
    pass

cuda = SimpleNamespace(
    is_available=lambda: True, is_initialized=lambda: False, mem_get_info=lambda: (0, 1),
    synchronize=lambda: None, Stream=lambda: SimpleNamespace(synchronize=lambda: None),
    stream=lambda one: inference_mode(),
)
"""
CPU = {"replicas": 4, "devices": "cpu"}


@dataclass
class Asked:
    """One request: when it began, and what came of it."""

    at: float
    reply: Reply


class Hosts:
    """Ray's head on host a, room for models on b and c, `headgate up` on host `at`."""

    def __init__(
        self, network: Network, folder: Path, environment: Mapping[str, str], at: str
    ) -> None:
        self.network, self.folder, self.at = network, folder, at
        self.head = f"{network.address('a', 'hosts')}:6379"
        self._environment = {**os.environ, **environment, "RAY_memory_monitor_refresh_ms": "0"}
        self._running: list[subprocess.Popen[bytes]] = []
        self.client = Client()

    def run(self, name: str, log: str, *command: str, **more: str) -> "subprocess.Popen[bytes]":
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                [*self.network.on(name), sys.executable, "-m", *command],
                cwd=ROOT, env={**self._environment, **more},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        return process

    async def ray(self, name: str, *more: str) -> None:
        """One after the other: they choose names of sockets in one folder."""
        log = f"ray-{name}.log"
        before = self.log(log).count(STARTED)

        tries: list[subprocess.Popen[bytes]] = []

        def has_started() -> bool:
            # Again as a service is: a busy machine may be slower than Ray has patience for.
            if not tries or tries[-1].poll() is not None:
                tries.append(self.run(name, log, "ray.scripts.scripts", *words))
            return self.log(log).count(STARTED) > before

        words = [
            "start", "--block", "--node-ip-address", self.network.address(name, "hosts"),
            "--object-store-memory", "80000000", "--disable-usage-stats",
            "--min-worker-port", "0", "--max-worker-port", "0", *more,
        ]  # fmt: skip
        await eventually(has_started, START_S, f"ray on {name}")

    async def ray_head(self) -> None:
        """As it is started at first, and again where it has ended."""
        # Ray would take another host's processes for those of the head that has ended.
        (self.folder / "r" / "ray_current_cluster").unlink(missing_ok=True)
        await self.ray(
            "a", "--head", "--port", "6379", "--num-cpus", "0", "--num-gpus", "0",
            "--include-dashboard", "false", "--temp-dir", str(self.folder / "r"),
        )  # fmt: skip

    def log(self, name: str) -> str:
        file = self.folder / name
        return file.read_text(errors="replace") if file.exists() else ""

    async def ask(self, path: str = "/a") -> Reply:
        url = f"http://{self.network.address(self.at)}:8080{path}"
        return await self.client.json("POST", url, {"x": 1}, timeout=30)

    async def command(self, *words: str) -> str:
        """What `headgate` with these `words` prints on the host of the gateway."""
        ran = await asyncio.create_subprocess_exec(
            *self.network.on(self.at), sys.executable, "-m", "gateway", *words,
            cwd=ROOT, env={**self._environment, "RAY_ADDRESS": self.head},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        said, wrong = await asyncio.wait_for(ran.communicate(), 90)
        assert ran.returncode == 0, wrong.decode()
        return said.decode()

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

    def instances(self) -> set[psutil.Process]:
        """Those that run, on whichever host, and whoever holds them."""
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "instance" in words and any(str(self.folder) in word for word in words):
                found.add(process)
        return found

    def kill(self, name: str) -> None:
        """It loses its power."""
        kill_all(self.here(name))

    async def close(self) -> None:
        await self.client.close()
        for name in self.network.names:
            self.kill(name)
        for process in self._running:
            process.wait(20)


@asynccontextmanager
async def cluster(
    at: str = "a", gpus: int = 0, backends: Mapping[str, Any] | None = None
) -> AsyncIterator[Hosts]:
    """Two hosts with room for three replicas each, and so many logical `gpus`. Left out, `backends`
    has four replicas."""
    command = [sys.executable, "-m", "gateway", "ray-env"]
    with (
        closing(Network("abc")) as network,
        tempfile.TemporaryDirectory(prefix="hg-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        (folder / "models.py").write_text(MODEL)
        if gpus:
            (folder / "torch.py").write_text(TORCH)
        storage = folder / "storage"
        storage.mkdir()
        printed = subprocess.run(
            [*command, "--storage", str(storage)], cwd=ROOT, capture_output=True, text=True
        ).stdout
        lines = [line for line in printed.splitlines() if not line.startswith("#")]
        hosts = Hosts(network, folder, dict(line.split("=", 1) for line in lines), at)
        try:
            await hosts.ray_head()
            for each in "bc":
                room = ("--num-cpus", "3", "--num-gpus", str(gpus))
                await hosts.ray(each, "--address", hosts.head, *room)
            file = folder / "models.yaml"
            file.write_text(yaml.safe_dump(document(hosts, backends or {"a": CPU})))
            hosts.run(
                at, "up.log", "gateway", "up", str(file), "--on", "ray",
                "--state-dir", str(folder / "state"), RAY_ADDRESS=hosts.head,
            )  # fmt: skip
            await eventually(lambda: _answers(hosts), START_S, "models answer")
            yield hosts
        finally:
            await hosts.close()


def document(hosts: Hosts, backends: Mapping[str, Any]) -> dict[str, Any]:
    model = f"{hosts.folder / 'models.py'}:Echo"
    health = {"interval": "1s", "fall": 2, "rise": 1}
    retries = {"attempts": 3, "on": ["connect_failure", "reset"], "retry_safe": True}
    return {
        "gateway": {"listen": f"{hosts.network.address(hosts.at)}:8080", "admin": "127.0.0.1:8081",
                    "access_log": "off", "lame_duck": "0s", "drain": "5s"},
        "backends": {
            name: {"health": health, "serve": {"model": model, **more}}
            for name, more in backends.items()
        },
        "routes": {
            name: {"match": f"/{name}", "split": {name: 1}, "retries": retries}
            for name in backends
        },
    }  # fmt: skip


async def _answers(hosts: Hosts) -> bool:
    return (await hosts.ask()).ok
