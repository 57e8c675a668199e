"""R20: clients that do not read cost no memory, hold back the instance and are given up."""

import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

import pytest

from tests.harness.exchange import Exchange, Responder
from tests.harness.gateway import Gateway, backend, eventually, one_backend, running_gateway
from tests.harness.load import delayed
from tests.harness.origin_process import one_process
from tests.harness.origins import Origin, one_origin
from tests.harness.trickle import Trickle
from tests.harness.wire import wire

SIZE = 50 << 20
READERS = 50
IDLE_S = 6.0
ROUNDS = 3  # the middle one counts: what the readers do to others, they do each time
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
        exchange.write(head)
        exchange.sent = 0  # type: ignore[attr-defined]
        while exchange.sent < SIZE and not exchange.gone.is_set():  # type: ignore[attr-defined]
            exchange.write(piece)
            exchange.sent += len(PIECE)  # type: ignore[attr-defined]
            exchange.since = time.monotonic()  # type: ignore[attr-defined]
            await exchange.drain()

    return respond


async def ask_and_never_read(gateway: Gateway, stack: AsyncExitStack, question: bytes) -> None:
    client = await stack.enter_async_context(wire(gateway.data_port, 4096, read_ahead=1))
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


async def beside_readers(
    gateway: Gateway, twin: Gateway, origin: Origin, question: bytes, until_closed: bool
) -> float:
    """The share of the others' requests that the readers delayed."""
    origin.exchanges.clear()
    before = await gateway.worker_rss()
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            await ask_and_never_read(gateway, stack, question)
        stuck = await held_back(origin)
        async with Trickle((gateway.data_port, twin.data_port), ["/others"]) as others:
            await asyncio.sleep(1.5)
            grown = await gateway.worker_rss() - before
            asked, twins = await others.end()
        assert {each.status for each in asked + twins} == {200}
        assert grown <= READERS << 20, f"{grown >> 20} MiB"
        assert max(each.sent for each in stuck) < SIZE, "the instance was not held back"  # type: ignore[attr-defined]
        if until_closed:
            await eventually(
                lambda: all(exchange.gone.is_set() for exchange in stuck),
                what="all of them are closed",
            )
            last = max(each.since for each in stuck)  # type: ignore[attr-defined]
            late = max(each.gone_at for each in stuck) - last
            assert late <= IDLE_S + 1, late
        closed = [each for each in stuck if each.gone.is_set()]
        early = [each for each in closed if each.gone_at < each.began + IDLE_S - 0.1]
        assert early == []
    return delayed(asked, twins, 2)


@pytest.mark.parametrize(
    ("question", "respond"),
    [(ASK, big(ANSWER, PIECE)), (OPEN, big(SWITCH, FRAME))],
    ids=["answers", "WebSockets"],
)
async def test_r20_clients_that_never_read_cost_little_and_are_closed_in_time(
    question: bytes, respond: Responder
) -> None:
    settings = {"stream_idle": f"{IDLE_S}s"}
    async with one_origin(respond) as origin, one_process() as good:
        origin.record = False
        document = {
            "backends": {"big": backend(origin, timeouts={"idle": "60s"}), "good": backend(good)},
            "routes": {
                "big": {"match": "/big", "split": {"big": 1}},
                "others": {"match": "/others", "split": {"good": 1}},
            },
        }
        async with (
            running_gateway(document, **settings) as gateway,
            running_gateway(document, **settings) as twin,
        ):
            shares = [
                await beside_readers(gateway, twin, origin, question, until_closed=not left)
                for left in reversed(range(ROUNDS))
            ]
    assert median(shares) <= 0.01, shares


async def test_r20_an_instance_that_never_reads_its_websocket_holds_its_client_back() -> None:
    async def open_and_hold(exchange: Exchange) -> None:
        exchange.write(SWITCH)
        exchange.connection.hold()
        await asyncio.sleep(60)  # nobody sees who is gone while nobody reads

    async with one_origin(open_and_hold) as origin:
        origin.record = False
        document = one_backend(origin)
        settings = {"stream_idle": "4s"}
        async with running_gateway(document, **settings) as gateway:
            async with wire(gateway.data_port) as client:
                before = await gateway.worker_rss()
                await client.send(OPEN)
                await client.read_until(b"\r\n\r\n")
                sending = asyncio.create_task(client.send(FRAME * (SIZE // len(FRAME))))
                await asyncio.sleep(2)
                assert await gateway.worker_rss() - before <= 2 << 20
                assert not sending.done(), "the client was not held back"
                assert await client.ends_within(4 + 1) > 0
                sending.cancel()
