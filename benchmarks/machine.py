"""Which core does what, how is a process started for a measurement, and what did it use?"""

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
PROXY_CORE, LOAD_CORE = "0", "1"


def on_core(core: str, command: Sequence[str]) -> list[str]:
    """`command` kept to one core ("" for none), where `taskset` is there."""
    if not core or shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        return list(command)
    return ["taskset", "-c", core, *command]


class Running:
    """A started process and its children."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def family(self) -> list[psutil.Process]:
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def rss(self) -> int:
        """Resident bytes of all its processes."""
        return sum(p.memory_info().rss for p in self.family() if p.is_running())

    def used_s(self) -> tuple[float, float]:
        """Seconds of processor time that all its processes took so far: user, system."""
        times = [p.cpu_times() for p in self.family()]
        return sum(t.user for t in times), sum(t.system for t in times)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to whatever is left after five seconds."""
        family = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def took_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds of processor time that these took so far: to the nanosecond where the kernel tells
    that, else in its steps of 10 ms, which are most of what a short run takes."""
    try:
        return sum(
            int(file.read_text().split()[0]) / 1e9
            for process in processes
            for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        )
    except (FileNotFoundError, ProcessLookupError):
        return sum(sum(process.cpu_times()[:2]) for process in processes)


def start(command: Sequence[str], folder: Path, **more: Any) -> Running:
    """Start `command` with its output in `folder`/log."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, **more)
    return Running(process, folder)


def wait_for(url: str, running: Running, seconds: float = 30) -> None:
    """Return once `url` answers 200; at https:// with any certificate, for it is ours."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    end = time.monotonic() + seconds
    while True:
        try:
            with urlopen(url, timeout=1, context=anybody) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if running.process.poll() is not None or time.monotonic() > end:
            tail = (running.folder / "log").read_text(errors="replace")[-2000:]
            running.stop()
            raise RuntimeError(f"{url} does not answer:\n{tail}")
        time.sleep(0.05)


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="headgate-bench-"))


@contextmanager
def script(module: str, *arguments: str, core: str = LOAD_CORE) -> Iterator[list[int]]:
    """A Python module of ours on the load's core; yields the ports it prints on one line."""
    process = subprocess.Popen(
        on_core(core, [PYTHON, "-m", module, *arguments]), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield [int(word) for word in process.stdout.readline().split()]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
