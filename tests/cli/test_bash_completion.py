"""What the completion offers in a real bash, which cuts words at `:` and `=`."""

import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")
COMMAND = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from gateway.cli import main
sys.exit(main())
"""


class Bash:
    """An interactive bash with the completion loaded, on a pseudo-terminal."""

    def __init__(self, folder: Path, url: str) -> None:
        command = folder / "headgate"
        command.write_text(COMMAND.format(python=sys.executable, root=str(ROOT)))
        command.chmod(0o755)
        (folder / "rc").write_text("PS1='$ '\nsource <(headgate completion bash)\n")
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            path = f"{folder}:{os.environ['PATH']}"
            more = {"HEADGATE_URL": url, "PATH": path, "TERM": "dumb"}
            os.execve(str(BASH), ["bash", "--rcfile", "rc", "-i"], {**os.environ, **more})
        self._read("$ ")

    def completes(self, typed: str, line: str) -> None:
        """Types words and a tab; returns once the line reads so, and fails if it never does."""
        os.write(self._end, f"headgate {typed}\t".encode())
        self._read(f"headgate {line}")
        os.write(self._end, b"\x15\n")  # the line is thrown away
        self._read("$ ")

    def _read(self, until: str, within_s: float = 20.0) -> None:
        seen, deadline = "", time.monotonic() + within_s
        while until not in seen:
            assert time.monotonic() < deadline, f"{until!r} is not in {seen!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                seen += os.read(self._end, 1 << 16).decode().replace("\a", "")

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._end)


@pytest.fixture
def bash(tmp_path: Path, player) -> Iterator[Bash]:
    found = Bash(tmp_path, player.url)
    yield found
    found.close()


def test_commands_options_and_shells_are_completed(bash: Bash) -> None:
    bash.completes("wei", "weights ")
    bash.completes("status --u", "status --url ")
    bash.completes("completion z", "completion zsh ")


def test_each_place_has_its_own_names(bash: Bash) -> None:
    bash.completes("weights di", "weights digits ")
    bash.completes("weights digits digits-c", "weights digits digits-cnn=")
    bash.completes("weights -m why digits digits-c", "weights -m why digits digits-cnn=")
    bash.completes(
        "weights digits digits-cnn=5 digits-l", "weights digits digits-cnn=5 digits-linear="
    )


def test_an_address_is_completed_across_its_colon(bash: Bash) -> None:
    bash.completes("drain 127", "drain 127.0.0.1:800")
    bash.completes("drain 127.0.0.1:8003", "drain 127.0.0.1:8003 ")
    bash.completes("drain --backend digits-c", "drain --backend digits-cnn ")
    bash.completes("drain 127.0.0.1:8001 --wa", "drain 127.0.0.1:8001 --wait ")


def test_files_are_completed(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("")
    bash.completes("apply so", "apply some.yaml ")
    bash.completes("apply some.yaml --dry", "apply some.yaml --dry-run ")
