"""Real instances for tests: each a process on a port of its own, stopped at the end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
# One client for all tests and no kept connections: making a client costs more than a request.
CLIENT = httpx.Client(
    timeout=60,
    verify=False,
    limits=httpx.Limits(max_keepalive_connections=0),
)


class Instance:
    """One `python -m instance` process; its log is read as it is written."""

    def __init__(
        self,
        model: str,
        arguments: tuple[str, ...],
        cwd: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log: list[str] = []
        self.cwd = cwd
        self.address = ""  # where clients find it, if not where it listens
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "instance", model, "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line)
                self._changed.notify_all()
        with self._changed:
            self.log.append("<end>")
            self._changed.notify_all()

    def wait_for(self, pattern: str, timeout: float = 60.0, count: int = 1) -> re.Match[str]:
        """The `count`th match of `pattern` in the log so far or to come."""
        ends = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [m for line in self.log if (m := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                left = ends - time.monotonic()
                assert left > 0, "".join(self.log)
                assert "<end>" not in self.log, "".join(self.log)
                self._changed.wait(left)

    @property
    def url(self) -> str:
        return self.address or self.wait_for(r"listening on (http://\S+?),")[1]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ready(self) -> "Instance":
        self.wait_for(r"\bready: ", timeout=90.0)  # on a busy machine imports take long
        return self

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def post(self, json: Any = None, path: str = "/predict", **options: Any) -> httpx.Response:
        if json is not None:
            options["json"] = json
        return CLIENT.post(self.url + path, **options)

    def get(self, path: str) -> httpx.Response:
        return CLIENT.get(self.url + path)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live now."""
        return psutil.Process(self.process.pid).children()

    def metric(self, name: str) -> float:
        """The value of the one sample called `name`, labels included."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def refused(self) -> str:
        """The one line with which it refused to start, once all that it wrote was read."""
        assert self.process.wait(120) == 1
        self.wait_for("<end>")
        (line,) = [line for line in self.log if line.startswith("headgate instance: ")]
        return line

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


Serve = Callable[..., Instance]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts an instance of the classes in `source`; `name` is what to serve."""
    started: list[Instance] = []

    def start(
        source: str,
        name: str = "Model",
        *arguments: str,
        wait: bool = True,
        environment: dict[str, str] | None = None,
    ) -> Instance:
        (tmp_path / "model.py").write_text(dedent(source))
        instance = Instance(f"model.py:{name}", arguments, tmp_path, environment)
        started.append(instance)
        return instance.ready() if wait else instance

    yield start
    for instance in started:
        instance.end()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """As `serve`, but one instance for all tests of a file that ask for the same: for those that
    leave it as they found it and count nothing that others cause."""
    started: dict[tuple[str, ...], Instance] = {}

    def find(source: str, name: str = "Model", *arguments: str) -> Instance:
        if (source, name, *arguments) not in started:
            folder = tmp_path_factory.mktemp("served")
            (folder / "model.py").write_text(dedent(source))
            instance = Instance(f"model.py:{name}", arguments, folder)
            started[source, name, *arguments] = instance
        return started[source, name, *arguments].ready()

    yield find
    for instance in started.values():
        instance.end()


def eventually(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """The first true value of `condition`, asked again and again until `timeout`."""
    ends = time.monotonic() + timeout
    while True:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
