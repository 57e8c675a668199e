"""What a collector gets of requests through a whole gateway: each request, wait and attempt."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.harness.collector import Collector, Span, running_collector
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.origins import Exchange, Origin, echo, fixed, hang, origins

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER = "00f067aa0ba902b7"


def sampled() -> tuple[str, list[tuple[str, str]]]:
    """A trace that a client has begun, and the header that says so."""
    trace = secrets.token_hex(16)
    return trace, [("traceparent", f"00-{trace}-{CALLER}-01")]


@dataclass
class House:
    """One gateway for all tests: `/x` and `/digits` lead to `origin`, `/twice` to two of which each
    is tried, `/mirrored` to `origin` with a copy for `shadow`, `/either` to `mortal` and `shadow`,
    `/one` to `origin` one at a time, `/known` as well, where one more may wait, and `/brief`, where
    it may not wait long; `/ws` talks."""

    gateway: Gateway
    collector: Collector
    origin: Origin
    shadow: Origin
    mortal: Origin


async def talk(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


def document(origin: Origin, shadow: Origin, mortal: Origin, ws: str) -> dict[str, Any]:
    def to(name: str, path: str, **more: Any) -> dict[str, Any]:
        return {"match": path, "split": {name: 1}, **more}

    return {
        "backends": {
            "main": backend(origin),
            "pair": backend(origin, shadow),
            "shadow": backend(shadow),
            # No probe finds out that one is dead before a request does.
            "either": backend(mortal, shadow, balance="round_robin", health={"interval": "1h"}),
            "one": backend(origin, max_in_flight=1),
            "known": backend(origin, max_in_flight=1, queue={"size": 1, "timeout": "60s"}),
            "brief": backend(origin, max_in_flight=1, queue={"size": 1, "timeout": "100ms"}),
            "ws": backend(ws),
        },
        "routes": {
            "x": to("main", "/x"),
            "all": to("main", "/digits", rewrite="/predict"),
            "twice": to("pair", "/twice", retries={"attempts": 2, "on": ["503"]}),
            "mirrored": to("main", "/mirrored", mirror={"backend": "shadow"}),
            **{name: to(name, f"/{name}") for name in ("either", "one", "known", "brief", "ws")},
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with running_collector() as collector, origins(3) as three, instance_of(talk) as ws:
        env = {**collector.environment, "OTEL_SERVICE_NAME": "front"}
        async with running_gateway(document(*three, ws), env=env) as gateway:
            yield House(gateway, collector, *three)


@pytest.fixture
def it(house: House) -> House:
    """The house, in which nothing is left of earlier tests but their spans."""
    for each in (house.origin, house.shadow, house.mortal):
        each.respond = echo
        each.exchanges.clear()
    return house


def named(spans: list[Span], kind: str) -> list[Span]:
    return [span for span in spans if span.kind == kind]


async def whole(collector: Collector, trace: str, count: int) -> list[Span]:
    """The spans of `trace`, once there are `count`; the request's first."""
    await collector.found(lambda span: span.trace == trace, count)
    spans = collector.of(trace)
    assert len(spans) == count
    return sorted(spans, key=lambda span: (span.kind != "server", span.began))


async def seen(origin: Origin, count: int) -> None:
    """Returns once `count` requests have come to `origin`."""
    while len(origin.exchanges) < count:
        await asyncio.sleep(0.01)


async def waits(gateway: Gateway, backend: str) -> None:
    """Returns once a request waits for `backend`."""

    async def queued() -> bool:
        return (await gateway.metrics()).total("headgate_queue_depth", backend=backend) == 1

    await eventually(queued, what=f"one waits for {backend}")


def node_of(got: Exchange) -> str:
    """The gateway's own name, as it stands in `Via`."""
    return got.header("via").split()[-1]


