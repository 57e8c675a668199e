"""Which devices are here, and how much of their memory do others use?

The CPU is one of them, with the memory of this machine, of which only what was said of a model is
counted. GPUs are looked for where a driver is, by a process of the instance's side: nothing here
loads torch. Where there is none that costs nothing.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.core.devices import CPU, Device, Seat
from gateway.processes.children import OURS, python_path

DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
LOOK_WITHIN_S = 60.0
LOOKER = "instance.devices"

Look = Callable[[], Awaitable[Sequence[Device]]]


def may_have_gpus() -> bool:
    """Whether a look for GPUs is worth a process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    return shutil.which("nvidia-smi") is not None or any(Path(one).exists() for one in DRIVERS)


async def gpus() -> Sequence[Device]:
    """The GPUs that a process of the instance's side sees, with all that is used of them."""
    if not may_have_gpus():
        return ()
    outer = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", LOOKER),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**outer, **python_path()},
        )
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return [Device(one["name"], one["total"], one["used"]) for one in json.loads(said)]
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return ()


def memory_here() -> int:
    """The bytes of memory that this machine, or our part of it, has."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdigit() else found


class DeviceTable:
    """The devices, as they were looked at last: `look` finds the GPUs, `cpu_memory` are the bytes
    that this machine has."""

    def __init__(self, look: Look = gpus, cpu_memory: Callable[[], int] = memory_here) -> None:
        self._look = look
        self._cpu = Device(CPU, cpu_memory())
        self._gpus: tuple[Device, ...] = ()
        self._measured: dict[str, int] = {}

    @property
    def devices(self) -> tuple[Device, ...]:
        """All of them, with what others than the processes that are counted use."""
        return (*self._gpus, self._cpu)

    async def measure(self, seats: Callable[[], Iterable[Seat]]) -> None:
        """Looks again; what is used beyond the known ones of `seats()` is used by others, where no
        seat is unknown."""
        found = await self._look()
        taken = list(seats())
        unknown = {seat.device for seat in taken if seat.size is None}
        before = {each.name: each.used for each in self._gpus}
        self._measured = {each.name: each.used for each in found}
        self._gpus = tuple(
            replace(each, used=before.get(each.name, each.used))
            if each.name in unknown
            else replace(each, used=max(0, each.used - _held(taken, each.name)))
            for each in found
        )

    def beyond(self, device: str, seats: Iterable[Seat]) -> int:
        """What of `device` neither others nor the known ones of `seats` have, as last measured."""
        others = next((each.used for each in self._gpus if each.name == device), 0)
        return max(0, self._measured.get(device, 0) - others - _held(seats, device))


def _held(seats: Iterable[Seat], device: str) -> int:
    return sum(seat.size or 0 for seat in seats if seat.device == device)
