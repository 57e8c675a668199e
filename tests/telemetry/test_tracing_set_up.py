"""How tracing is switched on and sampled, and what a bad collector costs: nothing but spans."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.collector import running_collector
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import failures, percentile
from tests.harness.origins import echo, one_origin
from tests.harness.ports import free_port
from tests.harness.stretch import Stretch
from tests.harness.up import on_free_ports, running

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = [("traceparent", f"00-{TRACE}-{CALLER}-01")]


async def test_health_probes_leave_no_spans() -> None:
    async with running_collector() as collector, one_origin() as origin:
        async with running_gateway(one_backend(origin), env=collector.environment) as gateway:
            for _ in range(3):
                assert (await gateway.client.get(f"{gateway.url}/-/health")).status == 200
            await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
            await collector.found(lambda span: span.trace == TRACE, 2)
    assert {span.trace for span in collector.spans} == {TRACE}
    assert {span.resource["service.name"] for span in collector.spans} == {"headgate"}


async def test_behind_a_trusted_proxy_the_request_is_its_clients() -> None:
    told = {"For": "6.6.6.6, 203.0.113.7", "Proto": "https", "Host": "api.example.com:8443"}
    said = [(f"X-Forwarded-{name}", value) for name, value in told.items()]
    async with running_collector() as collector, one_origin() as origin:
        document, env = one_backend(origin), collector.environment
        async with running_gateway(document, env=env, trusted_proxies=["127.0.0.1"]) as gateway:
            await gateway.client.get(f"{gateway.url}/x", headers=[*SAMPLED, *said])
            await collector.found(lambda span: span.trace == TRACE, 2)
    (request,) = [span for span in collector.spans if span.kind == "server"]
    assert request.facts["client.address"] == "203.0.113.7"
    assert request.facts["url.scheme"] == "https"
    assert request.facts["server.address"] == "api.example.com"
    assert request.facts["server.port"] == 8443


async def test_the_standard_sampler_decides_and_what_is_not_sampled_says_so() -> None:
    async with running_collector() as collector, one_origin() as origin:
        env = {
            **collector.environment,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
        }
        async with running_gateway(one_backend(origin), env=env) as gateway:
            replies = [await gateway.client.get(f"{gateway.url}/{n}") for n in range(80)]
            unsampled = [("traceparent", f"00-{'ab' * 16}-{CALLER}-00")]
            await gateway.client.get(f"{gateway.url}/quiet", headers=unsampled)
            await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
            await collector.found(lambda span: span.trace == TRACE, 2)
    ids = {reply.header("x-request-id") for reply in replies}
    chosen = {span.trace for span in collector.spans} - {TRACE}
    assert chosen <= ids
    assert 15 <= len(chosen) <= 25  # the ids are spread evenly, so chance has little to say
    for exchange in origin.exchanges:
        _, trace, _, flags = exchange.header("traceparent").split("-")
        assert (flags == "01") == (trace in chosen | {TRACE})


async def test_what_was_traced_is_sent_before_the_gateway_ends() -> None:
    async with running_collector() as collector, one_origin() as origin:
        env = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        async with running_gateway(one_backend(origin), env=env) as gateway:
            await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
            assert not collector.spans
            await gateway.stop()
        assert len(collector.of(TRACE)) == 2


@pytest.mark.paced
@pytest.mark.parametrize("fault", ["down", "hangs", "refuses"])
async def test_a_bad_collector_slows_neither_requests_nor_the_end(fault: str) -> None:
    async with running_collector() as collector, one_origin(echo) as origin:
        collector.hang, collector.status = fault == "hangs", 503 if fault == "refuses" else 200
        env = collector.environment
        if fault == "down":
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
        async with running_gateway(one_backend(origin), env=env, check_end=False) as gateway:
            replies = []
            async with Stretch() as work:
                for number in range(300):
                    replies.append(await gateway.client.get(f"{gateway.url}/{number}"))
            assert failures(replies) == []
            stretch = work.between(replies[0].intended, replies[-1].done)
            assert percentile([reply.took_s for reply in replies], 99) < 1.0 * stretch
            assert replies[-1].done - replies[0].intended < 10.0 * stretch
            assert fault == "down" or collector.exports
            # Not `expect=0`: that also wants a log without tracebacks, which is checked below.
            # A second is what it waits for; to send alone would take ten.
            assert await gateway.stop(expect=None) < 8.0 * stretch
            assert gateway.process is not None
            assert gateway.process.returncode == 0
            took_s = time.monotonic() - replies[0].intended
            text = gateway.log_text()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if re.search("span|opentelemetry|trac", line)]
    # It is tried again after pauses of a second and more, and each try may say why it failed.
    assert len(lines) <= 4 + took_s, lines


@pytest.mark.parametrize("package", ["gateway.dataplane.worker", "instance.app"])
def test_who_does_not_trace_loads_none_of_it(package: str) -> None:
    code = f"import sys, {package}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in ran.stdout
    assert "opentelemetry" not in ran.stdout
    assert "google.protobuf" not in ran.stdout


async def test_without_the_variables_nothing_is_loaded_and_the_header_is_passed_on() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        await gateway.client.get(f"{gateway.url}/x", headers=SAMPLED)
        (pid,) = await gateway.worker_pids()
        with open(f"/proc/{pid}/maps") as maps:
            loaded = maps.read()
    (got,) = origin.exchanges
    assert got.all("traceparent") == [f"00-{TRACE}-{CALLER}-01".encode()]
    assert "google/_upb" not in loaded


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, "carrier-pigeon"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "headgate[otel]"),
    ],
)
async def test_what_cannot_be_set_up_is_said_once_and_requests_are_served(variables, said) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables}
    async with one_origin() as origin, running_gateway(one_backend(origin), env=env) as gateway:
        assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
        await gateway.logged("tracing is off")
        text = gateway.log_text()
    assert text.count("tracing is off") == 1
    assert said in text


async def test_one_command_traces_gateway_and_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = on_free_ports("examples/routes/one_instance.yaml")
    async with running_collector() as collector:
        for key, value in collector.environment.items():
            monkeypatch.setenv(key, value)
        async with running(tmp_path, document) as up:
            reply = await up.client.json(
                "POST", f"{up.url}/predict", {"model_type": "square", "input": 3}, headers=SAMPLED
            )
            assert reply.status == 200, reply
            await collector.found(lambda span: span.trace == TRACE, 5)
    services = {
        (span.name, span.resource["service.name"]): span.resource["service.instance.id"]
        for span in collector.of(TRACE)
    }
    assert {service for _, service in services} == {"headgate", "headgate-instance"}
    address = services["predict", "headgate-instance"]
    assert address == reply.header("x-headgate-instance")
