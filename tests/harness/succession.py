"""How does a test have a gateway replaced by another process, and go on with that one?"""

import asyncio
import os
import sys
from collections.abc import Callable

import psutil

from tests.harness.gateway import ROOT, Gateway, eventually
from tests.harness.orphans import is_alive


class Adopted:
    """A process that somebody else started, as far as a `Gateway` needs it. How it ended only its
    parent knows."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        return None if is_alive(self._process) else 0

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        while self.returncode is None:
            await asyncio.sleep(0.02)
        return 0


async def command(gateway: Gateway, *words: str, within_s: float = 120.0) -> tuple[int, str]:
    """Exit code and output of `headgate WORDS --state-dir …` for this gateway."""
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, "--state-dir", str(gateway.folder / "state"),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(ran.communicate(), within_s)
    assert ran.returncode is not None
    return ran.returncode, out.decode()


def holder(gateway: Gateway) -> int:
    """The process that has the state."""
    return int((gateway.folder / "state" / "lock").read_text())


async def adopt(gateway: Gateway, pid: int) -> None:
    """Goes on with process `pid`; the one before must end by itself, with 0."""
    before = gateway.process
    assert before is not None
    gateway.family()
    gateway.process = Adopted(pid)  # type: ignore[assignment]
    gateway.family()
    await eventually(lambda: before.returncode is not None, 60, "the end of the one before")
    assert before.returncode == 0, gateway.log_text()[-3000:]


async def upgrade(
    gateway: Gateway, *words: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """`headgate upgrade`, which must do it; the gateway is the successor afterwards."""
    code, out = await command(gateway, "upgrade", *words)
    assert code == 0, out + gateway.log_text()[-3000:]
    meanwhile()
    await adopt(gateway, holder(gateway))
