"""How does a test start a gateway, look into it and stop it?

As a user does: a YAML file, `python -m gateway gateway FILE`, HTTP on both listeners, SIGTERM.
A gateway that leaves a process behind, exits with anything but 0 or complains in its log about
lost tasks fails the test that used it, whatever the test was about.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import yaml

from tests.harness import promised
from tests.harness.load import PATIENT_S, Client, Reply
from tests.harness.metrics import Samples, parse_metrics
from tests.harness.orphans import is_alive, kill_all
from tests.harness.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
# A control process that loads aiohttp loads all public CAs with it, for a twentieth of a second of
# a processor, and no test meets anybody with a certificate of theirs.
NO_PUBLIC_CA = {"SSL_CERT_FILE": os.devnull}
HUNG_S = 60.0  # no test waits for so long unless something hangs, however busy the machine is
COMPLAINTS = re.compile(
    r"Traceback \(most recent|was never retrieved|was never awaited|Unclosed |"
    r"Task was destroyed|Fatal Python error"
)
QUICK_HEALTH = {"interval": "200ms", "timeout": "1s", "rise": 1, "fall": 2}


def backend(*instances: Any, **extra: Any) -> dict[str, Any]:
    """A backend of `instances` (anything with a `url`, or the URL itself), probed quickly."""
    urls = [one if isinstance(one, str) else one.url for one in instances]
    return {"instances": urls, "health": dict(QUICK_HEALTH), **extra}


def one_backend(*instances: Any, route: Mapping[str, Any] | None = None, **extra: Any) -> dict:
    """A whole configuration: every path goes to backend `main`."""
    return {
        "backends": {"main": backend(*instances, **extra)},
        "routes": {"all": {"match": "/", "split": {"main": 1}, **(route or {})}},
    }


def own_memory(pid: int) -> int:
    """Bytes of anonymous and shared memory that process `pid` has resident."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:  # no Linux
        return psutil.Process(pid).memory_info().rss
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


async def eventually(
    check: Callable[[], Any], within_s: float = HUNG_S, what: str = "", every_s: float = 0.02
) -> Any:
    """The first true result of `check` (awaited if need be); fails the test after `within_s`.

    Say a time only where it is the requirement: else it is how long to wait for what hangs.
    """
    end = time.monotonic() + within_s
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what or check}")
        await asyncio.sleep(every_s)


