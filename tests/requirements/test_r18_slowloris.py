"""R18: a client that dribbles its head is cut off by the head timeout and disturbs nobody."""

import asyncio

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import one_origin
from tests.harness.wire import wire

HEAD_TIMEOUT_S = 2.0


async def dribble(gateway: Gateway) -> float:
    """One byte a second, from the first to the gateway's close; how long that took."""
    loop = asyncio.get_running_loop()
    async with wire(gateway.data_port) as client:
        await client.send(b"G")
        began = loop.time()
        for byte in b"ET / HTTP/1.1\r\nHost: gw.test\r\n":
            await client.read_for(1.0)
            if client.ended:
                break
            await client.send(bytes([byte]))
        assert client.ended, "still open"
        assert client.received == b"" or client.received.startswith(b"HTTP/1.1 408")
        return loop.time() - began


async def test_r18_five_hundred_dribbling_clients_are_cut_off_and_disturb_nobody() -> None:
    async with one_origin() as origin:
        document = one_backend(origin)
        async with running_gateway(document, head_timeout=f"{HEAD_TIMEOUT_S:.0f}s") as gateway:
            before = await gateway.worker_rss()
            slow = [asyncio.create_task(dribble(gateway)) for _ in range(500)]
            good = await open_loop(gateway.url, 50, 3.0, lambda n: Ask(path=f"/{n}"))
            grown = await gateway.worker_rss() - before
            took = await asyncio.gather(*slow)
    assert failures(good) == []
    assert max(took) <= HEAD_TIMEOUT_S + 1.5, max(took)
    assert min(took) >= HEAD_TIMEOUT_S - 0.5, min(took)
    assert grown <= 20 << 20, f"{grown >> 20} MiB"
