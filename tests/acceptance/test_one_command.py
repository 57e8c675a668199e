"""One command serves two digit classifiers behind one weighted path, whatever is killed.

Everything runs as a user starts it: `headgate up examples/digits/headgate.yaml` (on free
ports), real instances with real weights, requests over TCP, `kill -9`.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from examples.digits import accuracy, scans
from tests.harness.gateway import eventually
from tests.harness.load import Ask, Reply, closed_loop, failures, open_loop
from tests.harness.up import Up, on_free_ports, running

BACK_WITHIN_S = 5.0
RATE = 50

PIXELS = json.dumps({"pixels": scans.load()[1].images[0].tolist()}).encode()
DIGIT = Ask("POST", "/digits", [("Content-Type", "application/json")], PIXELS)


def backends(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.header("X-Headgate-Backend") for reply in replies)


@pytest.mark.timeout(240)
async def test_digits_are_answered_split_and_moved_by_one_call(tmp_path: Path) -> None:
    async with running(tmp_path, on_free_ports("examples/digits/headgate.yaml")) as up:
        tally = await asyncio.to_thread(accuracy.measure, f"{up.url}/digits", scans.load()[1])
        assert not tally.errors
        assert tally.accuracy("linear") >= 0.93
        # A tenth of the scans, some 60, is too few for a bound as sharp as the promised 0.975,
        # which tests/examples/test_digits_accuracy.py holds over all of them.
        assert tally.accuracy("cnn") >= 0.9

        first = await closed_loop(up.url, 8, 1000, lambda _: DIGIT)
        assert not failures(first)
        assert abs(backends(first)["digits-linear"] - 900) <= 4

        reply = await up.admin(
            "PATCH", "/admin/v1/routes/digits/weights", {"digits-linear": 50, "digits-cnn": 50}
        )
        revision = reply.json()["revision"]
        second = await closed_loop(up.url, 8, 1000, lambda _: DIGIT)
        assert not failures(second)
        assert abs(backends(second)["digits-linear"] - 500) <= 4
        assert {r.header("X-Headgate-Revision") for r in second} == {str(revision)}


@pytest.mark.alone
@pytest.mark.timeout(240)
async def test_whatever_is_killed_only_its_own_requests_fail_and_all_is_back(
    tmp_path: Path,
) -> None:
    document = on_free_ports("examples/digits/headgate.yaml")
    document["gateway"]["workers"] = 2
    async with running(tmp_path, document) as up:
        reply = await up.admin(
            "PATCH", "/admin/v1/routes/digits/weights", {"digits-linear": 70, "digits-cnn": 30}
        )
        assert reply.status == 200
        victims = {
            "control": await up.control_pid(),
            "worker": (await up.worker_pids())[0],
            "instance": up.instance_pid("digits-cnn"),
        }
        for name, pid in victims.items():
            load = asyncio.create_task(open_loop(up.url, RATE, 8, lambda _: DIGIT))
            await asyncio.sleep(1)
            in_flight = await killed(up, pid)
            replies = await load
            allowed = 0 if name == "control" else in_flight  # no request is its own
            assert len(failures(replies)) <= allowed, (name, Counter(failures(replies)))
            late = [r for r in replies if r.intended > replies[0].intended + 1 + BACK_WITHIN_S]
            assert set(backends(late)) == {"digits-linear", "digits-cnn"}, name
            weights = await up.admin("GET", "/admin/v1/routes/digits/weights")
            assert weights.json()["weights"] == {"digits-linear": 70, "digits-cnn": 30}, name

    async with running(tmp_path, document) as up:
        weights = await up.admin("GET", "/admin/v1/routes/digits/weights")
        assert weights.json()["weights"] == {"digits-linear": 70, "digits-cnn": 30}


async def test_a_version_that_dies_unseen_costs_nobody_an_answer(tmp_path: Path) -> None:
    """No request and perhaps no probe comes by before its successor listens, which then loads
    its model for a second: half of what comes meanwhile is meant for it."""
    async with running(tmp_path, on_free_ports("examples/digits/headgate.yaml")) as up:
        even = {"digits-linear": 50, "digits-cnn": 50}
        await up.admin("PATCH", "/admin/v1/routes/digits/weights", even)
        pid = up.instance_pid("digits-cnn")
        os.kill(pid, signal.SIGKILL)

        def successor_listens() -> bool:
            with contextlib.suppress(AssertionError):
                return up.instance_pid("digits-cnn") != pid
            return False

        await eventually(successor_listens, 20)
        replies = await closed_loop(up.url, 8, 600, lambda _: DIGIT)
        assert not failures(replies), Counter(failures(replies))

        async def both_answer() -> bool:
            return len(backends(await closed_loop(up.url, 1, 4, lambda _: DIGIT))) == 2

        await eventually(both_answer, 20)


async def killed(up: Up, pid: int) -> int:
    """Kill `pid`; gives how many requests can have been in flight at that moment."""
    samples = await up.metrics()
    in_flight = samples.total("headgate_in_flight")
    os.kill(pid, signal.SIGKILL)
    # The reading is a moment old; at 50 requests a second one or two may have begun since.
    return int(in_flight) + 2