class Gateway:
    """One running gateway: its addresses, its processes and its admin API."""

    def __init__(
        self,
        folder: Path,
        document: Mapping[str, Any],
        env: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.document = document
        self.data_port = int(document["gateway"]["listen"].rpartition(":")[2])
        self.admin_port = int(document["gateway"]["admin"].rpartition(":")[2])
        self.file = folder / "headgate.yaml"
        self.log = folder / "gateway.log"
        self.env = {**os.environ, **NO_PUBLIC_CA, **env}
        self.prefix = tuple(prefix)
        self.client = Client()
        self._family: set[psutil.Process] = set()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.data_port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    async def start(self) -> None:
        """Start the processes and return once both listeners answer."""
        self.document["gateway"].setdefault("access_log", str(self.folder / "access.log"))
        self.write_file()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, "-m", "gateway", "gateway", str(self.file),
                "--state-dir", str(self.folder / "state"),
                cwd=ROOT, env=self.env, start_new_session=True, **self.output(log),
            )  # fmt: skip
        await eventually(self.answers, START_S, "the gateway answers on both listeners")
        self.family()

    def write_file(self) -> None:
        """Writes the document into the file."""
        self.file.write_text(yaml.safe_dump(dict(self.document), sort_keys=False))

    def output(self, log: BinaryIO) -> dict[str, Any]:
        """Where standard output and error go."""
        return {"stdout": log, "stderr": log}

    async def answers(self) -> bool:
        """Whether both listeners answer; fails the test once the process has ended."""
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"exit {self.process.returncode}:\n{self.log_text()[-3000:]}")
        data = await self.client.get(f"{self.url}/-/health", timeout=1)
        admin = await self.client.get(f"{self.admin_url}/readyz", timeout=1)
        return data.status == 200 and admin.status == 200

    async def wait_up(self, count: int | None = None, within_s: float = HUNG_S) -> None:
        """Return once `count` instances (default: all configured ones) are up."""
        backends = self.document["backends"].values()
        wanted = sum(len(b["instances"]) for b in backends) if count is None else count

        async def enough() -> bool:
            samples = await self.metrics()
            return samples.total("headgate_instance_up") >= wanted

        await eventually(enough, within_s, f"{wanted} instances up")
        # Control knows it a moment before the workers do, which have heard of it when they answer.
        await self.metrics()

    async def logged(self, text: str) -> None:
        """Return once `text` is in the log: what is said is written a moment later."""
        await eventually(lambda: text in self.log_text(), what=f"{text!r} in the log")

    async def stop(self, expect: int | None = 0, within_s: float = HUNG_S) -> float:
        """SIGTERM, wait, and assert a clean end; returns how long it took in seconds."""
        assert self.process is not None
        await self.client.close()
        began = time.monotonic()
        self.family()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended(expect, began, within_s)

    async def ended(self, expect: int | None, began: float, within_s: float) -> float:
        """Wait for the end of all processes; assert the exit status and an untroubled log."""
        assert self.process is not None
        try:
            await asyncio.wait_for(self.process.wait(), within_s)
        finally:
            took = time.monotonic() - began
            left = await self._leftovers()
            kill_all(left)
        assert not left, f"left running: {left}"
        text = self.log_text()
        if expect is not None:
            assert self.process.returncode == expect, f"exit {self.process.returncode}:\n{text}"
            assert not COMPLAINTS.search(text), f"the log complains:\n{text[-4000:]}"
        return took

    async def _leftovers(self) -> list[psutil.Process]:
        def alive() -> list[psutil.Process]:
            return [p for p in self._family if is_alive(p)]

        for _ in range(100):
            if not alive():
                return []
            await asyncio.sleep(0.02)
        return alive()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def family(self) -> set[psutil.Process]:
        """Every process of this gateway seen so far; those alive now are added."""
        assert self.process is not None
        try:
            top = psutil.Process(self.process.pid)
            self._family |= {top, *top.children(recursive=True)}
        except psutil.NoSuchProcess:
            pass
        return self._family

    async def worker_pids(self) -> list[int]:
        status = await self.status()
        return [worker["pid"] for worker in status["workers"]]

    async def control_pid(self) -> int:
        """The control process; the supervisor holds the admin listener too, so ask."""
        pid: int = (await self.status())["control"]["pid"]
        return pid

    async def worker_rss(self) -> int:
        """Bytes of resident memory that all workers together have of their own.

        Not the pages of program files: which of them were touched first says nothing of what a
        request holds, and a compiled path has a mebibyte of them more.
        """
        pids = await self.worker_pids()
        return sum(own_memory(pid) for pid in pids)

    async def metrics(self) -> Samples:
        reply = await self.client.get(f"{self.admin_url}/metrics")
        assert reply.status == 200, reply
        return parse_metrics(reply.body.decode())

    async def admin(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Iterable = (),
        timeout: float = PATIENT_S,
    ) -> Reply:
        """One request to the admin API, whose answer is what its OpenAPI document promises; `body`
        is sent as JSON."""
        reply = await self.client.json(method, self.admin_url + path, body, headers, timeout)
        kind = (reply.header("content-type") or "").partition(";")[0]
        if kind.endswith("json"):
            promised.check(method, path, reply.status, kind, reply.json())
        return reply

    async def health(self, backend: str = "main") -> dict[str, str]:
        """What the probes say of each instance of `backend`."""
        instances = (await self.status())["backends"][backend]["instances"]
        return {address: instance["health"] for address, instance in instances.items()}

    async def status(self) -> dict[str, Any]:
        reply = await self.admin("GET", "/admin/v1/status")
        assert reply.status == 200, reply
        return reply.json()

    async def set_weights(self, route: str, weights: Mapping[str, int]) -> dict[str, Any]:
        """Write `weights` and return the acknowledgement."""
        path = f"/admin/v1/routes/{route}/weights"
        reply = await self.admin("PUT", path, dict(weights))
        assert reply.status == 200, reply
        return reply.json()


def complete(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with a `gateway:` section on free ports, quick to stop.

    A setting of None is left out of the file, and to the gateway's default.
    """
    section = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "lame_duck": "0s",
        "drain": "5s",
        **document.get("gateway", {}),
        **settings,
    }
    section = {key: value for key, value in section.items() if value is not None}
    return {"gateway": section, **{k: v for k, v in document.items() if k != "gateway"}}


@asynccontextmanager
async def running_gateway(
    document: Mapping[str, Any],
    *,
    up: bool | int = True,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    check_end: bool = True,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """A gateway of `document`; `settings` are keys of its `gateway:` section.

    `up`: wait until all instances (True), that many (int) or none (False) are up.
    `prefix`: a command that executes what follows it, to run the gateway under.
    """
    with tempfile.TemporaryDirectory(prefix="headgate-test-") as folder:
        gateway = Gateway(Path(folder), complete(document, settings), env or {}, prefix)
        try:
            await gateway.start()
            if up is not False:
                await gateway.wait_up(None if up is True else up)
            yield gateway
            if check_end:
                await gateway.stop()
        finally:
            await gateway.client.close()
            kill_all(gateway.family() if gateway.process else ())
            if gateway.process is not None:
                await gateway.process.wait()
