"""Callbacks of a server (its start and end, requests and answers) are told of in a process of
their own: once, as things happen, and holding nobody up."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import Instance, eventually

late_or_skip("litserve")

ServeFile = Callable[..., Instance]
SOURCE = """
import os, sys, time
from pathlib import Path
import litserve as ls

def say(*words):
    with open("said", "a") as file:
        print(os.getpid(), *words, file=file)

class Notes(ls.Callback):
    def on_server_start(self, litserver):
        say("start", litserver is not None)
    def on_server_end(self, litserver):
        say("end")
    def on_request(self, active_requests, litserver):
        say("request", active_requests)
        if Path("raise").exists():
            raise ValueError("noted")
        while Path("block").exists():
            time.sleep(0.01)
    def on_response(self, litserver):
        say("response")
    def on_before_predict(self, lit_api):
        say("predict")

class Echo(ls.LitAPI):
    def setup(self, device): ...
    def decode_request(self, request):
        return request["input"]
    def predict(self, x):
        while Path("hold").exists():
            time.sleep(0.01)
        return 1 / x

class Items(Echo):
    def predict(self, x):
        yield from (x, x)
    def encode_response(self, items):
        yield from items

class Noted(Echo):
    callbacks = [Notes()]

if __name__ == "__main__":
    apis = [Echo(), Items(stream=True, api_path="/items")]
    ls.LitServer(
        apis, accelerator="cpu", workers_per_device=2, callbacks=[Notes()],
        track_requests=len(sys.argv) > 1,
    ).run(host="127.0.0.1")
"""


@pytest.fixture
def serve_file(tmp_path: Path) -> Iterator[ServeFile]:
    """Serves SOURCE as a file, or what `name` names in it."""
    started: list[Instance] = []

    def start(name: str = "", *arguments: str) -> Instance:
        (tmp_path / "server.py").write_text(dedent(SOURCE))
        instance = Instance(f"server.py{name}", arguments, tmp_path)
        started.append(instance)
        return instance.ready()

    yield start
    for instance in started:
        instance.end()


def said(instance: Instance) -> list[str]:
    """What the callbacks said, without the processes that said it."""
    return [line.split(" ", 1)[1] for line in lines(instance)]


def lines(instance: Instance) -> list[str]:
    path = instance.cwd / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_requests_answers_start_and_end_are_told_in_one_process(serve_file: ServeFile) -> None:
    instance = serve_file("", "--", "tracked")
    assert said(instance) == ["start True", "start True"]  # once for each API, as LitServe does
    hold = instance.cwd / "hold"
    hold.touch()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(instance.post, {"input": 2}) for _ in range(3)]
        eventually(lambda: "request 3" in said(instance))
        assert "response" not in said(instance)
        hold.unlink()
        assert [answer.result().json() for answer in answers] == [0.5] * 3
    eventually(lambda: said(instance).count("response") == 3)
    assert instance.post({"input": 0}).status_code == 500  # told as a request, but no answer
    assert instance.post({"input": 4}, "/items").text == "4\n4\n"
    eventually(lambda: said(instance).count("response") == 4)
    assert [word for word in said(instance) if word.startswith("request")][3:] == ["request 1"] * 2
    assert instance.terminate() == 0
    assert said(instance).count("end") == 1
    tellers = {line.split()[0] for line in lines(instance) if not line.endswith("predict")}
    predicting = {line.split()[0] for line in lines(instance) if line.endswith("predict")}
    assert len(tellers) == 1
    assert not tellers & predicting
    assert not any("never called" in line or "track_requests" in line for line in instance.log)


def test_nobody_counts_unless_the_server_tracks_requests(serve_file: ServeFile) -> None:
    instance = serve_file()
    assert instance.post({"input": 2}).json() == 0.5
    eventually(lambda: "request None" in said(instance))


def test_a_class_that_brings_callbacks_is_told_without_a_server(serve_file: ServeFile) -> None:
    instance = serve_file(":Noted")
    assert instance.post({"input": 2}).json() == 0.5
    eventually(lambda: "response" in said(instance))
    # The model's process tells of `predict` itself, and waits for nobody to do it.
    told = [each for each in said(instance) if each != "predict"]
    assert told[:2] == ["start False", "request 1"]


def test_a_callback_that_raises_or_blocks_holds_nobody_up(serve_file: ServeFile) -> None:
    instance = serve_file()
    (instance.cwd / "raise").touch()
    assert instance.post({"input": 2}).json() == 0.5
    instance.wait_for("on_request of Notes raised")
    (instance.cwd / "raise").unlink()
    (instance.cwd / "block").touch()
    for _ in range(5):
        assert instance.post({"input": 2}).json() == 0.5
    (instance.cwd / "block").unlink()
    eventually(lambda: said(instance).count("response") == 6)


def test_the_process_of_the_callbacks_is_replaced_when_it_dies(serve_file: ServeFile) -> None:
    instance = serve_file()
    teller = psutil.Process(int(lines(instance)[0].split()[0]))
    teller.kill()
    instance.wait_for("the process of the callbacks ended")
    eventually(lambda: said(instance).count("start True") == 4)

    def is_told() -> bool:  # from when it has said that it can be
        assert instance.post({"input": 2}).json() == 0.5
        return "response" in said(instance)

    eventually(is_told)
    assert instance.get("/health").text == "ok"
