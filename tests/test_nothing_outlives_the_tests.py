"""Whoever kills pytest from outside, as a CI system does, finds a machine with nothing left."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from tests.harness.gateway import ROOT, eventually
from tests.harness.orphans import is_alive, kill_all
from tests.harness.ports import free_port

HANGING = """
    import asyncio, json, os
    from pathlib import Path
    from tests.harness.gateway import one_backend, running_gateway
    from tests.harness.origin_process import OriginProcess

    async def test_hangs():
        origin = OriginProcess()
        origin.start()
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            pids = [process.pid for process in gateway.family()] + [origin.process.pid]
            draft = Path(os.environ["PIDS"] + ".draft")
            draft.write_text(json.dumps(pids))
            draft.rename(os.environ["PIDS"])
            await asyncio.sleep(600)
"""


async def test_a_process_that_ends_while_it_is_killed_is_killed() -> None:
    started = await asyncio.create_subprocess_exec("sleep", "600")
    ended = psutil.Process(started.pid)
    kill_all([ended])
    await started.wait()
    kill_all([ended])


@pytest.mark.parametrize(
    ("workers", "number"),
    [("0", signal.SIGTERM), ("0", signal.SIGKILL), ("2", signal.SIGKILL)],
    ids=["SIGTERM", "SIGKILL", "SIGKILL with two workers"],
)
async def test_nothing_is_left_of_a_run_that_is_killed(
    workers: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "test_hanging.py").write_text(dedent(HANGING))
    pids = tmp_path / "pids"
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", str(tmp_path), "-n", workers, "--rootdir", str(ROOT),
        "-c", str(ROOT / "pyproject.toml"), "-p", "tests.harness.orphans", "-p", "no:cacheprovider",
        "-p", "no:schemathesis", "-p", "no:hypothesispytest",  # slow to import
        cwd=ROOT, env={**os.environ, "PIDS": str(pids)}, start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await eventually(pids.exists, 60, "the test inside runs")
    started = [psutil.Process(pid) for pid in json.loads(pids.read_text())]
    started += psutil.Process(run.pid).children(recursive=True)
    assert len(started) > 4

    run.send_signal(number)
    await run.wait()

    await eventually(lambda: not any(map(is_alive, started)), what="all of it has ended")


def test_a_port_is_given_once() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)
