"""How does a test get a machine with systemd? This one's files, in a container with systemd as its
process 1, and whose changes are gone with it.

It shares the network of whoever makes it. Root, Linux and `systemd-nspawn` are needed (Debian's
systemd-container); no systemd needs to run already.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.harness.gateway import ROOT, eventually

SYSTEMD = Path("/lib/systemd/systemd")
STOP_S, WITHIN_S = 30, 300
needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-nspawn") is None or not SYSTEMD.exists(),
    reason="needs root, and systemd-nspawn to boot a systemd with (Debian: systemd-container)",
)
# What stands at /opt/headgate after an installation; whatever is below /home or /root here would
# be hidden from the service.
PROGRAM = """\
#!/bin/sh
export PYTHONHOME=/opt/python LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/opt/checkout:/opt/packages
exec /opt/python/bin/{python} -m gateway "$@"
"""


class Machine:
    """`units` of the checkout lie at /opt/checkout, and the program at /opt/headgate."""

    def __init__(self, folder: Path) -> None:
        self._root, self._log = folder / "root", folder / "boot.log"
        self._root.mkdir()
        program = folder / "program" / "bin" / "headgate"
        program.parent.mkdir(parents=True)
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        program.write_text(PROGRAM.format(python=name))
        for each in (folder, folder / "program", program.parent, program):
            each.chmod(0o755)
        places = {
            "checkout": ROOT, "packages": sysconfig.get_paths()["purelib"],
            "python": sys.base_prefix, "headgate": program.parent.parent,
        }  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "sh", "-c", 'mount --bind / "$0" && exec "$@"'),
                    *(str(self._root), "systemd-nspawn", "--directory", str(self._root)),
                    *("--volatile=overlay", "--register=no", "--keep-unit", "--link-journal=no"),
                    *("--machine", f"headgate-{os.getpid()}", "--console=pipe", "--boot"),
                    *(f"--bind-ro={at}:/opt/{each}" for each, at in places.items()),
                    "systemd.unit=basic.target",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def run(self, *command: str, given: str = "") -> str:
        """What `command` prints there; fails the test where it does."""
        code, said = await self.tried(*command, given=given)
        assert code == 0, (command, said)
        return said

    async def tried(self, *command: str, given: str = "") -> tuple[int, str]:
        """How `command` ends there, and what it prints."""
        ran = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={self._first()}", "--all", "--", *command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(ran.communicate(given.encode()), WITHIN_S)
        return ran.returncode or 0, said.decode(errors="replace")

    async def write(self, path: str, text: str) -> None:
        await self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", given=text)

    async def is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        if not self._first():
            return False
        _, said = await self.tried("systemctl", "is-system-running")
        return said.strip() in ("running", "degraded")

    def close(self) -> None:
        """As by a power switch, where it does not end by itself."""
        if first := self._first():
            os.kill(first, signal.SIGRTMIN + 4)  # systemd's word for: power off
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _first(self) -> int:
        """Its process 1, as it is called here; 0 until it boots."""
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self._process.pid).children(recursive=True):
                if each.name() == "systemd":
                    return each.pid
        return 0


@asynccontextmanager
async def booted() -> AsyncIterator[Machine]:
    """One that has booted."""
    with tempfile.TemporaryDirectory(prefix="hg-boot-") as folder:
        machine = Machine(Path(folder))
        try:
            await eventually(machine.is_up, 120, "systemd has booted", every_s=0.2)
            yield machine
        finally:
            machine.close()
