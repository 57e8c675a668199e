"""What an instance says of itself: one JSON line an event, and nobody waits for its reader."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from instance.telemetry.outlet import MAX_BYTES, Outlet
from tests.harness.full_disk import NO_BYTECODE
from tests.harness.ports import free_port
from tests.harness.unread import full_pipe
from tests.instance.conftest import CLIENT, ROOT, Instance, Serve, eventually
from tests.instance.loads import holding, later, together

FAILING = """
    import logging, os, pathlib, time
    class Model:
        def setup(self, device): ...
        def decode_request(self, request):
            if request == "decode":
                raise ValueError("cannot decode")
            return request
        def predict(self, x):
            if x == "predict":
                raise ValueError("cannot predict")
            if x == "die":
                os._exit(3)
            if x == "half":
                logging.getLogger("mine").warning("logged %s", "\\ud83d")
            if x == "raise half":
                raise ValueError("raised \\ud83d")
            return x
        def encode_response(self, output):
            if output == "encode":
                raise ValueError("cannot encode")
            return output

    class Batched(Model):
        max_batch_size = 4
        batch_timeout = 0.3
        def predict(self, batch):
            while batch[0] == "hold" and pathlib.Path("hold").exists():
                time.sleep(0.005)
            return [Model.predict(self, x) for x in batch]
        def unbatch(self, output):
            if "unbatch" in output:
                raise ValueError("cannot unbatch")
            return output

    class Streaming(Model):
        stream = True
        def predict(self, x):
            yield "one"
            if x == "predict":
                raise ValueError("cannot predict")
        def encode_response(self, outputs):
            for output in outputs:
                yield output

    class Loud(Model):
        def predict(self, x):
            raise ValueError("x" * 50_000)

    class Prints(Model):
        def predict(self, x):
            print("x" * 200_000, flush=True)
            return x
"""


CONFIGURES = """
    import io, logging, logging.config

    class Raises(logging.Handler):
        def handle(self, record):
            raise OSError("no way to the server of logs")

    class Model:
        def setup(self, device): ...
        def predict(self, x):
            if x == "dictConfig":
                logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL"}})
            if x == "disable":
                logging.disable(logging.CRITICAL)
            if x == "raising handler":
                logging.getLogger().handlers.insert(0, Raises())
            if x == "basicConfig":
                logging.basicConfig(force=True, stream=io.StringIO(), level="CRITICAL")
            if x == "raise":
                raise ValueError("cannot raise")
            return x
