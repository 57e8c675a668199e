"""What a person at a terminal sees, on a terminal."""

import codecs
import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from gateway.cli import manual
from tests.cli.admin_player import look

ROOT = Path(__file__).parents[2]
ALTERNATE, BACK, SHOWN_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """`headgate` on a pseudo-terminal, or a `shell` that it is typed into."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        columns: int = 140,
        shell: str = "",
        term: str | None = "xterm-256color",
    ) -> None:
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            size = {"COLUMNS": str(columns), "LINES": "40"}
            os.environ.pop("TERM", None)
            os.environ.update(HEADGATE_URL=url, **({} if term is None else {"TERM": term}), **size)
            os.chdir(ROOT)
            if shell:
                os.environ.update(PS1="$ ", PYTHON=sys.executable)
                os.execvp(shell, [shell, "--norc", "-i"])
            code = "import sys; from gateway.cli import main; sys.exit(main())"
            os.execv(sys.executable, [sys.executable, "-c", code, *arguments])
        self.printed = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end inside a character

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def read(self, until: str = "", within_s: float = 60.0, *, start: int = 0) -> str:
        """All that was printed so far, once `until` (the end, where empty) came after `start`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if until and until in self.printed[start:]:
                break
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    more = os.read(self.end, 1 << 16)
                except OSError:  # the other end is gone: Linux says EIO
                    break
                self.printed += self._decoder.decode(more)
        return self.printed

    def code(self) -> int:
        self.read()
        _, status = os.waitpid(self.pid, 0)
        os.close(self.end)
        return os.waitstatus_to_exitcode(status)


def test_a_terminal_gets_colours_and_a_ruled_table(player) -> None:
    player.set_live("digits-cnn", "127.0.0.1:8002", health="down")
    terminal = Terminal(player.url, "status")
    assert terminal.code() == 0
    assert "\x1b[31mdown" in terminal.printed
    assert "───" in terminal.printed


@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
@pytest.mark.parametrize("words", [("status",), ("top", "--count", "1")])
def test_a_terminal_of_which_nobody_says_what_it_can_gets_text_alone(player, words, term) -> None:
    terminal = Terminal(player.url, *words, term=term)
    assert terminal.code() == 0
    assert "digits-cnn" in terminal.printed
    assert "\x1b" not in terminal.printed


def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(player) -> None:
    for columns, left_out in ((140, False), (60, True)):
        terminal = Terminal(player.url, "status", columns=columns)
        assert terminal.code() == 0
        shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.printed)
        assert ("p95 ms" not in shown) is left_out
        assert all(word in shown for word in ("digits-linear", "127.0.0.1:8003", "weight", "up"))
        assert max(len(line) for line in shown.splitlines()) <= columns


def test_top_gives_the_terminal_back_after_ctrl_c(player) -> None:
    terminal = Terminal(player.url, "top", "--interval", "0.1")
    terminal.read(until="revision 42 on 1 worker")
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.code() == 0
    assert terminal.printed.index(ALTERNATE) < terminal.printed.index(BACK)
    assert "Traceback" not in terminal.printed


@pytest.mark.parametrize("words", [("top", "--interval", "0.1"), ("rollout", "digits")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_view_that_is_ended_gives_the_terminal_back(player, words, number, code) -> None:
    player.rollouts["digits"] = [look()]
    terminal = Terminal(player.url, *words)
    terminal.read(until="digits-cnn")
    os.kill(terminal.pid, number)
    is_as_promised = words[0] == "top" and number == signal.SIGINT  # it ends by nothing else
    assert terminal.code() == (0 if is_as_promised else code)
    assert terminal.printed.index(ALTERNATE) < terminal.printed.index(BACK)
    assert "Traceback" not in terminal.printed


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash is installed")
@pytest.mark.parametrize("words", ["top", "rollout digits"])
def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(player, words) -> None:
    player.rollouts["digits"] = [look()]
    terminal = Terminal(player.url, shell="bash")
    terminal.read(until="$ ")
    terminal.type(f"$PYTHON -m gateway {words}\n")
    terminal.read(until="digits-cnn")
    terminal.type("\x1a")
    shown = terminal.read(until="Stopped")
    assert shown.index(ALTERNATE) < shown.index(SHOWN_CURSOR + BACK) < shown.index("Stopped")
    at = len(shown)
    terminal.type("fg\n")
    terminal.read(until="digits-cnn", start=at)
    assert ALTERNATE in terminal.printed[at:]
    terminal.type("\x03")
    terminal.read(until=BACK, start=at)
    terminal.type("exit\n")
    terminal.code()


def test_top_outlives_a_gateway_that_is_away_for_a_moment(player) -> None:
    terminal = Terminal(player.url, "top", "--interval", "0.1")
    terminal.read(until="revision 42 on 1 worker")
    player.broken = True
    terminal.read(until="no gateway answers")
    player.broken = False
    player.revision = 43
    assert "revision 43 on 1 worker" in terminal.read(until="revision 43 on 1 worker")
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.code() == 0


def test_the_manual_is_what_the_table_of_commands_says() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == manual.page()
