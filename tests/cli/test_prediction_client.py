"""The clients for predictions, blocking and awaited, against a server that plays models; and both
through a real gateway with a real model."""

import asyncio
import concurrent.futures
import contextlib
import gc
import hashlib
import inspect
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.client import AsyncClient, Client, Refused, TimedOut, Unreachable, trust
from tests.cli.model_player import ModelPlayer
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.gateway import ROOT
from tests.harness.ports import free_port
from tests.harness.up import running

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def models() -> Iterator[ModelPlayer]:
    with ModelPlayer() as player:
        yield player
    gc.collect()  # what was not closed says so here


def blocking(url: str, method: str, *given: Any, key: str | None = None, **named: Any) -> Any:
    with Client(url, key) as client:
        answer = getattr(client, method)(*given, **named)
        return list(answer) if method == "stream" else answer


def awaited(url: str, method: str, *given: Any, key: str | None = None, **named: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, key) as client:
            answer = getattr(client, method)(*given, **named)
            return [item async for item in answer] if method == "stream" else await answer

    return asyncio.run(ask())


Ask = Callable[..., Any]
both = pytest.mark.parametrize("ask", [blocking, awaited])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, inspect.getsource(condition)
        threading.Event().wait(0.005)


# -- one prediction ------------------------------------------------------------------------------


@both
def test_a_value_goes_as_json_with_the_key_and_the_deadline(models, ask: Ask) -> None:
    given = {"x": [1.5, None, "ä"]}
    assert ask(models.url, "predict", "/echo", given, key="s3cret", timeout_s=2.5) == given
    ((headers, _),) = models.asked
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["x-request-timeout"] == "2.5"
    assert headers["content-type"] == "application/json"


@both
def test_bytes_go_as_they_are_and_headers_are_the_callers(models, ask: Ask) -> None:
    image, kind = b"\x89PNG" * 1_000_000, "image/png"
    more = {"content_type": kind, "headers": {"X-Headgate-Backend": "cnn", "user-agent": "mine"}}
    assert ask(models.url, "predict", "/echo", image, **more) == image
    ((headers, _),) = models.asked
    assert (headers["content-type"], headers["x-headgate-backend"]) == (kind, "cnn")
    assert "authorization" not in headers
    assert headers["user-agent"] == "mine"


@both
def test_text_is_text_and_nothing_is_none(models, ask: Ask) -> None:
    kind = "text/plain; charset=latin-1"
    assert ask(models.url, "predict", "/stream-text", 1) == "grün"
    assert ask(models.url, "predict", "/echo", b"words", content_type=kind) == "words"
    assert ask(models.url, "predict", "/empty", 1) is None


def test_an_array_of_numpy_is_a_value(models) -> None:
    numpy = pytest.importorskip("numpy")
    assert blocking(models.url, "predict", "/echo", {"x": numpy.eye(2)}) == {"x": [[1, 0], [0, 1]]}


@both
def test_a_refusal_says_what_the_gateway_said(models, ask: Ask) -> None:
    with pytest.raises(Refused, match="8 wait already") as caught:
        ask(models.url, "predict", "/full", 1)
    told = caught.value
    assert (told.status, told.code, told.retry_after_s, told.request_id) == (
        503, "queue_full", 3.0, "abc"
    )  # fmt: skip
    with pytest.raises(Refused, match="no such model") as caught:
        ask(models.url, "predict", "/v1/openai", 1)
    told = caught.value
    assert (told.status, told.code, told.retry_after_s, told.request_id) == (
        404, "no_model", None, "def"
    )  # fmt: skip
    with pytest.raises(Refused, match="502 Bad Gateway"):
        ask(models.url, "predict", "/page", 1)
    assert len(models.asked) == 3  # nothing is retried


@pytest.mark.parametrize("errors", [5, True, {"x": ["too small"]}, "two", ["x is too small"]])
def test_what_a_model_calls_errors_names_no_faults_unless_it_is_a_list_of_them(errors: Any) -> None:
    refused = Refused(400, {"detail": "x is too small", "errors": errors})
    assert (refused.faults, refused.problem["errors"]) == ([], errors)


