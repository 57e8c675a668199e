"""A file that builds a LitServer and runs it is served as it stands: several APIs, and all that
was given to the server and to its `run`, honoured or named, or the start is refused in a line."""

import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import CLIENT, Instance, eventually
from tests.instance.litserve_side import LitServe

late_or_skip("litserve")

ServeFile = Callable[..., Instance]


@pytest.fixture
def serve_file(tmp_path: Path) -> Iterator[ServeFile]:
    """Serves `source` as a file, with no name of anything in it."""
    started: list[Instance] = []

    def start(source: str, *arguments: str, wait: bool = True) -> Instance:
        (tmp_path / "server.py").write_text(dedent(source))
        instance = Instance("server.py", arguments, tmp_path)
        started.append(instance)
        return instance.ready() if wait else instance

    yield start
    for instance in started:
        instance.end()


@pytest.fixture(scope="module")
def served_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeFile]:
    """As `serve_file`, but one instance for all tests that ask for the same, which leave it as they
    found it."""
    started: dict[tuple[str, ...], Instance] = {}

    def find(source: str, *arguments: str) -> Instance:
        if (source, *arguments) not in started:
            folder = tmp_path_factory.mktemp("served")
            (folder / "server.py").write_text(dedent(source))
            started[source, *arguments] = Instance("server.py", arguments, folder)
        return started[source, *arguments].ready()

    yield find
    for instance in started.values():
        instance.end()


HEAD = """
import os, sys, json, time
import litserve as ls
from pydantic import BaseModel
from pathlib import Path

class Power(ls.LitAPI):
    def __init__(self, power=2, **named):
        super().__init__(**named)
        self.power = power
    def setup(self, device):
        self.set_up_on = device
    def decode_request(self, request):
        return request["input"]
    def predict(self, x):
        if isinstance(x, list):
            return [one ** self.power for one in x]
        return x ** self.power
    def encode_response(self, output):
        return {"output": output, "device": self.set_up_on}
"""

GUARDED = (
    HEAD
    + """
def main():
    api = Power(power=3, api_path="/cube", max_batch_size=4, batch_timeout=0.01)
    server = ls.LitServer(
        api, accelerator="cpu", workers_per_device=2, timeout=7, healthcheck_path="/alive",
        info_path="/about", max_payload_size=1000, model_metadata={"name": "cubes"},
        disable_openapi_url=True,
    )
    server.run(host="127.0.0.1", port=int(os.environ.get("PORT", 8000)), generate_client_file=False)
    Path("after").touch()

if __name__ == "__main__":
    main()
"""
)


def test_a_file_is_run_with_its_main_guard_and_served_with_what_it_gives(
    serve_file: ServeFile,
) -> None:
    instance = serve_file(GUARDED)
    answer = instance.post({"input": 2}, "/cube")
    assert answer.json() == {"output": 8, "device": "cpu"}
    assert not (instance.cwd / "after").exists()
    assert instance.get("/alive").text == "ok"
    assert instance.get("/about").json()["model"] == {"name": "cubes"}
    info = instance.get("/instance").json()
    assert (info["max_batch_size"], info["batch_timeout_s"]) == (4, 0.01)
    assert len(info["workers"]) == 2
    for path in ("/health", "/info", "/predict", "/openapi.json", "/docs"):
        assert instance.get(path).status_code == 404, path
    assert instance.post({"input": 2, "pad": "x" * 1000}, "/cube").status_code == 413


def test_options_win_over_what_the_file_gives(serve_file: ServeFile) -> None:
    instance = serve_file(
        GUARDED,
        "--workers",
        "1",
        "--path",
        "/third",
        "--health-path",
        "/h",
        "--max-batch-size",
        "1",
    )
    assert instance.post({"input": 2}, "/third").json()["output"] == 8
    info = instance.get("/instance").json()
    assert (len(info["workers"]), info["max_batch_size"], info["path"]) == (1, 1, "/third")
    assert instance.get("/h").text == "ok"


SEVERAL = (
    HEAD
    + """
class Number(BaseModel):
    input: float

class Text(Power):
    def decode_request(self, request: Number):
        return str(request.input)
    def predict(self, x):
        while Path("hold").exists():
            time.sleep(0.01)
        yield x
        yield x
    def encode_response(self, output):
        yield from output

class Batches(Power):
    def decode_request(self, request: "list[int]"):
        return request[0]

if __name__ == "__main__":
    apis = [
        Power(api_path="/square"),
        Power(power=3, api_path="/cube", max_batch_size=2),
        Text(api_path="/text", stream=True),
    ]
    ls.LitServer(apis, accelerator="cpu", timeout=False, workers_per_device=[1, 2, 1]).run(
        port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000, host="127.0.0.1",
        generate_client_file=False, num_api_servers=1,
    )
"""
)


