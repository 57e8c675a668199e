"""What a client of an instance sees: answers, errors, health, documentation."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from openapi_spec_validator import validate

from gateway.controlplane.configuration.settings import ENVIRONMENT_PREFIX, keys
from instance.front.workers import GRACE_S
from instance.settings import options
from tests.harness.orphans import is_alive
from tests.instance.conftest import ROOT, Serve, eventually
from tests.instance.loads import BREAKS, holding, later

TYPED = """
    from pydantic import BaseModel, Field
    from instance import ModelAPI

    class Picture(BaseModel):
        pixels: list[list[float]] = Field(min_length=1)
        name: str = "x"

    class Digit(BaseModel):
        digit: int

    class Model(ModelAPI):
        "Sums pixels."
        max_batch_size = 8
        example = {"pixels": [[1.0]]}

        def setup(self, device):
            self.device_seen = device

        def decode_request(self, request: Picture):
            return request.pixels

        def predict(self, batch):
            return [sum(map(sum, pixels)) for pixels in batch]

        def encode_response(self, output) -> Digit:
            return {"digit": int(output)}
"""

ASKED = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
HELD = """
    import pathlib, time
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            while pathlib.Path("hold").exists():
                time.sleep(0.005)
            return x
"""
ECHO = """
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            return {"got": x}
"""


def test_a_typed_request_is_answered_with_json(served: Serve) -> None:
    answer = served(TYPED).post({"pixels": [[3, 4]]})
    assert (answer.status_code, answer.json()) == (200, {"digit": 7})
    assert answer.headers["content-type"] == "application/json"


def test_a_wrong_field_is_422_and_every_one_is_named(served: Serve) -> None:
    instance = served(TYPED)
    answer = instance.post({"pixels": [["a", 1], [2, "b"]], "name": 3})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"/pixels/0/0", "/pixels/1/1", "/name"}
    assert instance.post({}).json()["errors"][0]["pointer"] == "/pixels"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"pixels": [[NaN]]}', b'{"pixels": [[1]]'])
def test_what_is_not_json_is_400(served: Serve, body: bytes) -> None:
    answer = served(TYPED).post(content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_another_media_type_is_415_for_a_typed_model(served: Serve) -> None:
    answer = served(TYPED).post(content=b"a=1", headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_large_body_is_413_by_its_announced_length_and_by_count(serve: Serve) -> None:
    instance = serve(ECHO, "Model", "--max-body", "1KiB")
    for content in (b"x" * 2000, iter([b"x" * 600] * 3)):
        answer = instance.post(content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert instance.post("x" * 500).status_code == 200


def test_unknown_paths_and_wrong_methods_are_problems(served: Serve) -> None:
    instance = served(ECHO)
    assert instance.get("/nothing").json()["code"] == "not_found"
    answer = instance.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert instance.post({}, path="/health").status_code == 405


def test_a_problem_carries_the_request_id(served: Serve) -> None:
    answer = served(TYPED).post({}, headers={"X-Request-Id": "abc"})
    assert answer.json()["request_id"] == "abc"


def test_a_refusal_before_the_queue_carries_an_id_too(served: Serve) -> None:
    instance = served(ECHO)
    refused = [instance.get("/nothing"), instance.get("/predict")]
    refused += [instance.post({}, headers={"X-Headgate-Timeout-Ms": "x"}) for _ in range(2)]
    assert len({answer.json()["request_id"] for answer in refused}) == 4
    named = {"X-Request-Id": "x" * 300}
    assert instance.post({}, path="/no", headers=named).json()["request_id"] == "x" * 200


def test_every_answer_carries_the_load_report(served: Serve) -> None:
    instance = served(TYPED)
    for answer in (instance.post({"pixels": [[1]]}), instance.post({}), instance.get("/health"),
                   instance.get("/nothing"), instance.get("/metrics")):  # fmt: skip
        kind, _, report = answer.headers["endpoint-load-metrics"].partition(" ")
        assert kind == "JSON"
        metrics = json.loads(report)["named_metrics"]
        assert set(metrics) == {"queue", "running", "slots", "wait_ms"}
        assert metrics["slots"] == 8


def test_health_info_and_metrics(serve: Serve) -> None:
    instance = serve(TYPED)
    for path in ("/health", "/health/ready", "/health/live"):
        answer = instance.get(path)
        assert (answer.status_code, answer.text) == (200, "ok")
    assert instance.get("/instance").content == instance.get("/info").content
    info = instance.get("/info").json()
    assert (info["path"], info["max_batch_size"]) == ("/predict", 8)
    assert info["workers"] == [{"device": "cpu", "state": "ready"}]
    instance.post({"pixels": [[1]]})
    assert instance.metric('instance_requests_total{code="200"}') >= 5
    assert instance.metric('instance_batch_size_bucket{le="1.0"}') == 1
    for name in ("queue_depth", "running", "queue_seconds", "predict_seconds",
                 "worker_restarts_total"):  # fmt: skip
        assert f"instance_{name}" in instance.get("/metrics").text


def test_the_openapi_document_is_valid_and_says_the_types(served: Serve) -> None:
    instance = served(TYPED)
    document = instance.get("/openapi.json").json()
    validate(document)
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Picture"}
    assert content["example"] == {"pixels": [[1.0]]}
    assert "digit" in document["components"]["schemas"]["Digit"]["properties"]
    page = instance.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_it_is_not_ready_before_setup_and_warm_up_are_done(serve: Serve, tmp_path) -> None:
    instance = serve(
        """
        import pathlib, time
        class Model:
            example = 1
            def setup(self, device):
                while not pathlib.Path("go").exists():
                    time.sleep(0.01)
            def predict(self, x):
                pathlib.Path("warm").touch()
                return x
        """,
        wait=False,
    )
    assert eventually(lambda: instance.get("/health/live")).status_code == 200
    assert (instance.get("/health").status_code, instance.get("/health").text) == (503, "not ready")
    answer = instance.post(1)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "retry-after" in answer.headers
    # By these two a gateway knows it from one that is merely full.
    assert answer.headers["connection"] == "close"
    assert "endpoint-load-metrics" in answer.headers
    (tmp_path / "go").touch()
    eventually(lambda: instance.get("/health/ready").status_code == 200)
    assert (tmp_path / "warm").exists()


def test_r69_at_sigterm_accepted_requests_are_answered_and_new_ones_refused(serve: Serve) -> None:
    instance = serve(HELD)
    with holding(instance):
        first = socket.create_connection(("127.0.0.1", instance.port))
        first.sendall(ASKED)
        eventually(lambda: instance.metric("instance_running") == 1)
        instance.process.send_signal(signal.SIGTERM)
        eventually(lambda: instance.get("/health").status_code == 503)
        second = socket.create_connection(("127.0.0.1", instance.port))
        second.sendall(ASKED)
        refused = second.recv(65536)
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"Connection: close" in refused
    answered = first.recv(65536)
    assert answered.startswith(b"HTTP/1.1 200")
    assert answered.endswith(b"\r\n\r\n1")
    assert instance.process.wait(60) == 0


@pytest.mark.parametrize("name", ["Model", "Async"])
def test_r69_who_outlasts_the_drain_is_told_so(serve: Serve, name: str) -> None:
    instance = serve(UNENDING, name, "--drain", "0.2s")
    with socket.create_connection(("127.0.0.1", instance.port)) as sock:
        sock.sendall(ASKED)
        eventually(lambda: instance.metric("instance_running") == 1)
        instance.process.send_signal(signal.SIGTERM)
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 504")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert problem["code"] == "deadline"
    assert "--drain" in problem["detail"]
    assert instance.process.wait(60) == 0


UNENDING = """
    import asyncio, time
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            time.sleep(600)

    class Async(Model):
        async def predict(self, x):
            await asyncio.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("served", ["model.py:Model", "server.py"])
