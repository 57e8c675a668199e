"""The supervisor with processes that stand in for the gateway's: real signals, real sockets."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.processes.leaving import end
from gateway.processes.plan import Plan
from gateway.processes.sockets import ListenError, bind, listen
from gateway.processes.supervisor import Supervisor

from .waiting import alive, until

FAKE = Path(__file__).with_name("fake_gateway.py")


def fake_program(*arguments: str) -> list[str]:
    return [sys.executable, str(FAKE), *arguments]


class Running:
    """A supervisor that runs in the background, and what it said."""

    def __init__(
        self,
        workers: int = 1,
        fake: str = "",
        drain_timeout_s: float = 5.0,
        silence_s: float = 60,
        program: Callable[..., list[str]] = fake_program,
        placed: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.ready: list[dict] = []
        self.said: list[str] = []
        self.data = bind("127.0.0.1:0", workers)
        self.port = self.data[0].getsockname()[1]
        plan = Plan(
            data=self.data,
            admin=bind("127.0.0.1:0")[0],
            configuration=b"",
            name="headgate.yaml",
            drain_timeout_s=drain_timeout_s,
            state_dir=Path("unused"),
            placed=placed,
            environment={"FAKE": fake, "PYTHONPATH": str(FAKE.parents[2])},
        )
        self.supervisor = Supervisor(
            plan,
            on_ready=self.ready.append,
            say=self.said.append,
            program=program,
            silence_s=silence_s,
        )
        self.task = asyncio.create_task(self.supervisor.run())

    async def pid_that_answers(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return int(json.loads(await reader.read())["pid"])
        finally:
            writer.close()

    def pids(self) -> list[int]:
        return [self.ready[0]["pid"], *self.ready[0]["pids"]]


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Running]:
    it = Running(**options)
    try:
        yield it
    finally:
        it.supervisor.stop()
        it.supervisor.stop()
        await asyncio.wait_for(it.task, 60)


async def test_a_killed_worker_is_replaced_at_once_and_no_connection_is_refused() -> None:
    async with running() as gateway:
        await until(lambda: bool(gateway.ready))
        first = await gateway.pid_that_answers()
        os.kill(first, signal.SIGKILL)
        # Connections made while nobody accepts wait in the backlog of the slot's socket.
        answered = await asyncio.wait_for(
            asyncio.gather(*(gateway.pid_that_answers() for _ in range(20))), 60
        )
        assert set(answered) != {first}
        assert gateway.said == ["worker 0 was ended by SIGKILL; starting it again"]


async def test_a_killed_control_process_is_replaced_and_workers_serve_on() -> None:
    async with running(workers=2) as gateway:
        await until(lambda: bool(gateway.ready))
        control, *workers = gateway.pids()
        os.kill(control, signal.SIGKILL)
        assert await gateway.pid_that_answers() in workers
        await until(lambda: gateway.said == ["control was ended by SIGKILL; starting it again"])
        assert await gateway.pid_that_answers() in workers
        assert len(gateway.ready) == 1, "being ready is news only once"


async def test_a_control_process_that_hangs_is_replaced() -> None:
    async with running(silence_s=0.5) as gateway:
        await until(lambda: "control was ended by SIGKILL; starting it again" in gateway.said)
        assert gateway.said[0] == "the control process does not answer; replacing it"


def test_to_end_a_worker_of_the_gateway_before_is_nothing_where_it_has_just_ended() -> None:
    """To fail there would end the control process, which asked for it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    end(process.pid)
    assert process.wait() == -signal.SIGKILL
    end(process.pid)


async def test_a_worker_that_control_calls_silent_is_replaced() -> None:
    async with running(fake="replace") as gateway:
        await until(lambda: gateway.said == ["worker 0 was ended by SIGKILL; starting it again"])


LEFT = "worker 0 was told to go; starting another one in its place"


async def test_r68_a_worker_that_leaves_has_a_successor_before_it_ends() -> None:
    async with running(fake="leaving") as gateway:
        await until(lambda: bool(gateway.ready))
        first = gateway.ready[0]["pids"][0]
        await until(lambda: gateway.said == [LEFT])
        assert alive(first), "both accept until the first one stops"
        while await gateway.pid_that_answers() == first:
            pass
        os.kill(first, signal.SIGTERM)
        await until(lambda: not alive(first))
        assert await gateway.pid_that_answers() != first
        assert gateway.said == [LEFT]


