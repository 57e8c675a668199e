"""Nothing outlives its parent, whatever ends the parent: real processes, killed with -9."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.processes.lifeline import Lifeline

from .waiting import alive, until

ROOT = Path(__file__).parents[2]

PARENT = """
import os, subprocess, sys
from gateway.processes.lifeline import Lifeline
lifeline = Lifeline()
child = subprocess.Popen(
    sys.argv[1:], pass_fds=[lifeline.fd], env={**os.environ, **lifeline.environment},
    start_new_session=True,
)
print(child.pid, flush=True)
child.wait()
"""

STUBBORN = """
import signal, time
from gateway.processes.lifeline import tie
tie()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("tied", flush=True)
time.sleep(600)
"""


def start_parent(*command: str) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


async def end(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    await asyncio.to_thread(parent.wait)
    if parent.stdout is not None:
        parent.stdout.close()


async def test_a_tied_process_ends_when_its_parent_is_killed() -> None:
    parent, child = start_parent(sys.executable, "-c", STUBBORN)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "tied\n"
    await end(parent)
    await until(lambda: not alive(child))


async def test_a_program_that_knows_nothing_of_lifelines_ends_too() -> None:
    parent, child = start_parent(sys.executable, "-m", "gateway", "_tied", "sleep", "600")
    await until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    await end(parent)
    await until(lambda: not alive(child))


async def test_the_pipe_alone_is_enough() -> None:
    """As on systems whose kernel has no such tie."""
    lifeline = Lifeline()
    source = STUBBORN.replace("tie()", "import sys; sys.platform = 'other'; tie()", 1)
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        pass_fds=[lifeline.fd],
        env={**os.environ, **lifeline.environment},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tied\n"
    lifeline.close()
    assert await asyncio.to_thread(process.wait, 60) == 1
    process.stdout.close()


async def test_who_comes_after_the_parent_has_gone_does_not_stay() -> None:
    lifeline = Lifeline()
    environment = {**os.environ, **lifeline.environment, "HEADGATE_PARENT": "1"}
    begun = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", STUBBORN],
        pass_fds=[lifeline.fd],
        env=environment,
        cwd=ROOT,
        timeout=90,
        check=False,
    )
    lifeline.close()
    assert process.returncode == 1
    assert time.monotonic() - begun < 60, "it would stay for ten minutes"


async def test_a_process_without_a_lifeline_is_left_alone() -> None:
    code = "from gateway.processes.lifeline import tie; tie(); print('on its own')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "on its own\n")


def test_a_stop_is_no_death() -> None:
    """SIGTERM still reaches a tied process as itself."""
    parent, child = start_parent(sys.executable, "-m", "gateway", "_tied", "sleep", "600")
    os.kill(child, signal.SIGTERM)
    assert parent.wait(60) == 0
    assert parent.stdout is not None
    parent.stdout.close()


@pytest.mark.parametrize(
    ("mode", "why"), [(None, "no such file or directory"), (0o644, "permission denied")]
)
def test_a_program_that_cannot_be_run_is_named_in_a_line(
    tmp_path: Path, mode: int | None, why: str
) -> None:
    """It is the last that is heard of an instance whose `serve.python` is wrong."""
    program = tmp_path / "python"
    if mode is not None:
        program.touch(mode)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "_tied", str(program), "-V"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"{program} cannot be run: {why}\n")
