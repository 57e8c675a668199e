"""Answers are compressed for clients that take it, piece by piece, and never late."""

import asyncio
import gzip
import random
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.dataplane import coding
from gateway.dataplane.coding import PIECE, Coded, Coding, zstandard
from tests.dataplane.rig import Answer, Conversation, Rig, StubInstance, until

MakeRig = Callable[..., Awaitable[Rig]]
MakeStub = Callable[..., Awaitable[StubInstance]]
ASK = b"%b / HTTP/1.1\r\nHost: gw.test\r\nAccept-Encoding: %b\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"label": "cat", "score": 0.25}' * 100


def answering(body: bytes = BODY, extra: bytes = JSON, status: int = 200) -> Any:
    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            is_head = head.startswith(b"HEAD")
            length = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
            bare = is_head or status in (204, 304)
            conversation.write(
                b"HTTP/1.1 %d X\r\n%b%b\r\n%b" % (status, length, extra, b"" if bare else body)
            )

    return script


def plain(answer: Answer) -> bytes:
    coding = answer.get("content-encoding")
    if coding == "zstd":
        found: bytes = zstandard().decompress(answer.body)
        return found
    return gzip.decompress(answer.body) if coding == "gzip" else answer.body


async def serve(rig: Rig, stub: StubInstance, compress: Any = True) -> None:
    rig.one(stub, route={"compress": compress})


@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_a_client_that_takes_it_gets_it_compressed(
    rig: MakeRig, stub: MakeStub, name: str
) -> None:
    if name == "zstd":
        pytest.importorskip("backports.zstd")
    gateway = await rig()
    extra = JSON + b'ETag: "abc"\r\nAccept-Ranges: bytes\r\n'
    await serve(gateway, await stub(answering(extra=extra)))
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(ASK % (b"GET", name.encode()))
        answer = await peer.answer()
        assert (answer.status, answer.get("content-encoding")) == (200, name)
        assert answer.get("content-length") == str(len(answer.body))
        assert len(answer.body) < len(BODY) / 10
        assert plain(answer) == BODY
        assert (answer.get("etag"), answer.get("accept-ranges")) == ('W/"abc"', None)
        assert answer.get("vary") == "Accept-Encoding"
    peer.write(ASK % (b"GET", b"identity"))
    answer = await peer.answer()
    assert (answer.body, answer.get("content-encoding")) == (BODY, None)
    assert (answer.get("etag"), answer.get("vary")) == ('"abc"', "Accept-Encoding")
    peer.write(ASK % (b"HEAD", name.encode()))
    answer = await peer.answer(b"HEAD")
    assert (answer.get("content-encoding"), answer.get("content-length")) == (name, None)
    peer.write(ASK % (b"GET", b"br"))
    assert (await peer.answer()).body == BODY
    peer.close()


@pytest.mark.parametrize(
    ("body", "extra", "status"),
    [
        (b"short", JSON, 200),
        (BODY, b"Content-Type: image/png\r\n", 200),
        (BODY, JSON + b"Content-Encoding: br\r\n", 200),
        (BODY, JSON + b"Cache-Control: no-transform\r\n", 200),
        (BODY, JSON + b"Content-Range: bytes 0-9/100\r\n", 206),
        (BODY, JSON + b"Repr-Digest: sha-256=:AAAA:\r\n", 200),
        (BODY, b"Content-Type: text/event-stream\r\n", 200),
        (BODY, b"", 200),
        (b"", JSON, 204),
        (b"", JSON + b'ETag: "a"\r\n', 304),
    ],
)
async def test_what_would_gain_nothing_or_must_not_be_touched_passes_as_it_is(
    rig: MakeRig, stub: MakeStub, body: bytes, extra: bytes, status: int
) -> None:
    gateway = await rig()
    await serve(gateway, await stub(answering(body, extra, status)))
    answer = await gateway.ask(ASK % (b"GET", b"gzip"))
    assert answer.status == status
    assert answer.body == body
    assert answer.get("etag") in (None, '"a"')
    assert answer.get("content-encoding") in (None, "br")