def test_several_apis_are_served_as_litserve_serves_them(
    served_file: ServeFile, tmp_path: Path
) -> None:
    theirs = LitServe("x", tmp_path, SEVERAL)
    try:
        ours = served_file(SEVERAL)
        theirs.ready()
        for path in ("/square", "/cube", "/text"):
            both = [CLIENT.post(url + path, json={"input": 2.0}) for url in (theirs.url, ours.url)]
            assert both[0].status_code == both[1].status_code == 200
            assert both[0].text == both[1].text, path
        infos = [CLIENT.get(url + "/info") for url in (theirs.url, ours.url)]
        assert infos[1].content == infos[0].content
        assert infos[1].headers["content-type"] == infos[0].headers["content-type"]
    finally:
        theirs.end()
    assert ours.get("/health").text == "ok"
    info = ours.get("/instance").json()
    assert [one["path"] for one in info["models"]] == ["/square", "/cube", "/text"]
    assert [len(one["workers"]) for one in info["models"]] == [1, 2, 1]
    document = ours.get("/openapi.json").json()
    assert {"/square", "/cube", "/text"} <= set(document["paths"])
    names = [
        document["paths"][path]["post"]["operationId"] for path in ("/square", "/cube", "/text")
    ]
    assert len(set(names)) == 3
    answer = ours.post({"input": 2}, "/nowhere")
    assert answer.status_code == 404
    for path in ("/square", "/cube", "/text"):
        assert path in answer.json()["detail"]
    assert ours.metric('instance_requests_total{code="200"}') >= 3
    large = [{"input": 2, "pad": "x" * 3_000_000}] * 2
    assert [ours.post(one, "/cube").json()["output"] for one in large] == [8, 8]


INFORMED = (
    HEAD
    + """
if __name__ == "__main__":
    ls.LitServer(
        Power(), accelerator="cpu", timeout=12.5, max_payload_size="2MB", track_requests=True,
        info_path="/about", model_metadata={"name": "größer", "of": [1, None]},
    ).run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000, host="127.0.0.1",
        generate_client_file=False, num_api_servers=1)
"""
)


def test_info_is_what_litserve_says_of_itself_and_ours_is_elsewhere(
    serve_file: ServeFile, tmp_path: Path
) -> None:
    theirs = LitServe("x", tmp_path, INFORMED)
    try:
        ours = serve_file(INFORMED)
        theirs.ready()
        infos = [CLIENT.get(url + "/about") for url in (theirs.url, ours.url)]
    finally:
        theirs.end()
    assert infos[1].content == infos[0].content
    assert ours.get("/info").status_code == 404
    said = ours.get("/instance").json()
    assert (said["path"], said["ready"], len(said["workers"])) == ("/predict", True, 1)


def test_a_model_that_is_busy_holds_up_no_other_of_its_port(served_file: ServeFile) -> None:
    instance = served_file(SEVERAL)
    hold = instance.cwd / "hold"
    hold.touch()
    with instance.client() as client:
        thread = threading.Thread(target=lambda: client.post("/text", json={"input": 1}))
        thread.start()
        eventually(lambda: instance.metric("instance_running") == 1)
        assert instance.post({"input": 3}, "/square").json()["output"] == 9
        assert instance.post({"input": 3}, "/cube").json()["output"] == 27
        assert thread.is_alive()
        hold.unlink()
        thread.join()


