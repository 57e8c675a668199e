"""R20: clients that do not read cost no memory, hold back the instance and are given up."""

import asyncio
from contextlib import AsyncExitStack

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import Exchange, echo, one_origin
from tests.harness.wire import wire

SIZE = 50 << 20
READERS = 30


async def big(exchange: Exchange) -> None:
    """50 MiB, written only as fast as they are taken."""
    if exchange.target != b"/big":
        await echo(exchange)
        return
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    exchange.sent = 0  # type: ignore[attr-defined]
    while exchange.sent < SIZE:  # type: ignore[attr-defined]
        exchange.write(bytes(1 << 16))
        exchange.sent += 1 << 16  # type: ignore[attr-defined]
        await exchange.drain()


async def test_r20_clients_that_never_read_cost_little_and_are_closed_in_time() -> None:
    async with one_origin(big) as origin:
        origin.record = False
        settings = {"stream_idle": "3s"}
        document = one_backend(origin, timeouts={"idle": "60s"})
        async with running_gateway(document, **settings) as gateway, AsyncExitStack() as stack:
            await gateway.client.get(f"{gateway.url}/warm")
            before = await gateway.worker_rss()
            for _ in range(READERS):
                client = await stack.enter_async_context(wire(gateway.data_port, 4096))
                client.reader._limit = 1  # the test's own buffer must not read ahead
                await client.send(b"GET /big HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                client.writer.transport.pause_reading()
            good = await open_loop(gateway.url, 50, 2.0, lambda n: Ask(path=f"/{n}"))
            grown = await gateway.worker_rss() - before
            sent = [e.sent for e in origin.exchanges if e.target == b"/big"]
            assert failures(good) == []
            assert len(sent) == READERS
            assert grown <= READERS << 20, f"{grown >> 20} MiB"
            assert max(sent) < SIZE, "the instance was not held back"
            await asyncio.sleep(3.5)
            gone = [e.gone.is_set() for e in origin.exchanges if e.target == b"/big"]
            assert all(gone), f"{gone.count(False)} of {READERS} still open"
