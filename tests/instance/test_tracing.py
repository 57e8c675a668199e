"""Which spans a real instance exports, alone and behind a real gateway."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.harness.collector import Collector, Span, running_collector
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.instance.conftest import Instance, Serve
from tests.instance.loads import holding

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": "order-7"}
MODEL = """
import pathlib, time

class Model:
    max_batch_size = 4

    def setup(self, device): pass

    def predict(self, inputs):
        while "held" in inputs and pathlib.Path("hold").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        if "bad" in inputs:
            raise ValueError("canary")
        return inputs


class Single:
    def setup(self, device): pass

    def predict(self, x):
        while x == "held" and pathlib.Path("hold").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        return x


class Stream:
    stream = True

    def setup(self, device): pass

    def predict(self, x):
        for number in range(3):
            time.sleep(0.1)
            yield str(number)
        if x == "fail":
            raise ValueError("canary")
"""


@pytest.fixture
def traced(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts a model that exports to a collector."""

    def start(collector: Collector, name: str, *arguments: str) -> Instance:
        for key, value in collector.environment.items():
            monkeypatch.setenv(key, value)
        return serve(MODEL, name, "--device", "cpu", *arguments)

    return start


async def ask(url: str, value: Any, headers: Any = SAMPLED) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/predict", json=value, headers=headers) as reply:
            try:
                await reply.read()
            except aiohttp.ClientPayloadError:
                pass  # a stream that was broken off
            return reply.status


async def becomes(instance: Instance, metric: str, value: float) -> None:
    """Returns once the instance shows that value."""

    async def is_so() -> bool:
        return await asyncio.to_thread(instance.metric, metric) == value

    await eventually(is_so, what=f"{metric} is {value}")


async def request_of(collector: Collector, count: int = 1) -> list[Span]:
    return await collector.found(lambda span: span.kind == "server", count)


async def test_a_batch_is_a_request_a_wait_and_a_prediction_for_each(traced: Any) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Model")
        with holding(instance):
            alone = asyncio.create_task(ask(instance.url, "held", {}))
            await becomes(instance, "instance_running", 1)
            asked = [asyncio.create_task(ask(instance.url, n)) for n in range(3)]
            await becomes(instance, "instance_queue_depth", 3)
        assert await asyncio.gather(alone, *asked) == [200, 200, 200, 200]
        await request_of(collector, 4)
    requests = [span for span in collector.of(TRACE) if span.kind == "server"]
    assert len(requests) == 3
    assert {(span.name, span.parent) for span in requests} == {("POST /predict", CALLER)}
    for request in requests:
        wait, predict = [span for span in collector.of(TRACE) if span.parent == request.id]
        assert (wait.name, predict.name) == ("queue", "predict")
        assert predict.facts == {"headgate.batch.size": 3, "headgate.device": "cpu"}
        assert wait.took_s > 0.1
        assert 0.29 < predict.took_s < 60
        assert abs(wait.ended - predict.began) < 0.001
        assert request.facts == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "http.route": "/predict",
            "url.path": "/predict",
            "url.scheme": "http",
            "headgate.model": "Model",
            "headgate.request_id": "order-7",
        }
        assert request.resource["service.name"] == "headgate-instance"
        assert request.resource["service.instance.id"] == f"127.0.0.1:{instance.port}"
        assert abs(request.ended - time.time()) < 60


async def test_a_model_that_fails_is_an_error_without_its_words(traced: Any) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Model")
        assert await ask(instance.url, "bad") == 500
        (request,) = await request_of(collector)
    assert (request.failed, request.facts["error.type"]) == (True, "model_error")
    assert "canary" not in str(collector.spans)


async def test_who_is_refused_has_no_prediction(traced: Any) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Single", "--max-queue", "1")
        with holding(instance):
            busy = [asyncio.create_task(ask(instance.url, "held")) for _ in range(8)]
            await becomes(instance, 'instance_requests_total{code="503"}', 5)
        statuses = await asyncio.gather(*busy)
        requests = await request_of(collector, 8)
    assert 503 in statuses
    refused = [span for span in requests if span.facts["http.response.status_code"] == 503]
    assert {span.facts["error.type"] for span in refused} == {"queue_full"}
    for span in refused:
        assert [each.name for each in collector.of(TRACE) if each.parent == span.id] == ["queue"]


async def test_a_client_that_leaves_is_nobodys_error(traced: Any) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Single")
        with holding(instance):
            asked = asyncio.create_task(ask(instance.url, "held"))
            await becomes(instance, "instance_running", 1)
            asked.cancel()
            (request,) = await request_of(collector)
    assert request.facts["http.response.status_code"] == 499
    assert (request.failed, request.facts["error.type"]) == (False, "client_left")


@pytest.mark.parametrize(("value", "failed"), [("fine", False), ("fail", True)])
async def test_a_stream_is_one_prediction_until_its_end(
    traced: Any, value: str, failed: bool
) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Stream")
        assert await ask(instance.url, value) == 200
        (request,) = await request_of(collector)
        (predict,) = [span for span in collector.spans if span.name == "predict"]
    assert predict.took_s > 0.28
    assert request.failed is failed
    assert request.facts.get("error.type", "") == ("model_error" if failed else "")


async def test_what_the_caller_does_not_sample_is_not_exported(traced: Any) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Model")
        quiet = {"traceparent": f"00-{'ab' * 16}-{CALLER}-00"}
        assert await ask(instance.url, 1, quiet) == 200
        assert await ask(instance.url, 1, {"traceparent": "nonsense"}) == 200
        await request_of(collector)
        await asyncio.to_thread(instance.terminate)  # this loop is the collector's
    assert {span.parent for span in collector.spans if span.kind == "server"} == {""}
    assert "ab" * 16 not in {span.trace for span in collector.spans}


async def test_one_trace_leads_from_the_client_through_the_gateway_into_the_model(
    traced: Any,
) -> None:
    async with running_collector() as collector:
        instance = traced(collector, "Model")
        document = one_backend(instance.url, route={"match": "/digits", "rewrite": "/predict"})
        async with running_gateway(document, env=collector.environment) as gateway:
            reply = await gateway.client.json(
                "POST", f"{gateway.url}/digits", 5, headers=SAMPLED.items()
            )
            assert reply.status == 200
            await collector.found(lambda span: span.trace == TRACE, 5)
    spans = {span.id: span for span in collector.of(TRACE)}
    names = {}
    for span in spans.values():
        parent = spans.get(span.parent)
        names[span.name] = parent.name if parent else span.parent
    assert names == {
        "POST /digits": CALLER,
        "POST": "POST /digits",
        "POST /predict": "POST",
        "queue": "POST /predict",
        "predict": "POST /predict",
    }
    request = next(span for span in spans.values() if span.name == "POST /predict")
    assert request.facts["headgate.request_id"] == reply.header("x-request-id")


async def test_a_hanging_collector_does_not_hold_up_the_end(traced: Any) -> None:
    async with running_collector() as collector:
        collector.hang = True
        instance = traced(collector, "Model")
        assert await ask(instance.url, 1) == 200
        began = time.monotonic()
        assert await asyncio.to_thread(instance.terminate) == 0
        assert time.monotonic() - began < 30  # of the minute that it hangs
