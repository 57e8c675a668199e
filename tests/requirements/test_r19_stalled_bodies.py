"""R19: a body that stalls is given up, and what it held is free again."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import wire

STALLED = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000\r\n\r\nonly this"


async def test_r19_a_stalled_body_ends_and_frees_the_instance() -> None:
    async with one_origin() as origin:
        document = one_backend(origin, max_in_flight=2, queue={"size": 4, "timeout": "500ms"})
        async with running_gateway(document, body_idle="1s") as gateway:
            async with wire(gateway.data_port) as one, wire(gateway.data_port) as two:
                began = time.monotonic()
                await one.send(STALLED)
                await two.send(STALLED)
                sent = time.monotonic()
                await asyncio.gather(one.ends_within(60), two.ends_within(60))
                ended = time.monotonic()
                assert ended - began >= 1
                assert ended - sent <= 1 + 1, ended - sent
                for client in (one, two):
                    assert client.received[9:12] in (b"408", b"")
            assert not any(exchange.complete.is_set() for exchange in origin.exchanges)
            reply = await gateway.client.post(f"{gateway.url}/after", b"ok")
            assert reply.status == 200

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, what="nothing in flight")


async def test_r19_while_a_small_body_is_awaited_no_slot_and_no_place_in_the_queue_is_held() -> (
    None
):
    async with one_origin() as origin:
        document = one_backend(origin, max_in_flight=1, queue={"size": 1, "timeout": "500ms"})
        async with running_gateway(document, body_idle="5s") as gateway, AsyncExitStack() as stack:
            for _ in range(20):
                client = await stack.enter_async_context(wire(gateway.data_port))
                await client.send(STALLED)
            reply = await gateway.client.post(f"{gateway.url}/beside", b"ok")
            assert reply.status == 200
            samples = await gateway.metrics()
            assert samples.total("headgate_in_flight") == 0
            assert samples.total("headgate_queue_depth") == 0
            assert [exchange.target for exchange in origin.exchanges] == [b"/beside"]


async def test_r19_a_large_body_that_stalls_frees_the_instance_it_was_streamed_to() -> None:
    async with one_origin() as origin:
        async with running_gateway(one_backend(origin), body_idle="1s") as gateway:
            async with wire(gateway.data_port) as client:
                head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000000\r\n\r\n"
                began = time.monotonic()
                await client.send(head + b"x" * 200_000)
                took = await client.ends_within(60)
                assert time.monotonic() - began >= 1
                assert took <= 1 + 1, took
                assert client.received[9:12] in (b"408", b"")
            (exchange,) = origin.exchanges
            await eventually(exchange.gone.is_set, what="the instance is free of it")
            assert not exchange.complete.is_set()
            reply = await gateway.client.post(f"{gateway.url}/after", b"ok")
            assert reply.status == 200

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, what="nothing in flight")


@pytest.mark.parametrize("size", [1000, 1_000_000], ids=["small", "large"])
async def test_r19_a_byte_a_second_is_no_upload(size: int) -> None:
    async with one_origin() as origin:
        # More often than the idle limit, but below the least rate.
        async with running_gateway(one_backend(origin), body_idle="2s") as gateway:
            async with wire(gateway.data_port) as client:
                head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n\r\n"
                began = time.monotonic()
                await client.send(head % size)
                while not client.ended and time.monotonic() - began < 60:
                    await client.send(b"x")
                    await client.read_for(1.0)
                took = time.monotonic() - began
                assert client.ended, "still taken for an upload"
                assert took >= 2
                assert took <= 2 + 1, took
                assert client.received[9:12] in (b"408", b"")


async def test_r19_a_steady_upload_is_never_cut_however_long_it_takes() -> None:
    async with one_origin() as origin:
        # Whoever sends may stand still for two seconds, and has to send for longer than that.
        async with running_gateway(one_backend(origin), body_idle="2s") as gateway:
            async with wire(gateway.data_port) as client:
                head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 2000\r\n\r\n"
                await client.send(head)
                await client.send_slowly(b"x" * 2000, size=100, pause_s=0.25)  # 5 s, 400 B/s
                reply = await client.read_response()
            assert reply.status == 200
            assert origin.exchanges[0].length == 2000