async def test_a_request_and_its_attempt_belong_to_the_trace_of_the_client(it: House) -> None:
    trace, headers = sampled()
    headers += [("tracestate", "vendor=1"), ("Authorization", "Bearer canary")]
    url = f"{it.gateway.url}/digits/7?token=canary"
    reply = await it.gateway.client.post(url, b"canary", headers=headers)
    request, attempt = await whole(it.collector, trace, 2)
    (got,) = it.origin.exchanges
    assert (request.kind, request.name, request.parent) == ("server", "POST /digits", CALLER)
    assert (attempt.kind, attempt.name, attempt.parent) == ("client", "POST", request.id)
    assert got.all("traceparent") == [f"00-{trace}-{attempt.id}-01".encode()]
    assert got.all("tracestate") == [b"vendor=1"]
    assert request.resource["service.name"] == "front"
    assert "canary" not in str(it.collector.spans)
    assert request.facts == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/digits",
        "http.request.body.size": 6,
        "http.response.body.size": len(reply.body),
        "url.path": "/digits/7",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": it.gateway.data_port,
        "headgate.route": "all",
        "headgate.backend": "main",
        "headgate.instance": it.origin.address,
        "headgate.revision": int(reply.header("x-headgate-revision")),
        "headgate.attempts": 1,
        "headgate.request_id": reply.header("x-request-id"),
    }
    assert attempt.facts["url.path"] == "/predict/7"
    assert attempt.facts["server.port"] == it.origin.port
    assert not request.failed
    assert request.began <= attempt.began <= attempt.ended <= request.ended + 0.001
    assert abs(request.ended - time.time()) < 60


async def test_a_trace_that_nobody_started_has_the_id_of_the_request(it: House) -> None:
    reply = await it.gateway.client.get(f"{it.gateway.url}/x")
    request, attempt = await whole(it.collector, reply.header("x-request-id"), 2)
    (got,) = it.origin.exchanges
    assert request.parent == ""
    assert got.all("traceparent") == [f"00-{request.trace}-{attempt.id}-01".encode()]
    assert request.resource["service.instance.id"] == f"{node_of(got)}/0"


async def test_a_client_that_says_the_same_head_again_begins_another_trace(it: House) -> None:
    replies = [await it.gateway.client.get(f"{it.gateway.url}/x") for _ in range(3)]
    traces = [reply.header("x-request-id") for reply in replies]
    spans = [await whole(it.collector, trace, 2) for trace in traces]
    said = [got.all("traceparent") for got in it.origin.exchanges]
    assert len(set(traces)) == 3
    wanted = [[f"00-{trace}-{tried.id}-01".encode()] for trace, (_, tried) in zip(traces, spans)]
    assert said == wanted


@pytest.mark.parametrize(("came", "goes"), [("03", "03"), ("02", "02"), ("ff", "03")])
async def test_an_instance_hears_that_a_traces_id_is_random(
    it: House, came: str, goes: str
) -> None:
    headers = [("traceparent", f"00-{'ab' * 16}-{CALLER}-{came}")]
    await it.gateway.client.get(f"{it.gateway.url}/x", headers=headers)
    (got,) = it.origin.exchanges
    assert got.header("traceparent").rpartition("-")[2] == goes


async def test_a_malformed_traceparent_begins_a_new_trace(it: House) -> None:
    headers = [("traceparent", "00-nonsense"), ("tracestate", "a=1")]
    reply = await it.gateway.client.get(f"{it.gateway.url}/x", headers=headers)
    request, attempt = await whole(it.collector, reply.header("x-request-id"), 2)
    (got,) = it.origin.exchanges
    assert request.parent == ""
    assert got.all("traceparent") == [f"00-{request.trace}-{attempt.id}-01".encode()]
    assert got.all("tracestate") == []


async def test_two_attempts_are_two_spans_under_one_request(it: House) -> None:
    it.origin.respond = it.shadow.respond = fixed(503)
    trace, headers = sampled()
    await it.gateway.client.get(f"{it.gateway.url}/twice", headers=headers)
    request, *attempts = await whole(it.collector, trace, 3)
    exchanges = (*it.origin.exchanges, *it.shadow.exchanges)
    first, second = attempts
    assert [span.parent for span in attempts] == [request.id, request.id]
    assert first.facts["headgate.instance"] != second.facts["headgate.instance"]
    assert first.facts["error.type"] == "503"
    assert first.failed
    assert second.facts["http.request.resend_count"] == 1
    assert (request.facts["headgate.attempts"], request.failed) == (2, True)
    wanted = {f"00-{trace}-{span.id}-01".encode() for span in attempts}
    assert {value for each in exchanges for value in each.all("traceparent")} == wanted


async def test_a_mirrors_copy_belongs_to_the_request_and_to_no_attempt(it: House) -> None:
    trace, headers = sampled()
    await it.gateway.client.get(f"{it.gateway.url}/mirrored", headers=headers)
    request, attempt = await whole(it.collector, trace, 2)
    await seen(it.shadow, 1)
    assert it.origin.exchanges[0].header("traceparent").split("-")[2] == attempt.id
    assert it.shadow.exchanges[0].all("traceparent") == [f"00-{trace}-{request.id}-01".encode()]


