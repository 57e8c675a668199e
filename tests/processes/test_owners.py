"""What ends although it should not is named in one line, and somebody acts."""

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.probing import Target
from gateway.controlplane.watch.resolver import Resolver
from gateway.core.health import ProbeSignal
from gateway.core.table import Table
from gateway.up.progress import Plain
from gateway.wire.channel import Channel
from tests.harness.gateway import ROOT, complete, one_backend
from tests.processes import test_fleet, test_supervisor, test_workers

from .waiting import until

TABLE = Table.from_document(
    {"backends": {"a": {"instances": ["http://127.0.0.1:1", "http://name.test:2"]}}, "routes": {}},
    1,
)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("command", ["gateway", "up"])
def test_an_access_log_that_cannot_be_written_fails_the_start_in_one_line(
    tmp_path: Path, workers: int, command: str
) -> None:
    file = tmp_path / "headgate.yaml"
    settings = {"access_log": "/no/such/dir/x", "workers": workers}
    file.write_text(yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), settings)))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command, str(file)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("headgate: access_log: /no/such/dir/x: No such file or directory")


def test_an_access_log_that_is_a_pipe_without_a_reader_fails_the_start_in_one_line(
    tmp_path: Path,
) -> None:
    file, pipe = tmp_path / "headgate.yaml", tmp_path / "log"
    os.mkfifo(pipe)
    settings = {"access_log": str(pipe)}
    file.write_text(yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), settings)))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "gateway", str(file)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"headgate: access_log: {pipe}: nobody reads this pipe; start its reader first\n"
    )


async def test_a_control_process_that_babbles_is_replaced() -> None:
    async with test_supervisor.running(fake="babble") as gateway:
        await until(lambda: "control was ended by SIGKILL; starting it again" in gateway.said)
        assert gateway.said[0] == (
            "the control process cannot be understood (BadFrame: a message without a type);"
            " replacing it"
        )


async def test_a_keeper_that_fails_while_starting_fails_the_start() -> None:
    def program(role: str, *more: str) -> list[str]:
        if role == "_control":
            raise ZeroDivisionError("division by zero")
        return test_supervisor.fake_program(role, *more)

    async with test_supervisor.running(program=program) as gateway:
        assert await asyncio.wait_for(gateway.task, 60) == 1
        assert all("ended: ZeroDivisionError: division by zero" in it for it in gateway.said)


async def test_a_worker_that_babbles_loses_its_channel_and_may_come_again(tmp_path: Path) -> None:
    async with test_workers.house(tmp_path) as it:
        worker = await it.start(0, 100)
        worker.channel.send_soon([])  # no message: it has no type
        await until(lambda: it.workers.connected == [])
        again = await Channel.open(str(it.path))
        it.started.append(test_workers.Worker(again, 0, 100))
        await until(lambda: len(it.workers.connected) == 1)
        assert [each.pid for each in it.workers.connected] == [100]


async def test_a_health_check_that_fails_for_a_fault_of_ours_is_named_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    async def probe(target: Target) -> ProbeSignal | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ZeroDivisionError("by zero")
        return "ready"

    prober = Prober(lambda words, changes: None, probe=probe, pause_s=0.01)
    with caplog.at_level(logging.ERROR):
        prober.sync(TABLE)
        await until(lambda: prober.words.get("a", {}).get("127.0.0.1:1") == "up")
    await prober.close()
    assert any(
        record.getMessage() == "a health check of 127.0.0.1:1 ended, a fault in headgate"
        " itself: ZeroDivisionError: by zero; beginning again"
        for record in caplog.records
    )


async def test_resolving_a_name_goes_on_after_a_fault_of_ours() -> None:
    asked = 0
    said: list[str] = []

    async def look_up(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ZeroDivisionError("by zero")
        return ["192.0.2.1"]

    resolver = Resolver(lambda endpoints: None, look_up=look_up, say=said.append, pause_s=0.01)
    resolver.sync(TABLE)
    await until(lambda: resolver.endpoints == {"a": {"http://name.test:2": ["192.0.2.1"]}})
    await resolver.close()
    assert said == [
        "resolving name.test ended, a fault in headgate itself: ZeroDivisionError: by zero;"
        " beginning again"
    ]


class Clumsy(Plain):
    """A display that fails when an instance is ready."""

    def finish(self, serving: object) -> None:
        raise ZeroDivisionError("by zero")


async def test_a_fault_while_waiting_for_instances_is_not_taken_for_their_being_ready() -> None:
    async with test_fleet.running("one:Model", progress=Clumsy) as it:
        with pytest.raises(ZeroDivisionError):
            await it.start()