async def test_a_cache_that_asks_again_hears_what_the_answer_varies_by(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    instance = await stub(answering(b"", b'ETag: "a"\r\n', 304))
    for compress, vary in ((True, "Accept-Encoding"), (False, None)):
        await serve(gateway, instance, compress)
        answer = await gateway.ask(ASK % (b"GET", b"gzip"))
        assert (answer.status, answer.get("vary")) == (304, vary)


@pytest.mark.parametrize("extra", [b"", JSON])
@pytest.mark.parametrize(
    ("known", "said"),
    [(b'"a"', '"a"'), (b'W/"a"', 'W/"a"'), (b'"b", W/"a"', 'W/"a"'), (b'W/"b"', '"a"')],
)
async def test_a_cache_that_has_it_compressed_hears_that_its_own_is_not_changed(
    rig: MakeRig, stub: MakeStub, extra: bytes, known: bytes, said: str
) -> None:
    gateway = await rig()
    await serve(gateway, await stub(answering(b"", extra + b'ETag: "a"\r\n', 304)))
    ask = ASK.replace(b"\r\n\r\n", b"\r\nIf-None-Match: %b\r\n\r\n")
    answer = await gateway.ask(ask % (b"GET", b"gzip", known))
    assert (answer.status, answer.get("etag")) == (304, said)


async def test_a_client_of_http_1_0_gets_it_plain(rig: MakeRig, stub: MakeStub) -> None:
    gateway = await rig()
    await serve(gateway, await stub(answering()))
    asked = b"GET / HTTP/1.0\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n"
    assert (await gateway.ask(asked)).body == BODY


class Owner(Coded):
    """Whose answer is compressed, and what became of it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_done = self.is_held = False

    def coded(self, data: bytes, done: bool) -> None:
        self.sent.append(data)
        self.is_done = done

    def hold_instance(self) -> None:
        self.is_held = True

    def release_instance(self) -> None:
        self.is_held = False

    def give_up(self) -> None:
        raise AssertionError("a fault")


@pytest.mark.skipif(coding.__file__.endswith(".so"), reason="no class here can be a compiled trait")
@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_no_turn_of_the_loop_compresses_more_than_one_piece(rig: MakeRig, name: str) -> None:
    if name == "zstd":
        pytest.importorskip("backports.zstd")
    plane, owner = (await rig()).plane, Owner()
    body = random.Random(1).randbytes(10 * PIECE)
    under_way = Coding(owner, plane, name, True)
    under_way.add(body[: 5 * PIECE], False)
    turns = 0
    while under_way.is_busy:
        assert owner.is_held
        assert len(owner.sent) <= turns + 1
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4
    assert not owner.is_held
    under_way.add(body[5 * PIECE :], True)
    under_way.is_held = True  # the client takes nothing: the instance is not asked to go on
    while under_way.is_busy:
        await asyncio.sleep(0)
    assert owner.is_done
    assert owner.is_held
    whole = b"".join(owner.sent)
    assert (gzip.decompress(whole) if name == "gzip" else zstandard().decompress(whole)) == body


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_large_answer_is_compressed_and_its_connection_goes_on(
    rig: MakeRig, stub: MakeStub, is_chunked: bool
) -> None:
    body = random.Random(1).randbytes(10 * PIECE).hex().encode()

    async def large(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            if is_chunked:
                framing, data = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n"
                data = data % (len(body), body)
            else:
                framing, data = b"Content-Length: %d" % len(body), body
            conversation.write(b"HTTP/1.1 200 X\r\n%b\r\n%b\r\n%b" % (framing, JSON, data))

    gateway = await rig()
    await serve(gateway, await stub(large))
    peer = await gateway.connect()
    peer.write(ASK % (b"GET", b"gzip"))
    answer = await peer.answer()
    assert answer.get("transfer-encoding") == "chunked"
    assert answer.get("content-length") is None
    assert gzip.decompress(answer.body) == body
    peer.write(ASK % (b"GET", b"identity"))
    assert (await peer.answer()).body == body
    peer.close()
    assert gateway.count("") == 2


@pytest.mark.parametrize("events", [False, True])
async def test_each_part_of_a_stream_arrives_when_it_was_sent(
    rig: MakeRig, stub: MakeStub, events: bool
) -> None:
    go = asyncio.Event()

    async def stream(conversation: Conversation) -> None:
        await conversation.request()
        media = b"text/event-stream" if events else b"application/x-ndjson"
        conversation.write(
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nContent-Type: %b\r\n\r\n" % media
        )
        for part in (b"one\n", b"two\n"):
            conversation.write(b"4\r\n%b\r\n" % part)
            await go.wait()
            go.clear()
        conversation.write(b"0\r\n\r\n")

    gateway = await rig()
    await serve(gateway, await stub(stream), {"min": "1KiB", "events": events})
    peer = await gateway.connect()
    peer.write(ASK % (b"GET", b"gzip"))
    head = await peer.reader.readuntil(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    reader, seen = zlib.decompressobj(31), b""
    for expected in (b"one\n", b"one\ntwo\n"):
        while seen != expected:
            size = int(await peer.reader.readuntil(b"\r\n"), 16)
            seen += reader.decompress((await peer.reader.readexactly(size + 2))[:-2])
        go.set()
    rest = await asyncio.wait_for(peer.reader.readuntil(b"\r\n0\r\n\r\n"), 30)
    assert rest.endswith(b"0\r\n\r\n")
    peer.close()


async def test_an_instance_that_breaks_off_leaves_no_answer_that_looks_whole(
    rig: MakeRig, stub: MakeStub
) -> None:
    async def breaking(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(
            b"HTTP/1.1 200 X\r\nContent-Length: 900000\r\n%b\r\n%b" % (JSON, b"x" * 300000)
        )
        await conversation.writer.drain()
        conversation.reset()

    gateway = await rig()
    await serve(gateway, await stub(breaking))
    answer = await gateway.ask(ASK % (b"GET", b"gzip"))
    assert not answer.whole
    await until(lambda: gateway.count("upstream_broke") == 1)


async def test_who_takes_nothing_holds_the_instance_back_and_gets_all_in_the_end(
    rig: MakeRig, stub: MakeStub
) -> None:
    body = random.Random(2).randbytes(4 << 20).hex().encode()

    async def slow(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n%b\r\n" % (len(body), JSON))
        for at in range(0, len(body), 65536):
            conversation.write(body[at : at + 65536])
            await conversation.writer.drain()

    gateway = await rig(buffer=65536)
    await serve(gateway, await stub(slow))
    peer = await gateway.connect()
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    peer.write(ASK % (b"GET", b"gzip"))
    await until(lambda: any(getattr(each, "stalled", False) for each in gateway.plane.clients))
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        answer = await peer.answer()
    assert gzip.decompress(answer.body) == body
    peer.close()
