"""R20: clients that do not read cost no memory, hold back the instance and are given up."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.harness.exchange import Exchange, Responder
from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop, percentile
from tests.harness.origins import Origin, echo, one_origin
from tests.harness.wire import wire

SIZE = 50 << 20
READERS = 50
IDLE_S = 4.0
ASK = b"GET /big HTTP/1.1\r\nHost: gw.test\r\n\r\n"
OPEN = (
    b"GET /big HTTP/1.1\r\nHost: gw.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
PIECE = bytes(1 << 16)
FRAME = b"\x82\x7f" + len(PIECE).to_bytes(8, "big") + PIECE  # a binary message of 64 KiB


def big(head: bytes, piece: bytes) -> Responder:
    """50 MiB after `head`, written only as fast as they are taken."""

    async def respond(exchange: Exchange) -> None:
        if exchange.target != b"/big":
            await echo(exchange)
            return
        exchange.write(head)
        exchange.sent = 0  # type: ignore[attr-defined]
        while exchange.sent < SIZE:  # type: ignore[attr-defined]
            exchange.write(piece)
            exchange.sent += len(PIECE)  # type: ignore[attr-defined]
            await exchange.drain()

    return respond


async def ask_and_never_read(gateway: Gateway, stack: AsyncExitStack, question: bytes) -> None:
    client = await stack.enter_async_context(wire(gateway.data_port, 4096))
    client.reader._limit = 1  # the test's own buffer must not read ahead
    await client.send(question)
    client.writer.transport.pause_reading()


async def held_back(origin: Origin) -> list[Exchange]:
    """The answers under way, once the instance has been kept from writing more of any."""
    sent = -1
    while True:
        stuck = [each for each in origin.exchanges if hasattr(each, "sent")]  # begun
        now = sum(each.sent for each in stuck)  # type: ignore[attr-defined]
        if now == sent and len(stuck) == READERS:
            return stuck
        sent = now
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("question", "respond"),
    [(ASK, big(ANSWER, PIECE)), (OPEN, big(SWITCH, FRAME))],
    ids=["answers", "WebSockets"],
)
async def test_r20_clients_that_never_read_cost_little_and_are_closed_in_time(
    question: bytes, respond: Responder
) -> None:
    async with one_origin(respond) as origin:
        origin.record = False
        document = one_backend(origin, timeouts={"idle": "60s"})
        settings = {"stream_idle": f"{IDLE_S}s"}
        async with running_gateway(document, **settings) as gateway, AsyncExitStack() as stack:
            calm = await open_loop(gateway.url, 50, 2.0, lambda n: Ask(path=f"/{n}"))
            before = await gateway.worker_rss()
            for _ in range(READERS):
                await ask_and_never_read(gateway, stack, question)
            stuck = await held_back(origin)
            good = await open_loop(gateway.url, 50, 2.0, lambda n: Ask(path=f"/{n}"))
            grown = await gateway.worker_rss() - before
            sent = [exchange.sent for exchange in stuck]  # type: ignore[attr-defined]
            assert failures(calm + good) == []
            # Below 5 ms it is the test's own client that is measured.
            baseline = max(0.005, percentile([reply.took_s for reply in calm], 99))
            assert percentile([reply.took_s for reply in good], 99) <= 2 * baseline
            assert len(sent) == READERS
            assert grown <= READERS << 20, f"{grown >> 20} MiB"
            assert max(sent) < SIZE, "the instance was not held back"
            assert not any(exchange.gone.is_set() for exchange in stuck)
            await asyncio.sleep(IDLE_S + 0.5)
            gone = [exchange.gone.is_set() for exchange in stuck]
            assert all(gone), f"{gone.count(False)} of {READERS} still open"


async def test_r20_an_instance_that_never_reads_its_websocket_holds_its_client_back() -> None:
    async def open_and_hold(exchange: Exchange) -> None:
        exchange.write(SWITCH)
        exchange.connection.hold()
        await asyncio.sleep(60)  # nobody sees who is gone while nobody reads

    async with one_origin(open_and_hold) as origin:
        origin.record = False
        document = one_backend(origin)
        settings = {"stream_idle": f"{IDLE_S}s"}
        async with running_gateway(document, **settings) as gateway:
            async with wire(gateway.data_port) as client:
                before = await gateway.worker_rss()
                await client.send(OPEN)
                await client.read_until(b"\r\n\r\n")
                sending = asyncio.create_task(client.send(FRAME * (SIZE // len(FRAME))))
                await asyncio.sleep(IDLE_S / 2)
                assert await gateway.worker_rss() - before <= 2 << 20
                assert not sending.done(), "the client was not held back"
                assert await client.ends_within(IDLE_S + 1) > 0
                sending.cancel()
