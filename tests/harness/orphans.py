"""What makes sure that nothing a test started outlives the tests?

Every process that is started while tests run inherits a mark in its environment. A guard, a
process beside pytest in a session of its own, waits until pytest is gone, even by SIGKILL, and
then kills whatever carries the mark. A run that ends by itself must have left nothing: what is
still there fails it.

A process that replaces its environment is out of reach, unless its parent carries the mark.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

MARK = "HEADGATE_TESTED_BY"
ROOT = Path(__file__).resolve().parents[2]
EVERY_S = 0.2
GRACE_S = 10.0


def pytest_configure() -> None:
    """Mark what this process starts from now on, and start the guard.

    A worker of pytest-xdist adds its own mark to that of the process that started it, so that
    its guard ends what is its own and the other guard everything.
    """
    own = uuid.uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    subprocess.Popen(
        [sys.executable, "-m", "tests.harness.orphans", str(os.getpid()), own],
        cwd=ROOT, env=unmarked, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.environ[MARK] = f"{os.environ.get(MARK, '')} {own}".strip()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails the last test of a run that left a process behind."""
    yield
    own = os.environ[MARK].split()[-1]
    end = time.monotonic() + GRACE_S
    while (left := carrying(own)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, f"left running: {[_described(process) for process in left]}"


def carrying(mark: str) -> list[psutil.Process]:
    """The living processes whose environment has `mark`, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if mark in process.environ().get(MARK, "").split():
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return [process for process in found.values() if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each that is alive; one that ends of itself meanwhile is as good as killed, and
    one that is somebody else's keeps no other alive."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)


def _guard(parent: int, mark: str) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY_S)
    # What is being started in this moment is found the next time around.
    for _ in range(3):
        while left := carrying(mark):
            kill_all(left)
            psutil.wait_procs(left, timeout=1)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2])
