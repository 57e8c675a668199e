"""Instances behind TLS: who is believed, what is said of the others, and what they are sent."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from gateway.app import CannotStart, prepare
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.gateway import QUICK_HEALTH, Gateway, backend, eventually, running_gateway
from tests.harness.load import Reply
from tests.harness.ports import free_port
from tests.harness.tls_instance import TlsInstance, server_context, tls_instance
from tests.instance.conftest import Instance

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "Bearer instance-canary-5151"
MODEL = """
class Twice:
    def setup(self, device):
        pass

    def predict(self, x):
        return {"twice": 2 * x["x"]}
"""
FROM_FILE = "canary-of-a-file-6262"


@dataclass
class House:
    gateway: Gateway
    folder: Path
    instances: dict[str, TlsInstance]

    async def ask(self, route: str, method: str = "GET", path: str = "", **more: Any) -> Reply:
        url = f"{self.gateway.url}/{route}{path}"
        return await self.gateway.client.request(method, url, **more)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("instances")
    ca, other_ca = make_ca(folder), make_ca(folder, "other-ca")
    return {
        "folder": folder,
        "ca": ca,
        "other_ca": other_ca,
        "here": make_certificate(folder, "here", ca, "127.0.0.1"),
        "named": make_certificate(folder, "named", ca, "gpu7.test"),
        "local": make_certificate(folder, "local", ca, "localhost"),
        "expired": make_certificate(folder, "expired", ca, "127.0.0.1", days=-1),
        "stranger": make_certificate(folder, "stranger", other_ca, "127.0.0.1"),
        "mine": make_certificate(folder, "mine", ca),
    }


@asynccontextmanager
async def asks_for_one(files: dict[str, Any]) -> AsyncIterator[str]:
    """OpenSSL's own server, which asks for a certificate and says so."""
    port, (cert, key) = free_port(), map(str, files["here"])
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
        "-CAfile", str(files["ca"][0]), "-Verify", "1", "-verify_return_error", "-www", "-quiet",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # Before anybody asks: who is refused at first is down, and not failing.
        server = psutil.Process(process.pid)
        await eventually(lambda: server.net_connections("tcp"), what="it listens")
        yield f"https://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(files: dict[str, Any]) -> AsyncIterator[House]:
    folder = files["folder"]
    (folder / "token").write_text(f"{FROM_FILE}\n")
    live = folder / "live-ca.crt"
    shutil.copy(files["ca"][0], live)
    ca = {"ca": str(files["ca"][0])}
    mine = {"cert": str(files["mine"][0]), "key": str(files["mine"][1])}
    listening = {
        "here": server_context(files["here"]),
        "named": server_context(files["named"]),
        "mtls": server_context(files["here"], files["ca"][0]),
        "silent": server_context(files["here"], files["ca"][0]),
        "expired": server_context(files["expired"]),
        "wrong": server_context(files["named"]),
        "stranger": server_context(files["stranger"]),
        "plain": None,
        "moves": server_context(files["here"]),
        "local": server_context(files["local"]),
    }
    headers = {
        "Authorization": {"env": "UPSTREAM_TOKEN"},
        "X-Api-Key": {"file": str(folder / "token")},
        "X-Said": "plainly",
    }
    # They answer from this process, whose turn may come late on a busy machine.
    patient = {"timeouts": {"connect": "20s"}, "health": {**QUICK_HEALTH, "timeout": "20s"}}
    more: dict[str, Any] = {
        "here": {"headers": headers},
        "named": {"tls": {**ca, "server_name": "gpu7.test"}},
        "mtls": {"tls": {**ca, **mine}},
        "moves": {"tls": {"ca": str(live)}},
    }
    async with AsyncExitStack() as stack:
        made = {
            name: await stack.enter_async_context(tls_instance(context))
            for name, context in listening.items()
        }
        document = {
            "backends": {
                name: backend(one.url, **{"tls": ca, **patient, **more.get(name, {})})
                for name, one in made.items()
            },
            "routes": {
                name: {"match": f"/{name}", "rewrite": "/", "split": {name: 1}} for name in made
            },
        }
        document["backends"]["untold"] = backend(made["here"].url)
        url = await stack.enter_async_context(asks_for_one(files))
        document["backends"]["bare"] = backend(url, tls=ca)
        local = f"dns+https://localhost:{made['local'].port}"
        document["backends"]["local"]["instances"] = [local]
        for name in ("untold", "bare"):
            document["routes"][name] = {"match": f"/{name}", "split": {name: 1}}
        document["routes"]["named"]["mirror"] = {"backend": "here"}
        env = {"UPSTREAM_TOKEN": SECRET}
        gateway = await stack.enter_async_context(
            running_gateway(document, up=5, env=env, workers=2)
        )
        yield House(gateway, folder, made)


