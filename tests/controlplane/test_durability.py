"""What is left after `kill -9`, a full disk and a second gateway: R38, R52, R54, as processes."""

import asyncio
import os
import random
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest

from tests.controlplane.test_store import opened as read_state
from tests.harness.full_disk import NO_BYTECODE
from tests.harness.gateway import eventually
from tests.harness.stretch import Stretch

WEIGHTS = "/admin/v1/routes/digits/weights"
START_WITHIN_S = 2.0
HUNG_AFTER_S = 60.0


@dataclass
class Process:
    """A running control plane and a client of its admin API."""

    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession
    port: int
    started_in_s: float

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, json=body) as response:
            return response.status, await response.json(content_type=None)


async def spawn(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.controlplane.lone_admin", str(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **NO_BYTECODE},
    )  # fmt: skip


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Process]:
    begun = time.monotonic()
    process = await spawn(folder)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(HUNG_AFTER_S):
            line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
        async with aiohttp.ClientSession() as session:
            yield Process(process, session, int(line), time.monotonic() - begun)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def write_until_gone(process: Process, acknowledged: list[tuple[int, int]]) -> None:
    """One edit after another, each with its own weight, until nobody answers."""
    weight = acknowledged[-1][1] if acknowledged else 0
    try:
        while True:
            weight += 1
            status, answer = await process.ask("PATCH", WEIGHTS, {"digits-cnn": weight % 1_000_000})
            assert status == 200
            acknowledged.append((answer["revision"], weight))
    except aiohttp.ClientError:
        pass


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(10, marks=pytest.mark.timeout(300)),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_r52_no_acknowledged_edit_is_lost_to_kill_9(tmp_path: Path, kills: int) -> None:
    chance = random.Random(52)
    acknowledged: list[tuple[int, int]] = []
    checked = 0
    for life in range(kills):
        async with running(tmp_path) as process:
            _, table = await process.ask("GET", "/admin/v1/table")
            last = acknowledged[-1][0] if acknowledged else 1
            assert table["revision"] - last in (0, 1), "at most one that was not acknowledged"
            for number, weight in acknowledged[checked:]:
                _, found = await process.ask("GET", f"/admin/v1/history/{number}")
                assert found["document"]["routes"]["digits"]["split"]["digits-cnn"] == weight
            checked = len(acknowledged)
            if table["revision"] > last:
                weight = table["routes"]["digits"]["split"]["digits-cnn"]
                acknowledged.append((table["revision"], weight))
            before = len(acknowledged)
            writer = asyncio.create_task(write_until_gone(process, acknowledged))
            if life % 4 != 3:  # else whenever it is, also before the first answer
                await eventually(lambda: len(acknowledged) > before + 1 or writer.done())
            await asyncio.sleep(chance.random() * 0.2)
            process.process.kill()
            await writer
    assert len(acknowledged) > kills


ROLLOUT = "/admin/v1/routes/digits/rollout"
SHARES = (1, 5, 25, 50, 100)
START = {"digits-linear": 90, "digits-cnn": 10}


async def roll_until_gone(process: Process, chance: random.Random, told: asyncio.Event) -> Any:
    """Begins rollouts, leads them on and aborts them until nobody answers; the last that was
    acknowledged. `told` is set once one is."""
    acknowledged = None
    try:
        while True:
            word = chance.choice(["promote", "promote", "promote", "pause", "resume", "abort"])
            if acknowledged is None or acknowledged["state"] in ("done", "aborted"):
                await process.ask("PUT", WEIGHTS, START)  # refused while one runs
                status, answer = await process.ask(
                    "PUT", ROLLOUT, {"to": "digits-cnn", "steps": SHARES, "hold": "1h"}
                )
            else:
                status, answer = await process.ask("POST", f"{ROLLOUT}/{word}", {})
            if status in (200, 201):
                acknowledged = answer
            else:
                # What the process before had begun may be done between two of these questions.
                assert status == 409 or "nothing to compare it with" in answer["detail"], answer
                _, acknowledged = await process.ask("GET", ROLLOUT)
            told.set()
    except aiohttp.ClientError:
        return acknowledged


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(8, marks=pytest.mark.timeout(300)),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_whenever_it_is_killed_a_rollout_has_the_weights_of_its_step_or_of_its_start(
    tmp_path: Path, kills: int
) -> None:
    chance = random.Random(15)
    acknowledged: Any = None
    compared = 0
    for number in range(kills):
        async with running(tmp_path) as process:
            if acknowledged is not None:
                await _agree(process, acknowledged)
                compared += 1
            told = asyncio.Event()
            task = asyncio.create_task(roll_until_gone(process, chance, told))
            if number % 4 != 3:  # else whenever it is, also before the first answer
                first = asyncio.create_task(told.wait())
                await asyncio.wait(
                    [first, task], timeout=HUNG_AFTER_S, return_when="FIRST_COMPLETED"
                )
                first.cancel()
                assert told.is_set(), task.exception() if task.done() else "nothing is answered"
            await asyncio.sleep(chance.random() * 0.1)
            process.process.kill()
            acknowledged = await task or acknowledged
    assert compared == kills - 1, "each life but the first begins with what was acknowledged"