async def test_r68_a_stop_waits_for_workers_that_left_before() -> None:
    async with running(fake="leaving") as gateway:
        await until(lambda: bool(gateway.ready))
        first = gateway.ready[0]["pids"][0]
        await until(lambda: gateway.said == [LEFT])
        gateway.supervisor.stop()
        await asyncio.sleep(0.3)
        assert alive(first), "it was told once; a second signal would hurry it"
        os.kill(first, signal.SIGTERM)
        assert await asyncio.wait_for(gateway.task, 60) == 0


async def test_r68_the_first_stop_drains_and_leaves_no_process() -> None:
    async with running(workers=2) as gateway:
        await until(lambda: bool(gateway.ready))
        gateway.supervisor.stop()
        assert await asyncio.wait_for(gateway.task, 60) == 0
        assert not any(alive(pid) for pid in gateway.pids())
        assert gateway.said == []
        with pytest.raises(ConnectionRefusedError):
            await gateway.pid_that_answers()


async def test_r68_a_second_stop_ends_workers_that_do_not_drain() -> None:
    async with running(fake="deaf", drain_timeout_s=60) as gateway:
        await until(lambda: bool(gateway.ready))
        await gateway.pid_that_answers()  # by now it ignores SIGTERM
        gateway.supervisor.stop()
        await asyncio.sleep(0)
        gateway.supervisor.stop()
        assert await asyncio.wait_for(gateway.task, 30) == 0
        assert not any(alive(pid) for pid in gateway.pids())


async def test_r68_workers_that_never_finish_are_ended_after_the_drain() -> None:
    async with running(fake="deaf", drain_timeout_s=0.3) as gateway:
        await until(lambda: bool(gateway.ready))
        await gateway.pid_that_answers()
        gateway.supervisor.stop()
        assert await asyncio.wait_for(gateway.task, 60) == 0
        assert not any(alive(pid) for pid in gateway.pids())


@pytest.mark.parametrize("process", ["_control", "_worker"])
async def test_a_fault_that_a_restart_cannot_mend_ends_the_start(process: str) -> None:
    async with running(fake=f"fault{process}") as gateway:
        assert await asyncio.wait_for(gateway.task, 60) == 1
        assert gateway.said == [], "the process that found the fault has named it"


async def test_a_process_that_keeps_dying_at_the_start_ends_the_start() -> None:
    async with running(fake="crash_worker") as gateway:
        assert await asyncio.wait_for(gateway.task, 60) == 1
        assert gateway.said[-1] == (
            "worker 0 exited with code 3 5 times in a row while starting; giving up"
        )


async def test_nothing_is_left_in_the_file_system() -> None:
    async with running() as gateway:
        await until(lambda: bool(gateway.ready))
        made = gateway.supervisor.directory.path
        assert made.stat().st_mode & 0o777 == 0o700
    assert not made.exists()


def test_a_taken_port_is_one_clear_line_even_when_the_other_one_shares_it() -> None:
    with contextlib.ExitStack() as stack:
        (taken,) = (stack.enter_context(bound) for bound in bind("127.0.0.1:0", 1))
        listen([taken])
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: the port is taken"):
            bind(f"127.0.0.1:{port}", 2)


def test_every_slot_listens_on_the_same_free_port() -> None:
    with contextlib.ExitStack() as stack:
        ports = {stack.enter_context(bound).getsockname()[1] for bound in bind("127.0.0.1:0", 3)}
        assert len(ports) == 1


@pytest.mark.parametrize("address", ["no-such-host.invalid:0", "192.0.2.1:0"])
def test_an_address_that_is_not_ours_is_one_clear_line(address: str) -> None:
    with pytest.raises(ListenError, match=f"^cannot listen on {address}: [^\n]+$"):
        bind(address)


def test_dual_stack_wildcards_take_ipv4_too() -> None:
    (bound,) = bind("[::]:0")
    with bound:
        listen([bound])
        with socket.create_connection(("127.0.0.1", bound.getsockname()[1]), 2) as client:
            assert bound.accept()[1][1] == client.getsockname()[1]
