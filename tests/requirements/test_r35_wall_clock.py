"""R35: a wall clock that jumps is nobody's business but the log's.

A step of the machine's clock is what an operator or NTP does to CLOCK_REALTIME, while
CLOCK_MONOTONIC goes on. That clock is not a test's to set, and no namespace has one of its own.
libfaketime puts itself before the C library of the gateway's processes, so that whatever asks
for the wall clock (Python, SQLite, uvloop, TLS) sees the step. Where it is missing, the second
form is left: Python's `time.time`, which everything of the gateway's own asks but the audit.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Client, Reply, failures, get_each, open_loop
from tests.harness.origins import Exchange, echo, hang, origins
from tests.harness.stretch import Stretch

DAY_S = 86_400
STEPS = (0, 400, -30, 0)
SITE = """
import os, time
_real, _file = time.time, os.environ["HEADGATE_TEST_CLOCK"]
def _offset():
    with open(_file) as source:
        return float(source.read() or 0)
time.time = lambda: _real() + _offset()
time.time_ns = lambda: int(time.time() * 1e9)
"""

Step = Callable[[int], None]


def _replace(file: Path, text: str) -> None:
    """No reader ever sees half of it."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(file)


def of_libc(folder: Path) -> tuple[dict[str, str], Step]:
    """The environment whose wall clock steps with the function beside it, by whole days."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("libfaketime is not installed (libfaketime)")
    file = folder / "clock"
    environment = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return environment, lambda days: _replace(file, f"{days:+d}d\n")


def of_python(folder: Path) -> tuple[dict[str, str], Step]:
    """The same for `time.time` alone."""
    (folder / "sitecustomize.py").write_text(SITE)
    file = folder / "offset"
    environment = {"PYTHONPATH": str(folder), "HEADGATE_TEST_CLOCK": str(file)}
    return environment, lambda days: _replace(file, str(days * DAY_S))


async def stepped(gateway: Gateway, step: Step) -> tuple[list[Reply], list[Reply]]:
    """The answers to requests that run while the clock steps, with an edit after each step, and
    those to requests that wait for their deadline meanwhile."""
    replies: list[Reply] = []
    waited: list[Reply] = []
    client = Client()
    for days in STEPS:
        waiting = asyncio.create_task(client.get(f"{gateway.url}/hang"))
        await asyncio.sleep(0.2)
        step(days)
        replies += await open_loop(gateway.url, 50, 1.5, get_each, timeout=60)
        waited.append(await waiting)
        await gateway.set_weights("all", {"main": 1 + abs(days)})
    await client.close()
    return replies, waited


async def hang_or_echo(exchange: Exchange) -> None:
    await (hang if exchange.target == b"/hang" else echo)(exchange)


@pytest.mark.parametrize("clock", [of_libc, of_python])
async def test_r35_a_jumping_wall_clock_fails_no_request_and_ejects_nobody(
    clock: Callable[[Path], tuple[dict[str, str], Step]], tmp_path: Path
) -> None:
    environment, step = clock(tmp_path)
    step(0)
    async with origins(2, hang_or_echo) as stubs:
        document = one_backend(*stubs)
        document["routes"]["hang"] = {"match": "/hang", "split": {"main": 1}, "deadline": "1s"}
        async with running_gateway(document, env=environment) as gateway, Stretch() as work:
            replies, waited = await stepped(gateway, step)
            metrics = await gateway.metrics()
            history = (await gateway.admin("GET", "/admin/v1/history")).json()["revisions"]
    assert failures(replies) == []
    assert [r.status for r in waited] == [504] * len(STEPS)
    for reply in waited:
        late_s = work.between(reply.intended, reply.done)  # a second, on a machine of its own
        assert reply.took_s >= 0.95
        assert reply.took_s <= 1 + late_s, (reply.took_s, late_s)
    assert metrics.total("headgate_ejections_total") == 0
    assert metrics.total("headgate_instance_up") == 2
    revisions = [entry["revision"] for entry in history]
    assert revisions == sorted(revisions, reverse=True)
    assert len(revisions) >= len(STEPS)
    if clock is of_libc:
        times = [datetime.fromisoformat(entry["time"]) for entry in reversed(history)]
        jumps = [round((b - a).total_seconds() / DAY_S) for a, b in pairwise(times)]
        assert jumps[-3:] == [400, -430, 30], "the clock did not step"
