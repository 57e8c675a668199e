"""One command serves two digit classifiers behind one weighted path, whatever is killed.

Everything runs as a user starts it: `headgate up examples/digits/headgate.yaml` (on free
ports), real instances with real weights, requests over TCP, `kill -9`.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.examples.seven import SEVEN
from tests.harness.gateway import eventually
from tests.harness.late import Late
from tests.harness.load import Ask, Reply, closed_loop, failures, open_loop
from tests.harness.up import Up, on_free_ports, running
from tests.processes.waiting import alive

BACK_WITHIN_S = 5.0
RATE = 50

PIXELS = json.dumps({"pixels": SEVEN}).encode()
DIGIT = Ask("POST", "/digits", [("Content-Type", "application/json")], PIXELS)
accuracy, scans = Late("examples.digits.accuracy"), Late("examples.digits.scans")


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
        assert abs(backends(first)["digits-linear"] - 900) <= 8

        reply = await up.admin(
            "PATCH", "/admin/v1/routes/digits/weights", {"digits-linear": 50, "digits-cnn": 50}
        )
        revision = reply.json()["revision"]
        second = await closed_loop(up.url, 8, 1000, lambda _: DIGIT)
        assert not failures(second)
        assert abs(backends(second)["digits-linear"] - 500) <= 8
        assert {r.header("X-Headgate-Revision") for r in second} == {str(revision)}


@pytest.mark.paced
@pytest.mark.timeout(240)
async def test_whatever_is_killed_only_its_own_requests_fail_and_all_is_back(
    tmp_path: Path,
) -> None:
    document = on_free_ports("examples/digits/headgate.yaml")
    document["gateway"]["workers"] = 2
    began = time.monotonic()
    async with running(tmp_path, document) as up:
        loads_s = time.monotonic() - began  # on this machine, with what else it does
        reply = await up.admin(
            "PATCH", "/admin/v1/routes/digits/weights", {"digits-linear": 70, "digits-cnn": 30}
        )
        assert reply.status == 200
        victims = {
            "control": (await up.control_pid(), BACK_WITHIN_S + loads_s),
            "worker": ((await up.worker_pids())[0], BACK_WITHIN_S + loads_s),
            "instance": (up.instance_pid("digits-cnn"), BACK_WITHIN_S + loads_s),
        }
        for name, (pid, within_s) in victims.items():
            enough = asyncio.Event()
            load = asyncio.create_task(open_loop(up.url, RATE, 120, lambda _: DIGIT, enough=enough))
            await asyncio.sleep(0.5)
            aimed = time.monotonic()
            gone = await killed(pid)
            await eventually(lambda pid=pid: all_is_back(up, pid), within_s, f"{name} is back")
            asked = time.monotonic()
            await asyncio.sleep(1)
            enough.set()
            replies = await load
            lost = [r for r in replies if not r.ok]
            told = (name, Counter(failures(replies)))
            assert name != "control" or not lost, told  # no request is its own
            assert all(r.intended <= gone and r.done >= aimed for r in lost), told
            if name == "instance":
                assert set(backends(lost)) <= {"digits-cnn"}, told
            late = [r for r in replies if r.intended > asked]
            assert set(backends(late)) == {"digits-linear", "digits-cnn"}, name
            weights = await up.admin("GET", "/admin/v1/routes/digits/weights")
            assert weights.json()["weights"] == {"digits-linear": 70, "digits-cnn": 30}, name

    async with running(tmp_path, document) as up:
        weights = await up.admin("GET", "/admin/v1/routes/digits/weights")
        assert weights.json()["weights"] == {"digits-linear": 70, "digits-cnn": 30}


async def all_is_back(up: Up, killed: int) -> bool:
    """Whether everything runs and is well, and none of it is the process that was killed.

    That an instance died may not be known yet when its successor already listens, so that it
    is well is believed of one that answers.
    """
    with contextlib.suppress(AssertionError):  # who is asked is not there yet
        status = await up.status()
        workers = [worker["pid"] for worker in status["workers"] if worker["connected"]]
        pids = {*workers, status["control"]["pid"], up.instance_pid("digits-cnn")}
        words = [word for name in status["backends"] for word in (await up.health(name)).values()]
        back = killed not in pids and len(workers) == 2 and words == ["up", "up"]
        return back and await both_answer(up)
    return False


async def both_answer(up: Up) -> bool:
    return len(backends(await closed_loop(up.url, 1, 4, lambda _: DIGIT))) == 2


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

        await eventually(successor_listens)
        replies = await closed_loop(up.url, 8, 600, lambda _: DIGIT)
        assert not failures(replies), Counter(failures(replies))

        await eventually(lambda: both_answer(up))


async def killed(pid: int) -> float:
    """Kills `pid`; when it was gone, since a busy machine may be slow to let it go."""
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid), every_s=0.005)
    return time.monotonic()
