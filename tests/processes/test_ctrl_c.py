"""Ctrl-C on a terminal while `headgate up` starts: it ends, and says nothing but that it stops."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.harness.gateway import ROOT, START_S

from .test_up import MODELS, document
from .waiting import alive, descendants

TROUBLE = re.compile(r"panicked|Traceback|Exception ignored|Error\b|fault in headgate|core dumped")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc to know when Python is up"
)


class Starting:
    """`headgate up` on a terminal, from its first moment on."""

    def __init__(self, folder: Path) -> None:
        self.printed = ""
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="120", PYTHONPATH=str(ROOT))
            os.chdir(folder)
            os.execv(sys.executable, [sys.executable, "-m", "gateway", "up", "headgate.yaml"])
        of = Path(f"/proc/{self.pid}")
        while "headgate.yaml" not in (of / "cmdline").read_text():  # it is a copy of this one
            time.sleep(0.002)
        while "_ctypes" not in (of / "maps").read_text():  # it is Python's start, not ours
            time.sleep(0.002)
        self.began = time.monotonic()

    def read(self, until_s: float, until: str = "") -> bool:
        """Reads what is printed, up to that moment; whether `until`, or else the end, came."""
        while (left_s := until_s - time.monotonic()) > 0:
            if until and until in self.printed:
                return True
            if select.select([self._screen], [], [], min(left_s, 0.05))[0]:
                try:
                    more = os.read(self._screen, 1 << 16).decode(errors="replace")
                except OSError:  # the other end is gone
                    return not until
                self.printed += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", more)
        return False

    def ctrl_c(self) -> int:
        """Presses it and waits for the end; the exit code."""
        os.write(self._screen, b"\x03")
        assert self.read(time.monotonic() + 60), f"it goes on:\n{self.printed}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        for pid in (self.pid, *descendants(self.pid)):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        os.close(self._screen)


def interrupted(folder: Path, after_s: float) -> str:
    """What a start said that was interrupted so long after it began."""
    it = Starting(folder)
    try:
        it.read(it.began + after_s)
        code = it.ctrl_c()
        assert code in (0, -signal.SIGINT), (code, it.printed)
        return it.printed
    finally:
        it.close()


@pytest.fixture
def start_s(tmp_path: Path) -> float:
    """How long a whole start takes here and now."""
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "headgate.yaml").write_text(yaml.safe_dump(document("models:Square")))
    it = Starting(tmp_path)
    try:
        assert it.read(time.monotonic() + START_S, "model logs"), it.printed
        took_s = time.monotonic() - it.began
        assert it.ctrl_c() == 0
        return took_s
    finally:
        it.close()


def interrupt_all_along(folder: Path, start_s: float, moments: int) -> None:
    for number in range(moments):
        after_s = start_s * 1.1 * number / moments
        said = interrupted(folder, after_s)
        assert not TROUBLE.search(said), f"after {after_s:.3f} s:\n{said}"


def test_ctrl_c_on_a_terminal_is_quiet_all_along_a_start(tmp_path: Path, start_s: float) -> None:
    interrupt_all_along(tmp_path, start_s, 6)


@pytest.mark.soak
def test_ctrl_c_on_a_terminal_is_quiet_at_fifty_moments_of_a_start(
    tmp_path: Path, start_s: float
) -> None:
    interrupt_all_along(tmp_path, start_s, 50)


def test_the_installed_program_ends_at_ctrl_c_before_it_loads_anything_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["headgate"].partition(":")
    code = (
        f"import {module} as program, signal, sys; callable(program.{function}) or sys.exit(2);"
        "sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_DFL)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
