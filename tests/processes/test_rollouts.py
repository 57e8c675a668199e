"""Rollouts on a whole gateway: led to the end or back, whoever is killed meanwhile."""

import asyncio
import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness.exchange import Exchange
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Ask, Client, Reply, ask, open_loop
from tests.harness.origins import fixed, origins
from tests.harness.orphans import is_alive, kill_all
from tests.requirements.test_r38_disk import SMALL_DISK, needs_mounts

PACE_S = 0.005


def failing(every: int) -> Callable[[Exchange], Any]:
    """Answers 500 to each request of that number."""
    counted = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal counted
        counted += 1
        await fixed(500 if counted % every == 0 else 200)(exchange)

    return respond


@asynccontextmanager
async def traffic(gateway: Gateway, path: str, clients: int = 2) -> AsyncIterator[list[Reply]]:
    """Requests, one after the other, until the end; the replies there are so far."""
    client, replies = Client(), list[Reply]()
    is_wanted = True

    async def work(number: int) -> None:
        count = 0
        while is_wanted:
            count += 1
            made = Ask(path=path, id=f"{path}-{number}-{count}")
            replies.append(await ask(client, gateway.url, made, 0.0, 10.0))
            await asyncio.sleep(PACE_S)

    tasks = [asyncio.create_task(work(number)) for number in range(clients)]
    try:
        yield replies
    finally:
        is_wanted = False
        await asyncio.gather(*tasks)
        await client.close()


async def rollout(gateway: Gateway, route: str) -> dict[str, Any]:
    reply = await gateway.admin("GET", f"/admin/v1/routes/{route}/rollout")
    assert reply.status == 200, reply
    return reply.json()


async def begin(gateway: Gateway, route: str, **plan: Any) -> dict[str, Any]:
    """A rollout that is judged by errors alone: of equals, one in two hundred seems the slower one
    (docs/rollouts.md), and more where the machine is busy."""
    said = {"to": "new", "guards": {"errors": {}}, **plan}
    reply = await gateway.admin("PUT", f"/admin/v1/routes/{route}/rollout", said)
    assert reply.status == 201, reply
    return reply.json()


async def ended(gateway: Gateway, route: str, state: str) -> dict[str, Any]:
    """The rollout once it has ended, which must be as `state`."""

    async def over() -> dict[str, Any] | None:
        try:
            found = await rollout(gateway, route)
        except (AssertionError, ValueError):
            return None  # the control process is being replaced
        return found if found["state"] in ("done", "rolled_back", "aborted") else None

    found: dict[str, Any] = await eventually(over, 60.0, f"the rollout on {route} ends", 0.1)
    assert found["state"] == state, found
    return found


def document(old: Any, new: Any, worse: Any) -> dict[str, Any]:
    routes = {
        name: {"match": f"/{name}", "split": {"old": 1, "new": 0}} for name in ("good", "killed")
    }
    routes["bad"] = {"match": "/bad", "split": {"old": 1, "worse": 0}}
    return {
        "backends": {"old": backend(old), "new": backend(new), "worse": backend(worse)},
        "routes": routes,
    }


async def test_a_good_canary_gets_everything_a_bad_one_nothing_whoever_is_killed() -> None:
    async with origins(3, fixed()) as (old, new, worse):
        worse.respond = failing(3)
        async with running_gateway(document(old, new, worse), workers=2) as gateway:
            await _good(gateway)
            await _bad(gateway)
            await _killed(gateway)


async def _good(gateway: Gateway) -> None:
    async with traffic(gateway, "/good") as replies:
        await begin(gateway, "good", steps=[10, 50, 100], hold="300ms", min_requests=10, warmup=5)
        reply = await gateway.admin(
            "PATCH", "/admin/v1/routes/good/weights", {"old": 3}, timeout=15
        )
        assert reply.status == 409, reply
        assert "rollout of 'new' runs on route 'good'" in reply.json()["detail"]
        found = await ended(gateway, "good", "done")
    assert all(reply.status == 200 for reply in replies)
    assert found["share"] == 100
    assert found["guards"]["errors"]["canary"]["events"] == 0
    weights = (await gateway.admin("GET", "/admin/v1/routes/good/weights")).json()["weights"]
    assert weights == {"old": 0, "new": 100}
    samples = await gateway.metrics()
    assert samples.total("headgate_rollout_verdict_total", verdict="done") == 1


async def _bad(gateway: Gateway) -> None:
    async with traffic(gateway, "/bad") as replies:
        await begin(gateway, "bad", to="worse", steps=[10, 100], hold="1h", warmup=5)
        found = await ended(gateway, "bad", "rolled_back")
    seen = Counter(reply.header("x-headgate-backend") for reply in replies)
    assert seen["worse"] >= found["guards"]["errors"]["canary"]["requests"]
    assert found["guards"]["errors"]["verdict"] == "failed"
    assert found["guards"]["errors"]["stable"]["events"] == 0
    weights = (await gateway.admin("GET", "/admin/v1/routes/bad/weights")).json()["weights"]
    assert weights == {"old": 1, "worse": 0}
    newest = (await gateway.admin("GET", "/admin/v1/history?limit=1")).json()["revisions"][0]
    assert newest["who"] == "rollout"
    assert found["guards"]["errors"]["sentence"] in newest["why"]


