"""LitServe's own server beside an instance of ours: both serve the same class of the same file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from tests.harness.ports import free_port
from tests.instance.conftest import CLIENT, Instance

RUN = """
import sys
import model

def made(name, is_one):
    api = getattr(model, name)()
    if not is_one:
        api.api_path = f"/{name}"
    return api

if __name__ == "__main__":
    import litserve
    names = sys.argv[1].split(",")
    apis = [made(name, len(names) == 1) for name in names]
    server = litserve.LitServer(apis, accelerator="cpu", timeout=False)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False,
        log_level="warning",
    )
"""


class LitServe:
    """One real LitServe server, in a session of its own so that all of it can be ended."""

    def __init__(self, name: str, folder: Path, script: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "run_litserve.py").write_text(script or RUN)
        self.log = folder / "litserve.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "run_litserve.py", name, str(self.port)],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self, timeout: float = 90.0) -> "LitServe":
        """Returns when its port answers and its workers are up, whatever it then asks for."""
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if CLIENT.get(self.url + "/health").status_code != 503:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


class Pair:
    """The two servers; `ask` gives (LitServe's answer, ours) to the same request."""

    def __init__(self, theirs: LitServe, ours: Instance) -> None:
        self.theirs = theirs
        self.ours = ours

    def ask(
        self, path: str = "/predict", method: str = "POST", **options: Any
    ) -> tuple[httpx.Response, httpx.Response]:
        return (
            CLIENT.request(method, self.theirs.url + path, **options),
            CLIENT.request(method, self.ours.url + path, **options),
        )


Both = Callable[..., Pair]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Starts both servers with classes of `source`: one pair for all tests of a file that ask for
    the same. Several classes are the APIs of one file that both serve, each at `/` and its name."""
    started: dict[tuple[str, ...], Pair] = {}

    def start(source: str, *names: str) -> Pair:
        folder = tmp_path_factory.mktemp("both")
        (folder / "model.py").write_text(dedent(source))
        theirs = LitServe(",".join(names), folder)
        if len(names) == 1:
            return Pair(theirs, Instance(f"model.py:{names[0]}", (), folder))
        return Pair(theirs, Instance("run_litserve.py", ("--", ",".join(names), "0"), folder))

    def find(source: str, *names: str) -> Pair:
        if (source, *names) not in started:
            started[source, *names] = start(source, *names)
        pair = started[source, *names]
        pair.ours.ready()
        pair.theirs.ready()
        return pair

    yield find
    for pair in started.values():
        pair.ours.end()
        pair.theirs.end()
