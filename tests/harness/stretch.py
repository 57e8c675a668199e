"""How much longer does work take here and now than the processor time it needs?

One, on a machine that has nothing else to do; two, where somebody else wants the same processor.
What a server's loop does in 20 ms of processor time keeps its clients waiting so many times as
long, and that is the machine's doing. `python -m tests.harness.stretch` works a little again and
again until standard input ends, and prints what it saw.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
WORK_S = 0.01
PAUSE_S = 0.04


class Stretch:
    """Watches from a process of its own as long as the context lasts."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    async def __aenter__(self) -> Self:
        # Origins of the test answer probes meanwhile.
        await asyncio.to_thread(self._start)
        return self

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.stretch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"

    async def __aexit__(self, *_: object) -> None:
        out, _ = await asyncio.to_thread(self._process.communicate)
        self._seen = [(began, times) for began, times in json.loads(out)]

    def between(self, begin: float, end: float) -> float:
        """How many times as long work mostly took that began between two (monotonic) moments."""
        return median([times for began, times in self._seen if begin <= began < end] or [1.0])


def _watch() -> None:
    seen: list[tuple[float, float]] = []
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("watching", flush=True)
    while not ended.wait(PAUSE_S):
        began, used = time.monotonic(), time.thread_time()
        while time.thread_time() - used < WORK_S:
            pass
        seen.append((began, (time.monotonic() - began) / (time.thread_time() - used)))
    print(json.dumps(seen))


if __name__ == "__main__":
    _watch()
