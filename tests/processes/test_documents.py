"""What clients read below `/-/`: made from what instances say, kept when they say nothing."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from typing import Any

import pytest
from aiohttp import web

from gateway.controlplane.docs.describing import (
    PROCESSOR_S,
    PROGRAM,
    WITHIN_S,
    asked,
    describe,
)
from gateway.controlplane.docs.documents import Documents, Pages, fetch
from gateway.controlplane.docs.openapi_merge import METHODS
from gateway.controlplane.watch.probing import Target
from gateway.core.table import Health, Table
from tests.harness.gateway import ROOT, eventually, one_backend, running_gateway

PREDICT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Square", "version": "1"},
    "paths": {"/predict": {"post": {"responses": {"200": {"description": "the square"}}}}},
}


def table(revision: int = 1) -> Table:
    route = {"match": "/square", "rewrite": "/predict", "split": {"a": 1}}
    document = {"backends": {"a": {}, "b": {}}, "routes": {"square": route}}
    return Table.from_document(document, revision)


def paths(served: Pages) -> list[str]:
    return list(json.loads(served["/-/openapi.json"][1])["paths"])


class World:
    def __init__(self) -> None:
        self.documents: dict[str, Any] = {"a": PREDICT}
        self.asked: list[str] = []
        self.served: list[Pages] = []
        self.it = Documents(table, self.well, self.served.append, fetch=self.fetch)

    def well(self) -> dict[str, Target]:
        return {name: Target(name, 1, Health()) for name in self.documents}

    async def fetch(self, target: Target) -> bytes | None:
        self.asked.append(target.host)
        said = self.documents[target.host]
        return None if said is None else json.dumps(said).encode()


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


def broken(size: int) -> Any:
    """A document that takes the one who reads it down, with `size` bytes more."""
    return {**PREDICT, "x": "break" + "x" * size}


FRAGILE = """
import os, sys
from gateway.controlplane.docs import describing
text = sys.stdin.read()
if "breakx" in text:
    os.abort()
if "hang" in text:
    input()
