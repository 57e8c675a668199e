"""What a collector gets of requests through a whole gateway: each request, wait and attempt."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.harness.collector import Collector, Span, running_collector
from tests.harness.gateway import backend, eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, Origin, after, fixed, hang, one_origin, origins

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = [("traceparent", f"00-{TRACE}-{CALLER}-01")]
TWICE = {"retries": {"attempts": 2, "on": ["503"]}}


def named(spans: list[Span], kind: str) -> list[Span]:
    return [span for span in spans if span.kind == kind]


async def whole(collector: Collector, trace: str, count: int) -> list[Span]:
    """The spans of `trace`, once there are `count`; the request's first."""
    await collector.found(lambda span: span.trace == trace, count)
    spans = collector.of(trace)
    assert len(spans) == count
    return sorted(spans, key=lambda span: (span.kind != "server", span.began))


async def test_a_request_and_its_attempt_belong_to_the_trace_of_the_client() -> None:
    async with running_collector() as collector, one_origin() as origin:
        document = one_backend(origin, route={"match": "/digits", "rewrite": "/predict"})
        env = {**collector.environment, "OTEL_SERVICE_NAME": "front"}
        async with running_gateway(document, env=env) as gateway:
            headers = [*SAMPLED, ("tracestate", "vendor=1"), ("Authorization", "Bearer canary")]
            url = f"{gateway.url}/digits/7?token=canary"
            reply = await gateway.client.post(url, b"canary", headers=headers)
            request, attempt = await whole(collector, TRACE, 2)
        (got,) = origin.exchanges
    assert (request.kind, request.name, request.parent) == ("server", "POST /digits", CALLER)
    assert (attempt.kind, attempt.name, attempt.parent) == ("client", "POST", request.id)
    assert got.all("traceparent") == [f"00-{TRACE}-{attempt.id}-01".encode()]
    assert got.all("tracestate") == [b"vendor=1"]
    assert request.resource["service.name"] == "front"
    assert "canary" not in str(collector.spans)
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
        "server.port": gateway.data_port,
        "headgate.route": "all",
        "headgate.backend": "main",
        "headgate.instance": origin.address,
        "headgate.revision": int(reply.header("x-headgate-revision")),
        "headgate.attempts": 1,
        "headgate.request_id": reply.header("x-request-id"),
    }
    assert attempt.facts["url.path"] == "/predict/7"
    assert attempt.facts["server.port"] == origin.port
    assert not request.failed
    assert request.began <= attempt.began <= attempt.ended <= request.ended + 0.001
    assert abs(request.ended - time.time()) < 60


async def test_a_trace_that_nobody_started_has_the_id_of_the_request() -> None:
    async with running_collector() as collector, one_origin() as origin:
        async with running_gateway(one_backend(origin), env=collector.environment) as gateway:
            reply = await gateway.client.get(f"{gateway.url}/x")
            request, attempt = await whole(collector, reply.header("x-request-id"), 2)
        (got,) = origin.exchanges
    assert request.parent == ""
    assert got.all("traceparent") == [f"00-{request.trace}-{attempt.id}-01".encode()]
    assert request.resource["service.name"] == "headgate"
    assert request.resource["service.instance.id"] == f"{node_of(got)}/0"


def node_of(got: Exchange) -> str:
    """The gateway's own name, as it stands in `Via`."""
    return got.header("via").split()[-1]


async def test_a_client_that_says_the_same_head_again_begins_another_trace() -> None:
    async with running_collector() as collector, one_origin() as origin:
        async with running_gateway(one_backend(origin), env=collector.environment) as gateway:
            replies = [await gateway.client.get(f"{gateway.url}/x") for _ in range(3)]
            traces = [reply.header("x-request-id") for reply in replies]
            spans = [await whole(collector, trace, 2) for trace in traces]
        said = [got.all("traceparent") for got in origin.exchanges]
    assert len(set(traces)) == 3
    wanted = [[f"00-{trace}-{tried.id}-01".encode()] for trace, (_, tried) in zip(traces, spans)]
    assert said == wanted


async def test_a_malformed_traceparent_begins_a_new_trace() -> None:
    async with running_collector() as collector, one_origin() as origin:
        async with running_gateway(one_backend(origin), env=collector.environment) as gateway:
            headers = [("traceparent", "00-nonsense"), ("tracestate", "a=1")]
            reply = await gateway.client.get(f"{gateway.url}/x", headers=headers)
            request, attempt = await whole(collector, reply.header("x-request-id"), 2)
        (got,) = origin.exchanges
    assert request.parent == ""
    assert got.all("traceparent") == [f"00-{request.trace}-{attempt.id}-01".encode()]
    assert got.all("tracestate") == []


async def test_two_attempts_are_two_spans_under_one_request() -> None:
    async with running_collector() as collector, origins(2) as (bad, good):
        bad.respond = fixed(503)
        good.respond = fixed(503)
        document = one_backend(bad, good, route=TWICE)
        async with running_gateway(document, env=collector.environment) as gateway:
            await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
            request, *attempts = await whole(collector, TRACE, 3)
        parents = [each.all("traceparent") for each in (*bad.exchanges, *good.exchanges)]
    first, second = attempts
    assert [span.parent for span in attempts] == [request.id, request.id]
    assert first.facts["headgate.instance"] != second.facts["headgate.instance"]
    assert first.facts["error.type"] == "503"
    assert first.failed
    assert second.facts["http.request.resend_count"] == 1
    assert (request.facts["headgate.attempts"], request.failed) == (2, True)
    wanted = {f"00-{TRACE}-{span.id}-01".encode() for span in attempts}
    assert {value for values in parents for value in values} == wanted