# What a file may do beside a plain server at its end.
UNUSUAL = (
    HEAD
    + """
import argparse, threading
from starlette.middleware.gzip import GZipMiddleware

class Long(Power):
    def predict(self, x):
        return "".join(str(i * i) for i in range(x))
    def encode_response(self, output):
        return output

class Torchless(Power):
    def predict(self, x):
        return "torch" in sys.modules

parser = argparse.ArgumentParser()
parser.add_argument("--power", type=int)
power = parser.parse_args().power

def serve():
    server = ls.LitServer(
        [Power(power), Long(api_path="/long"), Torchless(api_path="/torch")],
        middlewares=[(GZipMiddleware, {"minimum_size": 100, "compresslevel": 9})],
    )
    server.app.add_exception_handler(ValueError, lambda request, error: None)
    server.app.router.on_startup.append(print)
    server.app.dependency_overrides[print] = print
    server.run(port=9001)

thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""
)
ITS_ARGUMENTS = ("--", "--power", "5")


def test_arguments_of_the_file_follow_two_dashes(served_file: ServeFile) -> None:
    instance = served_file(UNUSUAL, *ITS_ARGUMENTS)
    assert instance.post({"input": 2}).json()["output"] == 32


def test_a_server_that_runs_in_a_thread_is_served_without_a_traceback(
    served_file: ServeFile,
) -> None:
    instance = served_file(UNUSUAL, *ITS_ARGUMENTS)
    assert instance.post({"input": 1}).json()["output"] == 1
    assert "Traceback" not in "".join(instance.log)


def test_what_was_added_to_the_application_and_is_not_used_is_named(
    served_file: ServeFile,
) -> None:
    instance = served_file(UNUSUAL, *ITS_ARGUMENTS)
    for what in ("exception handlers", "handlers of startup and shutdown", "dependency overrides"):
        instance.wait_for(f"server.py: {what} of server.app are not used here")


def test_gzip_packs_from_the_size_and_at_the_level_that_were_given(served_file: ServeFile) -> None:
    instance = served_file(UNUSUAL, *ITS_ARGUMENTS)
    small, more, much = (instance.post({"input": size}, "/long") for size in (20, 60, 8000))
    assert "content-encoding" not in small.headers
    assert more.headers["content-encoding"] == "gzip"
    assert int(much.headers["content-length"]) == len(zlib.compress(much.content, 9, 31))
    assert not any("GZip" in line for line in instance.log)


@pytest.mark.skipif(sys.platform == "darwin", reason="torch alone knows of Apple's GPUs")
def test_torch_is_not_loaded_to_look_for_a_gpu(served_file: ServeFile) -> None:
    instance = served_file(UNUSUAL, *ITS_ARGUMENTS)
    assert instance.post({"input": 1}, "/torch").json() == {"output": False, "device": "cpu"}


def test_callbacks_loggers_and_a_key_of_the_server_hold(
    serve_file: ServeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_SERVER_API_KEY", "abcd")
    instance = serve_file(
        HEAD
        + """
class Log(ls.Logger):
    def process(self, key, value):
        with open("logged", "a") as file:
            file.write(f"{key}={value};")

class Notes(ls.Callback):
    def on_after_setup(self, lit_api):
        Path("set up").touch()
    def on_before_predict(self, lit_api):
        lit_api.log("before", 1)
if __name__ == "__main__":
    ls.LitServer([Power()], callbacks=[Notes()], loggers=Log(), track_requests=True).run()
"""
    )
    assert instance.post({"input": 2}).status_code == 401
    assert instance.post({"input": 2}, headers={"X-API-Key": "abcd"}).status_code == 200
    assert (instance.cwd / "set up").exists()
    eventually((instance.cwd / "logged").exists)  # by a thread of its own
    instance.terminate()
    assert (instance.cwd / "logged").read_text() == "before=1;"
    assert not any("not used here" in line for line in instance.log)


def test_a_key_that_the_file_puts_into_the_environment_is_asked_for(serve_file: ServeFile) -> None:
    instance = serve_file(
        "import os\nos.environ['LIT_SERVER_API_KEY'] = 'abcd'\n"
        + HEAD
        + "\nif __name__ == '__main__':\n    ls.LitServer(Power(), accelerator='cpu').run()\n"
    )
    assert instance.post({"input": 2}).status_code == 401
    assert instance.post({"input": 2}, headers={"X-API-Key": "abcd"}).status_code == 200


def test_a_spec_of_the_server_is_served(serve_file: ServeFile) -> None:
    instance = serve_file(
        """
        import litserve as ls
        class Chat(ls.LitAPI):
            def setup(self, device): ...
            def predict(self, x):
                yield "hello"
        if __name__ == "__main__":
            ls.LitServer(Chat(), spec=ls.OpenAISpec()).run()
        """
    )
    answer = instance.post({"messages": [{"role": "user", "content": "x"}]}, "/v1/chat/completions")
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_all_chat_models_of_a_file_are_listed(serve_file: ServeFile) -> None:
    instance = serve_file(
        """
        import litserve as ls
        class Chat(ls.LitAPI):
            def setup(self, device): ...
            def predict(self, x):
                yield type(self).__name__
        class Other(Chat): ...
        class Plain(ls.LitAPI):
            def setup(self, device): ...
            def predict(self, x):
                return x
        if __name__ == "__main__":
            def at(path):
                spec = ls.OpenAISpec()
                spec.api_path = path
                return spec
            ls.LitServer([
                Plain(), Chat(spec=ls.OpenAISpec()),
                Other(spec=at("/other")), Other(spec=at("/again")),
            ]).run()
        """
    )
    listed = instance.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["Chat", "Other"]
    assert instance.get("/v1/models/Other").json() == listed[1]
    answer = instance.post({"messages": [{"role": "user", "content": "x"}]}, "/other")
    assert answer.json()["choices"][0]["message"]["content"] == "Other"


@pytest.mark.parametrize("given", [True, False])
def test_a_shutdown_path_stops_the_server_for_those_who_have_its_key(
    serve_file: ServeFile, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    if given:
        monkeypatch.setenv("LIT_SHUTDOWN_API_KEY", "the key")
    instance = serve_file(
        HEAD
        + """
class Held(Power):
    def authorize(self):
        raise SystemError

if __name__ == "__main__":
    ls.LitServer(Held(), enable_shutdown_api=True, shutdown_path="/stop").run()
"""
    )
    key = "the key" if given else instance.wait_for(r"/stop is Authorization: Bearer ([\w-]+)")[1]
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": key}):
        assert instance.post(path="/stop", headers=headers).status_code == 401
    assert instance.get("/stop").status_code == 405
    answer = instance.post(path="/stop", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert instance.process.wait(60) == 0


# -- middlewares -----------------------------------------------------------------------------

MIDDLEWARES = (
    HEAD
    + """
from functools import partial
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

class MyCORS(CORSMiddleware): ...

class Odd:
    def __init__(self, app): self.app = app
    async def __call__(self, *given): await self.app(*given)

CHOICES = {
    "strict": [
        HTTPSRedirectMiddleware,
        (TrustedHostMiddleware, {"allowed_hosts": ["127.0.0.1", "*.example"]}),
        (CORSMiddleware, {
            "allow_origins": ["https://a.example"], "allow_methods": ["POST"],
            "allow_headers": ["X-API-Key"], "allow_credentials": True,
        }),
    ],
    "odd": [Odd],
    "several": [Odd, (CORSMiddleware, {}), MyCORS, partial(Odd), lambda app: Odd(app)],
    "misspelt": [(CORSMiddleware, {"allow_orgins": ["*"]})],
    "unfit": [(TrustedHostMiddleware, {"allowed_hosts": ["a*b"]})],
    "unpacked": [(GZipMiddleware, {"minimum": 5})],
    "open": [
        (TrustedHostMiddleware, {"allowed_hosts": ["127.0.0.1"]}),
        (CORSMiddleware, {"allow_origins": ["*"]}),
        (GZipMiddleware, {"minimum_size": 500}),
    ],
}

if __name__ == "__main__":
    server = ls.LitServer(Power(), accelerator="cpu", middlewares=CHOICES[sys.argv[1]])
    if sys.argv[1] == "several":
        @server.app.middleware("http")
        async def timed(request, call_next): ...
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000,
        generate_client_file=False, num_api_servers=1,
    )
