"""R21: at the edge of the keep-alive limit a request is answered or the close is clean."""

import asyncio
import random
import time

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import fixed, one_origin
from tests.harness.wire import wire

ASK = b"GET /edge HTTP/1.1\r\nHost: gw.test\r\n\r\n"
KEEP_ALIVE_S = 1.0


async def edge(gateway: Gateway, wait_s: float) -> str:
    """One connection whose second request begins `wait_s` after the first's answer."""
    async with wire(gateway.data_port) as client:
        began = time.monotonic()
        await client.send(ASK)
        await client.read_response()
        await asyncio.sleep(wait_s)
        if client.reader.at_eof():
            assert time.monotonic() - began >= KEEP_ALIVE_S
            return "closed first"
        await client.send(ASK)
        await client.read_answer()
        if client.received.startswith(b"HTTP/1.1 200"):
            return "answered"
        assert client.received == b"", bytes(client.received)
        return "closed cleanly" if client.ended else "silence"


async def test_r21_a_slow_reader_is_no_idle_connection() -> None:
    body = random.Random(21).randbytes(2_000_000)
    async with one_origin(fixed(200, body)) as origin:
        async with running_gateway(one_backend(origin), keep_alive="500ms") as gateway:
            async with wire(gateway.data_port, 4096, read_ahead=4096) as client:
                await client.send(ASK)
                began = time.monotonic()
                while len(client.received) < len(body) and not client.ended:
                    await client.read_some(2)
                    await asyncio.sleep(0.01)
                assert time.monotonic() - began > 1.5, "read too fast to show anything"
                assert client.received.endswith(body[-1000:]), "cut off while it was reading"


async def closes(gateway: Gateway) -> None:
    """One connection after whose first answer nothing comes."""
    async with wire(gateway.data_port) as client:
        began = time.monotonic()
        await client.send(ASK)
        await client.read_response()
        await client.ends_within(60)
        assert time.monotonic() - began >= KEEP_ALIVE_S
        assert client.received == b""


async def test_r21_every_request_around_the_limit_is_answered_or_cleanly_refused() -> None:
    chance = random.Random(21)
    async with one_origin() as origin:
        settings = {"keep_alive": f"{KEEP_ALIVE_S}s"}
        async with running_gateway(one_backend(origin), **settings) as gateway:
            edges = [edge(gateway, KEEP_ALIVE_S + chance.uniform(-0.05, 0.05)) for _ in range(500)]
            ends = await asyncio.gather(*edges)
            early = await asyncio.gather(*(edge(gateway, 0.5) for _ in range(50)))
            await asyncio.gather(*(closes(gateway) for _ in range(50)))
    assert "silence" not in ends
    assert set(early) == {"answered"}, early
