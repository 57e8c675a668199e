"""`docker compose up --build --wait` on a real engine, as somebody who has just cloned does it.

One composition for the whole file, under a project name and on ports of its own; the tests
run in order, and everything is brought down afterwards.
"""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from examples.digits.models import SEVEN
from tests.harness.gateway import ROOT
from tests.harness.ports import free_port
from tests.telemetry.test_observability import EXPRESSIONS, RARE, plain

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
BUILD_S = 1500
PIXELS = {"pixels": SEVEN}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Composition:
    """The project as it runs: its published ports, and the commands to change it."""

    project: str
    port: int
    admin_port: int
    prometheus_port: int

    def compose(self, *arguments: str, timeout_s: float = 180) -> str:
        """What `docker compose ARGUMENTS` prints; fails the test when it fails."""
        published = {
            "HEADGATE_PUBLISH": str(self.port),
            "HEADGATE_PUBLISH_ADMIN": str(self.admin_port),
            "HEADGATE_PUBLISH_PROMETHEUS": str(self.prometheus_port),
        }
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *arguments],
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

    def token(self) -> str:
        """The admin token as the gateway printed it when it started for the first time."""
        printed = self.compose("logs", "--no-log-prefix", "--no-color", "gateway")
        found = re.search(r"token\s+([\w-]{32,})", printed)
        assert found, printed[-4000:]
        return found[1]

    def digit(self) -> Answer:
        return ask("POST", f"http://127.0.0.1:{self.port}/digits", PIXELS)

    def series(self, query: str) -> list[float]:
        """What Prometheus finds by `query`: the value of each series."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={quote(query)}"
        return [float(found["value"][1]) for found in ask("GET", url).body["data"]["result"]]

    def weights(self, token: str, edit: dict[str, int] | None = None) -> Answer:
        """Reads the weights, or edits them."""
        url = f"http://127.0.0.1:{self.admin_port}/admin/v1/routes/digits/weights"
        return ask("PATCH" if edit else "GET", url, edit, {"Authorization": f"Bearer {token}"})


def ask(method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One request with a JSON body; errors of HTTP are answers too."""
    data = None if body is None else json.dumps(body).encode()
    fields = {**(headers or {}), **({"Content-Type": "application/json"} if data else {})}
    request = urllib.request.Request(url, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Answer(response.status, dict(response.headers), json.load(response))
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), json.load(error))


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


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    if missing := engine_is_missing():
        pytest.skip(missing)
    running = Composition(f"headgate-test-{os.getpid()}", free_port(), free_port(), free_port())
    try:
        running.compose("up", "--build", "--wait", timeout_s=BUILD_S)
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def several(composition: Composition, count: int) -> list[Answer]:
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: composition.digit(), range(count)))


def test_digits_are_answered_as_soon_as_up_has_returned(composition: Composition) -> None:
    answers = several(composition, 100)
    assert Counter(answer.status for answer in answers) == {200: 100}
    assert {answer.body["digit"] for answer in answers} == {7}
    versions = Counter(answer.body["model"] for answer in answers)
    assert abs(versions["linear"] - 90) <= 8


def test_weights_are_edited_through_the_published_port_with_the_printed_token(
    composition: Composition,
) -> None:
    token = composition.token()
    assert composition.weights("x" * 43).status == 401
    edited = composition.weights(token, {"digits-linear": 0, "digits-cnn": 100})
    assert edited.status == 200
    assert edited.body["previous"] == {"digits-linear": 90, "digits-cnn": 10}
    after = several(composition, 50)
    assert {(answer.status, answer.body["model"]) for answer in after} == {(200, "cnn")}
    assert {answer.headers["X-Headgate-Revision"] for answer in after} == {
        str(edited.body["revision"])
    }


def test_state_outlives_the_containers(composition: Composition) -> None:
    token = composition.token()
    edited = composition.weights(token, {"digits-linear": 70, "digits-cnn": 30})
    assert edited.status == 200
    composition.compose("down")
    composition.compose("up", "--wait")
    kept = composition.weights(token)
    assert (kept.status, kept.body["weights"]) == (200, {"digits-linear": 70, "digits-cnn": 30})
    assert kept.body["revision"] >= edited.body["revision"]
    assert composition.digit().status == 200
    printed = composition.compose("logs", "--no-log-prefix", "gateway")
    assert token not in printed


