"""What a model starts (forks, processes of `multiprocessing`, programs) ends with its worker."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.harness.orphans import is_alive
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import raw

STARTERS = """
    import multiprocessing, os, pathlib, re, subprocess, time
    from concurrent.futures import ProcessPoolExecutor
    FORK, SPAWN = (multiprocessing.get_context(kind) for kind in ("fork", "spawn"))

    def sleep():
        time.sleep(1000)

    def spawned():
        child = SPAWN.Process(target=time.sleep, args=(1000,))
        child.start()
        return child.pid

    class Model:
        def setup(self, device):
            self.pool = ProcessPoolExecutor(1, FORK)
            self.pool.submit(abs, 1).result()
        def predict(self, kind):
            if kind == "all":
                pooled = [each.pid for each in multiprocessing.active_children()]
                forked = os.fork()
                if not forked:
                    sleep()
                program = subprocess.Popen(["sleep", "1000"]).pid
                return [forked, *pooled, spawned(), program]
            if kind == "ended":
                child = FORK.Process(target=sleep)
                child.start()
                child.terminate()
                child.join(10)
                return child.exitcode
            if kind == "die":
                os._exit(1)
            return kind

    class Forkless:  # a fork holds what ties it to the instance, for others too
        def setup(self, device): ...
        def predict(self, kind):
            if kind == "die":
                os._exit(1)
            if kind == "hold":
                pathlib.Path("holds").touch()
                re.match("(a+)+$", "a" * 64 + "b")  # and the interpreter's lock
            return [spawned(), subprocess.Popen(["sleep", "1000"]).pid]
"""
DEATHS: dict[str, Callable[[Instance], object]] = {
    "the worker exits": lambda instance: instance.post("die"),
    "the worker is killed": lambda instance: instance.workers()[0].kill(),
    "the instance is killed": lambda instance: instance.process.kill(),
    "the instance is stopped": lambda instance: instance.process.terminate(),
}


def started_by(instance: Instance) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in instance.post("all").json()]


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize(("name", "count"), [("Model", 4), ("Forkless", 2)])
def test_nothing_that_a_model_started_outlives_its_worker(
    serve: Serve, name: str, count: int, death: str
) -> None:
    instance = serve(STARTERS, name)
    children = started_by(instance)
    assert len(children) == count
    assert all(map(is_alive, children))
    DEATHS[death](instance)
    eventually(lambda: not any(map(is_alive, children)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help")
def test_what_a_model_started_ends_with_the_instance_while_no_python_can_run(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(STARTERS, "Forkless")
    (worker,) = instance.workers()
    children = [*started_by(instance), worker]
    holding = raw(instance, b'"hold"')
    eventually((tmp_path / "holds").exists)
    before = worker.cpu_times().user
    eventually(lambda: worker.cpu_times().user > before)
    instance.process.kill()
    eventually(lambda: not any(map(is_alive, children)))
    holding.close()


def test_what_a_model_spawned_ends_when_all_that_knew_of_it_are_killed_at_once(
    serve: Serve,
) -> None:
    instance = serve(STARTERS, "Forkless")
    spawned, program = started_by(instance)
    (worker,) = instance.workers()
    instance.process.send_signal(signal.SIGSTOP)  # it cannot see to what its worker leaves
    worker.kill()
    eventually(lambda: not is_alive(worker))
    instance.process.kill()
    eventually(lambda: not is_alive(spawned))
    program.kill()  # this one is out of reach then


def test_what_a_model_forks_does_not_hold_up_the_end_of_its_worker(serve: Serve) -> None:
    instance = serve(STARTERS)
    started_by(instance)
    started = time.monotonic()
    assert instance.post("die").status_code == 500
    assert time.monotonic() - started < 60  # what it forked sleeps for a thousand
    assert instance.post("again").json() == "again"


def test_a_model_can_end_what_it_started(serve: Serve) -> None:
    assert serve(STARTERS).post("ended").json() == -15


RETURNS = """
    import asyncio, os

    class Plain:
        def setup(self, device): ...
        def predict(self, x):
            os.fork()
            return [x, os.getpid()]

    class Setup:
        def setup(self, device):
            os.fork()
        def predict(self, x):
            return [x, os.getpid()]

    class Ahead(Setup):
        decode_ahead = True
        def setup(self, device): ...
        def decode_request(self, x):
            os.fork()
            return x

    class Exits:
        def setup(self, device): ...
        def predict(self, x):
            if not os.fork():
                raise SystemExit
            return [x, os.getpid()]

    class Async:
        def setup(self, device): ...
        async def predict(self, x):
            os.fork()
            return [x, os.getpid()]

    class Awaits:
        def setup(self, device): ...
        async def predict(self, x):
            os.fork()
            await asyncio.sleep(0.05)
            return [x, os.getpid()]

    class Streaming:
        stream = True
        def setup(self, device): ...
        def predict(self, x):
            os.fork()
            yield str([x, os.getpid()])
"""


@pytest.mark.parametrize(
    "name", ["Plain", "Setup", "Ahead", "Exits", "Async", "Awaits", "Streaming"]
)
def test_a_fork_that_comes_back_from_its_hook_answers_nothing(serve: Serve, name: str) -> None:
    instance = serve(RETURNS, name)
    (worker,) = instance.workers()
    for x in range(20):
        assert instance.post(x).json() == [x, worker.pid]
    eventually(lambda: not any(map(is_alive, worker.children())))
    assert instance.workers() == [worker]
    instance.wait_for("a process that the model forked came back from its hook")