"""


def events(instance: Instance) -> list[dict[str, Any]]:
    return [json.loads(line) for line in instance.log if line != "<end>"]


def told(instance: Instance, text: str) -> dict[str, Any]:
    """The first event whose traceback holds `text`."""
    instance.wait_for(text)
    return next(event for event in events(instance) if text in event.get("error", ""))


def test_every_line_of_the_log_is_an_event_as_the_gateways_are(serve: Serve) -> None:
    instance = serve(FAILING)
    instance.post("predict")
    instance.wait_for("cannot predict")
    assert instance.terminate() == 0
    instance.wait_for("<end>")
    assert len(events(instance)) >= 4
    for event in events(instance):
        assert {"time", "level", "event", "logger"} <= event.keys()
        assert datetime.fromisoformat(event["time"]).tzinfo is not None


@pytest.mark.parametrize("hook", ["decode", "predict", "encode"])
def test_a_traceback_names_the_request_as_its_client_does_and_the_hook(
    serve: Serve, hook: str
) -> None:
    instance = serve(FAILING)
    given = {"X-Request-Id": "the-clients-own"}
    assert instance.post(hook, headers=given).json()["request_id"] == "the-clients-own"
    event = told(instance, f"cannot {hook}")
    name = {"decode": "decode_request", "encode": "encode_response"}.get(hook, hook)
    assert (event["request_id"], event["hook"]) == ("the-clients-own", name)
    assert event["event"] == f"{name}() raised ValueError"
    made = instance.post(hook).json()["request_id"]
    eventually(lambda: [e for e in events(instance) if e.get("request_id") == made])


@pytest.mark.parametrize("hook", ["dictConfig", "disable", "raising handler", "basicConfig"])
def test_a_traceback_is_in_the_log_whatever_a_model_makes_of_logging(
    serve: Serve, hook: str
) -> None:
    instance = serve(CONFIGURES, "Model")
    assert instance.post(hook).json() == hook
    assert instance.post("raise").json()["code"] == "model_error"
    assert told(instance, "cannot raise")["hook"] == "predict"
    assert instance.post("on").json() == "on"
    assert instance.metric("instance_worker_restarts_total") == 0


def test_half_of_a_surrogate_pair_costs_a_line_nothing_else(serve: Serve) -> None:
    instance = serve(FAILING)
    assert instance.post("half").json() == "half"
    instance.wait_for("logged")
    assert r"logged \ud83d" in [event["event"] for event in events(instance)]
    request_id = instance.post("raise half").json()["request_id"]
    instance.wait_for("ValueError: raised")
    (event,) = [one for one in events(instance) if "error" in one]
    assert event["error"].endswith(r"ValueError: raised \ud83d")
    assert (event["request_id"], event["hook"]) == (request_id, "predict")


def test_a_failed_batch_names_all_its_requests_and_a_failed_item_its_own(serve: Serve) -> None:
    instance = serve(FAILING, "Batched")
    asked = ["unbatch", "good", "fine"]
    calls = [
        lambda x=x: instance.post(x, headers={"X-Request-Id": f"id-{x}"})  # type: ignore[misc]
        for x in asked
    ]
    with holding(instance):  # so that they become one batch
        held = later(lambda: instance.post("hold"))
        eventually(lambda: instance.metric("instance_running") == 1)
        answers = [later(call) for call in calls]
        eventually(lambda: instance.metric("instance_queue_depth") == 3)
    assert held().status_code == 200
    assert sorted(answer().status_code for answer in answers) == [200, 200, 500]
    instance.wait_for('cannot unbatch.*"request_id":"id-unbatch"|"request_id":"id-unbatch".*')
    batch = next(event for event in events(instance) if "request_ids" in event)
    assert {f"id-{x}" for x in asked} == set(batch["request_ids"])
    assert (batch["hook"], "run alone" in batch["event"]) == ("unbatch", True)
    alone = next(event for event in events(instance) if event.get("request_id") == "id-unbatch")
    assert alone["hook"] == "unbatch"


def test_a_failed_stream_and_a_dead_worker_name_their_requests(serve: Serve) -> None:
    instance = serve(FAILING, "Streaming")
    with pytest.raises(httpx.RemoteProtocolError):
        instance.post("predict", headers={"X-Request-Id": "streamed"})
    event = told(instance, "cannot predict")
    assert (event["request_id"], event["hook"]) == ("streamed", "predict")
    dying = serve(FAILING)
    assert dying.post("die", headers={"X-Request-Id": "deadly"}).status_code == 500
    dying.wait_for("starting again")
    (event,) = [event for event in events(dying) if "starting again" in event["event"]]
    assert event["request_id"] == "deadly"


def test_tracebacks_that_were_left_out_are_counted(serve: Serve) -> None:
    instance = serve(FAILING)
    together([lambda: instance.post("predict")] * 20)
    time.sleep(1.1)
    instance.post("decode")
    told(instance, "cannot decode")
    written = [e for e in events(instance) if "cannot predict" in e.get("error", "")]
    assert sum(e.get("left_out", 0) for e in events(instance)) + len(written) == 20


@pytest.fixture
def unread(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """(the address, the process) of an instance of `request.param`, a class and options, whose
    output nobody reads."""
    (tmp_path / "model.py").write_text(dedent(FAILING))
    port = free_port()
    with ExitStack() as stack:
        stuck = {name: stack.enter_context(full_pipe()) for name in ("stdout", "stderr")}
        process = subprocess.Popen(
            [sys.executable, "-m", "instance", f"model.py:{request.param[0]}",
             "--port", str(port), *request.param[1:]],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, **stuck,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: CLIENT.get(f"{url}/health").status_code == 200)
            yield url, process
        finally:
            process.kill()
            process.wait()


def dropped(url: str) -> float:
    text = CLIENT.get(f"{url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("instance_log_dropped_total")]
    return float(line.split()[1])


@pytest.mark.parametrize("unread", [["Loud"]], indirect=True)
def test_an_instance_whose_log_nobody_reads_answers_and_ends(unread: tuple[str, Any]) -> None:
    url, process = unread
    began = time.monotonic()
    # Five tracebacks a second are written; each holds the text several times.
    while dropped(url) == 0:
        assert CLIENT.post(f"{url}/predict", json=1).status_code == 500
        assert time.monotonic() - began < 100
    assert CLIENT.get(f"{url}/health").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize("unread", [["Prints", "--timeout", "1s"]], indirect=True)
def test_what_a_model_prints_holds_up_its_worker_alone(unread: tuple[str, Any]) -> None:
    url, process = unread
    assert CLIENT.post(f"{url}/predict", json=1).status_code == 504
    for _ in range(20):
        assert CLIENT.get(f"{url}/health/live").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


FULL = """
import os, resource, sys
from instance.telemetry.outlet import Outlet

