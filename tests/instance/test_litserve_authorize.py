"""Who is let in is decided here as LitServe decides it: by the class's own `authorize`, whatever
form FastAPI knows of it, or by the key in LIT_SERVER_API_KEY. Nothing is served open that
asks for a secret."""

import re
import socket
import textwrap
import threading

import httpx
import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import Instance, Serve, eventually

late_or_skip("litserve")

CLASSES = """
    import asyncio, os, time
    from pathlib import Path
    import litserve as ls
    from fastapi import Body, Depends, Header, HTTPException, Query, Request, Response
    from fastapi.security import (
        APIKeyHeader, HTTPAuthorizationCredentials, HTTPBasic, HTTPBearer, SecurityScopes,
    )

    class Square(ls.LitAPI):
        def setup(self, device):
            self.ready = True

        def decode_request(self, request):
            Path("decoded").touch()
            return request["input"]

        def predict(self, x):
            while Path("hold").exists():
                time.sleep(0.01)
            return x**2

        def encode_response(self, output):
            return {"output": output}

    class Bearer(Square):
        def authorize(self, auth: HTTPAuthorizationCredentials = Depends(HTTPBearer())):
            if auth.scheme != "Bearer" or auth.credentials != "1234":
                raise HTTPException(status_code=401, detail="Bad token")

    class Key(Square):
        async def authorize(self, key: str = Depends(APIKeyHeader(name="X-Token"))):
            if key != "1234":
                raise HTTPException(403, "no", headers={"X-Why": "key"})

    def header_of(x_a: str = Header()):
        return x_a

    async def both(request: Request, first: str = Depends(header_of)):
        return first + request.headers["x-b"]

    def opened():
        Path("opened").touch()
        yield "s"
        Path("closed").touch()

    class Nested(Square):
        def authorize(
            self, response: Response, q: int = Query(), word: str = Depends(both), _=Depends(opened)
        ):
            if word != "12":
                raise HTTPException(401, {"why": word})
            response.headers["X-User"] = str(q)

    class Address(Square):
        async def authorize(self, request: Request):
            if request.headers.get("x-a") == "hang":
                await asyncio.sleep(3600)
            if request.client.host != "127.0.0.1" or (await request.json())["input"] > 3:
                raise HTTPException(401)

    class Says(Square):
        def authorize(self, request: Request):
            said = request.headers.get("x-a")
            if said == "raise":
                raise RuntimeError("secret words")
            if said == "end":
                os._exit(3)
            return said == "1"

    class Off(Bearer):
        authorize = None

    class NotCallable(Square):
        authorize = "yes"

    class OfBody(Square):
        def authorize(self, token: str = Body()):
            pass

    class Unknown(Square):
        def authorize(self, connection: Path.__class__("Odd", (), {})):
            pass

    class Streaming(Bearer):
        def __init__(self):
            super().__init__(stream=True)

        def predict(self, x):
            yield from range(x)

        def encode_response(self, output):
            for value in output:
                yield {"output": value}
"""
BODY = {"input": 3}


@pytest.fixture(scope="module")
def of_bearer(served: Serve) -> Instance:
    """One with room for one request beside the one that is computed, and a key in its environment
    that a class with `authorize` does not ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_SERVER_API_KEY", "abcd")
        return served(CLASSES, "Bearer", "--max-queue", "1")


@pytest.fixture(scope="module")
def of_key(served: Serve) -> Instance:
    """One that asks for a key, as its environment says, at every address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_SERVER_API_KEY", "abcd")
        instance = served(CLASSES, "Square", "--host", "0.0.0.0")
    instance.address = f"http://127.0.0.1:{instance.port}"
    return instance


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_request_without_a_token_is_refused_before_its_body_is_decoded(
    of_bearer: Instance,
) -> None:
    instance, folder = of_bearer, of_bearer.cwd
    (folder / "decoded").unlink(missing_ok=True)
    before = instance.metric('instance_requests_total{code="401"}')
    for headers in ({}, bearer("12345"), {"Authorization": "Basic MTIzNA=="}):
        answer = instance.post(BODY, headers=headers)
        assert answer.status_code == 401, answer.text
        assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"detail": "Not authenticated"}
    assert instance.post(BODY, headers=bearer("12345")).json()["detail"] == "Bad token"
    assert not (folder / "decoded").exists()
    answer = instance.post(BODY, headers=bearer("1234"))
    assert (answer.status_code, answer.json()) == (200, {"output": 9})
    assert instance.metric('instance_requests_total{code="401"}') == before + 4


