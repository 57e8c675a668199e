"""R4: framing is regenerated; an instance gets one canonical framing and the same bytes."""

import hashlib
import random

from tests.harness.origins import Exchange
from tests.harness.wire import wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

SIZES = (0, 1, 64 << 10, 5 << 20)


def chunked(body: bytes, size: int) -> bytes:
    """`body` in chunks of `size`, with odd but legal forms of the length."""
    parts = []
    for number, start in enumerate(range(0, len(body), size)):
        piece = body[start : start + size]
        form = (b"%x", b"%X", b"0%x", b"%x;ext=1")[number % 4]
        parts.append(form % len(piece) + b"\r\n" + piece + b"\r\n")
    return b"".join(parts) + b"0\r\n\r\n"


def framing(exchange: Exchange) -> tuple[list[bytes], list[bytes]]:
    return exchange.all("content-length"), exchange.all("transfer-encoding")


async def test_r04_each_framing_and_size_arrives_whole_in_one_canonical_framing(
    plain: Plain,
) -> None:
    chance = random.Random(4)
    gateway, origin = plain
    for size in SIZES:
        body = chance.randbytes(size)
        for kind in ("length", "chunked", "none"):
            if kind == "none" and size:
                continue
            head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\n"
            if kind == "length":
                data = head + b"Content-Length: %d\r\n\r\n" % size + body
            elif kind == "chunked":
                data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 16_000)
            else:
                data = head + b"\r\n"
            async with wire(gateway.data_port) as client:
                await client.send(data)
                reply = await client.read_response()
            assert reply.status == 200, (kind, size, reply)
            seen = origin.exchanges[-1]
            assert seen.digest.hexdigest() == hashlib.sha256(body).hexdigest(), (kind, size)
            lengths, encodings = framing(seen)
            assert (lengths, encodings) in (
                ([b"%d" % size], []),
                ([], [b"chunked"]),
                ([], []) if not size else (),
            ), (kind, size, lengths, encodings)
    assert origin.malformed == []


async def test_r04_an_odd_length_becomes_canonical_or_is_refused(plain: Plain) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %s\r\n\r\nhello"
    gateway, origin = plain
    for value in (b"05", b"5, 5", b"+5", b"5 ", b"0x5", b"5\t"):
        before = len(origin.exchanges)
        async with wire(gateway.data_port) as client:
            await client.send(head % value)
            reply = await client.read_response()
        seen = origin.exchanges[before:]
        if reply.status == 200:
            assert framing(seen[0]) == ([b"5"], []), value
            assert seen[0].body == b"hello"
        else:
            assert reply.status == 400, value
            assert seen == [], value
