"""Instances of `headgate up`: what is planned, and what becomes of real processes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.table import Table
from gateway.processes.sockets import bind, listen
from gateway.up.fleet import Fleet, StartError
from gateway.up.plan import InstancePlan, ServeError, deal, find_model, plan
from gateway.up.progress import Plain

from .waiting import alive, until

FAKE = Path(__file__).with_name("fake_instance.py")


def table(**backends: Any) -> Table:
    return Table.from_document({"backends": backends, "routes": {}}, 1)


def served(*devices: str, ports: tuple[int, ...] = (8001,), **serve: Any) -> dict[str, Any]:
    return {
        "instances": [f"http://127.0.0.1:{port}" for port in ports],
        "serve": {
            "model": "models:Linear",
            **({"devices": list(devices)} if devices else {}),
            **serve,
        },
    }


def options(serving: InstancePlan) -> dict[str, str]:
    at = serving.argv.index("--host")
    return dict(zip(serving.argv[at::2], serving.argv[at + 1 :: 2], strict=True))


def test_an_instance_is_started_as_its_backend_says() -> None:
    spec = served("cpu", max_batch_size=8, batch_timeout="2ms", max_queue=64, path="/v1/square")
    (serving,) = plan(table(a=spec), Path("/f/headgate.yaml"), Path("/f"), 4)
    assert serving.argv[:5] == (sys.executable, "-P", "-m", "instance", "models:Linear")
    assert options(serving) == {
        "--host": "127.0.0.1",
        "--port": "8001",
        "--device": "cpu",
        "--threads": "4",
        "--max-batch-size": "8",
        "--batch-timeout": "2ms",
        "--max-queue": "64",
        "--path": "/v1/square",
    }


def test_backends_without_serve_are_left_to_others() -> None:
    both = table(a=served(), b={"instances": ["http://10.0.0.1:80"]})
    assert [serving.backend for serving in plan(both, Path("f"), Path(), 1)] == ["a"]


@pytest.mark.parametrize(
    ("devices", "instances", "dealt"),
    [
        ((), 1, [("auto",)]),
        (("cuda:0", "cuda:1"), 1, [("cuda:0", "cuda:1")]),
        (("cuda:0", "cuda:1"), 2, [("cuda:0",), ("cuda:1",)]),
        (("cuda:0", "cuda:1", "cuda:2"), 2, [("cuda:0", "cuda:2"), ("cuda:1",)]),
        (("cpu",), 3, [("cpu",), ("cpu",), ("cpu",)]),
    ],
)
def test_devices_are_dealt_in_turn(
    devices: tuple[str, ...], instances: int, dealt: list[tuple[str, ...]]
) -> None:
    spec = served(*devices, ports=tuple(range(8001, 8001 + instances)))
    assert [each for _, each in deal(table(a=spec).backends["a"])] == dealt


def test_processes_that_compute_share_the_cpus() -> None:
    both = table(a=served(ports=(1, 2)), b=served("cpu", ports=(3,), workers=2))
    threads = {options(serving)["--threads"] for serving in plan(both, Path("f"), Path(), 8)}
    assert threads == {"2"}


def test_a_name_that_is_many_addresses_cannot_be_started_here() -> None:
    spec = {"instances": ["dns+http://model:80"], "serve": {"model": "m:M"}}
    with pytest.raises(ServeError, match=r"dns\+http://model:80 cannot be started here"):
        plan(table(a=spec), Path("f"), Path(), 1)


def test_a_module_is_found_from_where_one_works_then_from_the_file_upwards(tmp_path: Path) -> None:
    file = tmp_path / "repo" / "examples" / "digits" / "headgate.yaml"
    elsewhere = tmp_path / "elsewhere"
    file.parent.mkdir(parents=True)
    elsewhere.mkdir()
    model = "examples.digits.models:Linear"
    assert find_model(model, file, elsewhere) == (model, tmp_path / "repo")
    (elsewhere / "examples").mkdir()
    assert find_model(model, file, elsewhere) == (model, elsewhere)
    assert find_model("installed.models:M", file, elsewhere) == ("installed.models:M", elsewhere)
    (file.parent / "models.py").touch()
    beside = file.parent / "models.py"
    assert find_model("models.py:M", file, elsewhere) == (f"{beside}:M", file.parent)
    assert find_model("models:M", file, elsewhere) == ("models:M", file.parent)


def free_port() -> int:
    (bound,) = bind("127.0.0.1:0")
    with bound:
        return int(bound.getsockname()[1])


def serving(model: str, port: int | None = None) -> InstancePlan:
    (planned,) = plan(table(a=served(ports=(port or free_port(),))), Path("f"), Path(), 1)
    argv = (sys.executable, str(FAKE), model, *planned.argv[5:])
    return InstancePlan(
        planned.backend, model, planned.instance, planned.devices, argv, (), planned.health_path
    )


class Running:
    def __init__(self, *models: str, progress: type[Plain] = Plain) -> None:
        self.shown: list[str] = []
        self.said: list[str] = []
        self.plans = [serving(model) for model in models]
        self.fleet = Fleet(self.plans, progress(self.shown.append), self.said.append)
        self.hurry = asyncio.Event()

    def pids(self) -> list[int]:
        return self.fleet.pids

    async def ask(self) -> int:
        port = self.plans[0].instance.port

        def get() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return int(answer.read().split()[0])

        return await asyncio.to_thread(get)


@contextlib.asynccontextmanager
async def running(*models: str, progress: type[Plain] = Plain) -> AsyncIterator[Running]:
    it = Running(*models, progress=progress)
    try:
        yield it
    finally:
        it.hurry.set()
        await it.fleet.stop(5, it.hurry)


async def test_a_fleet_has_started_when_every_instance_is_ready() -> None:
    async with running("one:Model", "two:Model") as it:
        await it.fleet.start()
        assert await it.ask() in it.pids()
        starting = [line for line in it.shown if line.startswith("starting")]
        assert len(starting) == 2
        assert len([line for line in it.shown if line.startswith("ready")]) == 2
        assert starting[0].endswith("one:Model on auto")
        name = f"a:{it.plans[0].instance.port}"
        assert f"{name} | loaded" in it.shown
        # A line of the log stays one, and says whose it is.
        said = [json.loads(line) for line in it.shown if line.startswith("{")]
        assert {"time": "now", "event": "loaded", "instance": name} in said


async def test_an_instance_inherits_what_is_the_users_and_nothing_that_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HEADGATE_TOKEN", "HEADGATE_VIEWER_TOKEN", "HEADGATE_STATE_DIR", "MINE"):
        monkeypatch.setenv(name, "x" * 40)
    async with running("one:Model") as it:
        await it.fleet.start()
        port = it.plans[0].instance.port

        def variables() -> list[str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return answer.read().decode().split()[2:]

        names = await asyncio.to_thread(variables)
        assert "MINE" in names
        assert {"HEADGATE_TOKEN", "HEADGATE_VIEWER_TOKEN", "HEADGATE_STATE_DIR"}.isdisjoint(names)


async def test_a_model_that_cannot_be_loaded_is_one_line_that_names_it() -> None:
    async with running("one:Model", "missing:Model") as it:
        with pytest.raises(StartError) as refused:
            await it.fleet.start()
        assert str(refused.value) == (
            "backend a: model missing:Model could not be started: no module named 'missing'"
        )
        pids = it.pids()
    assert not any(alive(pid) for pid in pids)


async def test_a_port_that_somebody_else_has_is_refused_before_anything_starts() -> None:
    (taken,) = bind("127.0.0.1:0")
    with taken:
        listen([taken])
        port = taken.getsockname()[1]
        fleet = Fleet([serving("one:Model", port)], Plain([].append), [].append)
        with pytest.raises(StartError, match=f"^backend a: cannot listen on 127.0.0.1:{port}: "):
            await fleet.start()
        await fleet.stop(1, asyncio.Event())


async def test_r24_an_instance_that_dies_is_started_again() -> None:
    async with running("one:Model") as it:
        await it.fleet.start()
        (first,) = it.pids()
        os.kill(first, signal.SIGKILL)

        async def answers() -> bool:
            with contextlib.suppress(OSError):
                return await it.ask() != first
            return False

        await until(answers, 10)
        assert it.said == [f"instance {it.plans[0].name} was ended by SIGKILL; starting it again"]


async def test_instances_are_asked_to_stop_and_killed_when_they_do_not() -> None:
    async with running("one:Model", "stubborn:Model") as it:
        await it.fleet.start()
        pids = it.pids()
        async with asyncio.timeout(5):
            await it.fleet.stop(0.5, it.hurry)
        assert not any(alive(pid) for pid in pids)


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    async with running("slow:Model") as it:
        start = asyncio.create_task(it.fleet.start())
        await until(lambda: bool(it.pids()))
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        pids = it.pids()
    assert pids
    assert not any(alive(pid) for pid in pids)
