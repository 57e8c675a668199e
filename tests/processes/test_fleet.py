"""Instances of `headgate up`: what is planned, and what becomes of real processes."""

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.placement import held, in_force, place, with_places
from gateway.core.table import Backend, Document, Instance, Table
from gateway.processes.sockets import ListenError, bind, listen
from gateway.up import ports
from gateway.up.device_table import DeviceTable
from gateway.up.fleet import StartError, follow
from gateway.up.local_fleet import LocalFleet
from gateway.up.plan import InstancePlan, ServeError, Site, deal, find_model
from gateway.up.progress import Plain
from tests.harness.gateway import ROOT
from tests.harness.ports import free_port

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


def plans(document: Table, cpus: int = 1) -> list[InstancePlan]:
    site = Site(Path("/f/headgate.yaml"), Path("/f"), cpus, {"TOKEN": "secret"})
    served = [each for each in document.backends.values() if each.serve is not None]
    threads = site.threads((each, len(each.instances)) for each in served)
    return [
        site.plan(backend, instance, index, len(backend.instances), threads)
        for backend in served
        for index, instance in enumerate(backend.instances)
    ]


def test_an_instance_is_started_as_its_backend_says() -> None:
    spec = served("cpu", max_batch_size=8, batch_timeout="2ms", max_queue=64, path="/v1/square")
    (serving,) = plans(table(a=spec), cpus=4)
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


def test_another_interpreter_runs_an_instance() -> None:
    (serving,) = plans(table(a=served("cpu", python="/opt/venv/bin/python", gpus=1, cpus=2)))
    assert serving.argv[:4] == ("/opt/venv/bin/python", "-P", "-m", "instance")
    assert not {"--python", "--gpus", "--cpus"} & set(serving.argv)


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
    backend = table(a=served(*devices)).backends["a"]
    assert [deal(backend, index, instances) for index in range(instances)] == dealt


def test_processes_that_compute_share_the_cpus() -> None:
    both = table(a=served(ports=(1, 2)), b=served("cpu", ports=(3,), workers=2))
    threads = {options(serving)["--threads"] for serving in plans(both, cpus=8)}
    assert threads == {"2"}


def test_what_a_class_and_its_process_are_given_goes_with_them() -> None:
    spec = served(
        args={"weights": "v2.pt"}, env={"A": "1", "B": {"env": "TOKEN"}}, threads=3, replicas=2
    )
    (planned,) = plans(table(a=spec))
    assert options(planned)["--args"] == '{"weights": "v2.pt"}'
    assert options(planned)["--threads"] == "3"
    assert "--replicas" not in planned.argv
    assert (planned.environment, planned.fault) == ((("A", "1"), ("B", "secret")), None)
    (planned,) = plans(table(a=served(env={"B": {"env": "GONE"}})))
    assert planned.fault == "env.B: GONE is not set where `headgate up` runs"


CHOOSES = """
import random, sys
from gateway.up import ports
ports.PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 1)
print(ports.choose((), random.Random()).port, flush=True)
sys.stdin.read()
"""


def other_fleet(script: str, port: int) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", script, str(port)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def test_a_port_that_another_fleet_has_chosen_is_nobody_elses_before_its_instance_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, chance = free_port(), random.Random()
    monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
    with other_fleet(CHOOSES, port) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == port
        with pytest.raises(ListenError, match="no free port was found"):
            ports.choose((), chance)
        other.kill()
    at = ports.choose((), chance).address
    with pytest.raises(ListenError, match="no free port was found"):
        ports.choose((at,), chance)
    assert ports.choose((), chance).address == at, "what is taken no more is there again"


KEEPS = """
import random, sys
from gateway.processes.sockets import ListenError, bind
from gateway.up import ports
port = int(sys.argv[1])
bound = bind(f"127.0.0.1:{port}")
ports.PORTS = range(port, port + 1)
ports.keep([port])
for _ in range(2):
    try:
        print(ports.choose((), random.Random()).address)
    except ListenError as error:
        print(error, flush=True)
sys.stdin.read()
"""


def test_a_port_that_the_gateway_has_bound_is_no_instances_before_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, chance = free_port(), random.Random()
    monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
    with other_fleet(KEEPS, port) as other:
        assert other.stdout is not None
        for _ in range(2):
            assert "no free port was found" in other.stdout.readline()
        with pytest.raises(ListenError, match="no free port was found"):
            ports.choose((), chance)
        other.kill()
    assert ports.choose((), chance).port == port


