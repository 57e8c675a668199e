"""Waiting for conditions that real processes bring about: by looking, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from tests.harness.gateway import Gateway
from tests.harness.orphans import kill_all


async def until(
    condition: Callable[[], bool | Awaitable[bool]], within_s: float = 60.0, what: str = ""
) -> float:
    """Seconds until `condition` held; AssertionError when it never did."""
    begun = time.monotonic()
    while True:
        holds = condition()
        if (await holds) if isinstance(holds, Awaitable) else holds:
            return time.monotonic() - begun
        assert time.monotonic() - begun < within_s, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int) -> list[int]:
    """Every process below `pid` that runs."""
    return children(pid, recursive=True)


def children(pid: int, *, recursive: bool = False) -> list[int]:
    """The processes that `pid` has started and that run, or with those that they have."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive)]
    except psutil.NoSuchProcess:
        return []


def words(pid: int) -> list[str]:
    """The command line of a process; none once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


async def leave_nothing(gateway: Gateway) -> None:
    """Kills all of `gateway`, however its test ended."""
    await gateway.client.close()
    assert gateway.process is not None
    kill_all(gateway.family())
    await gateway.process.wait()
