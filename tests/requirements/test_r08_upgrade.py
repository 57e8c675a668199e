"""R8: only a WebSocket handshake opens a tunnel, and only when the instance agrees."""

import base64
import hashlib
import random

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from tests.harness.cases import play
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, raw
from tests.harness.wire import wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
WEBSOCKET = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
WEBSOCKET += b"Sec-WebSocket-Key: " + KEY + b"\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: gw.test\r\n\r\n"
DECLINED = {
    "POST": b"POST /up HTTP/1.1\r\nHost: gw.test\r\n" + WEBSOCKET + b"Content-Length: 0\r\n\r\n",
    "HTTP/1.0": b"GET /up HTTP/1.0\r\nHost: gw.test\r\n" + WEBSOCKET + b"\r\n",
    "h2c": b"GET /up HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "unknown": b"GET /up HTTP/1.1\r\nHost: gw.test\r\n"
    b"Connection: Upgrade\r\nUpgrade: foo/2\r\n\r\n",
}


async def agree(exchange: Exchange) -> None:
    """Switches protocols whatever was asked, as a careless instance might."""
    digest = hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    exchange.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


async def test_r08_nothing_but_a_websocket_handshake_yields_101(plain: Plain) -> None:
    gateway, origin = plain
    origin.respond = agree
    for kind, data in DECLINED.items():
        outcome = await play(gateway, origin, [data])
        assert 101 not in outcome.statuses, (kind, outcome)
    assert all(e.all("upgrade") == [] for e in origin.exchanges)


async def test_r08_a_body_after_a_declined_upgrade_is_never_run_as_a_request(plain: Plain) -> None:
    gateway, origin = plain
    data = (
        b"POST /up HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Length: %d\r\n\r\n" % len(EVIL)
    )
    outcome = await play(gateway, origin, [data + EVIL])
    assert len(outcome.statuses) == 1, outcome
    assert all(exchange.target != b"/evil" for exchange in origin.exchanges)


async def test_r08_an_unsolicited_101_becomes_502(plain: Plain) -> None:
    answer = raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    gateway, origin = plain
    origin.respond = answer
    outcome = await play(gateway, origin, [b"GET /up HTTP/1.1\r\nHost: gw.test\r\n\r\n"])
    assert outcome.statuses == [502], outcome


async def test_r08_a_switch_to_another_protocol_than_the_one_asked_for_becomes_502(
    plain: Plain,
) -> None:
    answer = raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    gateway, origin = plain
    origin.respond = answer
    data = b"GET /up HTTP/1.1\r\nHost: gw.test\r\n" + WEBSOCKET + b"\r\n"
    outcome = await play(gateway, origin, [data])
    assert outcome.statuses == [502], outcome


async def test_r08_a_websocket_carries_messages_both_ways(plain: Plain) -> None:
    gateway, origin = plain
    origin.respond = agree
    async with wire(gateway.data_port) as client:
        await client.send(b"GET /up HTTP/1.1\r\nHost: gw.test\r\n" + WEBSOCKET + b"\r\n")
        head = await client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        del client.received[:]
        origin.exchanges[0].write(b"\x81\x05hello")
        assert (await client.read_until(b"hello"))[:2] == b"\x81\x05"
        masked = b"\x82\x84abcd" + bytes(a ^ b for a, b in zip(b"pong", b"abcd", strict=True))
        await client.send(masked)
        connection = origin.exchanges[0].connection
        await eventually(
            lambda: b"\x82" in bytes(connection.received).partition(b"\r\n\r\n")[2],
            what="the client's message arrives",
        )


async def test_r08_a_real_websocket_behaves_as_if_nobody_stood_between() -> None:
    closed: list[int | None] = []

    async def talk(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v1",), max_msg_size=64 << 20)
        await socket.prepare(request)
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.data == "leave":
                await socket.close(code=4321, message=b"bye")
            else:
                await socket.send_str(message.data)
        closed.append(socket.close_code)
        return socket

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.add_routes([web.get("/health/ready", ready), web.get("/ws", talk)])
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        async with running_gateway(one_backend(f"http://127.0.0.1:{server.port}")) as gateway:
            for deflate in (0, 15):
                options = {"compress": deflate, "max_msg_size": 64 << 20, "autoping": False}
                async with session.ws_connect(
                    f"{gateway.url}/ws", protocols=("v1",), **options
                ) as socket:
                    assert (socket.protocol, socket.compress) == ("v1", deflate)
                    await socket.ping(b"are you there")
                    pong = await socket.receive()
                    assert (pong.type, pong.data) == (WSMsgType.PONG, b"are you there")
                    big = random.Random(8).randbytes(5 << 20)
                    await socket.send_bytes(big)
                    assert (await socket.receive()).data == big
                    for number in range(500):
                        await socket.send_str(str(number))
                    got = [(await socket.receive()).data for _ in range(500)]
                    assert got == [str(number) for number in range(500)]
                    await socket.send_str("leave")
                    end = await socket.receive()
                    assert (end.data, end.extra) == (4321, "bye")
            async with session.ws_connect(f"{gateway.url}/ws") as socket:
                await socket.close(code=4000)
            await eventually(lambda: closed[-1:] == [4000], what="the client's code arrived")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
                await session.ws_connect(f"{gateway.url}/none")