async def _agree(process: Process, acknowledged: Any) -> None:
    """Nothing that was acknowledged is lost, and once what was begun is done the split is that of
    the state."""
    async with asyncio.timeout(HUNG_AFTER_S):
        while True:
            _, found = await process.ask("GET", ROLLOUT)
            _, weights = await process.ask("GET", WEIGHTS)
            _, again = await process.ask("GET", ROLLOUT)
            if found == again and weights["weights"] in _weights_of(found):
                break
    if found["started"] == acknowledged["started"]:
        told = acknowledged["history"]
        assert found["history"][: len(told)] == told
    else:
        assert found["started"] > acknowledged["started"]


def _weights_of(rollout: Any) -> list[dict[str, int]]:
    """The splits there may be: after its end also what was set for the next one."""
    if rollout["state"] == "aborted":
        return [START]
    share = 100 if rollout["state"] == "done" else SHARES[rollout["step"] - 1]
    of_step = {"digits-linear": 100 - share, "digits-cnn": share}
    return [of_step, START] if rollout["state"] == "done" else [of_step]


@pytest.mark.paced
async def test_r52_after_kill_9_it_serves_within_two_seconds(tmp_path: Path) -> None:
    took_s = []
    began = time.monotonic()
    async with Stretch() as work:
        for _ in range(3):
            async with running(tmp_path) as process:
                took_s.append(process.started_in_s)
                await process.ask("PATCH", WEIGHTS, {"digits-cnn": 7})
                process.process.kill()
                await process.process.wait()
    assert median(took_s) <= START_WITHIN_S * work.between(began, time.monotonic()), took_s


async def test_r54_a_second_gateway_is_refused_and_a_killed_one_succeeded(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        second = await spawn(tmp_path)
        output, errors = await second.communicate()
        assert second.returncode == 1
        assert output == b""
        assert errors.decode().strip() == (
            f"state directory {tmp_path} is in use by another gateway (process {first.process.pid})"
        )
        first.process.kill()
        await first.process.wait()
        async with running(tmp_path) as third:
            status, _ = await third.ask("PATCH", WEIGHTS, {"digits-cnn": 3})
            assert status == 200


async def test_r38_a_full_disk_refuses_edits_until_there_is_room_again(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        pid = process.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # No file may grow beyond this: what SQLite sees is a write that fails.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 << 10, most))
        weight = 0
        status, answer = 200, None
        while status == 200:
            weight += 1
            assert weight < 1000
            status, answer = await process.ask("PATCH", WEIGHTS, {"digits-cnn": weight})
        assert (status, answer["code"]) == (507, "store_full")
        for _ in range(3):
            status, answer = await process.ask("PATCH", WEIGHTS, {"digits-cnn": 7777})
            assert status == 507
        _, table = await process.ask("GET", "/admin/v1/table")
        assert table["routes"]["digits"]["split"]["digits-cnn"] == weight - 1
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        status, answer = await process.ask("PATCH", WEIGHTS, {"digits-cnn": 8888})
        assert (status, answer["revision"]) == (200, table["revision"] + 1)
    async with running(tmp_path) as process:
        _, again = await process.ask("GET", "/admin/v1/table")
        assert again["revision"] == table["revision"] + 1
        assert again["routes"]["digits"]["split"]["digits-cnn"] == 8888


async def test_r53_a_damaged_state_stops_the_start_with_one_line(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    for leftover in ("state.db-wal", "state.db-shm"):
        (tmp_path / leftover).unlink(missing_ok=True)
    damaged = b"not a database" * 100
    (tmp_path / "state.db").write_bytes(damaged)
    process = await spawn(tmp_path)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert (tmp_path / "state.db").read_bytes() == damaged
    assert isinstance(read_state(tmp_path / "state.db"), str)
