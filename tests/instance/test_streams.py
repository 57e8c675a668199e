"""Streams, item by item, through a real instance."""

import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.instance.conftest import Instance, Serve, eventually

STREAMS = """
    import asyncio, time, pathlib
    from instance import ModelAPI, endpoint

    class Base(ModelAPI):
        stream = True
        def setup(self, device): ...

    class Words(Base):
        def predict(self, x):
            for i in range(x["n"]):
                yield f"w{i} "

    class Objects(Base):
        def predict(self, x):
            for i in range(x["n"]):
                yield i
        def encode_response(self, outputs):
            for output in outputs:
                yield {"i": output}

    class Events(Objects):
        media_type = "text/event-stream"

    class PlainEncode(Objects):
        def encode_response(self, output):
            return {"twice": output * 2}

    class Async(Base):
        async def predict(self, x):
            for i in range(x["n"]):
                await asyncio.sleep(0)
                yield {"i": i}

    class Batched(Base):
        max_batch_size = 4
        batch_timeout = 0.5
        def predict(self, batch):
            for step in range(max(x["n"] for x in batch)):
                yield [{"step": step, "of": len(batch)} if step < x["n"] else None for x in batch]

    class Failing(Base):
        def predict(self, x):
            for i in range(x["n"]):
                yield {"i": i}
            raise ValueError("a secret")

    class FailingWords(Base):
        def predict(self, x):
            yield "some words"
            raise ValueError("a secret")

    class Endless(Base):
        def predict(self, x):
            try:
                while True:
                    pathlib.Path("made").open("a").write(".")
                    yield "x" * 10_000
            finally:
                pathlib.Path("closed").touch()

    class EndlessAsync(Base):
        async def predict(self, x):
            try:
                while True:
                    await asyncio.sleep(0.01)
                    yield "x"
            finally:
                pathlib.Path("closed").touch()

    class Slow(Base):
        def predict(self, x):
            for i in range(5):
                yield {"i": i}
                while not pathlib.Path(f"seen{i}").exists():
                    time.sleep(0.005)
"""


def lines(answer: httpx.Response) -> list:
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize(
    ("name", "content_type", "text"),
    [
        ("Words", "text/plain; charset=utf-8", "w0 w1 w2 "),
        ("Objects", "application/x-ndjson", '{"i": 0}\n{"i": 1}\n{"i": 2}\n'),
        ("PlainEncode", "application/x-ndjson", '{"twice": 0}\n{"twice": 2}\n{"twice": 4}\n'),
        ("Async", "application/x-ndjson", '{"i": 0}\n{"i": 1}\n{"i": 2}\n'),
        (
            "Events",
            "text/event-stream",
            'data: {"i":0}\n\ndata: {"i":1}\n\ndata: {"i":2}\n\n',
        ),
    ],
)
def test_every_form_of_stream_is_framed_by_its_items(
    served: Serve, name: str, content_type: str, text: str
) -> None:
    instance = served(STREAMS, name)
    answer = instance.post({"n": 3})
    assert answer.headers["content-type"] == content_type
    assert answer.text == text
    assert instance.post({"n": 0}).text == ""
    assert len(instance.post({"n": 10_000}).content) > 40_000


def test_a_client_may_ask_for_events(served: Serve) -> None:
    answer = served(STREAMS, "Words").post({"n": 2}, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == "data: w0 \n\ndata: w1 \n\n"


def test_items_come_one_by_one(serve: Serve, tmp_path) -> None:
    """None is made before the one ahead of it was seen here."""
    instance = serve(STREAMS, "Slow")
    seen = []
    with instance.client() as client, client.stream("POST", "/predict", json={}) as answer:
        for line in answer.iter_lines():
            seen.append(json.loads(line)["i"])
            (tmp_path / f"seen{seen[-1]}").touch()
    assert seen == list(range(5))


def test_streams_of_a_batch_end_one_by_one(serve: Serve) -> None:
    instance = serve(STREAMS, "Batched")
    answers: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: lines(instance.post({"n": n}))}))
        for n in (1, 2, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: [line["step"] for line in answer] for n, answer in answers.items()} == {
        n: list(range(n)) for n in (1, 2, 5)
    }