def test_a_refused_client_waits_for_no_model_and_holds_no_place(of_bearer: Instance) -> None:
    instance = of_bearer
    hold = instance.cwd / "hold"
    hold.touch()
    with instance.client() as client, instance.client() as other:

        def ask() -> None:
            answers.append(client.post("/predict", json=BODY, headers=bearer("1234")))

        answers: list[httpx.Response] = []
        thread = threading.Thread(target=ask)
        thread.start()
        eventually(lambda: instance.metric("instance_running") == 1)
        refused = [other.post("/predict", json=BODY).status_code for _ in range(20)]
        assert refused == [401] * 20
        assert thread.is_alive()
        assert instance.metric("instance_queue_depth") == 0
        hold.unlink()
        thread.join()
    assert answers[0].json() == {"output": 9}


def test_what_a_refusal_says_is_the_hooks(serve: Serve) -> None:
    instance = serve(CLASSES, "Key")
    answer = instance.post(BODY, headers={"X-Token": "2"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "no")
    assert answer.headers["X-Why"] == "key"
    assert instance.post(BODY).status_code in (401, 403)
    assert instance.post(BODY, headers={"X-Token": "1234"}).json() == {"output": 9}


def test_dependencies_of_dependencies_are_solved_and_their_headers_reach_the_answer(
    serve: Serve,
) -> None:
    instance = serve(CLASSES, "Nested")
    good = {"X-A": "1", "X-B": "2"}
    answer = instance.post(BODY, "/predict?q=7", headers=good)
    assert (answer.status_code, answer.headers["X-User"]) == (200, "7")
    assert (instance.cwd / "closed").exists()
    answer = instance.post(BODY, "/predict?q=7", headers={"X-A": "1", "X-B": "3"})
    assert (answer.status_code, answer.json()["detail"]) == (401, {"why": "13"})
    answer = instance.post(BODY, "/predict?q=x", headers=good)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "q"]


def test_the_request_has_its_client_and_its_body(served: Serve) -> None:
    instance = served(CLASSES, "Address")
    assert instance.post(BODY).json() == {"output": 9}
    large = {"input": 1, "pad": "x" * 3_000_000}
    assert instance.post(large).json() == {"output": 1}
    assert instance.post({"input": 4}).status_code == 401


def test_an_authorize_that_fails_lets_nobody_in_and_shows_nothing(served: Serve) -> None:
    instance = served(CLASSES, "Says")
    answer = instance.post(BODY, headers={"X-A": "raise"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    instance.wait_for("secret words")


def test_false_is_no(served: Serve) -> None:
    instance = served(CLASSES, "Says")
    assert instance.post(BODY).status_code == 401
    assert instance.post(BODY, headers={"X-A": "1"}).status_code == 200


def test_health_and_info_ask_as_in_litserve_and_probes_do_not(of_bearer: Instance) -> None:
    instance = of_bearer
    for path in ("/", "/health", "/info", "/instance"):
        assert instance.get(path).status_code == 401, path
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"):
        assert instance.get(path).status_code == 200, path
    with instance.client(headers=bearer("1234")) as client:
        assert client.get("/health").text == "ok"
        assert client.get("/info").json()["ready"]
        document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert document["paths"]["/predict"]["post"]["security"] == [{"HTTPBearer": []}]


def test_a_stream_is_refused_before_it_begins(serve: Serve) -> None:
    instance = serve(CLASSES, "Streaming")
    assert instance.post(BODY).status_code == 401
    lines = instance.post(BODY, headers=bearer("1234")).text.splitlines()
    assert len(lines) == 3


def test_a_class_that_switches_authorize_off_is_open(serve: Serve) -> None:
    assert serve(CLASSES, "Off").post(BODY).status_code == 200


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("NotCallable", "authorize must be a method"),
        ("OfBody", "authorize.*takes part of the body"),
        ("Unknown", "authorize.*cannot be honoured"),
    ],
)
def test_an_authorize_that_cannot_be_honoured_refuses_the_start(
    serve: Serve, name: str, why: str
) -> None:
    instance = serve(CLASSES, name, wait=False)
    assert re.search(why, instance.refused())


