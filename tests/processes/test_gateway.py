"""A whole gateway, as a user starts it, whose processes are killed one by one."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.client import AdminClient
from tests.harness.gateway import (
    ROOT,
    START_S,
    Gateway,
    backend,
    complete,
    eventually,
    one_backend,
    running_gateway,
)
from tests.harness.load import failures, get_each, open_loop
from tests.harness.origins import after, origins
from tests.harness.orphans import kill_all
from tests.harness.ports import free_port

from .waiting import alive, descendants, words


def two_backends(a: Any, b: Any) -> dict[str, Any]:
    split = {"a": 90, "b": 10}
    return {
        "backends": {"a": backend(a), "b": backend(b)},
        "routes": {"all": {"match": "/", "split": split}},
    }


async def test_a_killed_control_process_takes_nothing_with_it() -> None:
    """Requests, weights, health and counters go on as they were."""
    async with origins(2, after(0.002)) as (one, other):
        async with running_gateway(two_backends(one, other), workers=2) as gateway:
            await gateway.set_weights("all", {"a": 70, "b": 30})
            replies = await open_loop(gateway.url, 100, 0.5, get_each)
            assert failures(replies) == []
            first = (await gateway.status())["control"]["pid"]
            workers = await gateway.worker_pids()

            load = asyncio.create_task(open_loop(gateway.url, 50, 2, get_each))
            await asyncio.sleep(0.5)
            os.kill(first, signal.SIGKILL)

            async def back() -> bool:
                return bool((await gateway.status())["control"]["pid"] != first)

            # The listener stays open: even a request during the gap is answered, a bit later.
            await eventually(back, what="another control process answers")
            weights = (await gateway.admin("GET", "/admin/v1/routes/all/weights")).json()
            assert weights["weights"] == {"a": 70, "b": 30}
            assert weights["effective"] == {"a": 0.7, "b": 0.3}
            assert await gateway.worker_pids() == workers
            replies = await load
            assert failures(replies) == []
            await counted(gateway, 150)


async def counted(gateway: Gateway, requests: int) -> None:
    """Returns when so many are counted: a worker may count a moment after it has answered."""

    async def so_many() -> bool:
        samples = await gateway.metrics()
        return samples.total("headgate_requests_total", route="all", code="200") == requests

    await eventually(so_many, what=f"{requests} requests are counted")


async def test_r70_counters_outlive_the_worker_and_the_control_process() -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            await open_loop(gateway.url, 100, 0.5, get_each)
            await counted(gateway, 50)
            killed = await gateway.worker_pids()
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

            async def new_workers() -> bool:
                workers = (await gateway.status())["workers"]
                return all(
                    worker["connected"] and worker["revision"] and worker["pid"] not in killed
                    for worker in workers
                )

            await eventually(new_workers)
            await counted(gateway, 50)
            os.kill(await gateway.control_pid(), signal.SIGKILL)
            await counted(gateway, 50)


async def test_r70_control_and_worker_killed_together_lose_no_count() -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            await open_loop(gateway.url, 200, 1, get_each)
            await counted(gateway, 200)
            control = await gateway.control_pid()
            for pid in (control, *await gateway.worker_pids()):
                os.kill(pid, signal.SIGKILL)

            async def answers() -> bool:
                reply = await gateway.client.get(f"{gateway.admin_url}/readyz", timeout=1)
                return reply.status == 200

            await eventually(answers, what="other processes serve")
            assert await gateway.control_pid() != control
            await counted(gateway, 200)


async def test_a_killed_worker_is_back_at_once_and_refuses_nobody() -> None:
    async with origins(1, after(0.002)) as (origin,):
        async with running_gateway(one_backend(origin), workers=1) as gateway:
            (first,) = await gateway.worker_pids()
            load = asyncio.create_task(open_loop(gateway.url, 50, 3, get_each))
            await asyncio.sleep(1)
            killed = time.monotonic()
            os.kill(first, signal.SIGKILL)
            # On a busy machine it goes only when it is its turn.
            await eventually(lambda: not alive(first), every_s=0.005)
            gone = time.monotonic()
            replies = await load
            assert [reply for reply in replies if reply.error.startswith("connect")] == []
            assert [r for r in replies if not r.ok and r.intended > gone] == []
            assert [r for r in replies if not r.ok and r.done < killed] == []
            assert await gateway.worker_pids() != [first]


async def test_a_killed_supervisor_leaves_nobody_behind() -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2, check_end=False) as gateway:
            assert gateway.process is not None
            below = descendants(gateway.process.pid)
            said = [words(pid) for pid in below]
            # Beside these there may be the one, short of life, that describes the routes.
            lasting = [each for each in said if "_control" in each or "_worker" in each]
            assert len(lasting) == 3
            gateway.process.kill()
            await eventually(lambda: not any(alive(pid) for pid in below))


async def test_a_stuck_worker_is_replaced_and_the_edit_is_acknowledged() -> None:
    async with origins(1) as (origin,):
        async with running_gateway(one_backend(origin), workers=2) as gateway:
            stuck, _ = await gateway.worker_pids()
            os.kill(stuck, signal.SIGSTOP)
            answer = await gateway.set_weights("all", {"main": 7})
            assert answer["applied"]["workers"] >= 1
            assert not alive(stuck)

            async def both_serve_it() -> bool:
                workers = (await gateway.status())["workers"]
                return [worker["revision"] for worker in workers] == [answer["revision"]] * 2

            await eventually(both_serve_it)


async def test_what_the_admin_api_changed_survives_a_restart_and_overrides_are_named() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other)) as gateway:
            await gateway.set_weights("all", {"a": 1, "b": 1})
            await gateway.stop()
            await gateway.start()
            answer = await gateway.admin("GET", "/admin/v1/routes/all/weights")
            assert answer.json()["weights"] == {"a": 1, "b": 1}
            await gateway.stop()

            document = {
                **gateway.document,
                "routes": {"all": {"match": "/", "split": {"a": 2, "b": 10}}},
            }
            gateway.document = document
            await gateway.start()
            answer = await gateway.admin("GET", "/admin/v1/routes/all/weights")
            assert answer.json()["weights"] == {"a": 2, "b": 1}

            def named() -> list[str]:
                return [line for line in gateway.log_text().splitlines() if "overrides" in line]

            await eventually(named, what="the line that names it")
            assert len(named()) == 1
            assert "/routes/all/split/a" in named()[0]


async def test_a_file_that_is_edited_while_the_gateway_runs_is_not_read_by_accident() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other)) as gateway:
            gateway.file.write_text("broken: [")
            first = await gateway.control_pid()
            os.kill(first, signal.SIGKILL)

            async def back() -> bool:
                return await gateway.control_pid() != first

            await eventually(back)
            table = (await gateway.admin("GET", "/admin/v1/table")).json()
            assert (table["revision"], table["routes"]["all"]["split"]) == (1, {"a": 90, "b": 10})
            reply = await gateway.client.get(f"{gateway.url}/x")
            assert reply.status == 200, reply


async def test_names_are_resolved_and_probed() -> None:
    async with origins(1) as (origin,):
        port = origin.url.rpartition(":")[2]
        document = two_backends(f"http://localhost:{port}", f"dns+http://localhost:{port}")
        async with running_gateway(document, up=False) as gateway:

            async def known() -> bool:
                backends = (await gateway.status())["backends"]
                return [
                    backends["a"]["instances"][f"localhost:{port}"]["health"],
                    backends["b"]["instances"].get(f"127.0.0.1:{port}", {}).get("health"),
                ] == ["up", "up"]

            await eventually(known)
            reply = await gateway.client.get(f"{gateway.url}/x")
            assert reply.status == 200


def start(
    folder: Path, document: dict[str, Any], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs a gateway that is expected to refuse to start."""
    file = folder / "headgate.yaml"
    if document:
        file.write_text(yaml.safe_dump(document))
    return subprocess.run(
        [sys.executable, "-m", "gateway", "gateway", str(file), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("headgate: ")
    for word in words:
        assert word in line
    assert done.stdout == ""


@pytest.mark.parametrize("listener", ["listen", "admin"])
async def test_a_taken_port_is_one_clear_line(tmp_path: Path, listener: str) -> None:
    async with origins(1) as (origin,):
        taken = origin.url.removeprefix("http://")
        document = complete(one_backend("http://127.0.0.1:9"), {listener: taken})
        done = await asyncio.to_thread(start, tmp_path, document)
        mend = f"gateway.{listener} (HEADGATE_{listener.upper()})"
        assert_refused(done, taken, "taken", mend)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    assert_refused(start(tmp_path, {}), str(tmp_path / "headgate.yaml"))


def test_r53_a_damaged_state_is_one_clear_line_and_is_kept(tmp_path: Path) -> None:
    state = tmp_path / ".headgate"
    state.mkdir(mode=0o700)
    (state / "state.db").write_bytes(b"not a database at all" * 100)
    (state / "state.db").chmod(0o600)
    document = complete(one_backend("http://127.0.0.1:9"), {})
    assert_refused(start(tmp_path, document), "state.db")
    assert (state / "state.db").read_bytes() == b"not a database at all" * 100


def test_a_state_directory_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / ".headgate").touch()
    document = complete(one_backend("http://127.0.0.1:9"), {})
    assert_refused(start(tmp_path, document), f"{tmp_path}/.headgate", "--state-dir")


async def test_a_token_that_is_made_is_printed_once(tmp_path: Path) -> None:
    async with origins(1) as (origin,):
        admin = f"0.0.0.0:{free_port()}"
        gateway = Gateway(tmp_path, complete(one_backend(origin), {"admin": admin}), {})
        await gateway.start()
        token_file = tmp_path / "state" / "token"
        token = token_file.read_text().strip()
        assert token_file.stat().st_mode & 0o777 == 0o600
        await gateway.logged(token)
        assert gateway.log_text().count(token) == 1
        refused = await gateway.admin("GET", "/admin/v1/table")
        assert refused.status == 401
        bearer = [("Authorization", f"Bearer {token}")]
        assert (await gateway.admin("GET", "/admin/v1/table", headers=bearer)).status == 200
        assert re.fullmatch(r"[0-9a-f]{16}", refused.json()["request_id"])
        assert await stopped(gateway) == 0
        await gateway.start()
        await eventually(lambda: gateway.log_text().count("headgate is ready") == 2)
        assert gateway.log_text().count(token) == 1, "the second start finds it where it is"
        assert await stopped(gateway) == 0


async def stopped(gateway: Gateway) -> int:
    await gateway.client.close()
    assert gateway.process is not None
    gateway.process.terminate()
    return await asyncio.wait_for(gateway.process.wait(), 60)


async def test_r68_a_stop_during_the_start_is_clean(tmp_path: Path) -> None:
    document = complete(one_backend("http://127.0.0.1:9"), {})
    for after_s in (0.05, 0.3, 0.6, 1.0):
        gateway = Gateway(tmp_path, document, {})
        gateway.file.write_text(yaml.safe_dump(document))
        with gateway.log.open("ab") as log:
            gateway.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "gateway", str(gateway.file)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        await asyncio.sleep(after_s)
        below = descendants(gateway.process.pid)
        gateway.process.terminate()
        code = await asyncio.wait_for(gateway.process.wait(), 60)
        assert code in (0, -signal.SIGTERM), gateway.log_text()
        assert "Traceback" not in gateway.log_text()
        await eventually(lambda below=below: not any(alive(pid) for pid in below))


@pytest.mark.parametrize(("number", "lame_s"), [(signal.SIGTERM, 1), (signal.SIGINT, 90)])
async def test_ctrl_c_needs_no_lame_duck(number: signal.Signals, lame_s: int) -> None:
    """A person waits for the prompt; after SIGTERM a balancer in front must learn of it."""
    async with origins(1) as (origin,):
        document = one_backend(origin)
        async with running_gateway(document, check_end=False, lame_duck=f"{lame_s}s") as gateway:
            assert gateway.process is not None
            begun = time.monotonic()
            gateway.process.send_signal(number)
            took_s = await gateway.ended(0, begun, 60)
            assert (took_s >= lame_s) is (number == signal.SIGTERM)


async def test_the_state_is_whole_after_every_kill() -> None:
    async with origins(2) as (one, other):
        async with running_gateway(two_backends(one, other), check_end=False) as gateway:
            answer = await gateway.set_weights("all", {"a": 3, "b": 4})
            kill_all(gateway.family())
            with sqlite3.connect(gateway.folder / "state" / "state.db") as db:
                ((newest,),) = db.execute("SELECT number FROM head").fetchall()
            assert newest == answer["revision"]


async def test_another_file_beside_the_first_does_not_inherit_its_live_edits(
    tmp_path: Path,
) -> None:
    split = {"one": 90, "other": 10}
    table = {
        "backends": {name: {"instances": []} for name in split},
        "routes": {"r": {"match": "/", "split": split}},
    }
    said = {}
    for name, weights in (("a.yaml", {"one": 50, "other": 50}), ("b.yaml", {}), ("a.yaml", {})):
        document = complete(table, {"access_log": "off"})
        (tmp_path / name).write_text(yaml.safe_dump(document))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "gateway", name, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        admin = AdminClient(f"http://{document['gateway']['admin']}", None)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_S):
                while b"admin" not in await process.stdout.readline():
                    pass
            if weights:
                await asyncio.to_thread(admin.set_weights, "r", weights)
            said[name] = (await asyncio.to_thread(admin.table))["routes"]["r"]["split"]
        finally:
            process.terminate()
            _, errors = await process.communicate()
        said[f"{name} said"] = errors.decode()
    assert said["b.yaml"] == split
    assert "belongs to a.yaml" in said["b.yaml said"]
    assert said["a.yaml"] == {"one": 50, "other": 50}
    assert "live edits of route r are kept" in said["a.yaml said"]
