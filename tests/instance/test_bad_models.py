"""What a model's code may do without harm to other requests, to the worker or to the machine."""

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.harness.orphans import is_alive
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import later, raw

RAISERS = """
    import asyncio, enum, http, sys
    from fastapi import HTTPException

    class Panic(BaseException): ...

    class Word(enum.StrEnum):
        REASON = "reason"

    class Odd(Exception):
        status_code = 400
        @property
        def detail(self):
            raise ValueError("not even this")

    def do(kind):
        if kind == "exit": sys.exit(3)
        if kind == "interrupt": raise KeyboardInterrupt
        if kind == "panic": raise Panic
        if kind == "cancelled": raise asyncio.CancelledError
        if kind == "odd": raise Odd
        if kind == "enumerations":
            raise HTTPException(http.HTTPStatus.NOT_FOUND, Word.REASON, {"X-Word": Word.REASON})
        if kind == "redirect": raise HTTPException(307, "there", {"Location": "/there"})
        return kind

    class Plain:
        def setup(self, device): ...
        def predict(self, kind):
            return do(kind)

    class Async:
        def setup(self, device): ...
        async def predict(self, kind):
            await asyncio.sleep(0)
            return do(kind)

    class Batched:
        max_batch_size = 8
        def setup(self, device): ...
        def predict(self, kinds):
            return [do(kind) for kind in kinds]

    class Encoding:
        def setup(self, device): ...
        def predict(self, kind):
            return kind
        def encode_response(self, kind):
            return do(kind)

    class Streaming:
        stream = True
        def setup(self, device): ...
        def predict(self, kind):
            yield do(kind)
"""
KINDS = ["exit", "interrupt", "panic", "cancelled", "odd"]


@pytest.mark.parametrize("name", ["Plain", "Async", "Batched", "Encoding", "Streaming"])
def test_r48_what_is_raised_and_no_exception_fails_alone_too(serve: Serve, name: str) -> None:
    instance = serve(RAISERS, name)
    workers = instance.workers()
    bodies = [*KINDS, "good"] * 3
    waiting = [later(lambda kind=kind: instance.post(kind)) for kind in bodies]
    for kind, answer in zip(bodies, (wait() for wait in waiting), strict=True):
        assert answer.status_code == (200 if kind == "good" else 500), kind
        assert kind == "good" or answer.json()["code"] == "model_error"
    answer = instance.post("enumerations")
    assert (answer.status_code, answer.json()["detail"]) == (404, "reason")
    assert answer.headers["x-word"] == "reason"
    answer = instance.post("redirect")
    assert (answer.status_code, answer.headers["location"]) == (307, "/there")
    assert instance.workers() == workers


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
                forked = os.fork()
                if not forked:
                    sleep()
                program = subprocess.Popen(["sleep", "1000"]).pid
                return [forked, *self.pool._processes, spawned(), program]
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
    assert time.monotonic() - started < 5
    assert instance.post("again").json() == "again"


def test_a_model_can_end_what_it_started(serve: Serve) -> None:
    assert serve(STARTERS).post("ended").json() == -15


