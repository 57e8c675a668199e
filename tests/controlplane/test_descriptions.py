"""What is asked of instances about themselves, and what becomes of it."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from gateway.controlplane.descriptions import MAX_BYTES, Descriptions, fetch
from gateway.controlplane.prober import Key, Target
from gateway.controlplane.route_docs import route_docs_page
from gateway.core.table import Health, Table
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, one_origin

SAYS = {
    "openapi": "3.1.0",
    "info": {"title": "model", "version": "1"},
    "paths": {"/predict": {"post": {"responses": {"200": {"description": "yes"}}}}},
}
ROUTES = {"digits": {"match": "/digits", "rewrite": "/predict", "split": {"a": 1, "b": 1}}}
TABLE = Table.from_document({"backends": {"a": {}, "b": {}}, "routes": ROUTES}, 3)


def target(backend: str, port: int) -> tuple[Key, Target]:
    return Key(backend, f"127.0.0.1:{port}"), Target("127.0.0.1", port, Health())


class Play:
    """Instances that say what the test says, and what was published of it."""

    def __init__(self, answers: Mapping[int, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[int] = []
        self.published: list[dict[str, Any]] = []
        self.targets = [target("a", port) for port in self.answers]
        self.table = TABLE
        self.descriptions = Descriptions(
            lambda: self.table, lambda: self.targets, self.publish, fetch=self.fetch,
            every_s=1000, together_s=0,
        )  # fmt: skip

    async def fetch(self, target: Target) -> Any:
        self.asked.append(target.port)
        return self.answers[target.port]

    def publish(self, documents: Mapping[str, tuple[str, str]]) -> None:
        assert set(documents) == {"/-/openapi.json", "/-/docs"}
        self.published.append(json.loads(documents["/-/openapi.json"][1]))


async def test_one_instance_of_a_backend_speaks_for_all() -> None:
    play = Play({1: SAYS, 2: SAYS})
    await play.descriptions.refresh()
    assert play.asked == [1]
    assert list(play.published[0]["paths"]) == ["/digits"]


async def test_when_one_has_nothing_to_say_the_next_is_asked() -> None:
    play = Play({1: None, 2: SAYS})
    await play.descriptions.refresh()
    assert play.asked == [1, 2]
    assert play.published[0]["paths"]


async def test_what_was_known_stays_while_nobody_answers_and_goes_with_its_backend() -> None:
    play = Play({1: SAYS})
    await play.descriptions.refresh()
    play.answers[1] = None
    await play.descriptions.refresh()
    assert len(play.published) == 1, "nothing changed, so nothing was published"
    routes = {"digits": {**ROUTES["digits"], "split": {"b": 1}}}
    play.table = Table.from_document({"backends": {"b": {}}, "routes": routes}, 4)
    await play.descriptions.refresh()
    assert play.published[-1]["paths"] == {}


async def test_a_nudge_makes_it_look_again() -> None:
    play = Play({1: None})
    watching = asyncio.create_task(play.descriptions.watch())
    await eventually(lambda: len(play.published) == 1)
    play.answers[1] = SAYS
    play.descriptions.nudge()
    await eventually(lambda: len(play.published) == 2)
    assert play.published[-1]["paths"]
    watching.cancel()


async def test_r61_only_a_plain_and_small_answer_is_taken() -> None:
    answers: list[tuple[int, bytes, list[tuple[str, str]]]] = [
        (302, b"", [("Location", "http://127.0.0.1:1/openapi.json")]),
        (404, b"{}", []),
        (200, b"<html>", []),
        (200, b"[" * (MAX_BYTES + 1), []),
    ]

    async def respond(exchange: Exchange) -> None:
        status, body, headers = answers[0]
        exchange.reply(status, body, headers)

    async with one_origin(respond) as origin:
        while answers:
            assert await fetch(Target(origin.host, origin.port, Health())) is None
            answers.pop(0)
        seen = len(origin.exchanges)
    assert seen == 4
    assert await fetch(Target("127.0.0.1", origin.port, Health())) is None


def test_r60_the_page_lets_the_browser_run_exactly_itself() -> None:
    page = route_docs_page()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    for name in ("script", "style"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "innerHTML" not in page


async def test_clients_are_told_on_the_data_plane_what_they_can_ask() -> None:
    async def respond(exchange: Exchange) -> None:
        known = exchange.target == b"/openapi.json"
        exchange.reply(200, json.dumps(SAYS).encode() if known else b"{}")

    async with one_origin(respond) as origin:
        document = one_backend(origin, route={"match": "/digits", "rewrite": "/predict"})
        async with running_gateway(document, workers=2) as gateway:

            async def told() -> Any:
                reply = await gateway.client.get(f"{gateway.url}/-/openapi.json")
                return reply.status == 200 and reply.json()["paths"] and reply

            reply = await eventually(told, 10, "the merged document")
            assert list(reply.json()["paths"]) == ["/digits"]
            assert reply.header("content-type") == "application/json"
            page = await gateway.client.get(f"{gateway.url}/-/docs")
            assert page.status == 200
            assert page.body.decode() == route_docs_page()