def test_a_second_container_is_found_by_dns_and_shares_the_load(composition: Composition) -> None:
    composition.compose("up", "--wait", "--no-recreate", "--scale", "digits-cnn=2")
    # A new instance starts slowly, so its share is fair a while after its first request.
    wait_for_shares(composition, lambda counts: len(counts) == 2 and min(counts.values()) >= 60)

    composition.compose("up", "--wait", "--no-recreate", "--scale", "digits-cnn=1")
    wait_for_shares(composition, lambda counts: len(counts) == 1)


def wait_for_shares(
    composition: Composition, as_wanted: Callable[[Counter[str]], bool], within_s: float = 45
) -> None:
    """Send rounds of 700 requests until those that each CNN container answers (210 in all)
    are as wanted. In the last round no request fails."""
    deadline = time.monotonic() + within_s
    while True:
        answers = several(composition, 700)
        counts = Counter(
            answer.headers["X-Headgate-Instance"]
            for answer in answers
            if answer.status == 200 and answer.body["model"] == "cnn"
        )
        if as_wanted(counts):
            outcomes = Counter((a.status, a.headers.get("X-Headgate-Error")) for a in answers)
            assert outcomes == {(200, None): 700}
            return
        assert time.monotonic() < deadline, counts


def test_prometheus_scrapes_the_gateway_and_every_instance(composition: Composition) -> None:
    profile = ("--profile", "observability", "up", "--build", "--wait", "--no-recreate")
    composition.compose(*profile, "prometheus", timeout_s=BUILD_S)
    deadline = time.monotonic() + 60
    while True:  # some requests between any two scrapes, until every panel has something to show
        several(composition, 50)
        asked = [each for each in EXPRESSIONS if not re.search(RARE, each)]
        empty = [each for each in asked if not composition.series(plain(each))]
        if not empty and composition.series("up") == [1, 1, 1]:
            return
        assert time.monotonic() < deadline, (composition.series("up"), empty)
        time.sleep(1)


@pytest.mark.parametrize("service", ["gateway", "digits-linear", "digits-cnn"])
def test_no_container_runs_as_root(composition: Composition, service: str) -> None:
    assert composition.compose("exec", "-T", service, "id", "-u").strip() == "10001"


def test_the_gateway_has_no_torch(composition: Composition) -> None:
    look = "import importlib.util as u; print(u.find_spec('torch'), bool(u.find_spec('gateway')))"
    assert composition.compose("exec", "-T", "gateway", "python", "-c", look).split() == [
        "None",
        "True",
    ]


def test_the_image_of_the_instances_is_built_once_and_nothing_is_left_over(
    composition: Composition,
) -> None:
    shown = json.loads(composition.compose("config", "--format", "json"))["services"]
    building = [name for name, service in shown.items() if "build" in service]
    assert sum(shown[name]["image"] == "headgate-instance" for name in building) == 1
    used = {composition.image(name) for name in ("digits-linear", "digits-cnn")}
    assert len(used) == 1
    composition.compose("up", "--build", "--wait", "--no-recreate", timeout_s=BUILD_S)
    assert {composition.image(name) for name in ("digits-linear", "digits-cnn")} == used


def test_the_configuration_is_mounted_and_not_in_the_image(composition: Composition) -> None:
    shown = json.loads(composition.compose("config", "--format", "json"))["services"]["gateway"]
    mounted = {volume["target"]: volume for volume in shown["volumes"]}
    assert mounted["/etc/headgate/headgate.yaml"]["type"] == "bind"
    inside = ["docker", "run", "--rm", "--entrypoint", "ls", "headgate-gateway", "/etc/headgate"]
    assert subprocess.run(inside, capture_output=True, timeout=60, check=False).returncode != 0


@pytest.mark.parametrize(("second", "wanted"), [(None, [["0"], ["0"]]), ("1", [["0"], ["1"]])])
def test_with_gpus_the_versions_share_one_or_have_one_each(
    composition: Composition,
    monkeypatch: pytest.MonkeyPatch,
    second: str | None,
    wanted: list[list[str]],
) -> None:
    if second is not None:
        monkeypatch.setenv("HEADGATE_GPU_CNN", second)
    shown = composition.compose(
        "-f", "compose.yaml", "-f", "docker/compose.gpu.yaml", "config", "--format", "json"
    )
    services = json.loads(shown)["services"]
    reserved = [
        services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ("digits-linear", "digits-cnn")
    ]
    assert reserved == wanted
