"""R15: pipelined requests are answered in order, and a stuck one does not buy memory."""

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import Exchange, echo, hang, one_origin
from tests.harness.wire import parse_responses, wire


async def test_r15_fifty_pipelined_requests_get_fifty_answers_in_order() -> None:
    async def uneven(exchange: Exchange) -> None:
        number = int(exchange.target.rpartition(b"/")[2])
        await exchange.sleep(0.01 if number % 3 == 0 else 0)
        await echo(exchange)

    async with one_origin(uneven) as origin, running_gateway(one_backend(origin)) as gateway:
        asks = [
            b"POST /%d HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 2\r\n\r\nhi" % number
            for number in range(50)
        ]
        async with wire(gateway.data_port) as client:
            await client.send(b"".join(asks))
            while len(parse_responses(bytes(client.received), ["POST"] * 50, False).responses) < 50:
                assert await client.read_some(5)
            await client.read_until_quiet(0.2)
            parsed = parse_responses(bytes(client.received), ["POST"] * 50, False)
        assert parsed.fault == ""
        targets = [b'"/%d"' % number in r.body for number, r in enumerate(parsed.responses)]
        assert all(targets)
        assert len(targets) == 50


async def test_r15_ten_thousand_requests_behind_a_stuck_one_cost_little_memory() -> None:
    async with one_origin(hang) as origin:
        document = one_backend(origin, timeouts={"response": "3s"})
        async with running_gateway(document) as gateway:
            before = await gateway.worker_rss()
            async with wire(gateway.data_port) as client:
                one = b"GET /stuck HTTP/1.1\r\nHost: gw.test\r\nX-Pad: %s\r\n\r\n" % (b"p" * 200)
                client.writer.write(one * 10_000)
                await client.read_some(2)
                grown = await gateway.worker_rss() - before
                # 2.6 MB were offered; the socket's own buffers are the kernel's.
                assert grown <= 4 << 20, f"{grown >> 10} KiB"
                assert len(origin.exchanges) <= 50
                client.reset()
