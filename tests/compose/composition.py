"""How does a test run a composition, as somebody does who has just cloned the repository?"""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import quote

from tests.examples.seven import SEVEN
from tests.harness.gateway import ROOT

BUILD_S = 1500
PIXELS = {"pixels": SEVEN}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message  # a proxy may write names its own way
    body: Any


@dataclass(frozen=True, slots=True)
class Composition:
    """The project as it runs: its published ports, and the commands to change it."""

    project: str
    port: int
    admin_port: int
    prometheus_port: int
    files: tuple[str, ...] = ()
    second_admin_port: int = 0

    def compose(self, *arguments: str, timeout_s: float = 180) -> str:
        """What `docker compose ARGUMENTS` prints; fails the test when it fails."""
        published = {
            "HEADGATE_PUBLISH": str(self.port),
            "HEADGATE_PUBLISH_ADMIN": str(self.admin_port),
            "HEADGATE_PUBLISH_ADMIN_B": str(self.second_admin_port),
            "HEADGATE_PUBLISH_PROMETHEUS": str(self.prometheus_port),
        }
        files = [word for file in self.files for word in ("--file", file)]
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *files, *arguments],
            cwd=ROOT, env={**os.environ, **published, "DOCKER_BUILDKIT": "1"},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def image(self, service: str) -> str:
        """The id of the image that the containers of `service` run."""
        container = self.compose("ps", "--quiet", service).split()[0]
        shown = ["docker", "inspect", "--format", "{{.Image}}", container]
        done = subprocess.run(shown, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def token(self, service: str = "gateway") -> str:
        """The admin token as the gateway printed it when it started for the first time."""
        printed = self.compose("logs", "--no-log-prefix", "--no-color", service)
        found = re.search(r"token\s+([\w-]{32,})", printed)
        assert found, printed[-4000:]
        return found[1]

    def digit(self) -> Answer:
        return ask("POST", f"http://127.0.0.1:{self.port}/digits", PIXELS)

    def digits(self, count: int) -> list[Answer]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda _: self.digit(), range(count)))

    def series(self, query: str) -> list[float]:
        """What Prometheus finds by `query`: the value of each series."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={quote(query)}"
        return [float(found["value"][1]) for found in ask("GET", url).body["data"]["result"]]

    def weights(self, token: str, edit: dict[str, int] | None = None, port: int = 0) -> Answer:
        """Reads the weights, or edits them, at the gateway whose admin API is at `port`."""
        url = f"http://127.0.0.1:{port or self.admin_port}/admin/v1/routes/digits/weights"
        return ask("PATCH" if edit else "GET", url, edit, {"Authorization": f"Bearer {token}"})


def ask(method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One request with a JSON body; errors of HTTP are answers too."""
    data = None if body is None else json.dumps(body).encode()
    fields = {**(headers or {}), **({"Content-Type": "application/json"} if data else {})}
    request = urllib.request.Request(url, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Answer(response.status, response.headers, json.load(response))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, json.load(error))


def engine_is_missing() -> str:
    """Why no composition can run here; "" where it can."""
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except OSError:
            return "no Docker Engine here: there is no docker command"
        if done.returncode:
            return f"no Docker Engine here: {' '.join(command)} fails"
    return ""