async def _killed(gateway: Gateway) -> None:
    """Control and a worker are killed in the middle: it goes on with what was counted."""
    async with traffic(gateway, "/killed") as replies:
        await begin(gateway, "killed", steps=[20, 100], hold="1s", min_requests=40, warmup=0)

        async def counted() -> bool:
            found = await rollout(gateway, "killed")
            return found["guards"]["errors"]["canary"]["requests"] >= 10

        await eventually(counted, what="the canary has requests", every_s=0.1)
        await asyncio.sleep(1.5)  # what is written down once a second is written
        before = await rollout(gateway, "killed")
        os.kill(await gateway.control_pid(), signal.SIGKILL)
        os.kill((await _pids(gateway))[0], signal.SIGKILL)
        found = await ended(gateway, "killed", "done")
    assert len(found["history"]) == 3
    assert found["started"] == before["started"]
    known = before["guards"]["errors"]["stable"]["requests"]
    assert found["guards"]["errors"]["stable"]["requests"] >= known
    asked = sum(1 for reply in replies if reply.status == 200)
    errors = found["guards"]["errors"]
    assert errors["canary"]["requests"] + errors["stable"]["requests"] <= asked
    gateway.family()


async def test_a_canary_that_dies_with_all_of_the_traffic_gives_it_back() -> None:
    async with origins(2, fixed()) as (old, new):
        whole = {
            "backends": {"old": backend(old), "new": backend(new)},
            "routes": {"r": {"match": "/", "split": {"old": 1, "new": 0}}},
        }
        async with running_gateway(whole) as gateway:
            await begin(gateway, "r", steps=[100], hold="1h")
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
            await new.stop()
            found = await ended(gateway, "r", "rolled_back")
            why = found["history"][-1]["why"]
            assert why.startswith("new has no healthy instance: 127.0.0.1:"), why
            reply = await gateway.client.get(f"{gateway.url}/x")
            assert (reply.status, reply.header("x-headgate-backend")) == (200, "old")


async def test_a_backend_that_was_just_added_is_a_canary_at_once_if_it_is_well() -> None:
    async with origins(3, fixed()) as (old, new, gone):
        await gone.stop()
        whole = {
            "backends": {"old": backend(old)},
            "routes": {"r": {"match": "/", "split": {"old": 1}}},
        }
        async with running_gateway(whole) as gateway:
            for name, origin in (("new", new), ("gone", gone)):
                reply = await gateway.admin("PUT", f"/admin/v1/backends/{name}", backend(origin))
                assert reply.status == 201, reply
            split = {"split": {"new": 0, "gone": 0}}
            assert (await gateway.admin("PATCH", "/admin/v1/routes/r", split)).status == 200
            plan = {"to": "gone", "steps": [50, 100], "hold": "1h"}
            begun = await gateway.admin("PUT", "/admin/v1/routes/r/rollout", plan)
            assert begun.status == 201, begun

            async def is_back() -> bool:
                return bool((await rollout(gateway, "r"))["state"] == "rolled_back")

            await eventually(is_back, what="a canary that is not there gives its share back")
            why = (await rollout(gateway, "r"))["history"][-1]["why"]
            assert "gone has no healthy instance: 127.0.0.1:" in why
            await begin(gateway, "r", steps=[50, 100], hold="1h", warmup=0)
            async with traffic(gateway, "/x"):

                async def judged() -> bool:
                    return bool((await rollout(gateway, "r"))["requests"])

                await eventually(judged, what="the canary gets requests", every_s=0.1)
            assert (await rollout(gateway, "r"))["state"] == "running"


@needs_mounts
async def test_a_canary_that_fails_goes_back_on_a_disk_of_which_others_take_all_there_is() -> None:
    """What a full disk gives back is gone at once, as to a log that somebody writes."""
    prefix = ("unshare", "-m", "sh", "-c", SMALL_DISK.replace("256k", "1m"))
    async with origins(2, fixed()) as (old, new):
        whole = {
            "backends": {"old": backend(old), "new": backend(new)},
            "routes": {
                "r": {"match": "/", "split": {"old": 1, "new": 0}},
                "other": {"match": "/other", "split": {"old": 1}},
            },
        }
        async with running_gateway(whole, prefix=prefix) as gateway:
            seen = Path(f"/proc/{await gateway.control_pid()}/root{gateway.folder}/state")
            await begin(gateway, "r", steps=[50, 100], hold="1h", warmup=0)
            with filled(seen / "hog") as is_full:
                await eventually(lambda: is_full(), what="the disk is full")
                answers = []
                for weight in range(2, 9):
                    path = "/admin/v1/routes/other/weights"
                    answers.append((await gateway.admin("PUT", path, {"old": weight})).status)
                assert answers[-1] == 507, answers
                new.respond = failing(1)
                async with traffic(gateway, "/x"):
                    found = await ended(gateway, "r", "rolled_back")
                assert found["pending"] == ""
            weights = (await gateway.admin("GET", "/admin/v1/routes/r/weights")).json()["weights"]
            assert weights == {"old": 1, "new": 0}