def test_an_error_before_the_first_item_is_a_plain_problem(served: Serve) -> None:
    answer = served(STREAMS, "Failing").post({"n": 0})
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert "secret" not in answer.text


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_a_later_error_is_an_explicit_event_and_a_broken_connection(
    served: Serve, accept: str
) -> None:
    instance = served(STREAMS, "Failing")
    got = bytearray()

    def read() -> None:
        with (
            instance.client() as client,
            client.stream("POST", "/predict", json={"n": 2}, headers={"Accept": accept}) as answer,
        ):
            for part in answer.iter_bytes():
                got.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert b'"i":1' in got.replace(b" ", b"")
    if accept == "text/event-stream":
        assert got.rpartition(b"event: error\ndata: ")[2].startswith(b"{")
    else:
        assert json.loads(got.splitlines()[-1])["error"]["code"] == "model_error"
    assert b"secret" not in got
    with pytest.raises(httpx.RemoteProtocolError):
        served(STREAMS, "FailingWords").post({})


DYING = """
    import asyncio, os, time
    from instance import ModelAPI

    class Model(ModelAPI):
        stream = True
        def setup(self, device): ...
        def predict(self, x):
            yield {"i": 1}
            os._exit(3) if x == "die" else time.sleep(600)

    class Async(Model):
        async def predict(self, x):
            yield {"i": 1}
            os._exit(3) if x == "die" else await asyncio.sleep(600)

    class Chat(Model):
        spec = "openai-chat"
        def predict(self, request):
            yield "word"
            os._exit(3)
"""


def broken_off(instance: Instance, json: Any, accept: str, path: str = "/predict") -> bytes:
    """What came of a stream until its connection was broken off."""
    got = bytearray()
    ask = {"json": json, "headers": {"Accept": accept}}

    def read() -> None:
        with instance.client() as client, client.stream("POST", path, **ask) as answer:
            for part in answer.iter_bytes():
                got.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    return bytes(got)


@pytest.mark.parametrize("name", ["Model", "Async"])
@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [("die", "model_error", "process died"), ("hang", "deadline", "--timeout")],
)
def test_the_end_of_the_models_process_is_an_explicit_event_in_a_stream(
    serve: Serve, name: str, asked: str, code: str, says: str
) -> None:
    instance = serve(DYING, name, "--timeout", "1s")
    events = broken_off(instance, asked, "text/event-stream")
    assert events.startswith(b'data: {"i":1}\n\nevent: error\ndata: {')
    eventually(lambda: instance.get("/health").status_code == 200)
    first, last = broken_off(instance, asked, "*/*").splitlines()
    assert json.loads(first) == {"i": 1}
    for error in (json.loads(events.partition(b"error\ndata: ")[2]), json.loads(last)["error"]):
        assert error["code"] == code
        assert error["request_id"]
        assert says in error["detail"]


@pytest.mark.parametrize("name", ["Forever", "ForeverAsync"])
def test_a_stream_that_outlasts_the_drain_is_told_so_and_its_generator_closed(
    serve: Serve, tmp_path: Path, name: str
) -> None:
    instance = serve(FOREVER, name, "--drain", "0.2s")
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 1\r\n"
    with socket.create_connection(("127.0.0.1", instance.port)) as sock:
        sock.sendall(request + b"Accept: text/event-stream\r\n\r\n1")
        got = sock.recv(65536)
        instance.process.send_signal(signal.SIGTERM)
        while part := sock.recv(65536):
            got += part
    assert not got.endswith(b"0\r\n\r\n"), "it looks complete"
    error = json.loads(got.rpartition(b"event: error\ndata: ")[2].partition(b"\n")[0])
    assert (error["code"], error["request_id"]) == ("deadline", "mine")
    assert "--drain" in error["detail"]
    assert instance.process.wait(60) == 0
    assert (tmp_path / "closed").exists()
    assert (tmp_path / "torn down").exists()


FOREVER = """
    import asyncio, pathlib, time
    from instance import ModelAPI

    class Forever(ModelAPI):
        stream = True
        def setup(self, device): ...
        def teardown(self):
            pathlib.Path("torn down").touch()
        def predict(self, x):
            try:
                while True:
                    yield {"i": 1}
                    time.sleep(0.01)
            finally:
                pathlib.Path("closed").touch()

    class ForeverAsync(Forever):
        async def predict(self, x):
            try:
                while True:
                    yield {"i": 1}
                    await asyncio.sleep(0.01)
            finally:
                pathlib.Path("closed").touch()
"""


