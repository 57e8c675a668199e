"""What does an instance cost while nobody asks it anything: cores, wake-ups, memory?

Memory is compared with a process that imports torch, makes the same network and runs it once,
for the worker, and with a bare interpreter for the HTTP process.
"""

import subprocess
import time
from typing import Any

import psutil

from benchmarks.machine import PYTHON, ROOT, new_folder, start, wait_for
from tests.harness.ports import free_port

Results = dict[str, Any]
MODEL = "benchmarks.models.resnet:ResNet"
_SAY = "import os; print(psutil.Process(os.getpid()).memory_info().rss)"
_BARE = {
    "http": f"import psutil; {_SAY}",
    "worker": "import psutil; from benchmarks.models.resnet import ResNet; model = ResNet(); "
    f"model.setup('cpu'); model.predict([4.0]); {_SAY}",
}


def resting(seconds: float = 10) -> Results:
    """Part of a core and wake-ups a second of all processes, bytes above bare of each."""
    port = free_port()
    command = [
        PYTHON, "-m", "instance", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--device", "cpu",
    ]  # fmt: skip
    running = start(command, new_folder())
    try:
        wait_for(f"http://127.0.0.1:{port}/health/ready", running, 60)
        time.sleep(2)
        family = running.family()
        before = [_used(process) for process in family]
        time.sleep(seconds)
        after = [_used(process) for process in family]
        rss = [process.memory_info().rss for process in family]
    finally:
        running.stop()
    cpu, woken = (sum(b[i] - a[i] for a, b in zip(before, after, strict=True)) for i in (0, 1))
    above = {name: rss[number] - _bare(name) for number, name in enumerate(_BARE)}
    return {"cores": cpu / seconds, "wakeups": woken / seconds, "above": above}


def _used(process: psutil.Process) -> tuple[float, float]:
    times = process.cpu_times()
    return times.user + times.system, float(process.num_ctx_switches().voluntary)


def _bare(name: str) -> int:
    command = [PYTHON, "-c", _BARE[name]]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