@contextmanager
def filled(hog: Path) -> Iterator[Callable[[], Awaitable[bool]]]:
    """Writes whatever the disk has room for; whether that was all there was, by now."""
    full, over = threading.Event(), threading.Event()

    def write() -> None:
        with open(hog, "ab", buffering=0) as file:
            while not over.is_set():
                try:
                    file.write(bytes(4096))
                except OSError:
                    full.set()
                    over.wait(0.001)

    async def is_full() -> bool:
        return full.is_set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield is_full
    finally:
        over.set()
        thread.join()


def failing_at_random(part: float, seed: int) -> Callable[[Exchange], Any]:
    """Answers 500 to that part of its requests."""
    chance = random.Random(seed)

    async def respond(exchange: Exchange) -> None:
        await fixed(500 if chance.random() < part else 200)(exchange)

    return respond


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.parametrize("killed", ["nobody", "control", "worker"])
async def test_a_canary_that_fails_5_percent_is_rolled_back_within_10_seconds(killed: str) -> None:
    """At 10 % of 200 requests a second; in nine of ten runs, and after at most 400 requests."""
    found = []
    async with origins(2, fixed()) as (old, new):
        document = {
            "backends": {"old": backend(old), "new": backend(new)},
            "routes": {"r": {"match": "/", "split": {"old": 1, "new": 0}}},
        }
        for seed in range(10):
            new.respond = failing_at_random(0.05, seed)
            # One each: a control process that is killed often is started later each time.
            async with running_gateway(document, workers=2) as gateway:
                found.append(await _rolled_back(gateway, killed))
    within = [seconds <= 10 and requests <= 400 for seconds, requests in found]
    assert sum(within) >= 9, found


async def _rolled_back(gateway: Gateway, killed: str) -> tuple[float, int]:
    """Seconds from the step to the rollback, and the canary's requests until then."""
    enough = asyncio.Event()
    load = asyncio.create_task(
        open_loop(gateway.url, 200, 60, lambda n: Ask(path="/x", id=str(n)), enough=enough)
    )
    try:
        begun = await begin(gateway, "r", steps=[10, 100], hold="1h")
        if killed == "control":
            os.kill(await gateway.control_pid(), signal.SIGKILL)
        elif killed == "worker":
            os.kill((await _pids(gateway))[0], signal.SIGKILL)
        found = await ended(gateway, "r", "rolled_back")
    finally:
        enough.set()
        replies = await load
    gateway.family()
    at = [datetime.fromisoformat(each["time"]) for each in found["history"]]
    seen = sum(reply.header("x-headgate-backend") == "new" for reply in replies)
    assert begun["started"] == found["started"]
    return (at[-1] - at[0]).total_seconds(), seen


async def test_a_rollout_outlives_its_whole_gateway() -> None:
    """All of its processes are killed at once; the next gateway goes on with the evidence there
    was."""
    async with origins(2, fixed()) as (old, new):
        whole = {
            "backends": {"old": backend(old), "new": backend(new)},
            "routes": {"r": {"match": "/", "split": {"old": 1, "new": 0}}},
        }
        async with running_gateway(whole) as gateway:
            async with traffic(gateway, "/x"):
                await begin(gateway, "r", steps=[50, 100], hold="1h", warmup=0)
                known = await eventually(
                    lambda: _kept(gateway), what="evidence is kept", every_s=0.1
                )
            kill_all(gateway.family())
            assert gateway.process is not None
            await gateway.process.wait()
            # As long as one of them is there, the state is in use.
            await eventually(lambda: not any(map(is_alive, gateway.family())))
            await gateway.start()
            await gateway.wait_up()
            again = await rollout(gateway, "r")
            assert (again["state"], again["step"], again["share"]) == ("running", 1, 50)
            assert (again["started"], again["history"]) == (known["started"], known["history"])
            assert again["guards"]["errors"]["canary"]["requests"] >= 10
            for state in ("running", "done"):
                reply = await gateway.admin("POST", "/admin/v1/routes/r/rollout/promote", {})
                assert reply.json()["state"] == state


async def _kept(gateway: Gateway) -> dict[str, Any] | None:
    """The rollout, once what is written down of it has ten requests of the canary."""
    kept = json.loads((gateway.folder / "state" / "rollouts.json").read_bytes())
    rows = [
        row
        for counts in kept["rollouts"]["r"]["tallies"]["counts"].values()
        for row in counts.values()
    ]
    return await rollout(gateway, "r") if sum(row[0] for row in rows) >= 10 else None


async def _pids(gateway: Gateway) -> list[int]:
    """The workers, once a control process knows them."""

    async def known() -> list[int] | None:
        try:
            pids = await gateway.worker_pids()
        except AssertionError:
            return None
        return pids if len(pids) == 2 and all(pids) else None

    found: list[int] = await eventually(known, what="two workers")
    return found
