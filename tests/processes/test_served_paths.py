"""A route without `rewrite` in front of a model that `serve` starts leads to the model's path."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from gateway.cli import main
from gateway.controlplane.docs.served import ask_path
from gateway.controlplane.watch.probing import Target
from gateway.core.table import Health
from tests.harness.gateway import eventually, running_gateway
from tests.harness.late import late_or_skip
from tests.harness.origins import Exchange, one_origin
from tests.harness.ports import free_port
from tests.harness.up import Up, running

WINE = """
class Wine:
    api_path = "/classify"

    def setup(self, device):
        pass

    def predict(self, x):
        return {"grape": x["input"]}
"""


def document(route: dict[str, Any], url: str | None = None) -> dict[str, Any]:
    serve = {"model": "wine.py:Wine"}
    backend = {"instances": [url or f"http://127.0.0.1:{free_port()}"], "serve": serve}
    return {
        "gateway": {
            "listen": f"127.0.0.1:{free_port()}",
            "admin": f"127.0.0.1:{free_port()}",
            "lame_duck": "100ms",
        },
        "backends": {"wine": backend},
        "routes": {"wine": {"match": "/wine", "split": {"wine": 1}, **route}},
    }


async def answers(up: Up, body: bytes) -> None:
    """Returns when the model answers: one that is slow to say its path is asked a little later."""
    kind = [("Content-Type", "application/json")]

    async def is_there() -> bool:
        reply = await up.client.post(f"{up.url}/wine", body, headers=kind)
        return reply.status == 200 and reply.json() == {"grape": "merlot"}

    await eventually(is_there, what="/wine leads to the model")


async def test_the_first_own_model_answers_at_its_route_and_up_and_check_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wine.py").write_text(WINE)
    async with running(tmp_path, document({})) as up:
        body = b'{"input": "merlot"}'
        kind = [("Content-Type", "application/json")]
        await answers(up, body)
        await eventually(lambda: "/wine → wine 1, at /classify" in up.log_text())

        async def described() -> bool:
            reply = await up.client.get(f"{up.url}/-/openapi.json")
            return reply.status == 200 and "/wine" in reply.json()["paths"]

        await eventually(described)
        # A route that is added to the running gateway leads there as well …
        routes = {"new": {"match": "/new", "split": {"wine": 1}}, **up.document["routes"]}
        up.file.write_text(yaml.safe_dump({**up.document, "routes": routes}))
        assert main(["apply", str(up.file), "--url", up.admin_url]) == 0
        assert (await up.client.post(f"{up.url}/new", body, headers=kind)).status == 200
        # … and a worker or a control process that takes over knows what the last one knew.
        status = await up.status()
        for pid in (status["control"]["pid"], status["workers"][0]["pid"]):
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda pid=pid: not psutil.pid_exists(pid))
        await eventually(up.answers)
        assert (await up.client.post(f"{up.url}/wine", body, headers=kind)).status == 200
        capsys.readouterr()
        assert main(["check", str(up.file)]) == 0
        assert "/wine → wine 1, at the path that the model says" in capsys.readouterr().out


SERVER = """
import litserve as ls

class Wine(ls.LitAPI):
    def setup(self, device): ...
    def decode_request(self, request): return request["input"]
    def predict(self, x): return {"grape": x}

if __name__ == "__main__":
    ls.LitServer(Wine(api_path="/classify"), accelerator="cpu").run(generate_client_file=False)
"""


async def test_a_file_that_runs_a_litserver_says_its_path_where_its_info_is_litserves(
    tmp_path: Path,
) -> None:
    late_or_skip("litserve")
    (tmp_path / "server.py").write_text(SERVER)
    asked = document({})
    asked["backends"]["wine"]["serve"] = {"model": "server.py"}
    async with running(tmp_path, asked) as up:
        await answers(up, b'{"input": "merlot"}')


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ({}, "/served/x?y=1"),
        ({"rewrite": "/other"}, "/other/x?y=1"),
        ({"match": "/"}, "/wine/x?y=1"),
    ],
)
async def test_a_gateway_that_started_no_instance_asks_it_for_its_path(
    route: dict[str, Any], asked: str
) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        is_info = exchange.target.endswith(b"/info")
        exchange.reply(200, b'{"path": "/served"}' if is_info else exchange.target)

    async with one_origin(respond) as origin:
        async with running_gateway(document(route, origin.url)) as gateway:
            await eventually(lambda: any(e.target == b"/info" for e in origin.exchanges))

            async def rewritten() -> bool:
                reply = await gateway.client.get(f"{gateway.url}/wine/x?y=1")
                return reply.status == 200 and reply.body == asked.encode()

            await eventually(rewritten)


@pytest.mark.parametrize(
    ("said", "path"),
    [
        (b'{"path": "/served"}', "/served"),
        (b'{"path": "/x HTTP/1.1\\r\\nX: y"}', None),
        (b'{"path": "http://elsewhere.test/"}', None),
        (b'{"path": "/a?b"}', None),
        (b'{"path": "/../admin"}', None),
        (b'{"path": 7}', None),
        (b"[1]", None),
        (b"no json", None),
        (b'{"path": "/' + b"x" * (1 << 17) + b'"}', None),
    ],
)
async def test_only_a_path_is_taken_for_one(said: bytes, path: str | None) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.reply(200, said)

    async with one_origin(respond) as origin:
        host, _, port = origin.url.removeprefix("http://").partition(":")
        assert await ask_path(Target(host, int(port), Health())) == path