@both
def test_text_in_a_charset_that_is_none_is_read_as_utf_8(models, ask: Ask) -> None:
    assert ask(models.url, "predict", "/stream-odd", 1) == "grün"
    assert "".join(ask(models.url, "stream", "/stream-odd", 1)) == "grün"


@both
def test_a_redirect_is_not_followed(models, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(models.url, "predict", "/moved", 1, key="s3cret")
    assert caught.value.status == 307
    assert len(models.asked) == 1


@both
@pytest.mark.parametrize("method", ["predict", "stream"])
def test_what_is_too_late_is_given_up(models, ask: Ask, method: str) -> None:
    with pytest.raises(TimedOut, match=r"within 0\.05 s") as caught:
        ask(models.url, method, "/hang", 1, timeout_s=0.05)
    assert isinstance(caught.value, TimeoutError)
    until(lambda: models.given_up == len(models.asked))


@both
def test_the_gateways_deadline_is_too_late_as_well(models, ask: Ask) -> None:
    with pytest.raises(TimedOut, match="the deadline passed"):
        ask(models.url, "predict", "/late", 1)


@both
@pytest.mark.parametrize("method", ["predict", "stream"])
def test_nobody_there_is_unreachable(ask: Ask, method: str) -> None:
    with pytest.raises(Unreachable, match=r"no gateway answers at .*: connection refused"):
        ask(f"http://127.0.0.1:{free_port()}", method, "/x", 1)


@both
def test_an_answer_that_is_none_is_unreachable(models, ask: Ask) -> None:
    with pytest.raises(Unreachable, match="broke off"):
        ask(models.url, "predict", "/broken", 1)
    with pytest.raises(Unreachable, match="is JSON and is not"):
        ask(models.url, "predict", "/unlike", 1)


@both
def test_a_gateway_with_a_certificate_is_asked_when_it_is_trusted(tmp_path, ask: Ask) -> None:
    ca = make_ca(tmp_path)
    cert, key = make_certificate(tmp_path, "gateway", ca, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with ModelPlayer(context) as models:

        def predict(tls: ssl.SSLContext | None) -> Any:
            if ask is blocking:
                with Client(models.url, tls=tls) as client:
                    return client.predict("/echo", 1)

            async def awaiting() -> Any:
                async with AsyncClient(models.url, tls=tls) as client:
                    return await client.predict("/echo", 1)

            return asyncio.run(awaiting())

        assert predict(trust(str(ca[0]))) == 1
        with pytest.raises(Unreachable, match="its certificate is not to be trusted"):
            predict(None)
    gc.collect()


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_what_cannot_be_asked_is_said_at_once(client: Any) -> None:
    with pytest.raises(ValueError, match="is not the http:// or https:// URL of a gateway"):
        client("ftp://x")
    with pytest.raises(ValueError, match="is not the http:// or https:// URL of a gateway"):
        client("http://a b")
    with pytest.raises(ValueError, match="timeout_s must be more than 0 s, not 0"):
        client(timeout_s=0)
    with pytest.raises(ValueError, match="a key is one line of printable characters") as refused:
        client(key="hunter2\nX-Evil: 1")
    assert "hunter2" not in str(refused.value)


@both
def test_a_wrong_argument_is_named_and_nothing_sent(models, ask: Ask) -> None:
    for wrong, says in (
        (lambda: ask(models.url, "predict", "echo", 1), "a path begins with /: 'echo'"),
        (lambda: ask(models.url, "predict", "/echo", 1, timeout_s=-1), "timeout_s must be more"),
        (lambda: ask(models.url, "predict_all", "/echo", [1], at_once=0), "at_once must be 1 or"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()
    with pytest.raises(TypeError):
        ask(models.url, "predict", "/echo", object())
    assert models.asked == []


# -- streams -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("what", "items"),
    [
        ("lines", [{"i": 0}, {"i": 1}, {"i": 2}]),
        ("events", [{"i": 0}, {"i": 1}, "words"]),
        ("done", [1]),
        ("json", [[1, 2]]),
    ],
)
def test_the_items_of_a_stream_come_decoded(models, ask: Ask, what: str, items: list[Any]) -> None:
    assert ask(models.url, "stream", f"/stream-{what}", 1) == items
    assert models.asked[0][0]["accept"].startswith("text/event-stream")


@both
def test_a_stream_of_text_or_bytes_comes_as_it_is(models, ask: Ask) -> None:
    assert "".join(ask(models.url, "stream", "/stream-text", 1)) == "grün"
    assert b"".join(ask(models.url, "stream", "/stream-bytes", 1)) == b"\x00\x01"


@both
@pytest.mark.parametrize("what", ["event", "line", "openai"])
def test_a_stream_that_says_that_it_failed_raises(models, ask: Ask, what: str) -> None:
    with pytest.raises(Refused, match="it fell") as caught:
        ask(models.url, "stream", f"/stream-failed-{what}", 1)
    assert (caught.value.status, caught.value.code) == (500, "predict")


@both
def test_a_stream_that_breaks_off_raises(models, ask: Ask) -> None:
    with pytest.raises(Unreachable, match="broke off"):
        ask(models.url, "stream", "/broken", 1)


def test_what_a_stream_said_before_it_broke_off_reaches_who_is_slow_to_take_it(models) -> None:
    """All of it has come, and the connection has ended, while nobody waits for the next item."""

    async def ask() -> None:
        async with AsyncClient(models.url) as client:
            items = client.stream("/falls", 1)
            assert await anext(items) == 0
            models.taken.set()
            models.fallen.wait(60)  # the loop stands still until then, and then reads it all
            for _ in range(10):
                await asyncio.sleep(0)
            assert await anext(items) == 1
            with pytest.raises(Refused, match="it fell"):
                await anext(items)

    asyncio.run(ask())


@both
def test_a_stream_is_refused_as_a_prediction_is(models, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(models.url, "stream", "/full", 1)
    assert caught.value.retry_after_s == 3


@pytest.mark.parametrize("how", ["closed", "left"])
def test_the_connection_of_a_stream_ends_with_it(models, how: str) -> None:
    with Client(models.url) as client:
        items = client.stream("/endless", 1)
        assert next(items) == 0
        if how == "closed":
            items.close()
        else:
            del items
        until(lambda: models.given_up == 1)
        assert client.predict("/echo", 1) == 1


async def test_the_connection_of_an_awaited_stream_ends_with_it(models) -> None:
    async with AsyncClient(models.url) as client:
        async with contextlib.aclosing(client.stream("/endless", 1)) as items:
            assert await anext(items) == 0
        await asyncio.to_thread(until, lambda: models.given_up == 1)
        assert await client.predict("/echo", 1) == 1


# -- many ----------------------------------------------------------------------------------------


@both
def test_answers_to_many_come_in_the_order_of_the_values(models, ask: Ask) -> None:
    seen: list[tuple[int, int | None]] = []
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    answers = ask(models.url, "predict_all", "/backwards", range(4), at_once=4, progress=progress)
    assert answers == [0, 1, 2, 3]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert ask(models.url, "predict_all", "/echo", []) == []


@both
def test_many_are_asked_as_many_at_a_time_as_was_said_on_kept_connections(models, ask: Ask) -> None:
    answers = ask(models.url, "predict_all", "/four", iter(range(32)), at_once=4)
    assert answers == list(range(32))
    assert models.most_at_once == 4
    assert len(models.connections) == 4


@both
def test_values_are_read_as_they_are_asked(models, ask: Ask) -> None:
    taken = 0

    def values() -> Iterator[int]:
        nonlocal taken
        while taken < 30:
            taken += 1
            yield taken

    def progress(done: int, total: int | None) -> None:
        assert total is None
        assert taken <= done + 3

    assert (
        len(ask(models.url, "predict_all", "/echo", values(), at_once=3, progress=progress)) == 30
    )


@both
def test_the_first_failure_of_many_ends_all(models, ask: Ask) -> None:
    with pytest.raises(Refused):
        ask(models.url, "predict_all", "/second", range(100), at_once=4)
    until(lambda: models.given_up == 3)
    assert sorted(body for _, body in models.asked) == [b"0", b"1", b"2", b"3"]


@both
def test_what_progress_raises_ends_all(models, ask: Ask) -> None:
    def progress(done: int, total: int | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(models.url, "predict_all", "/echo", range(100), at_once=1, progress=progress)
    assert len(models.asked) == 1


def test_progress_is_called_in_the_thread_of_the_caller(models) -> None:
    threads = set()
    progress = lambda *_: threads.add(threading.current_thread())  # noqa: E731
    blocking(models.url, "predict_all", "/echo", range(9), progress=progress)
    assert threads == {threading.current_thread()}


# -- threads, loops, ends ------------------------------------------------------------------------


def test_the_clients_have_the_same_methods() -> None:
    for name in ("predict", "stream", "predict_all", "close"):
        one, other = (inspect.signature(getattr(each, name)) for each in (Client, AsyncClient))
        assert list(one.parameters.values()) == list(other.parameters.values())
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


async def test_the_blocking_client_works_where_a_loop_runs_as_in_a_notebook(models) -> None:
    with Client(models.url) as client:
        assert client.predict("/echo", 1) == 1
        assert list(client.stream("/stream-done", 1)) == [1]
        assert client.predict_all("/echo", [1, 2]) == [1, 2]


def test_threads_share_a_client_and_its_connections_are_kept(models) -> None:
    with Client(models.url) as client:
        for number in range(20):
            assert client.predict("/echo", number) == number
        assert len(models.connections) == 1
        answers: list[int] = []
        asking = [
            threading.Thread(target=lambda n=n: answers.append(client.predict("/echo", n)))
            for n in range(8)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    assert sorted(answers) == list(range(8))


def loops() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "headgate-client"]


def test_a_client_that_nobody_has_any_more_ends(models) -> None:
    before = loops()
    client = Client(models.url)
    assert client.predict("/echo", 1) == 1
    assert len(loops()) == len(before) + 1
    del client
    until(lambda: loops() == before)


@pytest.mark.parametrize(
    "last", ["", "client.close()", "items = client.stream('/endless', 1); next(items)"]
)
def test_a_program_ends_without_a_word_whatever_it_left_open(models, last: str) -> None:
    code = (
        "import logging; from gateway.client import Client;"
        # In development asyncio warns of each step that a busy machine took long for.
        "logging.getLogger('asyncio').setLevel('ERROR');"
        f"client = Client({models.url!r}); print(client.predict('/echo', 1)); {last}"
    )
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


def test_a_client_of_another_process_says_so(models) -> None:
    code = f"""
import os
from gateway.client import Client
client = Client({models.url!r})
if os.fork() == 0:
    try:
        client.predict("/echo", 1)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(client.predict("/echo", 1))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ran.stdout.splitlines() == ["the client is another process's: make one in each", "1"]


def test_a_closed_client_says_so_and_is_closed_once(models) -> None:
    client = Client(models.url)
    items = client.stream("/endless", 1)
    assert next(items) == 0
    client.close()
    client.close()
    items.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.predict("/echo", 1)


async def test_a_closed_awaited_client_says_so(models) -> None:
    client = AsyncClient(models.url)
    assert await client.predict("/echo", 1) == 1
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.predict("/echo", 1)


def test_who_closes_a_client_ends_what_others_wait_for(models) -> None:
    client = Client(models.url)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            client.predict("/hang", 1)
        except Unreachable as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: models.under_way == 1)
    client.close()
    asking.join()
    assert "the client was closed" in str(failed[0])
    until(lambda: models.given_up == 1)


def test_an_awaited_client_is_of_one_loop(models) -> None:
    client = AsyncClient(models.url)

    async def ask() -> Any:
        return await client.predict("/echo", 1)

    async def ask_and_close() -> Any:
        try:
            return await ask()
        finally:
            await client.close()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(ask()) == 1
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            second.run(ask())
        assert first.run(ask_and_close()) == 1


@pytest.mark.parametrize("method", ["predict", "stream", "predict_all"])
def test_ctrl_c_gives_up_what_is_under_way(models, monkeypatch, method: str) -> None:
    main = threading.main_thread()
    if threading.current_thread() is not main:
        pytest.skip("signals reach the main thread")
    is_waiting = threading.Event()

    def seen(waits: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*given: Any, **named: Any) -> Any:
            is_waiting.set()
            return waits(*given, **named)

        return wait

    future = concurrent.futures.Future
    monkeypatch.setattr(future, "result", seen(future.result))
    monkeypatch.setattr(concurrent.futures, "wait", seen(concurrent.futures.wait))

    def interrupt() -> None:
        until(lambda: models.under_way == 1 and is_waiting.is_set())
        signal.pthread_kill(main.ident, signal.SIGINT)

    with Client(models.url) as client:
        given = [1] if method == "predict_all" else 1
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(getattr(client, method)("/hang", given))
        until(lambda: models.given_up == 1)
        assert client.predict("/echo", 1) == 1


# -- a real gateway and a real model ---------------------------------------------------------------

SECRET = "acmes-secret"
MODEL = """
import asyncio

class Fell(Exception):
    status_code, detail = 507, "it fell"

class Count:
    stream = True

    def setup(self, device):
        pass

    async def predict(self, x):
        for i in range(x["n"]):
            yield {"i": i}
        if x.get("fails"):
            raise Fell
        if x.get("is_slow"):
            await asyncio.sleep(600)
"""


async def test_both_clients_through_a_gateway_with_a_model(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(MODEL)
    document = {
        "gateway": {
            "listen": f"127.0.0.1:{free_port()}",
            "admin": f"127.0.0.1:{free_port()}",
            "lame_duck": "100ms",
        },
        "backends": {
            "count": {
                "serve": {"model": "count.py:Count"},
                "instances": [f"http://127.0.0.1:{free_port()}"],
            }
        },
        "routes": {"count": {"match": "/count", "rewrite": "/predict", "split": {"count": 1}}},
        "keys": {"acme": {"hashes": [f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"]}},
    }
    async with running(tmp_path, document) as up:
        three = [{"i": 0}, {"i": 1}, {"i": 2}]
        with Client(up.url) as nobody, pytest.raises(Refused) as caught:
            nobody.predict("/count", {"n": 1})
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        with Client(up.url, SECRET) as client:  # in the thread of a running loop
            assert client.predict("/count", {"n": 1}) == b'{"i": 0}\n'
            assert list(client.stream("/count", {"n": 3})) == three
            assert client.predict_all("/count", [{"n": 1}] * 9) == [b'{"i": 0}\n'] * 9
            with pytest.raises(Refused, match="it fell") as caught:
                list(client.stream("/count", {"n": 1, "fails": True}))
            assert caught.value.status == 507
            with pytest.raises(TimedOut):
                client.predict("/count", {"n": 0, "is_slow": True}, timeout_s=0.2)
            with pytest.raises(Refused) as caught:
                client.predict("/v1/nothing", 1)
            assert (caught.value.status, caught.value.code) == (404, "no_route")
            assert caught.value.request_id
        async with AsyncClient(up.url, SECRET) as asking:
            assert [item async for item in asking.stream("/count", {"n": 3})] == three
            assert await asking.predict_all("/count", [{"n": 1}] * 3) == [b'{"i": 0}\n'] * 3
            with pytest.raises(Refused):
                _ = [item async for item in asking.stream("/count", {"n": 1, "fails": True})]
            with pytest.raises(TimedOut):
                await asking.predict("/count", {"n": 0, "is_slow": True}, timeout_s=0.2)