"""
)
SAFE = {"X-Forwarded-Proto": "https"}
PREFLIGHT = {
    **SAFE,
    "Origin": "https://a.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key",
}
CASES = {
    "strict": [
        ("POST", {}),
        ("POST", {"Host": "evil"}),
        ("POST", SAFE),
        ("POST", {**SAFE, "Host": "x.example"}),
        ("POST", {**SAFE, "Host": "evil"}),
        ("POST", {**SAFE, "Host": "evil", "Origin": "https://a.example"}),
        ("OPTIONS", PREFLIGHT),
        ("OPTIONS", {**PREFLIGHT, "Origin": "https://b.example"}),
        ("OPTIONS", {**PREFLIGHT, "Access-Control-Request-Method": "DELETE"}),
        ("POST", {**SAFE, "Origin": "https://a.example"}),
        ("POST", {**SAFE, "Origin": "https://b.example"}),
    ],
    "open": [
        ("POST", {"Host": "evil", "Origin": "https://a.example"}),
        ("POST", {"Origin": "https://a.example"}),
    ],
}
KEPT = re.compile("access-control-.*|location|vary")


@pytest.mark.parametrize("which", list(CASES))
def test_starlettes_middlewares_do_what_they_do_in_litserve(
    serve_file: ServeFile, tmp_path: Path, which: str
) -> None:
    theirs = LitServe(which, tmp_path, MIDDLEWARES)
    try:
        ours = serve_file(MIDDLEWARES, "--", which)
        theirs.ready()
        for method, headers in CASES[which]:
            one, other = (
                CLIENT.request(method, url + "/predict", headers=headers, json={"input": 2})
                for url in (theirs.url, ours.url)
            )
            assert one.status_code == other.status_code, (headers, other.text)
            kept = [{k: v for k, v in a.headers.items() if KEPT.fullmatch(k)} for a in (one, other)]
            for found in kept:
                if "location" in found:
                    found["location"] = re.sub(r":\d+", "", found["location"])
                words = found.pop("vary", "").lower().split(",")
                found["vary"] = "origin" if "origin" in [word.strip() for word in words] else ""
            assert kept[0] == kept[1], headers
    finally:
        theirs.end()


def test_middlewares_let_probes_in_that_know_no_name_of_the_host(serve_file: ServeFile) -> None:
    """A gateway and Kubernetes ask by address, and without TLS."""
    instance = serve_file(MIDDLEWARES, "--", "strict")
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert CLIENT.get(instance.url + path, headers={"Host": "evil"}).status_code == 200
    assert CLIENT.get(instance.url + "/health").status_code == 307
    assert CLIENT.get(instance.url + "/health", headers={**SAFE, "Host": "e"}).status_code == 400


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("api_path='/health/ready'", "/health/ready is the path of health"),
        ("api_path='/metrics'", "/metrics is the path of the metrics"),
        ("shutdown_path='/predict'", "/predict is the path of what stops the server"),
        ("shutdown_path='/health/live'", "/health/live is the path of health"),
    ],
)
def test_nothing_takes_the_path_of_something_else(
    serve_file: ServeFile, given: str, says: str
) -> None:
    of_api, of_server = (given, "") if given.startswith("api") else ("", f", {given}")
    source = f"""
