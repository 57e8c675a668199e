"""`docker/compose.etcd.yaml` on a real engine: two gateways, a balancer, three members of etcd.

One composition for the whole file; the tests run in order, and everything is brought down
afterwards.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.compose.composition import BUILD_S, Answer, Composition, engine_is_missing
from tests.harness.ports import free_port

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
FILES = ("compose.yaml", "docker/compose.etcd.yaml")
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def several() -> Iterator[Composition]:
    if missing := engine_is_missing():
        pytest.skip(missing)
    ports = free_port(), free_port(), free_port()
    running = Composition(f"headgate-etcd-{os.getpid()}", *ports, FILES, free_port())
    try:
        running.compose("up", "--build", "--wait", timeout_s=BUILD_S)
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def until(check: Callable[[], Answer], status: int) -> Answer:
    """The first answer of that status."""
    end = time.monotonic() + WITHIN_S
    while (answer := check()).status != status:
        assert time.monotonic() < end, answer
        time.sleep(0.1)
    return answer


def edit(running: Composition, linear: int, cnn: int, service: str = "gateway") -> Answer:
    port = running.admin_port if service == "gateway" else running.second_admin_port
    weights = {"digits-linear": linear, "digits-cnn": cnn}
    return running.weights(running.token(service), weights, port)


def outcomes(answers: list[Answer]) -> Counter[tuple[int, str | None]]:
    return Counter((each.status, each.headers.get("X-Headgate-Error")) for each in answers)


@pytest.mark.parametrize("service", ["gateway", "gateway-b"])
def test_an_edit_at_either_gateway_holds_at_both_when_it_is_answered(
    several: Composition, service: str
) -> None:
    linear = 100 if service == "gateway" else 0
    edited = edit(several, linear, 100 - linear, service)
    assert edited.status == 200, edited
    assert edited.body["applied"] == {"gateways": 2, "workers": 2, "lost": []}
    answers = several.digits(60)
    assert outcomes(answers) == {(200, None): 60}
    assert {each.body["model"] for each in answers} == {"linear" if linear else "cnn"}
    revision = str(edited.body["revision"])
    assert {each.headers["X-Headgate-Revision"] for each in answers} == {revision}
    assert len({each.headers["Via"] for each in answers}) == 2, "the balancer asks both"


def test_without_a_quorum_of_etcd_everybody_is_answered_and_no_edit_is(
    several: Composition,
) -> None:
    before = edit(several, 50, 50)
    assert before.status == 200, before
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(several.digits, 1000)
        several.compose("kill", "etcd-a", "etcd-b")
        refused = until(lambda: edit(several, 10, 90), 503)
        assert refused.body["code"] == "store_unavailable"
        assert outcomes([*asking.result(), *several.digits(200)]) == {(200, None): 1200}
    several.compose("start", "etcd-a", "etcd-b")
    assert until(lambda: edit(several, 20, 80, "gateway-b"), 200).body["weights"] == {
        "digits-linear": 20,
        "digits-cnn": 80,
    }


def test_when_a_gateway_dies_the_other_one_answers_everybody(several: Composition) -> None:
    several.compose("kill", "gateway-b")
    assert outcomes(several.digits(200)) == {(200, None): 200}
    edited = until(lambda: edit(several, 30, 70), 200)
    assert edited.body["applied"] == {"gateways": 1, "workers": 1, "lost": ["gw-b"]}
    several.compose("start", "gateway-b")

    def both() -> Answer:
        answer = edit(several, 60, 40)
        is_so = answer.status == 200 and answer.body["applied"]["gateways"] == 2
        return answer if is_so else Answer(0, answer.headers, answer.body)

    until(both, 200)
