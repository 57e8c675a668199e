"""R13: an answer that was cut looks cut: never a clean end, never a second try."""

import random
from collections.abc import Callable

import pytest

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import Exchange, Origin, one_origin
from tests.harness.wire import parse_responses, wire

BODY = random.Random(13).randbytes(200_000)
HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "sse": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
}


def dying(kind: str, death: str, offset: int) -> Callable:
    """Sends a head and `offset` bytes of the body, then ends by `death`."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        piece = BODY[:offset]
        framed = piece if kind == "length" else b"%x\r\n%s\r\n" % (len(piece), piece)
        exchange.write(HEADS[kind] + framed)
        await exchange.drain()
        if death == "stall":
            await exchange.gone.wait()
            return
        await exchange.sleep(0.02)
        exchange.close() if death == "FIN" else exchange.reset()

    return respond


async def cut(gateway: Gateway, origin: Origin, kind: str, death: str, offset: int) -> None:
    origin.respond = dying(kind, death, offset)
    before = len(origin.exchanges)
    async with wire(gateway.data_port) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        await client.read_for(30)
        case = (kind, death, offset)
        assert client.ended, case
        parsed = parse_responses(bytes(client.received), ["GET"], client.ended == "closed")
    assert len(parsed.responses) == 1, case
    response = parsed.responses[0]
    assert not response.complete, f"{case}: a cut answer ended cleanly"
    assert response.status == 200, case
    assert BODY.startswith(response.body), f"{case}: not the instance's bytes"
    assert len(origin.exchanges) == before + 1, f"{case}: tried again after the first byte"


async def _cuts(offsets: int, seed: int) -> None:
    chance = random.Random(seed)
    async with one_origin() as origin:
        document = one_backend(
            origin,
            timeouts={"idle": "300ms"},
            eject={"failures": 1000000},
            route={"retries": {"attempts": 3, "on": ["connect_failure", "reset", "timeout"]}},
        )
        async with running_gateway(document) as gateway:
            for kind in HEADS:
                for death in ("FIN", "RST", "stall"):
                    for _ in range(offsets):
                        await cut(gateway, origin, kind, death, chance.randint(1, len(BODY) - 1))


async def test_r13_a_death_mid_body_is_plain_to_the_client() -> None:
    await _cuts(offsets=3, seed=13)


@pytest.mark.soak
async def test_r13_a_death_at_any_offset_is_plain_to_the_client() -> None:
    await _cuts(offsets=20, seed=random.randrange(1 << 30))