if __name__ == "__main__":
    api = Power({of_api})
    ls.LitServer(api, accelerator="cpu", enable_shutdown_api=True{of_server}).run(port=8000)
"""
    assert says in serve_file(HEAD + source, wait=False).refused()


def test_a_preflight_needs_no_key_and_a_refusal_can_be_read_by_a_browser(
    serve_file: ServeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_SERVER_API_KEY", "abcd")
    instance = serve_file(MIDDLEWARES, "--", "strict")
    answer = CLIENT.options(instance.url + "/predict", headers=PREFLIGHT)
    assert answer.status_code == 200
    answer = instance.post({"input": 2}, headers={**SAFE, "Origin": "https://a.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("odd", "the middleware Odd is not run here"),
        ("several", "the middlewares timed, <lambda>, Odd, MyCORS, Odd are not run here"),
        ("misspelt", "CORSMiddleware cannot have its arguments: .*'allow_orgins'"),
        ("unfit", "TrustedHostMiddleware cannot have its arguments: Domain wildcard"),
        ("unpacked", "GZipMiddleware cannot have its arguments: .*'minimum'"),
    ],
)
def test_a_middleware_that_cannot_be_honoured_refuses_the_start_by_name(
    serve_file: ServeFile, which: str, why: str
) -> None:
    assert re.search(why, serve_file(MIDDLEWARES, "--", which, wait=False).refused())


# -- what cannot be --------------------------------------------------------------------------

RUN = '\nif __name__ == "__main__":\n'


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (HEAD, r"never calls LitServer.run\(\); name what to serve: server.py:Power$"),
        (HEAD + "1/0\n", "running server.py failed: ZeroDivisionError"),
        (HEAD + RUN + "    sys.exit(3)\n", "running server.py failed: SystemExit: 3"),
        (HEAD + RUN + "    ls.LitServer(Power()).run(ssl_keyfile='k')\n", "ssl_keyfile.*TLS"),
        (HEAD + RUN + "    ls.LitServer(Power()).run(port='x')\n", "port='x'"),
        (
            HEAD + RUN + "    ls.LitServer(Power(), max_payload_size='much').run()\n",
            "max_payload_size='much' is no size",
        ),
        (
            HEAD
            + RUN
            + "    s = ls.LitServer(Power())\n    s.app.get('/x')(lambda: 1)\n    s.run()\n",
            "server.app has a route of its own at /x",
        ),
        (
            HEAD
            + "from fastapi import APIRouter\n"
            + RUN
            + "    s = ls.LitServer(Power())\n    r = APIRouter()\n    r.get('/y')(lambda: 1)\n"
            + "    s.app.include_router(r)\n    s.app.get('/z')(lambda: 1)\n    s.run()\n",
            "server.app has a route of its own at /y, /z, which",
        ),
        (
            HEAD + RUN + "    ls.LitServer([Power(), Power()]).run()\n",
            "api_path /predict is already in use",
        ),
        (
            HEAD + RUN + "    ls.LitServer(Power(), accelerator='cuda', devices=0).run()\n",
            r"server.py: there is no device of .* devices is 0; --device cpu serves it on",
        ),
    ],
    ids=["no run", "raises", "exits", "tls", "port", "size", "route", "router", "paths", "devices"],
)
def test_what_a_file_cannot_have_refuses_the_start_in_one_line(
    serve_file: ServeFile, source: str, why: str
) -> None:
    assert re.search(why, serve_file(source, wait=False).refused())


def test_all_that_a_file_cannot_have_is_named_at_once(serve_file: ServeFile) -> None:
    source = (
        HEAD
        + "from starlette.middleware.base import BaseHTTPMiddleware\n"
        + "from starlette.middleware.trustedhost import TrustedHostMiddleware\n"
        + "class Odd(BaseHTTPMiddleware): pass\n"
        + RUN
        + "    unfit = (TrustedHostMiddleware, {'allowed_hosts': ['a.*']})\n"
        + "    s = ls.LitServer(Power(), middlewares=[Odd, unfit])\n"
        + "    s.app.get('/x')(lambda: 1)\n"
        + "    s.run(port='y', ssl_keyfile='k')\n"
    )
    line = serve_file(source, wait=False).refused()
    for why in (
        "ssl_keyfile",
        "port='y'",
        "route of its own at /x",
        "TrustedHost",
        "middleware Odd",
    ):
        assert why in line


def test_a_litserve_that_is_too_old_is_said_in_one_line(
    serve_file: ServeFile, tmp_path: Path
) -> None:
    (tmp_path / "litserve").mkdir()
    (tmp_path / "litserve" / "__init__.py").write_text("__version__ = '0.2.12.post1'\n")
    line = serve_file("", wait=False).refused()
    assert "takes litserve 0.2.13 or newer, and 0.2.12.post1 is installed" in line
    assert line.strip().endswith("server.py:Name")


def test_a_server_of_the_litserves_before_this_one_is_served(serve_file: ServeFile) -> None:
    instance = serve_file(
        HEAD
        + """
