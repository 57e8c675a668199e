"""What only a whole gateway can show: R58, R65, R66, on real processes."""

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import yaml

from tests.harness.full_disk import NO_BYTECODE
from tests.harness.gateway import (
    HUNG_S,
    ROOT,
    Gateway,
    backend,
    complete,
    eventually,
    running_gateway,
)
from tests.harness.load import failures, get_each, open_loop
from tests.harness.origins import after, origins, raw
from tests.harness.ports import free_port

TOKEN = "canary-token-0123456789-0123456789-0123456789"
BEARER = [("Authorization", f"Bearer {TOKEN}")]
SECRET = "canary-secret-9876543210"
SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


def one_route(*instances: Any) -> dict[str, Any]:
    return {
        "backends": {"a": backend(*instances)},
        "routes": {"r": {"match": "/", "split": {"a": 1}}},
    }


@pytest.mark.parametrize(
    ("seconds", "rate"),
    [(6, 20), pytest.param(600, 50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
async def test_r58_the_data_plane_serves_on_without_control_and_state(
    seconds: int, rate: int
) -> None:
    async with (
        origins(1, after(0.005)) as (origin,),
        running_gateway(one_route(origin), check_end=False, workers=2) as gateway,
    ):
        await gateway.set_weights("r", {"a": 5})
        # On a busy machine each start of a control process takes the processors from the others:
        # the limit is there for what hangs, not for what is late.
        load = asyncio.create_task(open_loop(gateway.url, rate, seconds, get_each, timeout=60))
        await asyncio.sleep(1)
        shutil.rmtree(gateway.folder / "state")
        for _ in range(3):
            for process in gateway.family():
                if "_control" in _words(process):
                    process.send_signal(signal.SIGKILL)
            assert (await gateway.client.get(f"{gateway.url}/without", timeout=60)).ok
            await asyncio.sleep(1)
        # An empty table is never made up.
        await eventually(lambda: "state.db is gone" in gateway.log_text(), what="it is told")
        replies = await load
        assert failures(replies) == []
        assert len(replies) >= rate * seconds * 0.95
        assert seconds > 60 or len(gateway.log_text().splitlines()) < 30


def _words(process: Any) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


async def test_r65_secrets_are_found_nowhere_afterwards() -> None:
    async with (
        origins(1) as (origin,),
        running_gateway(
            one_route(origin), up=False, check_end=False, env={"HEADGATE_TOKEN": TOKEN}
        ) as gateway,
    ):
        seen: list[bytes] = []
        for headers in (BEARER, [("Authorization", f"Bearer {SECRET}")], [("Cookie", SECRET)]):
            for method, path, body in (
                ("GET", f"/admin/v1/table?token={SECRET}", None),
                ("PATCH", "/admin/v1/routes/r/weights", {SECRET + "!": 1}),
                ("PUT", "/admin/v1/routes/x", {"match": SECRET}),
                ("GET", "/metrics", None),
                ("GET", "/admin/v1/status", None),
                ("GET", "/admin/v1/history", None),
            ):
                reply = await gateway.admin(method, path, body, headers)
                shown = reply.body.decode()
                # What the caller itself sent may be named to it; nothing else may.
                seen.append(shown.encode() if body is None else b"")
        for n in range(50):
            await gateway.client.get(
                f"{gateway.url}/{n}?password={SECRET}", headers=[("Cookie", SECRET), *BEARER]
            )
        await _malformed(gateway.data_port)
        await _malformed(gateway.admin_port)
        await asyncio.sleep(1.5)
        texts = {str(n): text for n, text in enumerate(seen)}
        for file in gateway.folder.rglob("*"):
            if file.is_file() and file != gateway.file:
                with suppress(FileNotFoundError):  # it took the place of another one meanwhile
                    texts[str(file)] = file.read_bytes()
        for process in gateway.family():
            texts[f"cmdline {process.pid}"] = " ".join(_words(process)).encode()
        for where, text in texts.items():
            assert TOKEN.encode() not in text, where
            assert SECRET.encode() not in text, where
        for name in ("state.db", "lock"):
            assert (gateway.folder / "state" / name).stat().st_mode & 0o777 == 0o600


async def _malformed(port: int) -> None:
    for _ in range(100):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /{SECRET} HTTP/1.1\r\nHost: a\r\nX: {SECRET}\x01\r\n\r\n".encode())
        answer = await reader.read(4096)
        assert b"Traceback" not in answer
        assert SECRET.encode() not in answer
        writer.close()


async def test_r65_a_flood_of_malformed_requests_writes_few_lines() -> None:
    async with (
        origins(1) as (origin,),
        running_gateway(one_route(origin), up=False, access_log="off") as gateway,
    ):
        before = len(gateway.log_text().splitlines())
        begun = time.monotonic()
        for _ in range(5):
            await _malformed(gateway.data_port)
            await _malformed(gateway.admin_port)
        seconds = time.monotonic() - begun
        lines = len(gateway.log_text().splitlines()) - before
        assert lines <= 10 * (seconds + 1)


async def _refused(folder: Path, *, arguments: list[str] = [], **settings: Any) -> str:
    """What a gateway says that does not start."""
    file = folder / "headgate.yaml"
    file.write_text(yaml.safe_dump(complete({}, settings)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, "-m", "gateway", "gateway", str(file),
        "--state-dir", str(folder / "state"),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), HUNG_S)
    assert process.returncode == 1, output
    return output.decode()


async def test_r66_switched_off_checks_stop_the_start(tmp_path: Path) -> None:
    said = await _refused(tmp_path, arguments=["-O"])
    assert "python -O" in said
    assert len(said.splitlines()) == 1


async def test_r66_r59_a_short_token_stops_the_start(tmp_path: Path) -> None:
    said = await _refused(tmp_path, token="short")
    assert "at least 32 characters" in said
    assert "Traceback" not in said


async def test_r66_r59_an_empty_token_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_TOKEN", "")
    said = await _refused(tmp_path)
    assert said == (
        f"headgate: {tmp_path}/headgate.yaml: gateway/token: "
        "is empty; unset the variable, and what the file says holds; set by HEADGATE_TOKEN\n"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[Gateway]:
    """A gateway that wants TOKEN, for tests that change nothing of it."""
    async with (
        origins(1) as (origin,),
        running_gateway(one_route(origin), env={"HEADGATE_TOKEN": TOKEN}, up=False) as gateway,
    ):

        async def served() -> bool:
            return (await gateway.client.get(f"{gateway.url}/")).ok

        await eventually(served)
        yield gateway


@SHARED_LOOP
async def test_r54_a_second_gateway_on_the_state_of_one_that_runs_is_refused(
    guarded: Gateway,
) -> None:
    folder = guarded.folder
    (folder / "second").mkdir()
    (folder / "second" / "state").symlink_to(folder / "state")
    said = await _refused(folder / "second")
    assert guarded.process is not None
    holder = guarded.process.pid
    assert said.startswith(f"headgate: state directory {folder}/second/state is in use")
    assert said.endswith(f"by another gateway (process {holder})\n")
    assert len(said.splitlines()) == 1
    assert (await guarded.admin("GET", "/admin/v1/table", headers=BEARER)).status == 200


@SHARED_LOOP
async def test_r59_guesses_are_counted_and_shut_no_right_token_out(guarded: Gateway) -> None:
    async def asked_from(host: str, token: str) -> int:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", guarded.admin_port, local_addr=(host, 0)
        )
        writer.write(
            b"GET /admin/v1/table HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Authorization: Bearer %b\r\nConnection: close\r\n\r\n" % token.encode()
        )
        status = (await reader.read()).split()[1]
        writer.close()
        return int(status)

    answers = [await asked_from("127.0.0.2", "x" * 40) for _ in range(21)]
    assert answers == [401] * 20 + [429]
    for host in ("127.0.0.2", "127.0.0.3"):
        assert await asked_from(host, TOKEN) == 200
    await guarded.logged("too many wrong tokens from 127.0.0.2")
    assert guarded.log_text().count("too many wrong tokens from 127.0.0.2") == 1


@SHARED_LOOP
async def test_r59_the_data_listener_serves_nothing_of_the_admin_api(guarded: Gateway) -> None:
    (instance,) = guarded.document["backends"]["a"]["instances"]
    for path in ("/admin/v1/table", "/metrics", "/livez", "/docs", "/", "/dashboard/main.js"):
        for method in ("GET", "DELETE"):
            url = f"{guarded.url}{path}"
            reply = await guarded.client.request(method, url, headers=BEARER)
            assert f"http://{reply.header('x-headgate-instance')}" == instance, path


async def test_r61_where_an_instance_redirects_to_nobody_goes() -> None:
    async with origins(2) as (origin, elsewhere):
        there = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        origin.respond = raw(there.encode())
        async with running_gateway(one_route(origin)) as gateway:
            reply = await gateway.client.get(f"{gateway.url}/x")
            assert (reply.status, reply.header("location")) == (307, f"{elsewhere.url}/")
            origin.answer_probe = lambda connection, target: connection.write(there.encode())

            async def not_well() -> bool:
                return await gateway.health("a") == {origin.address: "failing"}

            await eventually(not_well)
        assert elsewhere.connections == []


@SHARED_LOOP
async def test_r66_a_state_that_others_can_read_stops_the_start(
    guarded: Gateway, tmp_path: Path
) -> None:
    shutil.copytree(guarded.folder / "state", tmp_path / "state")
    (tmp_path / "state" / "state.db").chmod(0o644)
    said = await _refused(tmp_path)
    assert "chmod 600" in said
    assert "Traceback" not in said


async def test_a_start_on_a_full_disk_names_the_state_directory(tmp_path: Path) -> None:
    file, state = tmp_path / "headgate.yaml", tmp_path / "state"
    listeners = {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    file.write_text(yaml.safe_dump({"gateway": listeners, **one_route("http://127.0.0.1:9")}))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", "gateway", str(file), "--state-dir", str(state)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **NO_BYTECODE},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    said = f"headgate: state directory {state}: {os.strerror(errno.EFBIG)}\n"
    assert (done.returncode, done.stderr) == (1, said)
