"""R19: a body that stalls is given up, and what it held is free again."""

import asyncio

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import wire

STALLED = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000\r\n\r\nonly this"


async def test_r19_a_stalled_body_ends_and_frees_the_instance() -> None:
    async with one_origin() as origin:
        document = one_backend(origin, max_in_flight=2, queue={"size": 4, "timeout": "500ms"})
        async with running_gateway(document, body_idle="1s") as gateway:
            async with wire(gateway.data_port) as one, wire(gateway.data_port) as two:
                await one.send(STALLED)
                await two.send(STALLED)
                both = await asyncio.gather(one.ends_within(2.5), two.ends_within(2.5))
                assert min(both) >= 0.5
                for client in (one, two):
                    assert client.received[9:12] in (b"408", b"")
            assert not any(exchange.complete.is_set() for exchange in origin.exchanges)
            reply = await gateway.client.post(f"{gateway.url}/after", b"ok")
            assert reply.status == 200

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, 2, "nothing in flight")


async def test_r19_a_body_that_trickles_steadily_is_not_cut_by_a_total_timeout() -> None:
    async with one_origin() as origin:
        async with running_gateway(one_backend(origin), body_idle="1s") as gateway:
            async with wire(gateway.data_port) as client:
                await client.send(
                    b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 40\r\n\r\n"
                )
                await client.send_slowly(b"x" * 40, size=4, pause_s=0.2)
                reply = await client.read_response()
            # A gateway may keep a minimum rate instead; then it says so with 408.
            assert reply.status in (200, 408)