apis = [Power(), Power(3, api_path="/cube")]
server = ls.LitServer(apis, accelerator="cpu", workers_per_device=2)
for name in ("_workers_per_device_by_api_path", "_disable_openapi_url"):  # came with 0.2.18, 0.2.16
    vars(server).pop(name, None)
server.run()
"""
    )
    assert instance.post({"input": 2}, "/cube").json()["output"] == 8
    assert [len(one["workers"]) for one in instance.get("/instance").json()["models"]] == [2, 2]
    assert instance.get("/openapi.json").status_code == 200
    assert instance.terminate() == 0


def test_options_for_one_api_are_refused_where_there_are_several(serve_file: ServeFile) -> None:
    refused = serve_file(SEVERAL, "--path", "/x", wait=False).refused()
    assert "serves 3 APIs; --path is for one" in refused


def test_a_class_served_by_its_name_says_what_of_its_file_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(GUARDED)
    instance = Instance("server.py:Power", (), tmp_path)
    try:
        instance.ready()
        line = instance.wait_for("does not hold").string
        for name in ("Power(power=…", "LitServer(accelerator=…", "timeout=…", "max_payload_size=…"):
            assert name in line
        assert "`headgate instance server.py` serves the file as it is" in line
        assert instance.post({"input": 2}).json()["output"] == 4
    finally:
        instance.end()


def test_a_protocol_can_be_chosen_for_a_class_that_names_none(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        HEAD + "class Chat(Power):\n    def predict(self, x):\n        yield 'hi'\n"
        "    def decode_request(self, x):\n        return x\n"
        "    def encode_response(self, x):\n        yield from x\n"
    )
    instance = Instance("server.py:Chat", ("--spec", "openai-chat"), tmp_path)
    try:
        instance.ready()
        answer = instance.post(
            {"messages": [{"role": "user", "content": "x"}]}, "/v1/chat/completions"
        )
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
    finally:
        instance.end()