sys.stdin = __import__("io").TextIOWrapper(__import__("io").BytesIO(text.encode()))
sys.exit(describing.main())
"""


@pytest.mark.parametrize("said", [broken(100), {**PREDICT, "x": "hang" + "x" * 200}])
async def test_a_document_that_cannot_be_merged_leaves_out_only_itself(said: Any) -> None:
    world = World()
    tried = []

    async def describe_with_care(question: bytes) -> str:
        tried.append(question)
        program = (sys.executable, "-c", FRAGILE)
        within_s = 3 if b"hang" in question else WITHIN_S
        return await describe(question, within_s=within_s, program=program)

    world.it = Documents(
        table, world.well, world.served.append, fetch=world.fetch, describe=describe_with_care
    )
    world.documents = {"a": PREDICT, "b": said}
    await world.it.look()
    assert "/square" in paths(world.served[-1])
    tries = len(tried)
    await world.it.look()
    assert len(tried) == tries, "it is not tried again before it says something else"
    world.documents["b"] = {**PREDICT, "info": {"title": "mended", "version": "2"}}
    await world.it.look()
    assert len(tried) == tries + 1


async def test_a_small_document_that_breaks_the_whole_costs_no_larger_one() -> None:
    names = [f"m{n}" for n in range(7)]
    routes = {
        name: {"match": f"/{name}", "rewrite": "/predict", "split": {name: 1}} for name in names
    }
    whole = {"backends": {name: {} for name in names}, "routes": routes}
    # Each of many operations is shown with what the document says for all of them: 40 MB.
    every: dict[str, Any] = {method: {} for method in METHODS}
    operations = {f"/predict/{n}": every for n in range(25)}
    greedy = {**PREDICT, "security": [{"s" * 200_000: []}], "paths": operations}
    world = World()
    world.it = Documents(
        lambda: Table.from_document(whole, 1), world.well, world.served.append, fetch=world.fetch
    )
    world.documents = {name: {**PREDICT, "x": "y" * 1_500_000} for name in names}
    world.documents["m4"] = greedy
    await world.it.look()
    assert paths(world.served[-1]) == [f"/{name}" for name in names if name != "m4"]


def test_who_gets_an_eighth_of_a_processor_has_time_for_all_that_it_may_compute() -> None:
    """Too slow is who computes too much, not who has to wait: it is not asked again."""
    assert WITHIN_S >= 8 * PROCESSOR_S


async def test_a_process_that_may_not_lower_its_priority_describes_all_the_same() -> None:
    forbidden = "import os, sys\nfrom gateway.controlplane.docs import describing\n" + (
        "def refuse(by): raise PermissionError(1, 'Operation not permitted')\n"
        "os.nice = refuse\nsys.exit(describing.main())"
    )
    question = asked(table(), {"a": json.dumps(PREDICT).encode()})
    said = await describe(question, program=(sys.executable, "-P", "-c", forbidden))
    assert "/square" in json.loads(said)["paths"]


def test_a_process_that_is_stopped_while_it_answers_answers_whole() -> None:
    """Also where Python is told to write without a buffer, as in a container."""
    long = {**PREDICT["paths"]["/predict"]["post"], "description": "y" * 1_000_000}
    document = {**PREDICT, "paths": {"/predict": {"post": long}}}
    question = asked(table(), {"a": json.dumps(document).encode()})
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(question)
        child.stdin.close()

        def waits_for_a_reader() -> bool:
            size = fcntl.ioctl(child.stdout, termios.FIONREAD, b"\0" * 4)
            return int.from_bytes(size, sys.byteorder) > 60_000

        while not waits_for_a_reader():
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGSTOP)
        child.send_signal(signal.SIGCONT)
        answer = child.stdout.read()
    assert list(json.loads(answer)["paths"]) == ["/square"]


async def test_where_no_model_describes_itself_no_process_is_begun_and_the_routes_are_named() -> (
    None
):
    async def never(question: bytes) -> str:
        raise AssertionError("a process was begun")

    world = World()
    world.it = Documents(table, world.well, world.served.append, fetch=world.fetch, describe=never)
    world.documents = {"a": None}
    await world.it.look()
    assert paths(world.served[0]) == []
    about = json.loads(world.served[0]["/-/openapi.json"][1])["info"]["description"]
    assert "No instance describes: square." in about


async def test_an_edit_of_weights_alone_has_nothing_merged_again() -> None:
    world = World()
    tables = [table()]
    described = []

    async def counted(question: bytes) -> str:
        described.append(question)
        return await describe(question)

    world.it = Documents(
        lambda: tables[-1], world.well, world.served.append, fetch=world.fetch, describe=counted
    )
    await world.it.look()
    document = {**tables[0].document, "routes": {"square": {
        "match": "/square", "rewrite": "/predict", "split": {"a": 7}}}}  # fmt: skip
    tables.append(Table.from_document(document, 2))
    await world.it.look()
    assert len(described) == 1


async def test_an_edit_has_nobody_asked_again() -> None:
    world = World()
    await world.it.look()
    await world.it.look(is_anew=False)
    assert world.asked == ["a"]
    world.documents["b"] = PREDICT
    await world.it.look(is_anew=False)
    assert world.asked == ["a", "b"], "who comes up"
    b = world.documents.pop("b")
    await world.it.look(is_anew=False)
    world.documents["b"] = b
    await world.it.look(is_anew=False)
    assert world.asked == ["a", "b", "b"], "who comes back may say something else"
    await world.it.look()
    assert world.asked[3:] == ["a", "b"], "everybody now and then"


async def test_linked_schemas_of_one_model_neither_stop_the_loop_nor_the_document() -> None:
    schemas = {
        f"S{n}": {"description": "x" * 700, "properties": {"next": {
            "$ref": f"#/components/schemas/S{(n + 1) % 2500}"}}}
        for n in range(2500)
    }  # fmt: skip
    world = World()
    world.documents = {"a": PREDICT, "b": {**PREDICT, "components": {"schemas": schemas}}}
    begun = time.thread_time()
    await world.it.look()
    took_s = time.thread_time() - begun
    assert "/square" in paths(world.served[-1])
    assert "S2499" in world.served[-1]["/-/openapi.json"][1]
    assert took_s < 0.5, "all of it is done elsewhere"


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
        (b'{"openapi": "3.1.0"}', 200, b'{"openapi": "3.1.0"}'),
        (b"{}", 404, None),
        (b'"' + b"x" * (3 << 20) + b'"', 200, None),
    ],
)
async def test_only_a_document_of_bearable_size_is_taken(
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


async def test_a_gateway_that_shall_not_describe_itself_has_neither_document_nor_page() -> None:
    document = one_backend("http://127.0.0.1:9", route={"match": "/square"})
    async with running_gateway(document, up=False, describe=False) as gateway:
        for path in ("/-/openapi.json", "/-/docs"):
            assert (await gateway.client.get(f"{gateway.url}{path}")).status == 404
        assert (await gateway.client.get(f"{gateway.url}/-/health")).status == 200
