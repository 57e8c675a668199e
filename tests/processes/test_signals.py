"""What SIGHUP, SIGUSR1 and SIGUSR2 do, and Ctrl-C at any moment of a start."""

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.gateway import (
    ROOT,
    Gateway,
    complete,
    eventually,
    one_backend,
    running_gateway,
)
from tests.harness.origins import origins

from .test_gateway import two_backends
from .test_up import MODELS, document
from .waiting import alive, descendants


def send(gateway: Gateway, number: signal.Signals) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(number)


async def said(gateway: Gateway, words: str) -> str:
    """The line of the gateway's own words that has these, as soon as it is there."""

    def found() -> str:
        own = [line for line in gateway.log_text().splitlines() if line.startswith("headgate: ")]
        return next((line for line in own if words in line), "")

    line: str = await eventually(found, what=words)
    return line


async def split(gateway: Gateway) -> dict[str, int]:
    weights: dict[str, int] = (await gateway.admin("GET", "/admin/v1/routes/all/weights")).json()
    return dict(weights["weights"])  # type: ignore[call-overload]


def edited(gateway: Gateway, **weights: int) -> None:
    """Writes other weights into the file."""
    gateway.document["routes"]["all"]["split"] = weights  # type: ignore[index]
    gateway.write_file()


async def test_hup_reads_the_file_again_as_apply_does_and_stops_nothing() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other), workers=2) as gateway:
            pids = await gateway.worker_pids()
            edited(gateway, a=1, b=3)
            send(gateway, signal.SIGHUP)
            line = await said(gateway, "was read again")
            assert line == f"headgate: {gateway.file} was read again: revision 2, 2 changes"
            assert await split(gateway) == {"a": 1, "b": 3}
            assert await gateway.worker_pids() == pids
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
            # What only the API changed stays, as with `apply`.
            await gateway.set_weights("all", {"a": 1, "b": 9})
            gateway.document["routes"]["all"]["retries"] = {"attempts": 1}  # type: ignore[index]
            gateway.document["gateway"]["keep_alive"] = "9s"  # type: ignore[index]
            gateway.write_file()
            send(gateway, signal.SIGHUP)
            assert "keep_alive" in await said(gateway, "these settings take a restart")
            assert await split(gateway) == {"a": 1, "b": 9}


async def test_hup_with_a_broken_file_changes_nothing_and_says_why() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other)) as gateway:
            edited(gateway, a=1, nowhere=3)
            send(gateway, signal.SIGHUP)
            assert "nowhere" in await said(gateway, f"{gateway.file}:")
            await said(gateway, "not applied; everything goes on as it was")
            assert await split(gateway) == {"a": 90, "b": 10}
            gateway.file.unlink()
            send(gateway, signal.SIGHUP)
            await said(gateway, "No such file")


async def test_a_file_that_was_applied_is_not_undone_by_the_next_control_process() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other)) as gateway:
            edited(gateway, a=1, b=3)
            send(gateway, signal.SIGHUP)
            await said(gateway, "was read again")
            first = await gateway.control_pid()
            os.kill(first, signal.SIGKILL)

            async def back() -> bool:
                reply = await gateway.client.get(f"{gateway.admin_url}/admin/v1/status", timeout=1)
                return reply.status == 200 and reply.json()["control"]["pid"] != first

            await eventually(back)
            assert await split(gateway) == {"a": 1, "b": 3}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, None])
async def test_an_access_log_that_was_moved_away_is_opened_anew(
    number: signal.Signals | None,
) -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            log, moved = gateway.folder / "access.log", gateway.folder / "access.log.1"
            await gateway.client.get(f"{gateway.url}/before")
            await eventually(lambda: "/before" in log.read_text())
            log.rename(moved)
            if number is not None:
                send(gateway, number)
                await eventually(log.exists)

            async def is_in_the_new_one() -> bool:
                await gateway.client.get(f"{gateway.url}/after", fresh=True)
                return log.exists() and "/after" in log.read_text()

            await eventually(is_in_the_new_one, every_s=0.2)
            assert "/before" in moved.read_text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
async def test_a_signal_that_stops_nothing_stops_nobody_at_any_moment(
    number: signal.Signals,
) -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            assert gateway.process is not None
            workers = await gateway.worker_pids()
            before = {gateway.process.pid, await gateway.control_pid(), *workers}
            for pid in before:
                os.kill(pid, number)
            old = workers[0]
            os.kill(old, signal.SIGKILL)
            end = time.monotonic() + (1.0 if number == signal.SIGUSR2 else 0.0)
            while time.monotonic() < end:  # one that has only begun is not ended either
                for pid in descendants(gateway.process.pid):
                    with contextlib.suppress(OSError):  # one that has just ended by itself
                        if b"_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, number)
                await asyncio.sleep(0.02)

            async def both() -> bool:
                workers = (await gateway.status())["workers"]
                return all(each["connected"] and each["pid"] != old for each in workers)

            await eventually(both)
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
            now = {process.pid for process in gateway.family() if alive(process.pid)}
            assert before - {old} <= now


async def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), prefix=("nohup",)) as gateway:
            edited(gateway, main=5)
            send(gateway, signal.SIGHUP)
            await asyncio.sleep(0.5)
            assert "read again" not in gateway.log_text()
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200


async def test_a_terminal_that_is_closed_ends_what_was_started_from_it(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, complete(one_backend("http://127.0.0.1:9"), {}), {})
    gateway.write_file()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "gateway", "gateway", str(gateway.file)])
    try:
        told = b""
        while b"admin" not in told:
            told += await asyncio.to_thread(os.read, terminal, 4096)
        below = descendants(pid)
        os.kill(pid, signal.SIGHUP)  # the terminal is there: the file is read again
        while b"changes nothing" not in told:
            told += await asyncio.to_thread(os.read, terminal, 4096)
        os.close(terminal)
        await eventually(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
        await eventually(lambda: not any(alive(each) for each in below))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        await gateway.client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know when Python is up")
def test_ctrl_c_during_a_start_is_quiet(tmp_path: Path) -> None:
    file = tmp_path / "headgate.yaml"
    file.write_text(yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), {})))
    for number in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "gateway", str(file)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        loaded = Path(f"/proc/{process.pid}/maps")
        while "_ctypes" not in loaded.read_text():  # Python itself has started
            time.sleep(0.002)
        time.sleep(0.05 * number)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode in (0, -signal.SIGINT), said
        assert "panicked" not in said
        assert "Traceback" not in said
        assert "fault" not in said


def state_is_locked(folder: Path, locked: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Starts `headgate up` on a model that takes for ever to load, with the state of another."""
    (folder / "models.py").write_text(MODELS)
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(document("models:Slow")))
    return subprocess.run(
        [sys.executable, "-m", "gateway", "up", str(file), *locked], capture_output=True,
        text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip


async def test_a_state_directory_in_use_is_noticed_before_models_load(tmp_path: Path) -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin)) as gateway:
            state = ["--state-dir", str(gateway.folder / "state")]
            done = await asyncio.to_thread(state_is_locked, tmp_path, state)
            assert gateway.process is not None
            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert line == (
                f"headgate: state directory {state[1]} is in use by another gateway"
                f" (process {gateway.process.pid})"
            )


async def test_a_long_tmpdir_is_passed_over(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), env={"TMPDIR": str(long)}) as gateway:
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