def test_a_name_that_is_many_addresses_cannot_be_started_here() -> None:
    spec = {"instances": ["dns+http://model:80"], "serve": {"model": "m:M"}}
    with pytest.raises(ServeError, match=r"dns\+http://model:80 cannot be started here"):
        plans(table(a=spec))


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


class FakeSite(Site):
    """Starts a script that only looks like an instance."""

    def plan(
        self,
        backend: Backend,
        instance: Instance,
        index: int,
        count: int,
        threads: int,
        devices: tuple[str, ...] = (),
    ) -> InstancePlan:
        planned = super().plan(backend, instance, index, count, threads, devices)
        argv = (sys.executable, str(FAKE), planned.model, *planned.argv[5:])
        return dataclasses.replace(planned, argv=argv, folders=())


class Running:
    """A fleet, and a stand-in for the control process that does all that it is asked."""

    def __init__(
        self,
        *models: str,
        port: int | None = None,
        progress: type[Plain] = Plain,
        table: DeviceTable | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shown: list[str] = []
        self.said: list[str] = []
        self.told: list[Any] = []
        self.document: Document = {
            "backends": {name: self.spec(model, port) for name, model in zip("abc", models)},
            "routes": {},
        }
        site = FakeSite(Path("f"), Path(), 1, {})
        self.fleet = LocalFleet(
            site, progress(self.shown.append), self.said.append, table=table, clock=clock
        )
        self.hurry = asyncio.Event()
        self.following: asyncio.Task[None] | None = None

    @staticmethod
    def spec(model: str, port: int | None = None) -> dict[str, Any]:
        return {
            "instances": [f"http://127.0.0.1:{port or free_port()}"],
            "serve": {"model": model},
        }

    @property
    def backends(self) -> dict[str, Any]:
        return dict(self.document["backends"])

    async def start(self) -> None:
        await self.fleet.start(self.backends)
        self.document = with_places(self.document, self.fleet.placed)
        self.fleet.attach(self.hear)
        self.following = asyncio.create_task(follow(self.fleet, self.hear))
        self.serve()

    async def stop(self) -> None:
        self.hurry.set()
        if self.following is not None:
            self.following.cancel()
        await self.fleet.stop(5, self.hurry)

    def serve(self) -> None:
        self.fleet.take({"type": "serves", "revision": 1, "backends": self.backends})

    def edit(self, **backends: Any) -> None:
        kept = {name: spec for name, spec in (self.backends | backends).items() if spec}
        self.document = held(self.document, {"backends": kept, "routes": {}})
        self.serve()

    def hear(self, message: Any) -> None:
        if message["type"] != "endpoints":  # they come from a stream of their own, at any moment
            self.told.append(message)
        if message["type"] == "place":
            self.document = place(
                self.document, message["backend"], message["version"], message["urls"]
            )
            asyncio.get_running_loop().call_soon(self.serve)
        elif message["type"] == "endpoints":
            settled = {**message, "type": "settled"}
            asyncio.get_running_loop().call_soon(self.fleet.take, settled)

    def state(self, name: str) -> str:
        return str(self.told[-1]["backends"][name]["state"])

    def pids(self) -> list[int]:
        return self.fleet.pids

    def port(self, name: str = "a") -> int:
        return int(in_force(self.backends[name])[0].rpartition(":")[2])

    async def ask(self) -> int:
        port = self.port()

        def get() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return int(answer.read().split()[0])

        return await asyncio.to_thread(get)


@contextlib.asynccontextmanager
async def running(
    *models: str,
    port: int | None = None,
    progress: type[Plain] = Plain,
    table: DeviceTable | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Running]:
    it = Running(*models, port=port, progress=progress, table=table, clock=clock)
    try:
        yield it
    finally:
        await it.stop()


async def test_a_fleet_has_started_when_every_instance_is_ready() -> None:
    async with running("one:Model", "two:Model") as it:
        await it.start()
        assert await it.ask() in it.pids()
        starting = [line for line in it.shown if line.startswith("starting")]
        assert len(starting) == 2
        assert len([line for line in it.shown if line.startswith("ready")]) == 2
        assert starting[0].endswith("one:Model on auto")
        name = f"a:{it.port()}"
        await until(lambda: f"{name} | loaded" in it.shown)
        # A line of the log stays one, and says whose it is.
        line = {"time": "now", "event": "loaded", "instance": name}
        await until(lambda: line in [json.loads(each) for each in it.shown if each[:1] == "{"])


async def test_an_instance_inherits_what_is_the_users_and_nothing_that_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HEADGATE_TOKEN", "HEADGATE_VIEWER_TOKEN", "HEADGATE_STATE_DIR", "MINE"):
        monkeypatch.setenv(name, "x" * 40)
    async with running("one:Model") as it:
        await it.start()
        port = it.port()

        def variables() -> list[str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return answer.read().decode().split()[2:]

        names = await asyncio.to_thread(variables)
        assert "MINE" in names
        assert {"HEADGATE_TOKEN", "HEADGATE_VIEWER_TOKEN", "HEADGATE_STATE_DIR"}.isdisjoint(names)


async def test_a_model_that_cannot_be_loaded_is_one_line_that_names_it() -> None:
    async with running("one:Model", "missing:Model") as it:
        with pytest.raises(StartError) as refused:
            await it.start()
        assert str(refused.value) == (
            "backend b: model missing:Model could not be started: no module named 'missing'"
        )
        pids = it.pids()
    assert not any(alive(pid) for pid in pids)


async def test_a_port_that_somebody_else_has_is_refused_before_anything_starts() -> None:
    (taken,) = bind("127.0.0.1:0")
    with taken:
        listen([taken])
        port = taken.getsockname()[1]
        async with running("one:Model", port=port) as it:
            words = f"^backend a: cannot listen on 127.0.0.1:{port}: "
            with pytest.raises(StartError, match=words):
                await it.start()


async def test_r24_an_instance_that_dies_is_started_again() -> None:
    async with running("one:Model") as it:
        await it.start()
        (first,) = it.pids()
        os.kill(first, signal.SIGKILL)

        async def answers() -> bool:
            with contextlib.suppress(OSError):
                return await it.ask() != first
            return False

        await until(answers)
        name = f"instance a (127.0.0.1:{it.port()})"
        await until(lambda: len(it.said) == 2)
        assert it.said[0] == f"{name} was ended by SIGKILL; starting it again"
        assert it.said[1].startswith(f"{name}: ready after ")


async def test_instances_are_asked_to_stop_and_killed_when_they_do_not() -> None:
    async with running("one:Model", "stubborn:Model") as it:
        await it.start()
        pids = it.pids()
        async with asyncio.timeout(30):
            await it.fleet.stop(0.5, it.hurry)
        assert not any(alive(pid) for pid in pids)


async def test_what_a_model_left_behind_holds_up_neither_its_restart_nor_our_end() -> None:
    async with running("daemon:Model") as it:
        await it.start()
        (pid,), words = it.pids(), f"a:{it.port()} | daemon "

        def daemons() -> list[int]:
            return [int(line.split()[-1]) for line in it.shown if line.startswith(words)]

        await until(lambda: len(daemons()) == 1)
        try:
            os.kill(pid, signal.SIGKILL)
            await until(lambda: "ready after" in it.said[-1] if it.said else False)
            assert "was ended by SIGKILL; starting it again" in it.said[0]
            await until(lambda: len(daemons()) == 2)
            assert [alive(daemon) for daemon in daemons()] == [False, True]
            async with asyncio.timeout(60):
                await it.fleet.stop(600, it.hurry)
            assert not any(alive(daemon) for daemon in daemons())
        finally:
            for daemon in filter(alive, daemons()):
                os.kill(daemon, signal.SIGKILL)


async def test_what_a_model_left_behind_ends_with_it_where_it_is_stopped_alone() -> None:
    async with running("one:Model", "daemon:Model") as it:
        await it.start()
        words = f"b:{it.port('b')} | daemon "

        def daemons() -> list[int]:
            return [int(line.split()[-1]) for line in it.shown if line.startswith(words)]

        await until(lambda: len(daemons()) == 1)
        it.edit(b=None)
        await until(lambda: not any(map(alive, daemons())))
        assert len(it.pids()) == 1


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    async with running("slow:Model") as it:
        start = asyncio.create_task(it.start())
        await until(lambda: bool(it.pids()))
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        pids = it.pids()
    assert pids
    assert not any(alive(pid) for pid in pids)


async def ready(it: Running, name: str = "a") -> None:
    await until(lambda: it.state(name) == "ready")


async def test_a_new_version_takes_the_place_of_the_old_one_when_it_is_ready() -> None:
    async with running("one:Model") as it:
        await it.start()
        (old,) = it.pids()
        it.edit(a={**it.backends["a"], "serve": {"model": "two:Model"}})
        assert it.state("a") == "starting"
        assert await it.ask() == old
        await ready(it)
        assert await it.ask() != old
        await until(lambda: not alive(old) and len(it.pids()) == 1)
        states = [
            process["state"] for message in it.told if message["type"] == "fleet"
            for process in message["backends"]["a"]["processes"]
        ]  # fmt: skip
        assert list(dict.fromkeys(states)) == ["ready", "starting", "stopping"]


async def test_none_of_a_backend_is_asked_for_and_then_one_again() -> None:
    async with running("one:Model") as it:
        await it.start()
        spec = {"serve": {"model": "two:Model"}}
        it.edit(b=spec)
        await ready(it, "b")
        (_, pid) = it.pids()
        it.edit(b={**it.backends["b"], "serve": {"model": "two:Model", "replicas": 0}})
        await until(lambda: it.state("b") == "stopped")
        await until(lambda: not alive(pid))
        assert not in_force(it.backends["b"])
        assert it.state("a") == "ready"
        places = sum(message["type"] == "place" for message in it.told)
        it.serve()
        assert sum(message["type"] == "place" for message in it.told) == places, "it rests"
        it.edit(b={**it.backends["b"], "serve": {"model": "two:Model", "replicas": 1}})
        await ready(it, "b")
        assert len(it.pids()) == 2


async def test_a_fleet_starts_with_a_backend_of_which_none_is_asked_for() -> None:
    it = Running("one:Model")
    it.document["backends"]["b"] = {"serve": {"model": "two:Model", "replicas": 0}}
    try:
        await it.start()
        assert (it.state("a"), it.state("b"), len(it.pids())) == ("ready", "stopped", 1)
    finally:
        await it.stop()


async def test_a_version_that_cannot_start_leaves_the_old_one_and_says_why() -> None:
    async with running("one:Model") as it:
        await it.start()
        before, (old,) = it.backends["a"], it.pids()
        it.edit(a={**before, "serve": {"model": "missing:Model"}})
        await until(lambda: it.state("a") == "failed")
        told = it.told[-1]["backends"]["a"]
        why = "model missing:Model could not be started: no module named 'missing'"
        assert told["error"] == why
        assert await it.ask() == old
        assert it.said[-1] == f"backend a: {why}; the version before goes on answering"
        it.edit(a=before)
        assert it.state("a") == "ready"
        assert it.pids() == [old]
        assert len(it.told[-1]["backends"]["a"]["processes"]) == 1, "the failure is forgotten"
        it.edit(b={"serve": {"model": "missing:Model"}})
        await until(lambda: it.state("b") == "failed")
        it.edit(b=None)
        assert "b" not in it.told[-1]["backends"]


async def test_an_edit_of_how_many_there_are_tries_again_what_could_not_be_started() -> None:
    async with running("one:Model") as it:
        await it.start()
        (old,) = it.pids()
        two = {**it.backends["a"], "serve": {"model": "one:Model", "replicas": 2}}
        it.edit(a=two)
        await until(lambda: len(it.pids()) == 2)
        (second,) = set(it.pids()) - {old}
        os.kill(second, signal.SIGKILL)  # before it is ready, as where memory is short
        await until(lambda: it.state("a") == "failed")
        it.serve()  # what is no edit of it tries nothing
        assert it.state("a") == "failed"
        it.edit(a={**it.backends["a"], "serve": {"model": "one:Model", "replicas": 3}})
        await ready(it)
        assert len(it.pids()) == 3
        assert old in it.pids()


async def test_another_address_is_tried_where_one_was_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with running("one:Model") as it:
            await it.start()
            it.edit(b=it.spec("two:Model", taken.getsockname()[1]))
            await until(lambda: it.state("b") == "failed")
            it.edit(b=it.spec("two:Model"))
            await ready(it, "b")


async def test_a_backend_comes_with_a_port_that_is_chosen_and_goes_with_its_process() -> None:
    async with running("one:Model") as it:
        await it.start()
        it.edit(b={"serve": {"model": "two:Model"}})
        await ready(it, "b")
        assert it.port("b") in range(20_000, 30_000)
        assert len(it.pids()) == 2
        it.edit(b=None)
        await until(lambda: len(it.pids()) == 1)


async def test_who_comes_to_control_is_told_everything() -> None:
    async with running("one:Model") as it:
        await it.start()
        it.told.clear()
        it.serve()
        (process,) = it.told[-1]["backends"]["a"]["processes"]
        assert process["pid"] in it.pids()
        assert (process["state"], process["current"]) == ("ready", True)
