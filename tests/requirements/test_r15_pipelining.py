"""R15: pipelined requests are answered in order, and a stuck one does not buy memory."""

import asyncio
import re
from collections.abc import Callable

import psutil

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, echo, fixed, one_origin
from tests.harness.wire import Wire, parse_responses, wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP


async def test_r15_fifty_pipelined_requests_get_fifty_answers_in_order(plain: Plain) -> None:
    gateway, origin = plain

    async def uneven(exchange: Exchange) -> None:
        number = int(exchange.target.rpartition(b"/")[2])
        await exchange.sleep(0.01 if number % 3 == 0 else 0)
        await echo(exchange)

    origin.respond = uneven
    asks = [
        b"POST /%d HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 2\r\n\r\nhi" % number
        for number in range(50)
    ]
    async with wire(gateway.data_port) as client:
        await client.send(b"".join(asks))
        while len(parse_responses(bytes(client.received), ["POST"] * 50, False).responses) < 50:
            assert await client.read_some(30)
        await client.read_until_quiet(0.2)
        parsed = parse_responses(bytes(client.received), ["POST"] * 50, False)
    assert parsed.fault == ""
    targets = [b'"/%d"' % number in r.body for number, r in enumerate(parsed.responses)]
    assert all(targets)
    assert len(targets) == 50


async def test_r15_ten_thousand_requests_behind_a_stuck_one_cost_little_and_are_answered() -> None:
    # Python takes memory in arenas of a mebibyte: what a request makes it begin another one is
    # chance. What is held for each of ten thousand is held by every gateway.
    grown = []
    while not grown or (grown[-1] >= 1 << 20 and len(grown) < 3):
        grown.append(await _grown_behind_a_stuck_one(10_000))
    assert grown[-1] < 1 << 20, grown


async def _grown_behind_a_stuck_one(count: int) -> int:
    """The bytes that a fresh gateway's worker takes while the first of so many hangs."""
    stuck = asyncio.Event()

    async def first_hangs(exchange: Exchange) -> None:
        if exchange.target == b"/0":
            await exchange.or_gone(stuck.wait())
        exchange.reply(200, exchange.target)

    async with one_origin(first_hangs) as origin:
        origin.record = False
        async with running_gateway(one_backend(origin)) as gateway:
            for _ in range(20):
                await gateway.client.get(f"{gateway.url}/warm")
            before, warm = await gateway.worker_rss(), len(origin.exchanges)
            pad = b"p" * 200
            head = b"GET /%d HTTP/1.1\r\nHost: gw.test\r\nX-Pad: %s\r\n\r\n"
            async with wire(gateway.data_port) as client:
                client.writer.write(b"".join(head % (number, pad) for number in range(count)))
                await eventually(lambda: len(origin.exchanges) == warm + 1, what="the first hangs")
                await client.read_some(2)
                # 2.6 MB were offered; the socket's own buffers are the kernel's.
                grown = await gateway.worker_rss() - before
                assert len(origin.exchanges) == warm + 1
                stuck.set()
                await client.read_till(lambda data: data.endswith(b"/%d" % (count - 1)), 200)
                await client.read_until_quiet()
        targets = re.findall(rb"\r\n\r\n/([0-9]+)", bytes(client.received))
        assert [int(target) for target in targets] == list(range(count))
        return grown


async def test_r15_whoever_pipelines_and_never_reads_gets_no_more_answers_than_fit() -> None:
    async with one_origin(fixed(200, bytes(200_000))) as origin:
        origin.record = False
        async with running_gateway(one_backend(origin), stream_idle="3s") as gateway:
            for _ in range(50):  # until the worker's heap has the size that such answers take
                await gateway.client.get(f"{gateway.url}/warm")
            before = await gateway.worker_rss()
            async with wire(gateway.data_port, 4096, read_ahead=1) as client:
                client.writer.transport.pause_reading()
                client.writer.write(b"GET /big HTTP/1.1\r\nHost: gw.test\r\n\r\n" * 2000)
                asked = await steady(lambda: len(origin.exchanges))
                grown = await gateway.worker_rss() - before
                # 400 MB were asked for. One answer of 200 KB, and its pieces on their way from
                # one socket to the other, are 140 to 860 KiB.
                assert grown < 2 << 20, f"{grown >> 10} KiB for {asked} answers"
                (worker,) = await gateway.worker_pids()
                await eventually(
                    lambda: not has_still(worker, client), what="who never reads is given up"
                )
                assert len(origin.exchanges) < 100  # the buffers of sockets are the kernel's
                client.writer.transport.resume_reading()
                await client.ends_within(60)


async def steady(count: Callable[[], int]) -> int:
    """The first count above none that is the same for a second."""
    before = 0
    while not before or count() != before:
        before = count()
        await asyncio.sleep(1)
    return before


def has_still(worker: int, client: Wire) -> bool:
    """Whether the worker has the connection open, of whose end nobody hears who never reads."""
    port = client.writer.get_extra_info("sockname")[1]
    there = psutil.Process(worker).net_connections("tcp")
    return any(each.raddr and each.raddr.port == port for each in there)


async def test_r15_whoever_pipelines_and_reads_late_gets_every_answer_in_order(
    plain: Plain,
) -> None:
    gateway, origin = plain

    async def numbered(exchange: Exchange) -> None:
        exchange.reply(200, exchange.target + bytes(100_000))

    origin.respond = numbered
    async with wire(gateway.data_port, 4096, read_ahead=1) as client:
        client.writer.transport.pause_reading()
        asks = [b"GET /%d HTTP/1.1\r\nHost: gw.test\r\n\r\n" % n for n in range(60)]
        client.writer.write(b"".join(asks))
        await asyncio.sleep(1)
        assert len(origin.exchanges) < 60
        client.writer.transport.resume_reading()
        await client.read_till(lambda data: b"\r\n\r\n/59\x00" in data[-100_100:], 200)
        await client.read_until_quiet()
    targets = re.findall(rb"\r\n\r\n/([0-9]+)\x00", bytes(client.received))
    assert [int(target) for target in targets] == list(range(60))
