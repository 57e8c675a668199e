"""R43: when the client leaves, so does the work: within 200 ms, wherever the request was."""

import time
from statistics import median

from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, Origin, events, hang, one_origin
from tests.harness.wire import Wire, wire

SOON_S = 0.2
TIMES = 5  # the middle one counts: a pause of the machine is not the gateway's
GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 200_000
WEBSOCKET = (
    b"GET /x HTTP/1.1\r\nHost: gw.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def accept(exchange: Exchange) -> None:
    """A WebSocket that says nothing more."""
    exchange.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    await exchange.gone.wait()


async def leave(origin: Origin, client: Wire, ready: bytes = b"") -> float:
    """Leave once the instance has the request (and `ready` came back); how long it took to hear."""
    await eventually(lambda: origin.exchanges, what="the request reaches the instance")
    if ready:
        await client.read_until(ready)
    left = time.monotonic()
    client.reset()
    exchange = origin.exchanges[-1]
    await eventually(exchange.gone.is_set, what="the instance hears of it", every_s=0.005)
    return exchange.gone_at - left


async def calm(gateway: Gateway) -> None:
    async def idle() -> bool:
        return (await gateway.metrics()).total("headgate_in_flight") == 0

    await eventually(idle, what="nothing is in flight")


async def counted(gateway: Gateway, codes: dict[str, int]) -> None:
    """Returns once so many are counted of whom the client has left, by their codes."""

    async def so_many() -> bool:
        metrics = await gateway.metrics()
        return metrics.by("headgate_requests_total", "code", reason="client_left") == codes

    await eventually(so_many, what=f"{codes} are counted")


async def test_r43_leaving_aborts_the_instance_wherever_the_request_was() -> None:
    cases = [
        ("before the first byte", GET, hang, b""),
        ("in the middle of a stream", GET, events(1000, 0.05), b"data: 2"),
        ("from a WebSocket", WEBSOCKET, accept, b"101 Switching"),
        ("during the upload", UPLOAD, hang, b""),
    ]
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        for name, data, respond, ready in cases:
            origin.respond = respond
            took = []
            for _ in range(TIMES):
                origin.exchanges.clear()
                async with wire(gateway.data_port) as client:
                    client.writer.write(data)
                    took.append(await leave(origin, client, ready))
            assert median(took) <= SOON_S, (name, took)
            await calm(gateway)
        await counted(gateway, {"499": 2 * TIMES, "200": TIMES, "101": TIMES})


async def test_r43_leaving_the_queue_frees_the_place_and_nothing_is_sent() -> None:
    async with one_origin(hang) as origin:
        document = one_backend(origin, max_in_flight=1, queue={"size": 4, "timeout": "30s"})
        async with running_gateway(document) as gateway:
            async with wire(gateway.data_port) as first, wire(gateway.data_port) as second:
                await first.send(GET)
                await eventually(lambda: origin.exchanges)
                await second.send(GET)

                async def depth(wanted: int) -> bool:
                    metrics = await gateway.metrics()
                    return metrics.total("headgate_queue_depth") == wanted

                await eventually(lambda: depth(1), what="the second request waits")
                second.reset()
                await eventually(lambda: depth(0), what="its place is free")
                assert len(origin.exchanges) == 1
                await counted(gateway, {"499": 1})


async def test_r43_a_client_that_closes_its_half_is_taken_to_have_left() -> None:
    """As nginx and Envoy have it: going and waiting in silence look the same from here."""

    async with one_origin(hang) as origin, running_gateway(one_backend(origin)) as gateway:
        async with wire(gateway.data_port) as client:
            await client.send(GET)
            client.half_close()
            await client.ends_within(60)
        assert client.received == b""
        await counted(gateway, {"499": 1})