ODD_CLASSES = """
    import sys
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            return x

    class Exits(Model):
        def setup(self, device):
            sys.exit("needs a GPU")
    class PreSetup(Model):
        def pre_setup(self):
            raise RuntimeError("not here")
    class Example(Model):
        example = object()
    class Batch(Model):
        max_batch_size = -2
    class Path(Model):
        api_path = "predict"
    class Timeout(Model):
        batch_timeout = "soon"
    class Arguments(Model):
        def predict(self, x, y):
            return x
    class NoDevice(Model):
        def setup(self): ...
    class Decorated(Model):
        def predict(*given):
            return given[1]
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Exits", "setup of .* failed: SystemExit: needs a GPU"),
        ("PreSetup", "cannot be served: RuntimeError: not here"),
        ("Example", "example: .* not JSON serializable"),
        ("Batch", "max_batch_size must be a whole number of at least 1, not -2"),
        ("Path", "api_path must start with /, and is 'predict'"),
        ("Timeout", "batch_timeout must be a number of seconds, not 'soon'"),
        ("Arguments", r"predict\(x\) cannot be called with its one argument"),
        ("NoDevice", r"setup\(device\) cannot be called with its one argument"),
    ],
)
def test_a_class_that_cannot_work_is_one_line_at_start(serve: Serve, name: str, says: str) -> None:
    instance = serve(ODD_CLASSES, name, wait=False)
    assert instance.process.wait(20) == 1
    instance.wait_for("<end>")
    said = [line for line in instance.log if line.startswith("headgate instance: ")]
    assert len(said) == 1
    assert re.search(says, said[0])


def test_whatever_takes_one_argument_will_do(serve: Serve) -> None:
    assert serve(ODD_CLASSES, "Decorated").post(3).json() == 3


def test_setup_health_and_teardown_may_be_async_where_no_other_hook_is(
    serve: Serve, tmp_path
) -> None:
    instance = serve(
        """
        import asyncio, pathlib
        class Model:
            async def setup(self, device):
                await asyncio.sleep(0.01)
                self.well = True
            def predict(self, x):
                self.well = False
                return x
            async def health(self):
                await asyncio.sleep(0.01)
                return self.well
            async def teardown(self):
                await asyncio.sleep(0.01)
                pathlib.Path("torn").touch()
        """
    )
    assert instance.get("/health").status_code == 200
    assert instance.post(1).json() == 1
    eventually(lambda: instance.get("/health").status_code == 503)
    assert instance.metric("instance_worker_restarts_total") == 0
    assert instance.terminate() == 0
    assert (tmp_path / "torn").exists()


VALUES = """
    import collections, dataclasses, decimal, http, pathlib
    from fastapi import Response
    from fastapi.responses import FileResponse, StreamingResponse
    import instance

    @dataclasses.dataclass
    class Point:
        x: float

    class Model:
        def setup(self, device): ...
        def predict(self, kind):
            nan = float("nan")
            if kind == "cookies":
                answer = Response("x")
                answer.set_cookie("a", "1")
                answer.set_cookie("b", "2")
                return answer
            return {
                "dataclass": Point(1), "nan dataclass": {"p": [Point(nan)]}, "nan set": {nan},
                "decimal": [decimal.Decimal("1.5"), decimal.Decimal(2**60)],
                "path": pathlib.Path("/x"), "range": range(2), "deque": collections.deque([1]),
                "status": instance.Response([1], http.HTTPStatus.CREATED),
                "file": FileResponse(__file__, media_type="text/x-python"),
                "stream": StreamingResponse(iter("ab")),
            }[kind]
"""


def test_further_kinds_of_answer(serve: Serve) -> None:
    instance = serve(VALUES)
    for kind, expected in {
        "dataclass": {"x": 1}, "decimal": [1.5, 2**60], "path": "/x", "range": [0, 1],
        "deque": [1], "status": [1],
    }.items():  # fmt: skip
        assert (kind, instance.post(kind).json()) == (kind, expected)
    assert instance.post("status").status_code == 201
    assert instance.post("cookies").headers.get_list("set-cookie") == [
        "a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax",
    ]  # fmt: skip
    file = instance.post("file")
    assert file.headers["content-type"].startswith("text/x-python")
    assert "class Point" in file.text


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan dataclass", "holds NaN at /p/0/x"),
        ("nan set", "holds NaN at /0"),
        ("stream", "to stream, say stream = True"),
    ],
)
def test_an_answer_that_cannot_be_sent_says_what_is_wrong(
    serve: Serve, kind: str, says: str
) -> None:
    answer = serve(VALUES).post(kind)
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert says in answer.json()["detail"]


def test_what_a_model_prints_is_seen_at_once(serve: Serve, tmp_path) -> None:
    instance = serve(
        """
        import os, sys
        class Model:
            def setup(self, device):
                # As a shell would have it: where the worker writes is a file.
                os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 1)
            def predict(self, x):
                print("seen", x)
                return x
        """
    )
    instance.post(1)
    assert (tmp_path / "printed").read_text() == "seen 1\n"