def test_an_authorize_that_hangs_is_a_504_and_lets_nobody_in(served: Serve) -> None:
    instance = served(CLASSES, "Address")
    answer = instance.post(BODY, headers={"X-A": "hang", "X-Headgate-Timeout-Ms": "300"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")


def test_when_the_process_that_authorizes_ends_another_one_does(served: Serve) -> None:
    instance, good = served(CLASSES, "Says"), {"X-A": "1"}
    assert instance.post(BODY, headers=good).status_code == 200
    answer = instance.post(BODY, headers={"X-A": "end"})
    assert answer.status_code == 503, answer.text
    eventually(lambda: instance.post(BODY, headers=good).status_code == 200, timeout=60)


def test_when_the_process_that_authorizes_hangs_another_one_does(serve: Serve) -> None:
    instance, good = serve(CLASSES, "Says"), {"X-A": "1"}
    assert instance.post(BODY, headers=good).status_code == 200
    (asked,) = [
        one for one in instance.workers() if "instance.model.authorization" in one.cmdline()
    ]
    asked.suspend()
    answer = instance.post(BODY, headers=good)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    eventually(lambda: instance.post(BODY, headers=good).status_code == 200, timeout=60)


# -- the key ---------------------------------------------------------------------------------


RAISERS = """
    import asyncio, sys
    from fastapi import Header
    from instance import Request

    def do(what):
        if what == "exit": sys.exit(3)
        if what == "interrupt": raise KeyboardInterrupt
        if what == "cancelled": raise asyncio.CancelledError
        if what == "group": raise BaseExceptionGroup("both", [SystemExit()])

    class Model:
        def setup(self, device): ...
        def predict(self, x): return x

    class Plain(Model):
        def authorize(self, request: Request): do(request.headers["x-what"])
    class Async(Model):
        async def authorize(self, request: Request): do(request.headers["x-what"])
    class Depends(Model):
        def authorize(self, x_what: str = Header()): do(x_what)
    class AsyncDepends(Model):
        async def authorize(self, x_what: str = Header()): do(x_what)
    class Yields(Model):
        def authorize(self, x_what: str = Header()):
            do(x_what)
            yield
"""


@pytest.mark.parametrize("name", ["Plain", "Async", "Depends", "AsyncDepends", "Yields"])
def test_an_authorize_that_raises_what_is_no_exception_refuses_that_request_alone(
    serve: Serve, name: str
) -> None:
    instance = serve(RAISERS, name)
    processes = instance.workers()
    for what in ("exit", "interrupt", "cancelled", "group"):
        answer = instance.post(1, headers={"X-What": what})
        assert (answer.status_code, answer.json()["code"]) == (500, "model_error"), what
        assert instance.post(1, headers={"X-What": "nothing"}).json() == 1
    assert instance.workers() == processes


def test_the_key_of_the_environment_is_asked_for_at_every_address(of_key: Instance) -> None:
    instance = of_key
    for key in (None, "", "abc", "abcde", "Bearer abcd"):
        headers = {} if key is None else {"X-API-Key": key}
        answer = instance.post(BODY, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), key
        assert "X-API-Key" in answer.json()["detail"]
        assert answer.headers["WWW-Authenticate"] == "APIKey"
    assert not (instance.cwd / "decoded").exists()
    with instance.client(headers={"x-api-key": "abcd"}) as client:
        assert client.post("/predict", json=BODY).json() == {"output": 9}
        assert client.get("/health").text == "ok"
        assert client.get("/info").status_code == 200
    for path in ("/", "/health", "/info", "/instance"):
        assert instance.get(path).status_code == 401, path
    assert instance.get("/health/ready").status_code == 200
    document = instance.get("/openapi.json").json()
    assert document["paths"]["/predict"]["post"]["security"] == [{"APIKeyHeader": []}]


def test_the_key_refuses_a_large_body_before_it_comes(of_key: Instance) -> None:
    with socket.create_connection(("127.0.0.1", of_key.port), timeout=60) as sock:
        sock.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert sock.recv(64).startswith(b"HTTP/1.1 401 ")


def test_a_class_with_authorize_asks_for_no_key_as_in_litserve(of_bearer: Instance) -> None:
    instance = of_bearer
    assert instance.post(BODY, headers=bearer("1234")).status_code == 200
    assert instance.post(BODY, headers={"X-API-Key": "abcd"}).status_code == 401


def test_an_empty_key_refuses_the_start(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_SERVER_API_KEY", "")
    instance = serve(CLASSES, "Square", wait=False)
    assert "LIT_SERVER_API_KEY is set but empty" in instance.refused()


def test_a_key_that_the_models_file_puts_into_the_environment_is_asked_for(serve: Serve) -> None:
    found = "import os\nos.environ['LIT_SERVER_API_KEY'] = 'abcd'\n"
    instance = serve(found + textwrap.dedent(CLASSES), "Square")
    assert instance.post(BODY).status_code == 401
    assert instance.get("/info").status_code == 401
    assert instance.post(BODY, headers={"X-API-Key": "abcd"}).json() == {"output": 9}
    assert "abcd" not in "".join(instance.log)


# -- without FastAPI -------------------------------------------------------------------------

PLAIN = """
    from instance import ModelAPI, Request, RequestError

    class Model(ModelAPI):
        def predict(self, x):
            return x

        async def authorize(self, request: Request):
            if request.headers.get("authorization") != "Bearer 1234":
                raise RequestError(401, "no", {"WWW-Authenticate": "Bearer"})
"""


def test_a_model_api_authorizes_with_its_own_request(serve: Serve) -> None:
    instance = serve(PLAIN)
    answer = instance.post([1])
    assert (answer.status_code, answer.json()["detail"]) == (401, "no")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert instance.post([1], headers=bearer("1234")).json() == [1]