def test_the_end_of_a_chat_models_process_reaches_its_clients(serve: Serve) -> None:
    ask = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    got = broken_off(serve(DYING, "Chat"), ask, "*/*", "/v1/chat/completions")
    last = json.loads(got.strip().rpartition(b"data: ")[2])
    assert last["error"]["code"] == "model_error"
    assert "process died" in last["error"]["message"]


@pytest.mark.parametrize("name", ["Endless", "EndlessAsync"])
@pytest.mark.paced
def test_r43_a_client_that_leaves_stops_its_generator(serve: Serve, tmp_path, name: str) -> None:
    instance, took = serve(STREAMS, name), []
    for _ in range(5):  # one of which may meet a pause of the machine
        with instance.client() as client, client.stream("POST", "/predict", json={}) as answer:
            parts = answer.iter_bytes()
            next(parts)
            assert not (tmp_path / "closed").exists()
        started = time.monotonic()
        eventually((tmp_path / "closed").exists)
        took.append(time.monotonic() - started)
        (tmp_path / "closed").unlink()
    assert min(took) < 0.2, took
    eventually(lambda: instance.metric("instance_running") == 0)


def test_a_client_that_does_not_read_holds_the_generator_and_no_memory(
    serve: Serve, tmp_path
) -> None:
    instance = serve(STREAMS, "Endless")
    client = socket.create_connection(("127.0.0.1", instance.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    eventually((tmp_path / "made").exists)

    def stands_still() -> bool:
        before = (tmp_path / "made").stat().st_size
        time.sleep(0.3)
        return (tmp_path / "made").stat().st_size == before

    eventually(stands_still)
    assert (tmp_path / "made").stat().st_size * 10_000 < 8 << 20
    client.close()
    eventually((tmp_path / "closed").exists)


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(serve: Serve) -> None:
    instance = serve(STREAMS, "Words")
    client = socket.create_connection(("127.0.0.1", instance.port))
    client.sendall(b'POST /predict HTTP/1.0\r\nContent-Length: 8\r\n\r\n{"n": 2}')
    got = b""
    while part := client.recv(65536):
        got += part
    assert got.endswith(b"\r\n\r\nw0 w1 ")
    assert b"chunked" not in got


def test_a_stream_that_fails_is_reset_where_its_end_would_look_complete(serve: Serve) -> None:
    instance = serve(
        """
        class Model:
            stream = True
            def setup(self, device): ...
            def predict(self, x):
                yield "begun"
                raise ValueError
        """
    )
    client = socket.create_connection(("127.0.0.1", instance.port))
    client.sendall(b"POST /predict HTTP/1.0\r\nContent-Length: 1\r\n\r\n1")
    with pytest.raises(ConnectionResetError):
        b"".join(iter(lambda: client.recv(65536), b""))


WAITS = """
    import threading
    class Model:
        stream = True
        def setup(self, device): ...
        def predict(self, n):
            yield "begun"
            yield "x" * n
            threading.Event().wait()
"""


def test_an_instance_that_is_killed_resets_a_stream_that_only_its_end_would_end(
    serve: Serve,
) -> None:
    instance = serve(WAITS)
    client = socket.create_connection(("127.0.0.1", instance.port))
    client.sendall(b"POST /predict HTTP/1.0\r\nContent-Length: 1\r\n\r\n1")
    got = b""
    while not got.endswith(b"begunx"):
        got += client.recv(65536)
    instance.process.kill()
    with pytest.raises(ConnectionResetError):
        b"".join(iter(lambda: client.recv(65536), b""))


def test_a_client_that_is_given_up_within_a_stream_is_reset_where_its_end_would_look_complete(
    serve: Serve,
) -> None:
    instance = serve(WAITS, "Model", "--stream-idle", "1s")
    client = socket.create_connection(("127.0.0.1", instance.port))
    client.sendall(b"POST /predict HTTP/1.0\r\nContent-Length: 8\r\n\r\n20000000")
    eventually(lambda: instance.metric("instance_running") == 1)
    process = psutil.Process(instance.process.pid)
    eventually(lambda: "ESTABLISHED" not in [one.status for one in process.net_connections()])
    with pytest.raises(ConnectionResetError):
        b"".join(iter(lambda: client.recv(65536), b""))
