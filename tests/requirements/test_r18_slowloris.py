"""R18: a client that dribbles its head is cut off by the head timeout and disturbs nobody."""

import asyncio
import random
from statistics import median
from typing import Any

import pytest

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import delayed
from tests.harness.origin_process import one_process
from tests.harness.trickle import Trickle
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


async def beside_dribblers(
    gateway: Gateway, twin: Gateway, head_timeout_s: float
) -> tuple[float, float]:
    """The share of the good requests that the dribbling clients delayed, and how long the last of
    those was there."""
    before = await gateway.worker_rss()
    # Who asks is a process of its own: this one is busy with 500 clients.
    async with Trickle((gateway.data_port, twin.data_port), ["/good"]) as good:
        opened = asyncio.Barrier(501)
        slow = [asyncio.create_task(dribble(gateway, opened)) for _ in range(500)]
        await opened.wait()
        await asyncio.sleep(head_timeout_s - 0.5)
        grown = await gateway.worker_rss() - before
        asked, twins = await good.end()
        took = await asyncio.gather(*slow)
    assert {(each.status, each.code) for each in asked + twins} == {(200, "")}
    assert min(took) >= head_timeout_s, min(took)
    assert grown <= 20 << 20, f"{grown >> 20} MiB"
    return delayed(asked, twins, 2), max(took)


async def _slowloris(head_timeout_s: float, settings: dict[str, Any]) -> None:
    async with one_process() as origin:
        document = one_backend(origin)
        async with (
            running_gateway(document, **settings) as gateway,
            running_gateway(document, **settings) as twin,
        ):
            # The middle one counts: what dribbling clients do to others, and how late the last of
            # them is, is so each time.
            rounds = [await beside_dribblers(gateway, twin, head_timeout_s) for _ in range(3)]
    shares, longest = zip(*rounds, strict=True)
    assert median(shares) <= 0.01, shares
    assert median(longest) <= head_timeout_s + 1, longest


async def test_r18_five_hundred_dribbling_clients_are_cut_off_and_disturb_nobody() -> None:
    await _slowloris(3.0, {"head_timeout": "3s"})


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_r18_the_same_with_the_head_timeout_that_is_the_default() -> None:
    await _slowloris(10.0, {})