outlet = Outlet(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
for room in (15, 15, 15, resource.RLIM_INFINITY, resource.RLIM_INFINITY):  # what a full disk leaves
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    outlet.put(b"a line...\\n")
    outlet.flush(60)
print(outlet.dropped)
"""


def test_a_line_that_found_no_more_room_spoils_none_that_comes_once_there_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", FULL, str(path)]
    env = {**os.environ, **NO_BYTECODE}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert path.read_text().splitlines() == ["a line...", "a lin", "a line...", "a line..."]
    assert ran.stdout == "2\n"


def test_an_outlet_drops_what_has_no_room_and_says_how_much_once_there_is() -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        outlet = Outlet(writing.fileno(), lambda lines: b"%d missing\n" % lines)
        told: list[int] = []
        outlet.told = told.append
        line = b"x" * 99_999 + b"\n"
        for _ in range(MAX_BYTES // len(line) + 20):
            outlet.put(line)
        assert outlet.dropped == told[-1] > 0
        got = b""
        while b"last\n" not in got:
            got += reading.recv(1 << 20)
            if outlet.waiting < MAX_BYTES // 2:
                outlet.put(b"last\n")
        # One more than once, where room came while lines were still put.
        gaps = re.findall(rb"^(\d+) missing\n", got, re.MULTILINE)
        assert sum(map(int, gaps)) == outlet.dropped


def test_on_a_terminal_the_log_is_text_that_cannot_command_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(dedent(FAILING))
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "instance", "model.py:Model", "--port", str(port := free_port())],
        stderr=theirs,
        stdin=theirs,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    seen = b""
    try:
        while b"ready: " not in seen:
            seen += os.read(ours, 4096)
        headers = {b"X-Request-Id": b"\x9b31mred"}
        assert CLIENT.post(f"http://127.0.0.1:{port}/predict", json="half").json() == "half"
        CLIENT.post(f"http://127.0.0.1:{port}/predict", json="predict", headers=headers)
        while b"cannot predict\r\n" not in seen:
            seen += os.read(ours, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = seen.decode()
    assert '{"time"' not in text
    assert re.search(r"^\d\d:\d\d:\d\d ready: Model at /predict\r$", text, re.MULTILINE)
    assert re.search(r"^\S+ error: predict\(\) raised ValueError .*\\x9b31mred", text, re.MULTILINE)
    assert re.search(r"^ValueError: cannot predict\r$", text, re.MULTILINE)
    assert re.search(r"^\S+ warning: logged \\ud83d\r$", text, re.MULTILINE)
    assert not any(ord(mark) < 32 or 127 <= ord(mark) < 160 for mark in set(text) - {"\r", "\n"})
