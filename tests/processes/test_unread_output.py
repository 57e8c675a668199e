"""What the gateway writes is read by nobody: everything goes on, and ends when it is told to."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.gateway import (
    ROOT,
    Gateway,
    complete,
    eventually,
    one_backend,
    running_gateway,
)
from tests.harness.load import failures
from tests.harness.origins import one_origin
from tests.harness.orphans import kill_all
from tests.harness.unread import full_pipe
from tests.processes.test_up import Up, document
from tests.processes.waiting import alive, descendants

STREAMS = ["stdout", "stderr", "both"]


class Unread(Gateway):
    """A gateway with a full pipe in the place of some of its output."""

    command = ("gateway",)

    def __init__(self, folder: Path, document: dict, stuck: dict[str, int]) -> None:
        super().__init__(folder, document, {})
        self.stuck = stuck

    async def start(self) -> None:
        self.document["gateway"]["access_log"] = "-"
        await super().start()

    def output(self, log: object) -> dict:
        return {name: self.stuck.get(name, log) for name in ("stdout", "stderr")}


@pytest.fixture
def stuck(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """The streams that the parameter names, each into a full pipe of its own."""
    names = ("stdout", "stderr") if request.param == "both" else (request.param,)
    with ExitStack() as stack:
        yield {name: stack.enter_context(full_pipe()) for name in names}


@pytest.mark.parametrize("stuck", STREAMS, indirect=True)
async def test_requests_edits_and_replacements_go_on_while_nobody_reads(
    stuck: dict[str, int], tmp_path: Path
) -> None:
    async with one_origin() as origin:
        gateway = Unread(tmp_path, complete(one_backend(origin), {}), stuck)
        try:
            await gateway.start()
            await gateway.wait_up()
            path = "/" + "x" * 7000
            asked = [gateway.client.get(f"{gateway.url}{path}") for _ in range(50)]
            assert failures(await asyncio.gather(*asked)) == []
            for _ in range(15):
                asked = [gateway.client.get(f"{gateway.url}{path}") for _ in range(50)]
                assert failures(await asyncio.gather(*asked)) == []
            if "stdout" in stuck:
                await eventually(lambda: counted(gateway, log="access"), what="lost lines count")
            await replaced(gateway, (await gateway.worker_pids())[0])
            await replaced(gateway, await gateway.control_pid())
            assert (await gateway.set_weights("all", {"main": 7}))["applied"]["workers"] == 1
            assert (await gateway.client.get(f"{gateway.url}/last")).status == 200
            await gateway.stop()
        finally:
            await ended(gateway)


async def test_streams_that_were_left_closed_are_nobodys_sockets() -> None:
    closed = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
    async with (
        one_origin() as origin,
        running_gateway(one_backend(origin), workers=2, access_log="-", prefix=closed) as gateway,
    ):
        workers = await gateway.worker_pids()
        assert failures([await gateway.client.get(f"{gateway.url}/{n}") for n in range(20)]) == []
        assert (await gateway.set_weights("all", {"main": 7}))["applied"]["workers"] == 2
        assert await gateway.worker_pids() == workers


async def counted(gateway: Gateway, **labels: str) -> bool:
    """Whether lines that nobody read are counted as lost."""
    return (await gateway.metrics()).total("headgate_log_dropped_total", **labels) > 0


async def replaced(gateway: Gateway, pid: int) -> None:
    """Kills `pid`, a worker or the control process, and waits for its successor."""
    os.kill(pid, signal.SIGKILL)

    async def is_there() -> bool:
        reply = await gateway.client.get(f"{gateway.admin_url}/admin/v1/status", timeout=1)
        if reply.status != 200:
            return False
        status = reply.json()
        workers = [each["pid"] for each in status["workers"] if each["connected"]]
        return len(workers) == 1 and pid not in (*workers, status["control"]["pid"])

    await eventually(is_there, what="a successor")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stuck", ["both"], indirect=True)
async def test_up_serves_and_stops_while_nobody_reads(
    stuck: dict[str, int], number: signal.Signals, tmp_path: Path
) -> None:
    it = Talkative(tmp_path, document("models:Talkative"), stuck)
    try:
        await it.start()
        for _ in range(60):
            answer = await it.client.json("POST", f"{it.url}/talkative", {"input": 3})
            assert answer.json() == {"result": 9}

        await eventually(lambda: counted(it, process="supervisor"), what="lost lines count")
        assert it.process is not None
        pids = [it.process.pid, *descendants(it.process.pid)]
        it.process.send_signal(number)
        assert await asyncio.wait_for(it.process.wait(), 60) == 0
        assert not any(alive(pid) for pid in pids)
    finally:
        await ended(it)


class Talkative(Up):
    """`headgate up` on a model that prints more than any pipe holds."""

    def __init__(self, folder: Path, document: dict, stuck: dict[str, int]) -> None:
        super().__init__(folder, document, {})
        self.stuck = stuck

    async def run(self) -> asyncio.subprocess.Process:
        (self.folder / "models.py").write_text(
            "class Talkative:\n"
            "    def setup(self, device):\n"
            "        print('ready to talk')\n"
            "    def predict(self, x):\n"
            "        print('x' * 99_999)\n"
            "        return {'result': x['input'] ** 2}\n"
        )
        self.write_file()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", str(self.file)),
            cwd=ROOT, start_new_session=True, **self.stuck,
        )  # fmt: skip
        return self.process


async def ended(gateway: Gateway) -> None:
    await gateway.client.close()
    kill_all(gateway.family() if gateway.process else ())
    if gateway.process is not None:
        await gateway.process.wait()