async def test_an_instance_that_cannot_be_connected_to_is_named(it: House) -> None:
    dead = it.mortal
    await dead.stop()
    for number in range(2):
        assert (await it.gateway.client.get(f"{it.gateway.url}/either/{number}")).status == 200
    (span, *_) = await it.collector.found(
        lambda span: "error.type" in span.facts and span.facts.get("headgate.backend") == "either"
    )
    assert span.kind == "client"
    assert span.facts["error.type"] in ("connect_failure", "reset")
    assert span.facts["headgate.instance"] == dead.address
    assert "http.response.status_code" not in span.facts


async def test_the_wait_in_the_queue_is_a_span_of_its_own(it: House) -> None:
    free = asyncio.Event()

    async def once_free(exchange: Exchange) -> None:
        await free.wait()
        await echo(exchange)

    it.origin.respond = once_free
    get, url = it.gateway.client.get, f"{it.gateway.url}/one"
    first = asyncio.create_task(get(f"{url}/0", timeout=60, fresh=True))
    await seen(it.origin, 1)
    second = asyncio.create_task(get(f"{url}/1", timeout=60, fresh=True))
    await waits(it.gateway, "one")
    await asyncio.sleep(0.2)
    free.set()
    await asyncio.gather(first, second)

    def is_wait(span: Span) -> bool:
        return span.name == "queue" and span.facts["headgate.backend"] == "one"

    (wait,) = await it.collector.found(is_wait)
    request, *inner = await whole(it.collector, wait.trace, 3)
    (attempt,) = named(inner, "client")
    assert (wait.kind, wait.parent) == ("internal", request.id)
    assert wait.facts == {"headgate.backend": "one"}
    assert wait.took_s > 0.19
    assert wait.ended <= attempt.began + 0.001
    assert len([span for span in it.collector.spans if is_wait(span)]) == 1


async def test_who_is_turned_away_leaves_a_span_that_says_why(it: House) -> None:
    it.origin.respond = hang
    get, known, brief = it.gateway.client.get, f"{it.gateway.url}/known", f"{it.gateway.url}/brief"
    there = [asyncio.create_task(get(url, timeout=60, fresh=True)) for url in (known, brief)]
    await seen(it.origin, 2)
    there.append(asyncio.create_task(get(known, timeout=60, fresh=True)))
    await waits(it.gateway, "known")
    full = await get(known, fresh=True)
    nowhere = await get(f"{it.gateway.url}/unknown?x", fresh=True)
    timed_out = await get(brief, fresh=True)
    for each in there:
        each.cancel()
    reasons = {
        reply.header("x-headgate-error"): reply.header("x-request-id")
        for reply in (full, nowhere, timed_out)
    }
    assert set(reasons) == {"queue_full", "no_route", "queue_timeout"}
    (refused,) = await whole(it.collector, reasons["queue_full"], 1)
    (lost,) = await whole(it.collector, reasons["no_route"], 1)
    gave_up, wait = await whole(it.collector, reasons["queue_timeout"], 2)
    assert (refused.facts["error.type"], refused.failed) == ("queue_full", True)
    assert (lost.facts["error.type"], lost.failed, lost.name) == ("no_route", False, "GET")
    assert gave_up.facts["http.response.status_code"] == 503
    assert (wait.facts["error.type"], wait.failed) == ("queue_timeout", True)


async def test_a_tunnel_is_one_attempt_as_long_as_it_lasts(it: House) -> None:
    trace, headers = sampled()
    async with aiohttp.ClientSession() as session:
        url = f"{it.gateway.url}/ws"
        async with session.ws_connect(url, headers=dict(headers)) as socket:
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
            await asyncio.sleep(0.3)
    request, attempt = await whole(it.collector, trace, 2)
    assert request.facts["http.response.status_code"] == 101
    assert attempt.facts["http.response.status_code"] == 101
    assert attempt.took_s > 0.25
    assert not request.failed


@asynccontextmanager
async def instance_of(
    talk: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """The URL of an instance of aiohttp that answers `talk` at `/ws` and is ready."""

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_get("/health/ready", ready)
    application.router.add_get("/ws", talk)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_client_that_leaves_is_nobodys_error(it: House) -> None:
    it.origin.respond = hang
    trace, headers = sampled()
    asked = it.gateway.client.get(f"{it.gateway.url}/x", headers=headers, fresh=True)
    task = asyncio.create_task(asked)
    await seen(it.origin, 1)
    task.cancel()
    request, attempt = await whole(it.collector, trace, 2)
    assert request.facts["http.response.status_code"] == 499
    assert request.facts["error.type"] == attempt.facts["error.type"] == "client_left"
    assert not request.failed
    assert not attempt.failed
