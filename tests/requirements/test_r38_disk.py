"""R38: a disk that fails refuses the edit and nothing else, whatever way it fails in."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

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
from tests.harness.load import failures, get_each, open_loop
from tests.harness.origins import after, one_origin

SHIM = Path(__file__).parents[1] / "harness" / "failing_disk.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
WEIGHTS = "/admin/v1/routes/all/weights"
FAULTS = [
    ("w", errno.EIO, 500, "store_failed", "Input/output error"),
    ("s", errno.EIO, 500, "store_failed", "Input/output error"),
    ("wo", errno.EROFS, 500, "store_failed", "Read-only file system"),
    ("w", errno.ENOSPC, 507, "store_full", "No space left on device"),
    ("w", errno.EDQUOT, 507, "store_full", "Disk quota exceeded"),
]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, to fail calls")


def can_mount() -> bool:
    """Whether a test may give the gateway file systems of its own."""
    return os.geteuid() == 0 and os.system("unshare -m true 2>/dev/null") == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a file system")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes the calls on the state's files fail as a file says."""
    library = tmp_path_factory.mktemp("shim") / "failing_disk.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return library


async def edit(gateway: Gateway, weight: int) -> tuple[int, dict]:
    reply = await gateway.admin("PUT", WEIGHTS, {"main": weight})
    return reply.status, reply.json()


async def configured(gateway: Gateway) -> tuple[int, int]:
    """The revision, and the weight it gives."""
    table = (await gateway.admin("GET", "/admin/v1/table")).json()
    return table["revision"], table["routes"]["all"]["split"]["main"]


@needs_compiler
async def test_r38_each_fault_of_the_disk_refuses_edits_and_no_request(
    shim: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    env = {"LD_PRELOAD": str(shim), "HEADGATE_TEST_DISK": str(disk)}
    async with one_origin(after(0.002)) as origin:
        async with running_gateway(one_backend(origin), env=env) as gateway:
            load = asyncio.create_task(open_loop(gateway.url, 50, 4, get_each, timeout=60))
            for weight, (calls, error, status, code, words) in enumerate(FAULTS, 2):
                disk.write_text(f"{calls} {error}")
                before = await configured(gateway)
                for _ in range(3):
                    refused, problem = await edit(gateway, 1000)
                    assert (refused, problem["code"]) == (status, code)
                    assert words in problem["detail"]
                    assert "nothing was changed" in problem["detail"]
                    assert str(gateway.folder) not in str(problem)
                assert await configured(gateway) == before
                disk.write_text("")
                assert (await edit(gateway, weight))[0] == 200, "at the first try"
                assert await configured(gateway) == (before[0] + 1, weight)
            assert failures(await load) == []
            assert not list(gateway.folder.glob("**/*.trial"))


@needs_compiler
async def test_r38_a_refused_edit_does_not_come_back_with_the_next_start(
    shim: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    env = {"LD_PRELOAD": str(shim), "HEADGATE_TEST_DISK": str(disk)}
    async with one_origin() as origin:
        async with running_gateway(one_backend(origin), env=env) as gateway:
            assert (await edit(gateway, 5))[0] == 200
            last = await configured(gateway)
            disk.write_text(f"s {errno.EIO}")
            assert (await edit(gateway, 1000))[0] == 500
            killed = await gateway.control_pid()
            os.kill(killed, signal.SIGKILL)
            disk.write_text("")

            async def another_control() -> bool:
                reply = await gateway.admin("GET", "/admin/v1/status")
                return reply.status == 200 and reply.json()["control"]["pid"] != killed

            await eventually(another_control)
            assert await configured(gateway) == last


# The last word of the command is the state directory.
SMALL_DISK = """
for state; do :; done
mkdir -m 700 "$state" && mount -t tmpfs -o size=256k,mode=700 none "$state" && exec "$0" "$@"
"""
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@needs_mounts
async def test_r38_a_disk_that_is_full_refuses_edits_until_there_is_room() -> None:
    prefix = ("unshare", "-m", "sh", "-c", SMALL_DISK)
    async with one_origin(after(0.002)) as origin:
        async with running_gateway(one_backend(origin), prefix=prefix) as gateway:
            load = asyncio.create_task(open_loop(gateway.url, 50, 3, get_each, timeout=60))
            seen_from_here = f"/proc/{await gateway.control_pid()}/root{gateway.folder}"
            filler = Path(seen_from_here) / "state" / "filler"
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(1 << 20))
            weight, status = 1, 200
            while status == 200:
                weight += 1
                assert weight < 1000
                status, answer = await edit(gateway, weight)
            assert (status, answer["code"]) == (507, "store_full")
            assert "No space left on device" in answer["detail"]
            assert (await configured(gateway))[1] == weight - 1
            filler.unlink()
            assert (await edit(gateway, 7777))[0] == 200
            assert failures(await load) == []


@needs_mounts
def test_r38_a_start_on_a_read_only_state_directory_says_so_in_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    file = tmp_path / "headgate.yaml"
    file.write_text(yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), {})))
    command = [sys.executable, "-m", "gateway", "gateway", str(file), "--state-dir", str(state)]
    prefix = ["unshare", "-m", "sh", "-c", READ_ONLY, str(state)]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    why = f"headgate: state directory {state}: Read-only file system; "
    (line,) = done.stderr.splitlines()
    assert line == f"{why}--state-dir (HEADGATE_STATE_DIR) names another"
