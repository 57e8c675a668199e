"""`headgate up` as a user runs it: real instances, real signals, and nothing left behind."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.gateway import ROOT, START_S, Gateway, complete, eventually
from tests.harness.origins import origins
from tests.harness.ports import free_port

from .waiting import alive, descendants, leave_nothing, words

MODELS = """
import subprocess
import time

class Square:
    def setup(self, device):
        pass

    def predict(self, x):
        return {"result": x["input"] ** 2}

class Slow(Square):
    def setup(self, device):
        time.sleep(600)

class Daemon(Square):
    def setup(self, device):
        daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("daemon", daemon.pid, flush=True)

class Broken(Square):
    def setup(self, device):
        raise FileNotFoundError("no weights in weights.pt")
"""


class Up(Gateway):
    """`headgate up` in `folder`, started from elsewhere."""

    async def run(self) -> asyncio.subprocess.Process:
        """Starts the command without waiting for it to be ready."""
        (self.folder / "models.py").write_text(MODELS)
        self.file.write_text(yaml.safe_dump(dict(self.document), sort_keys=False))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "up", str(self.file)),
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    async def start(self) -> None:
        await self.run()
        await eventually(self.answers, START_S, "both listeners answer")
        await eventually(self.is_well, what="what was started is known, and well")
        self.family()

    async def is_well(self) -> bool:
        """Whether it is known which processes there are, and all that get requests are up: an
        instance that is slow to answer is no part of the first look, nor of who is ready."""
        status = await self.status()
        backends = status["backends"].values()
        health = {each["health"] for one in backends for each in one["instances"].values()}
        return bool(status["fleet"]["revision"]) and health <= {"up"}


def document(*models: str, port: int = 0) -> dict[str, Any]:
    names = [model.partition(":")[2].lower() for model in models]
    backends = {
        name: {
            "instances": [f"http://127.0.0.1:{port or free_port()}"],
            "serve": {"model": model},
        }
        for name, model in zip(names, models, strict=True)
    }
    routes = {
        name: {"match": f"/{name}", "rewrite": "/predict", "split": {name: 1}} for name in names
    }
    return complete({"backends": backends, "routes": routes}, {})


@asynccontextmanager
async def up(folder: Path, *models: str, port: int = 0) -> AsyncIterator[Up]:
    it = Up(folder, document(*models, port=port), {})
    try:
        yield it
    finally:
        await leave_nothing(it)


async def everybody(it: Up) -> list[int]:
    """All processes of a command that is up: gateway, control, worker, instance and its own."""
    assert it.process is not None
    pids = [it.process.pid, *descendants(it.process.pid)]
    assert len(pids) >= 5, [words(pid) for pid in pids]
    return pids


async def test_a_model_beside_the_file_is_served_and_sigterm_stops_it_all(tmp_path: Path) -> None:
    async with up(tmp_path, "models:Square") as it:
        await it.start()
        answer = await it.client.json("POST", f"{it.url}/square", {"input": 3})
        assert answer.json() == {"result": 9}
        pids = await everybody(it)
        assert it.process is not None
        it.process.terminate()
        assert await asyncio.wait_for(it.process.wait(), 60) == 0
        assert not any(alive(pid) for pid in pids)
        assert "Traceback" not in it.log_text()


async def test_ctrl_c_reaches_everybody_only_through_the_command(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group."""
    async with up(tmp_path, "models.py:Square") as it:
        await it.start()
        pids = await everybody(it)
        assert it.process is not None
        os.killpg(it.process.pid, signal.SIGINT)
        assert await asyncio.wait_for(it.process.wait(), 60) == 0
        assert not any(alive(pid) for pid in pids)
        assert "Traceback" not in it.log_text()


async def test_kill_9_of_the_command_leaves_nobody_behind(tmp_path: Path) -> None:
    async with up(tmp_path, "models:Square") as it:
        await it.start()
        pids = await everybody(it)
        assert it.process is not None
        it.process.kill()
        await eventually(lambda: not any(alive(pid) for pid in pids))


async def test_what_a_killed_run_left_behind_is_ended_by_the_next(tmp_path: Path) -> None:
    def daemons(of: Up) -> set[int]:
        return {int(pid) for pid in re.findall(r"\| daemon (\d+)", of.log_text())}

    async with up(tmp_path, "models:Daemon") as it:
        await it.start()
        (left,) = daemons(it)
        assert it.process is not None
        it.process.kill()
        await it.process.wait()
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / ".headgate", copy / ".headgate")
        async with up(copy, "models:Daemon") as other:
            await other.start()
            assert alive(left)
            await it.start()
            assert not alive(left)
            assert "ended 1 process that models of the run before left behind" in it.log_text()
            assert all(map(alive, daemons(other)))
            await other.stop()
        await it.stop()
        assert not any(map(alive, daemons(it) | daemons(other)))


async def test_an_instance_that_is_killed_serves_again(tmp_path: Path) -> None:
    async with up(tmp_path, "models:Square") as it:
        await it.start()
        port = it.document["backends"]["square"]["instances"][0].rpartition(":")[2]
        command = ["--port", port]
        # Beside the instance there may be one, short of life, that describes the routes.
        (victim,) = [pid for pid in await everybody(it) if words(pid)[7:9] == command]
        os.kill(victim, signal.SIGKILL)

        async def answers() -> bool:
            return (await it.client.json("POST", f"{it.url}/square", {"input": 3})).status == 200

        await eventually(lambda: not alive(victim))
        await eventually(answers)
        await it.logged("was ended by SIGKILL; starting it again")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:Broken", ["model models:Broken", "no weights in weights.pt"]),
        ("models:Missing", ["model models:Missing"]),
        ("nowhere.models:Missing", ["model nowhere.models:Missing", "nowhere"]),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_one_clear_line(
    tmp_path: Path, model: str, words: list[str]
) -> None:
    async with up(tmp_path, "models:Square", model) as it:
        process = await it.run()
        below: set[int] = set()

        async def ended() -> bool:
            below.update(descendants(process.pid))
            return process.returncode is not None

        await eventually(ended, 60)
        assert process.returncode == 1, it.log_text()
        assert not any(alive(pid) for pid in below)
        refusals = [line for line in it.log_text().splitlines() if line.startswith("headgate: ")]
        assert len(refusals) == 1, it.log_text()
        assert all(word in refusals[0] for word in words), refusals
        assert "Traceback" not in it.log_text()


async def test_a_stop_while_models_load_is_clean(tmp_path: Path) -> None:
    async with up(tmp_path, "models:Slow") as it:
        process = await it.run()
        await eventually(lambda: len(descendants(process.pid)) >= 2)
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert not any(alive(pid) for pid in below)
        assert "Traceback" not in it.log_text()


async def test_an_instance_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    async with origins(1) as (origin,):
        port = int(origin.url.rpartition(":")[2])
        async with up(tmp_path, "models:Square", port=port) as it:
            process = await it.run()
            assert await asyncio.wait_for(process.wait(), 60) == 1
            (line,) = it.log_text().strip().splitlines()
            assert line == (
                f"headgate: backend square: cannot listen on 127.0.0.1:{port}: "
                "the port is taken by another program"
            )
