"""What clients read below `/-/`: made from what instances say, kept when they say nothing."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from gateway.controlplane.documents import Documents, Served, fetch
from gateway.controlplane.prober import Target
from gateway.core.table import Health, Table
from tests.harness.gateway import eventually, one_backend, running_gateway

PREDICT = {
    "openapi": "3.1.0",
    "info": {"title": "Square", "version": "1"},
    "paths": {"/predict": {"post": {"responses": {"200": {"description": "the square"}}}}},
}


def table(revision: int = 1) -> Table:
    route = {"match": "/square", "rewrite": "/predict", "split": {"a": 1}}
    document = {"backends": {"a": {}, "b": {}}, "routes": {"square": route}}
    return Table.from_document(document, revision)


def paths(served: Served) -> list[str]:
    return list(json.loads(served["/-/openapi.json"][1])["paths"])


class World:
    def __init__(self) -> None:
        self.documents: dict[str, Any] = {"a": PREDICT}
        self.served: list[Served] = []
        self.it = Documents(table, self.well, self.served.append, fetch=self.fetch)

    def well(self) -> dict[str, Target]:
        return {name: Target(name, 1, Health()) for name in self.documents}

    async def fetch(self, target: Target) -> Any:
        return self.documents[target.host]


async def test_clients_see_the_paths_that_they_can_call() -> None:
    world = World()
    await world.it.look()
    assert "/square" in paths(world.served[0])
    assert "/-/docs" in world.served[0]


async def test_nothing_is_sent_when_nothing_changed() -> None:
    world = World()
    await world.it.look()
    await world.it.look()
    assert len(world.served) == 1


async def test_a_model_that_is_not_well_is_described_as_it_was() -> None:
    world = World()
    await world.it.look()
    world.documents = {}
    await world.it.look()
    world.documents = {"a": None}
    await world.it.look()
    assert "/square" in paths(world.served[-1])


async def test_a_change_is_followed() -> None:
    world = World()
    world.documents = {}
    keeping = asyncio.create_task(world.it.keep())
    await eventually(lambda: bool(world.served))
    assert "/square" not in paths(world.served[-1])
    world.documents = {"a": PREDICT}
    world.it.stir()
    await eventually(lambda: "/square" in paths(world.served[-1]))
    keeping.cancel()


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b'{"openapi": "3.1.0"}', 200, {"openapi": "3.1.0"}),
        (b"not json", 200, None),
        (b"{}", 404, None),
        (b'"' + b"x" * (3 << 20) + b'"', 200, None),
    ],
)
async def test_only_a_json_document_of_bearable_size_is_taken(
    body: bytes, status: int, found: Any
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    application = web.Application()
    application.router.add_get("/openapi.json", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    assert await fetch(Target("127.0.0.1", port, Health())) == found
    await runner.cleanup()
    assert await fetch(Target("127.0.0.1", port, Health())) is None


async def test_a_client_reads_what_the_gateway_serves() -> None:
    async def says(_: web.Request) -> web.Response:
        return web.json_response(PREDICT)

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    instance = web.Application()
    instance.router.add_get("/openapi.json", says)
    instance.router.add_get("/health/ready", ready)
    runner = web.AppRunner(instance, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    route = {"match": "/square", "rewrite": "/predict"}
    async with running_gateway(one_backend(url, route=route)) as gateway:

        async def described() -> bool:
            reply = await gateway.client.get(f"{gateway.url}/-/openapi.json")
            return reply.status == 200 and "/square" in reply.json()["paths"]

        await eventually(described)
        for path in ("/-/docs", "/-/docs?theme=x"):
            reply = await gateway.client.get(gateway.url + path)
            assert reply.status == 200, path
    await runner.cleanup()