async def test_instances_are_asked_by_tls_and_verified(house: House) -> None:
    for route in ("here", "named", "mtls", "moves", "local"):
        body = b"x" * 300_000
        reply = await house.ask(route, "POST", body=body)
        assert (reply.status, len(reply.body)) == (200, len(body)), (route, reply)
    assert await house.gateway.health("mtls") == {house.instances["mtls"].url[8:]: "up"}


async def test_a_stream_and_a_websocket_go_by_tls(house: House) -> None:
    reply = await house.ask("here", path="/stream")
    assert reply.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{house.gateway.url}/here/ws") as socket:
            await socket.send_str("abc")
            assert await socket.receive_str() == "cba"
    assert house.instances["here"].values("authorization", "/ws") == [SECRET]


@pytest.mark.parametrize(
    ("route", "client", "operator"),
    [
        ("expired", "its certificate has expired", "has expired"),
        ("wrong", "its certificate is for another", "is for another address, not for 127.0.0.1"),
        ("stranger", "is of no CA that is trusted", "is of no CA that is trusted"),
        ("untold", "is of no CA that is trusted", "is of no CA that is trusted"),
        ("plain", "speaks no TLS", "speaks no TLS"),
        ("bare", "asks for a certificate", "asks for a certificate (tls.cert and tls.key"),
    ],
)
async def test_who_cannot_be_verified_gets_nothing_and_why_is_said(
    house: House, route: str, client: str, operator: str
) -> None:
    address = house.gateway.document["backends"][route]["instances"][0][8:]

    async def failing() -> bool:
        return (await house.gateway.health(route))[address] == "failing"

    await eventually(failing, what=f"{route} is failing")
    before = len(house.instances["here"].asked), len(house.instances["plain"].asked)

    async def answered() -> Reply | None:  # 503 until the worker has heard it, a moment later
        reply = await house.ask(route, "POST", body=b"for nobody")
        return None if reply.status == 503 else reply

    reply = await eventually(answered)
    assert reply.status == 502, reply
    assert client in reply.json()["detail"], reply
    for name in {route} & house.instances.keys():
        asked = [path for path, _ in house.instances[name].asked if path[:7] != "/health"]
        assert asked == [], (name, before)

    async def is_said() -> bool:  # unless the last probe had no answer at all
        status = await house.gateway.status()
        alerts = [each["text"] for each in status["alerts"] if each.get("instance") == address]
        cause = status["backends"][route]["instances"][address].get("cause") or ""
        return operator in cause and any(operator in text for text in alerts)

    await eventually(is_said, what=operator)
    await house.gateway.logged(f"instance {address} of {route}: starting, now failing: ")


async def test_one_that_closes_after_the_handshake_is_said_to(house: House) -> None:
    async def is_said() -> bool:
        (one,) = (await house.gateway.status())["backends"]["silent"]["instances"].values()
        assert one["health"] in ("starting", "failing")
        # It may, or where its alert comes before the end it does.
        return "for a certificate (tls.cert and tls.key" in (one.get("cause") or "")

    await eventually(is_said)


async def test_headers_are_set_on_all_requests_and_the_clients_are_not_passed(house: House) -> None:
    one = house.instances["here"]
    one.asked.clear()
    theirs = [("Authorization", "Bearer client"), ("x-api-key", "client"), ("X-Other", "kept")]
    assert (await house.ask("here", "POST", body=b"1", headers=theirs)).status == 200
    assert (await house.ask("named", headers=theirs)).status == 200
    await eventually(lambda: len(one.values("x-headgate-mirror")) == 1)
    for name, value in (("authorization", SECRET), ("x-api-key", FROM_FILE), ("x-said", "plainly")):
        assert one.values(name) == [value] * 2, one.asked
    assert one.values("x-other") == ["kept"] * 2
    assert house.instances["named"].values("authorization")[-1:] == ["Bearer client"]

    async def probed() -> bool:
        return SECRET in one.values("authorization", "/health/ready")

    await eventually(probed)
    (house.folder / "token.new").write_text("another-value")
    (house.folder / "token.new").replace(house.folder / "token")

    async def another() -> bool:
        await house.ask("here")
        return one.values("x-api-key")[-1] == "another-value"

    await eventually(another)


