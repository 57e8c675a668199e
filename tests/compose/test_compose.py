"""`docker compose up --build --wait` on a real engine, as somebody who has just cloned does it.

One composition for the whole file, under a project name and on ports of its own; the tests
run in order, and everything is brought down afterwards.
"""

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.compose.composition import BUILD_S, Composition, engine_is_missing
from tests.harness.ports import free_port
from tests.telemetry.test_observability import EXPRESSIONS, RARE, plain

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


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


def test_digits_are_answered_as_soon_as_up_has_returned(composition: Composition) -> None:
    answers = composition.digits(100)
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
    after = composition.digits(50)
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
        answers = composition.digits(700)
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
        composition.digits(50)
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
