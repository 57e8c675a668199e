"""How does a test get a Ray cluster? One host, few resources, killed with its file by pid."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.harness.orphans import kill_all
from tests.harness.ports import free_port

START_S = 180.0  # then it hangs


@dataclass(frozen=True)
class Cluster:
    """`environment` lets a process in."""

    environment: dict[str, str]
    folder: Path
    pid: int

    def head(self) -> psutil.Process:
        """The process that knows who is where."""
        family = psutil.Process(self.pid).children(recursive=True)
        (found,) = [each for each in family if each.name() == "gcs_server"]
        return found


@contextlib.contextmanager
def running_cluster(cpus: int) -> Iterator[Cluster]:
    """A head with so many CPUs and no GPU, that has a token and keeps what it knows on a disk."""
    # Sockets below it have long names, and there is a limit to that.
    folder = Path(tempfile.mkdtemp(prefix="hg-ray-"))
    address = f"127.0.0.1:{free_port()}"
    own = {
        "RAY_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }
    head = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "storage")}
    (folder / "storage").mkdir()
    log = folder / "head.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2]),
                *("--num-cpus", str(cpus), "--num-gpus", "0", "--include-dashboard", "false"),
                *("--object-store-memory", "80000000", "--disable-usage-stats"),
                *("--min-worker-port", "0", "--max-worker-port", "0"),
                *("--dashboard-agent-listen-port", str(free_port())),
                *("--temp-dir", str(folder / "r")),
            ],
            env={**os.environ, **own, **head},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + START_S
        while "Ray runtime started" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.1)
        yield Cluster(own, folder, process.pid)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            kill_all([*family, psutil.Process(process.pid)])
            psutil.wait_procs(family, timeout=20)
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