async def test_another_ca_is_taken_over_without_a_restart(
    house: House, files: dict[str, Any]
) -> None:
    async def asked() -> list[Reply]:
        return [await house.ask("moves") for _ in range(6)]

    async def answers(status: int) -> bool:
        return {reply.status for reply in await asked()} == {status}

    replies = await asked()
    assert all(reply.ok for reply in replies), (replies, house.gateway.log_text())
    live = house.folder / "live-ca.crt"
    for name, status in (("other_ca", 502), ("ca", 200)):
        shutil.copy(files[name][0], house.folder / "next")
        (house.folder / "next").replace(live)
        await eventually(lambda status=status: answers(status), what=name)
    live.write_text("no certificate")
    await eventually(lambda: "nothing changes" in house.gateway.log_text())
    replies = await asked()
    assert all(reply.ok for reply in replies), replies
    shutil.copy(files["ca"][0], live)


async def test_a_reference_that_leads_to_nothing_is_a_fault_that_names_its_field(
    house: House,
) -> None:
    url = house.instances["here"].url
    spec = {
        "instances": [url],
        "tls": {"ca": "/nowhere/ca.pem"},
        "headers": {
            "Authorization": {"env": "NOT_SET_ANYWHERE"},
            "X-Key": {"file": "/nowhere/key"},
            "Connection": "close",
        },
    }
    path = "/admin/v1/backends/new"
    reply = await house.gateway.admin("PUT", path, spec)
    assert (reply.status, [each["pointer"] for each in reply.json()["errors"]]) == (
        400,
        ["/headers/Connection"],
    )
    del spec["headers"]["Connection"]
    reply = await house.gateway.admin("PUT", path, spec)
    errors = {each["pointer"]: each["detail"] for each in reply.json()["errors"]}
    assert reply.status == 400
    assert errors == {
        "/headers/Authorization": "the variable NOT_SET_ANYWHERE is not set",
        "/headers/X-Key": "/nowhere/key: No such file or directory",
        "/tls/ca": "/nowhere/ca.pem: No such file or directory",
    }


async def test_no_value_is_anywhere_but_in_what_instances_get(house: House) -> None:
    await house.gateway.admin(
        "POST", "/admin/v1/backends/here/instances", {"url": "http://[::1]:9"}
    )
    shown = b""
    for path in ("/admin/v1/table", "/admin/v1/status", "/admin/v1/history", "/metrics"):
        shown += (await house.gateway.admin("GET", path)).body
    assert b"UPSTREAM_TOKEN" in shown
    for file in house.gateway.folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # some are there for a moment
            shown += file.read_bytes()
    for secret in (SECRET, "instance-canary", FROM_FILE, "another-value"):
        assert secret.encode() not in shown


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"headers": {"Authorization": {"env": "NOT_SET"}}}, "the variable NOT_SET is not set"),
        ({"headers": {"X-Key": {"file": "/dev/zero"}}}, "/dev/zero: is no plain file"),
        ({"tls": {"ca": "/nowhere/ca.pem"}}, "/nowhere/ca.pem: No such file"),
        ({"tls": {"cert": "{cert}", "key": "{other}"}}, "the key is not the certificate's"),
        ({"tls": {"ca": "{key}"}}, "no PEM that can be used"),
    ],
)
async def test_a_start_with_one_that_leads_to_nothing_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, Any], spec: dict[str, Any], says: str
) -> None:
    names = dict(zip(("cert", "key"), files["here"], strict=True), other=files["named"][1])
    for key, value in (spec.get("tls") or {}).items():
        spec["tls"][key] = value.format(**names)
    document = {
        "gateway": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "backends": {"b": {"instances": ["https://127.0.0.1:1"], **spec}},
    }
    file = tmp_path / "headgate.yaml"
    file.write_text(json.dumps(document))
    with pytest.raises(CannotStart) as refused:
        prepare(file, tmp_path / "state")
    ((field, value),) = spec.items()
    assert f"{file}: backends/b/{field}/{next(iter(value))}: " in str(refused.value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_an_instances_own_key_is_carried_to_it(tmp_path: Path) -> None:
    """`LIT_SERVER_API_KEY` of an instance, which clients need not know."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "key").write_text("the-instances-own-key\n")
    environment = {"LIT_SERVER_API_KEY": "the-instances-own-key"}
    instance = Instance("model.py:Twice", (), tmp_path, environment)
    try:
        url = (await asyncio.to_thread(instance.ready)).url
        document = {
            "backends": {
                "with": backend(url, headers={"X-API-Key": {"file": str(tmp_path / "key")}}),
                "without": backend(url),
            },
            "routes": {
                name: {"match": f"/{name}", "rewrite": "/predict", "split": {name: 1}}
                for name in ("with", "without")
            },
        }
        async with running_gateway(document) as gateway:
            for route, status in (("with", 200), ("without", 401)):
                reply = await gateway.client.json("POST", f"{gateway.url}/{route}", {"x": 4})
                assert reply.status == status, reply
    finally:
        instance.end()
