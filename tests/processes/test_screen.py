"""What a person sees of `headgate up` on a terminal, and what is in files instead."""

import json
import os
import pty
import re
import select
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.controlplane.watch.traffic import EVERY_S, Traffic
from gateway.up.screen import for_people
from tests.harness.gateway import ROOT, START_S

from .test_up import MODELS, document
from .waiting import alive, descendants, words

TALKS = """
class Talks(Square):
    def setup(self, device):
        print("loading weights")

    def predict(self, x):
        print("asked for", x["input"])
        return super().predict(x)
"""


class Terminal:
    """`headgate up` on a pseudo-terminal."""

    def __init__(
        self, folder: Path, document: dict[str, Any], *options: str, term: str = "xterm-256color"
    ) -> None:
        (folder / "models.py").write_text(MODELS + TALKS)
        (folder / "headgate.yaml").write_text(yaml.safe_dump(document))
        self.folder, self.document, self.printed = folder, document, ""
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM=term, COLUMNS="120", PYTHONPATH=str(ROOT))
            os.chdir(folder)
            argv = [sys.executable, "-m", "gateway", "up", "headgate.yaml", *options]
            os.execv(sys.executable, argv)

    def read(self, until: str = "", within_s: float = START_S) -> str:
        """All that is on the screen, in plain text, once `until` (the end, if empty) came."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if until and until in self.printed:
                return self.printed
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    more = os.read(self.end, 1 << 16).decode(errors="replace")
                except OSError:  # the other end is gone
                    return self.printed
                self.printed += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", more).replace("\r", "")
        raise AssertionError(f"no {until!r} on the screen:\n{self.printed[-3000:]}")

    def ask(self) -> Any:
        address = self.document["gateway"]["listen"]
        request = urllib.request.Request(
            f"http://{address}/talks", b'{"input": 3}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def ctrl_c(self) -> int:
        os.write(self.end, b"\x03")
        self.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(
    folder: Path, *options: str, term: str = "xterm-256color", **settings: Any
) -> Iterator[Terminal]:
    written = document("models:Talks")
    written["gateway"].update(settings)
    it = Terminal(folder, written, *options, term=term)
    below: list[int] = []
    try:
        yield it
    finally:
        below = descendants(it.pid) if alive(it.pid) else []
        for pid in (it.pid, *below):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        os.close(it.end)


def test_a_terminal_shows_what_matters_and_files_have_the_rest(tmp_path: Path) -> None:
    with terminal(tmp_path) as it:
        it.read("model logs")
        shown = it.printed
        assert "models:Talks" in shown
        assert "loading weights" not in shown
        for what in ("listen", "admin"):
            assert f"http://{it.document['gateway'][what]}" in shown
        assert f"http://{it.document['gateway']['listen']}/-/docs" in shown
        before = len(it.printed)
        for _ in range(5):
            assert it.ask() == {"result": 9}
        it.read("asked for 3")
        port = it.document["backends"]["talks"]["instances"][0].rpartition(":")[2]
        said = {pid: words(pid) for pid in descendants(it.pid)}
        (victim,) = (pid for pid, each in said.items() if port in each and "_tied" not in each)
        os.kill(victim, signal.SIGKILL)
        it.read("was ended by SIGKILL")
        assert it.ctrl_c() == 0
        news = it.printed[before:]
    assert re.search(r"^\d\d:\d\d:\d\d instance talks .* was ended by SIGKILL", news, re.M)
    # Whether a probe comes in the moment between the old process and the new one is chance.
    assert re.search(r"up, now (down|starting|failing)", news) or "now" not in news
    assert "stopping…" in news
    assert news.rstrip().endswith("stopped")
    assert '{"' not in it.printed, "JSON lines are for machines"
    state = tmp_path / ".headgate"
    lines = [json.loads(line) for line in (state / "access.log").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["/talks"] * 5
    told = (state / "instances.log").read_text()
    assert "loading weights" in told
    assert told.count("asked for 3") == 5


def test_a_terminal_of_which_nobody_says_what_it_can_gets_the_screen_as_text(
    tmp_path: Path,
) -> None:
    with terminal(tmp_path, term="") as it:
        it.read("model logs")
        assert "models:Talks" in it.printed
        assert it.ctrl_c() == 0
    assert "\x1b" not in it.printed


@pytest.mark.parametrize("way", ["option", "file"])
def test_the_access_log_stays_on_a_terminal_if_somebody_says_so(tmp_path: Path, way: str) -> None:
    options = ["--access-log", "-"] if way == "option" else []
    settings = {"access_log": "-"} if way == "file" else {}
    with terminal(tmp_path, *options, **settings) as it:
        it.read("model logs")
        it.ask()
        it.read('"path":"/talks"')
        assert it.ctrl_c() == 0
    assert not (tmp_path / ".headgate" / "access.log").exists()


LOG = {"time": "2026-11-28T12:00:01.000+00:00", "logger": "instance", "instance": "m:8001"}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("m:8001 | asked for 3", "m:8001 | asked for 3"),
        ('{"answer": 42}', '{"answer": 42}'),
        ("{broken", "{broken"),
        (json.dumps({**LOG, "level": "info", "event": "ready"}), None),
        (
            json.dumps({**LOG, "level": "warning", "event": "slow", "request_id": "abc"}),
            "m:8001: slow (request_id abc)",
        ),
        (
            json.dumps({**LOG, "level": "error", "event": "failed", "error": "Traceback\n  x\n"}),
            "m:8001: failed\nTraceback\n  x",
        ),
    ],
)
def test_of_an_instances_log_a_person_sees_what_is_wrong(line: str, shown: str | None) -> None:
    told = for_people(line)
    assert told == shown or (told or "")[9:] == shown


def test_traffic_is_summed_up_now_and_then_and_only_where_there_was_some() -> None:
    traffic = Traffic(100.0)
    assert traffic.line(lambda: (5, 0), 101.0) is None
    line = traffic.line(lambda: (60, 2), 100.0 + EVERY_S)
    assert line == "60 requests in 30 s (2/s), 2 of them failed"
    assert traffic.line(lambda: (60, 2), 100.0 + 2 * EVERY_S) is None
    line = traffic.line(lambda: (61, 2), 100.0 + 3 * EVERY_S)
    assert line == "1 request in 30 s (0.0333/s), none failed"
