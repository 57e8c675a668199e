"""R18: a client that dribbles its head is cut off by the head timeout and disturbs nobody."""

import asyncio
import random
from typing import Any

import pytest

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Ask, Reply, failures, open_loop, percentile
from tests.harness.origins import one_origin
from tests.harness.wire import wire


async def dribble(gateway: Gateway, opened: asyncio.Barrier) -> float:
    """One byte a second, from the first to the gateway's close; how long that took."""
    loop = asyncio.get_running_loop()
    async with wire(gateway.data_port) as client:
        await opened.wait()
        await asyncio.sleep(random.random())  # not all in one step: that would load the test
        began = loop.time()
        await client.send(b"G")
        for byte in b"ET / HTTP/1.1\r\nHost: gw.test\r\n":
            await client.read_for(1.0)
            if client.ended:
                break
            await client.send(bytes([byte]))
        assert client.ended, "still open"
        assert client.received == b"" or client.received.startswith(b"HTTP/1.1 408")
        return loop.time() - began


async def _slowloris(head_timeout_s: float, rounds: int, settings: dict[str, Any]) -> None:
    calm: list[Reply] = []
    beside: list[Reply] = []
    async with one_origin() as origin, running_gateway(one_backend(origin), **settings) as gateway:

        async def good(seconds: float) -> list[Reply]:
            return await open_loop(gateway.url, 50, seconds, lambda n: Ask(path=f"/{n}"))

        for _ in range(rounds):
            calm += await good(head_timeout_s)
            before = await gateway.worker_rss()
            opened = asyncio.Barrier(501)
            slow = [asyncio.create_task(dribble(gateway, opened)) for _ in range(500)]
            await opened.wait()
            beside += await good(head_timeout_s - 0.5)
            grown = await gateway.worker_rss() - before
            took = await asyncio.gather(*slow)
            assert max(took) <= head_timeout_s + 1, max(took)
            assert min(took) >= head_timeout_s, min(took)
            assert grown <= 20 << 20, f"{grown >> 20} MiB"
    assert failures(calm + beside) == []
    # Below 5 ms it is the test's own client that is measured.
    baseline = max(0.005, percentile([reply.took_s for reply in calm], 99))
    assert percentile([reply.took_s for reply in beside], 99) <= 2 * baseline


async def test_r18_five_hundred_dribbling_clients_are_cut_off_and_disturb_nobody() -> None:
    await _slowloris(3.0, 2, {"head_timeout": "3s"})


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_r18_the_same_with_the_head_timeout_that_is_the_default() -> None:
    await _slowloris(10.0, 3, {})