def test_r68_a_signal_while_it_is_being_loaded_ends_it_without_a_word(
    tmp_path: Path, served: str, number: signal.Signals
) -> None:
    waits = "import pathlib, threading; pathlib.Path('waits').touch(); threading.Event().wait()"
    # In the middle of our own imports, or while the file is run that says what to serve.
    (tmp_path / (served if served == "server.py" else "click.py")).write_text(waits)
    process = subprocess.Popen(
        [sys.executable, "-m", "instance", served, "--port", "0"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    eventually((tmp_path / "waits").exists)
    started = psutil.Process(process.pid).children()
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", None)
    assert process.returncode == 0
    eventually(lambda: not any(map(is_alive, started)))


def test_a_second_signal_waits_for_nothing_that_a_model_does(serve: Serve, tmp_path: Path) -> None:
    instance = serve(
        """
        import pathlib, threading
        class Model:
            def setup(self, device): ...
            def predict(self, x): ...
            def teardown(self):
                pathlib.Path("tears").touch()
                threading.Event().wait()
        """
    )
    (worker,) = instance.workers()
    instance.process.send_signal(signal.SIGTERM)
    eventually((tmp_path / "tears").exists)
    worker.suspend()  # nor for what it is asked
    began = time.monotonic()
    instance.process.send_signal(signal.SIGINT)
    assert instance.process.wait(60) == 0
    assert time.monotonic() - began < GRACE_S


def test_r69_who_still_waits_when_the_drain_is_over_is_told_so(
    serve: Serve, tmp_path: Path
) -> None:
    """No worker had come back to take what was accepted."""
    instance = serve(BREAKS, "Model", "--drain", "0.2s")
    (tmp_path / "broken").touch()
    computed = later(lambda: instance.post("hang"))
    eventually((tmp_path / "hangs").exists)
    waits = later(lambda: instance.post(2))
    eventually(lambda: instance.metric("instance_queue_depth") == 1)
    instance.workers()[0].kill()
    assert computed().status_code == 500
    assert instance.terminate() == 0
    assert (waits().status_code, waits().json()["code"]) == (503, "not_ready")
    assert "shutting down" in waits().json()["detail"]


def test_r69_who_asks_on_a_kept_connection_as_the_instance_goes_is_told_so(serve: Serve) -> None:
    """To close it at once would cross requests on their way, which nobody may send again."""
    instance = serve(HELD)
    with ExitStack() as stack:
        asks, silent, computed = (
            stack.enter_context(socket.create_connection(("127.0.0.1", instance.port)))
            for _ in range(3)
        )
        for kept in (asks, silent):
            kept.sendall(ASKED)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        with holding(instance):
            computed.sendall(ASKED)
            eventually(lambda: instance.metric("instance_running") == 1)
            instance.process.send_signal(signal.SIGTERM)
            eventually(lambda: instance.get("/health/ready").status_code == 503)
            asks.sendall(ASKED)
            refused = asks.recv(65536)
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"Connection: close" in refused
            last = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - last > 0.9, "it had no time to ask"
        assert instance.process.wait(60) == 0


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        (ECHO, "Modle", "did you mean 'Model'"),
        ("import nothing_like_it", "Model", "'nothing_like_it', which is not installed"),
        ("class Model:\n  def setup(self, d): ...", "Model", r"has no predict\(\)"),
        ("class Model:\n  def predict(self, x): ...", "Model", r"has no setup\(\)"),
        ("import instance\nclass Model(instance.ModelAPI): ...", "Model", r"has no predict\(\)"),
        (
            "class Model:\n  def setup(self, d): 1/0\n  def predict(self, x): ...",
            "Model",
            "setup of .* failed: ZeroDivisionError",
        ),
        (
            "class Model:\n  example = 1\n  def setup(self, d): ...\n  def predict(self, x): 1/0",
            "Model",
            "warm-up .* failed",
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_one_line_and_exit_1(
    serve: Serve, source: str, name: str, says: str
) -> None:
    assert re.search(says, serve(source, name, wait=False).refused())


def test_a_taken_port_is_one_line_and_exit_1(served: Serve) -> None:
    instance = served(ECHO)
    command = [sys.executable, "-m", "instance", "x:Y", "--port", str(instance.port)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "cannot listen on 127.0.0.1" in ran.stderr


def usage(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "instance", *words], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env={**os.environ, **variables},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x:Y", "--timeout", "soon"), "'soon' is no duration"),
        (("x:Y", "--max-queue", "0"), "'0' must be a whole number of at least 1"),
        (("x:Y", "--port", "70000"), "'70000' is no port"),
        (("x:Y", "--device", "tpu"), "'tpu' is no device"),
        (("x:Y", "--spec", "grpc"), "'grpc' is no spec; use openai-chat"),
        (("x:Y", "--max-bdy", "1"), "'--max-body'"),
        (("x:Y", "--", "--theirs"), "what follows -- is for a file"),
        ((), "Missing argument 'MODEL'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words: tuple[str, ...], said: str) -> None:
    ran = usage(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert ran.stderr.startswith("headgate instance: ")
    assert ran.stderr.count("\n") == 1


def test_each_option_has_a_variable_which_it_wins_over() -> None:
    ran = usage("x:Y", HEADGATE_INSTANCE_MAX_QUEUE="none")
    assert ran.returncode == 2
    assert "'--max-queue' (env var: 'HEADGATE_INSTANCE_MAX_QUEUE'): 'none' must be" in ran.stderr
    help = usage("--help").stdout
    of_the_gateway = {ENVIRONMENT_PREFIX + key.upper() for key in keys()}
    for option in options():
        assert option.variable not in of_the_gateway
        assert f"--{option.flag}" in help
        assert option.variable in help
    assert "Example: headgate instance models.py:Linear" in help


def test_variables_of_the_environment_set_what_options_do(serve: Serve) -> None:
    instance = serve(
        ECHO, environment={"HEADGATE_INSTANCE_PATH": "/other", "HEADGATE_INSTANCE_MAX_QUEUE": "7",
                           "HEADGATE_INSTANCE_GZIP": "no", "HEADGATE_INSTANCE_DEVICE": "cpu"},
    )  # fmt: skip
    info = instance.get("/instance").json()
    assert (info["path"], info["max_queue"]) == ("/other", 7)


def test_r68_sigterm_while_the_model_loads_ends_at_once_with_exit_0(serve: Serve) -> None:
    source = """
        import time
        class Model:
            def setup(self, device):
                time.sleep(1000)
            def predict(self, x): ...
    """
    instance = serve(source, wait=False)
    eventually(lambda: instance.workers() and instance.get("/health/live").status_code == 200)
    assert instance.terminate() == 0