async def test_a_mirrors_copy_belongs_to_the_request_and_to_no_attempt() -> None:
    async with running_collector() as collector, origins(2) as (origin, shadow):
        document = one_backend(origin, route={"mirror": {"backend": "shadow"}})
        document["backends"]["shadow"] = backend(shadow)
        async with running_gateway(document, env=collector.environment) as gateway:
            await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
            request, attempt = await whole(collector, TRACE, 2)
            await seen(shadow, 1)
    assert origin.exchanges[0].header("traceparent").split("-")[2] == attempt.id
    assert shadow.exchanges[0].all("traceparent") == [f"00-{TRACE}-{request.id}-01".encode()]


async def test_an_instance_that_cannot_be_connected_to_is_named() -> None:
    async with running_collector() as collector, origins(2) as (dead, well):
        document = one_backend(dead, well, balance="round_robin")
        async with running_gateway(document, env=collector.environment) as gateway:
            await dead.stop()
            for number in range(2):
                assert (await gateway.client.get(f"{gateway.url}/{number}")).status == 200
            spans = await collector.found(lambda span: "error.type" in span.facts)
    assert spans[0].kind == "client"
    assert spans[0].facts["error.type"] in ("connect_failure", "reset")
    assert spans[0].facts["headgate.instance"] == dead.address
    assert "http.response.status_code" not in spans[0].facts


async def test_the_wait_in_the_queue_is_a_span_of_its_own() -> None:
    async with running_collector() as collector, one_origin(after(0.3)) as origin:
        document = one_backend(origin, max_in_flight=1)
        async with running_gateway(document, env=collector.environment) as gateway:
            urls = [f"{gateway.url}/{number}" for number in range(2)]
            await asyncio.gather(*(gateway.client.get(url, fresh=True) for url in urls))
            (wait,) = await collector.found(lambda span: span.name == "queue")
            request, *inner = await whole(collector, wait.trace, 3)
    (attempt,) = named(inner, "client")
    assert (wait.kind, wait.parent) == ("internal", request.id)
    assert wait.facts == {"headgate.backend": "main"}
    assert wait.took_s > 0.2
    assert wait.ended <= attempt.began + 0.001
    assert len([span for span in collector.spans if span.name == "queue"]) == 1


async def test_who_is_turned_away_leaves_a_span_that_says_why() -> None:
    async with running_collector() as collector, one_origin(hang) as origin:
        document = one_backend(origin, max_in_flight=1, queue={"size": 1, "timeout": "1s"})
        document["routes"] = {"r": {"match": "/known", "split": {"main": 1}}}
        async with running_gateway(document, env=collector.environment) as gateway:
            get = gateway.client.get
            first = asyncio.create_task(get(f"{gateway.url}/known", timeout=3, fresh=True))
            await seen(origin, 1)
            late = asyncio.create_task(get(f"{gateway.url}/known", fresh=True))

            async def queued() -> bool:
                return (await gateway.metrics()).total("headgate_queue_depth") == 1

            await eventually(queued, 5, "the second waits")
            full = await get(f"{gateway.url}/known", fresh=True)
            nowhere = await get(f"{gateway.url}/unknown?x", fresh=True)
            timed_out = await late
            first.cancel()
            reasons = {
                reply.header("x-headgate-error"): reply.header("x-request-id")
                for reply in (full, nowhere, timed_out)
            }
            assert set(reasons) == {"queue_full", "no_route", "queue_timeout"}
            (refused,) = await whole(collector, reasons["queue_full"], 1)
            (lost,) = await whole(collector, reasons["no_route"], 1)
            gave_up, wait = await whole(collector, reasons["queue_timeout"], 2)
    assert (refused.facts["error.type"], refused.failed) == ("queue_full", True)
    assert (lost.facts["error.type"], lost.failed, lost.name) == ("no_route", False, "GET")
    assert gave_up.facts["http.response.status_code"] == 503
    assert (wait.facts["error.type"], wait.failed) == ("queue_timeout", True)


async def seen(origin: Origin, count: int) -> None:
    """Returns once `count` requests have come to `origin`."""
    while len(origin.exchanges) < count:
        await asyncio.sleep(0.01)


async def test_a_tunnel_is_one_attempt_as_long_as_it_lasts() -> None:
    async def talk(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async with running_collector() as collector, instance_of(talk) as url:
        async with running_gateway(one_backend(url), env=collector.environment) as gateway:
            async with aiohttp.ClientSession() as session:
                headers = dict(SAMPLED)
                async with session.ws_connect(f"{gateway.url}/ws", headers=headers) as socket:
                    await socket.send_str("hello")
                    assert (await socket.receive()).data == "hello"
                    await asyncio.sleep(0.3)
            request, attempt = await whole(collector, TRACE, 2)
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


async def test_a_client_that_leaves_is_nobodys_error() -> None:
    async with running_collector() as collector, one_origin(hang) as origin:
        async with running_gateway(one_backend(origin), env=collector.environment) as gateway:
            task = asyncio.create_task(
                gateway.client.get(f"{gateway.url}/x", headers=SAMPLED, fresh=True)
            )
            await seen(origin, 1)
            task.cancel()
            request, attempt = await whole(collector, TRACE, 2)
    assert request.facts["http.response.status_code"] == 499
    assert request.facts["error.type"] == attempt.facts["error.type"] == "client_left"
    assert not request.failed
    assert not attempt.failed
