"""Framing, upgrades, 1xx, HEAD and aborts on the wire (R4, R8, R9, R11–R15)."""

import asyncio
import hashlib
from types import SimpleNamespace

import pytest

from tests.dataplane.clocks import StoppedClock
from tests.dataplane.rig import Conversation, until

HOST = b"Host: gw.test\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"


def says(wire: bytes, close: bool = True):
    """A script that answers each request with `wire`."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            conversation.write(wire)
            if close:
                return

    return script


@pytest.mark.parametrize("size", [0, 1, 64 << 10, 5 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_r04_framing_is_made_anew_and_the_body_is_the_same(rig, stub, size, chunked):
    seen: list[tuple[bytes, str]] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, body = await conversation.request()
            seen.append((head.lower(), hashlib.sha256(body).hexdigest()))
            await conversation.answer(body)

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % size
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + framing + b"\r\n")
    if chunked and body:
        peer.write(b"%x\r\n%b\r\n" % (len(body), body))
    peer.write(b"0\r\n\r\n" if chunked else body)
    answer = await peer.answer()
    assert answer.body == body
    head, digest = seen[0]
    assert digest == hashlib.sha256(body).hexdigest()
    assert (b"content-length:" in head) != (b"transfer-encoding:" in head)


async def test_r08_an_unsolicited_101_is_a_broken_answer(rig, stub):
    gateway = await rig()
    instance = await stub(says(b"HTTP/1.1 101 Y\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"))
    gateway.one(instance)
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (502, "upstream_broke")


UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_r08_a_websocket_is_tunnelled_both_ways(rig, stub):
    async def script(conversation: Conversation) -> None:
        head = await conversation.head()
        assert b"Upgrade: websocket\r\n" in head
        conversation.write(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: abc\r\n\r\nfirst"
        )
        while data := await conversation.reader.read(100):
            conversation.write(data.upper())

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE)
    answer = await peer.answer()
    assert answer.status == 101
    assert answer.get("sec-websocket-accept") == "abc"
    assert await peer.reader.readexactly(5) == b"first"
    peer.write(b"hello")
    assert await peer.reader.readexactly(5) == b"HELLO"
    peer.close()
    await until(lambda: instance.open == 0)
    assert gateway.count() == 1


async def test_r08_what_a_client_sends_before_the_101_arrives_whole_and_in_order(rig, stub):
    frame = b"\x82\x7f" + (1 << 20).to_bytes(8, "big") + bytes(range(256)) * 4096
    go = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await go.wait()
        conversation.write(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert await conversation.reader.readexactly(len(frame)) == frame
        conversation.write(b"\x82\x00")

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE + frame)
    await until(lambda: any(client.is_paused for client in gateway.plane.clients))
    go.set()
    assert (await peer.answer()).status == 101
    async with asyncio.timeout(30):
        assert await peer.reader.readexactly(2) == b"\x82\x00"


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not read"])
async def test_what_a_client_says_before_it_leaves_a_websocket_arrives(rig, stub, is_read):
    left, received = asyncio.Event(), bytearray()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await left.wait()
        while data := await conversation.reader.read(1 << 16):
            received.extend(data)

    clock = StoppedClock()
    gateway, instance = await rig(clock), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE)
    assert (await peer.answer()).status == 101
    (pool,) = (each.pool for each in gateway.plane.live.backends["b"].instances.values())
    (upstream,) = pool.connections
    sent = b""
    while not upstream.transport.get_write_buffer_size():
        piece = len(sent).to_bytes(4, "big") * 1000
        peer.write(piece)
        sent += piece
        await asyncio.sleep(0)
    peer.close()
    await until(lambda: not gateway.plane.clients)
    assert gateway.count("client_left") == 1
    if is_read:
        left.set()
        await until(lambda: instance.open == 0)
        assert received == sent
    else:
        assert pool.connections
        gateway.later(300.0)
    await until(lambda: not pool.connections)


async def test_r08_a_declined_upgrade_is_an_ordinary_answer(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    answer = await gateway.ask(UPGRADE)
    assert answer.status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Content-Length: 0\r\n\r\n",
        b"GET /ws HTTP/1.0\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n\r\n",
    ],
)
async def test_r08_other_upgrades_never_reach_the_instance(rig, stub, head):
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            seen.append(await conversation.head())
            await conversation.answer()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    assert (await gateway.ask(head)).status == 200
    assert b"upgrade" not in seen[0].lower()


EXPECT = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"


async def test_r09_an_accepted_expectation_gets_one_100(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(EXPECT)
    assert (await peer.answer()).status == 100
    peer.write(b"hello")
    assert (await peer.answer()).body == b"hello"


async def test_r09_a_refused_expectation_gets_no_100(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance, route={"max_body": "4B"})
    assert (await gateway.ask(EXPECT)).status == 413
    gateway.table(
        {
            "backends": {"b": {"instances": [instance.url]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
        },
        words="down",
    )
    assert (await gateway.ask(EXPECT)).status == 503


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n", 204),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 10\r\n\r\n", 304),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 204 None\r\n\r\n", 204),
    ],
)
async def test_r11_answers_without_a_body(rig, stub, wire, status):
    gateway, instance = await rig(), await stub(says(wire, close=False))
    gateway.one(instance)
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(GET)
        answer = await peer.final()
        assert (answer.status, answer.body) == (status, b"")
    assert instance.connections == 1


OLD = b"GET %b HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"


async def test_a_client_of_http_1_0_that_asks_for_it_keeps_its_connection(rig, stub):
    """As nginx, HAProxy and Envoy do; RFC 9112, 9.3, forbids it to proxies that clients choose."""
    gateway, instance = await rig(), await stub()
    gateway.one(instance, route={"match": "/x"})
    peer = await gateway.connect()
    for path, status in ((b"/x", 200), (b"/none", 404), (b"/-/health", 200), (b"/x", 200)):
        peer.write(OLD % path)
        answer = await peer.answer()
        assert (answer.status, answer.get("connection")) == (status, "keep-alive"), path
    peer.write(GET)
    answer = await peer.answer()
    assert (answer.status, answer.get("connection")) == (200, None)


@pytest.mark.parametrize("said", [b"", b"Connection: X\r\n", b"Connection: keep-alive, close\r\n"])
async def test_any_other_client_of_http_1_0_has_one_request(rig, stub, said):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"GET /x HTTP/1.0\r\n%b\r\n" % said)
    answer = await peer.answer()
    assert (answer.status, answer.get("connection")) == (200, "close")
    assert await peer.at_end() == b""


async def test_a_body_that_only_its_end_delimits_ends_the_connection_of_http_1_0(rig, stub):
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    more = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\n" + body)
        await more.wait()
        conversation.write(b"4\r\nmore\r\n0\r\n\r\n")

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.write(OLD % b"/x")
    head = await peer.reader.readuntil(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert await peer.reader.readexactly(2) == b"ok"
    more.set()
    assert await peer.at_end() == b"more"


EARLY = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
    b"Content-Length: 3\r\nX-Headgate-Route: forged\r\nX-Powered-By: x\r\n\r\n"
)


def hints(then, wire: bytes = EARLY):
    """A script that says `wire` before each answer, which it gives once that is heard."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            conversation.write(wire)
            await then.wait()
            await conversation.answer()

    return script


async def test_r11_what_comes_before_an_answer_is_passed_on_at_once(rig, stub):
    """RFC 9110, 15.2: who forwards must pass a 1xx on that it did not ask for."""
    heard = asyncio.Event()
    gateway, instance = await rig(), await stub(hints(heard))
    gateway.one(instance)
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(GET)
        early = await peer.answer()
        assert (
            early.head == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-Powered-By: x"
        )
        heard.set()
        final = await peer.final()
        assert (final.status, final.body, final.interim) == (200, b"ok", [])
    assert instance.connections == 1
    assert gateway.counted() == {("GET", "200", ""): 2}


async def test_r11_a_client_of_http_1_0_gets_the_answer_alone(rig, stub):
    heard = asyncio.Event()
    heard.set()
    gateway, instance = await rig(), await stub(hints(heard))
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"GET /x HTTP/1.0\r\n\r\n")
    assert (await peer.answer()).status == 200


async def test_r11_a_100_of_an_instance_is_for_nobody(rig, stub):
    """Expect is the gateway's to answer, and was never sent on."""
    heard = asyncio.Event()
    heard.set()
    gateway, instance = await rig(), await stub(hints(heard, b"HTTP/1.1 100 Go on\r\n\r\n"))
    gateway.one(instance)
    assert (await gateway.final(GET)).interim == []
    answer = await gateway.final(EXPECT + b"hello")
    assert (answer.status, len(answer.interim)) == (200, 0)
    peer = await gateway.connect()
    peer.write(EXPECT)
    assert (await peer.answer()).status == 100
    peer.write(b"hello")
    assert (await peer.answer()).status == 200


async def test_r11_an_early_hint_stops_no_retry(rig, stub):
    asked: list[int] = []

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        asked.append(conversation.number)
        conversation.write(b"HTTP/1.1 103 Early\r\nLink: %d\r\n\r\n" % len(asked))
        if len(asked) > 1:
            await conversation.answer()

    gateway = await rig()
    retries = {"attempts": 2, "on": ["reset"]}
    gateway.one(await stub(script), await stub(script), route={"retries": retries})
    answer = await gateway.final(GET)
    assert (answer.status, answer.body) == (200, b"ok")
    assert [early.get("link") for early in answer.interim] == ["1", "2"]
    assert gateway.retries() == 1


async def test_r11_an_early_hint_is_dressed_as_its_answer_is(rig, stub):
    heard = asyncio.Event()
    heard.set()
    gateway, instance = await rig(), await stub(hints(heard))
    rules = {"response": {"remove": ["X-Powered-By"], "set": {"X-Frame-Options": "DENY"}}}
    gateway.one(instance, route={"headers": rules, "compress": True})
    answer = await gateway.final(GET)
    (early,) = answer.interim
    for each in (early, answer):
        assert (each.get("x-powered-by"), each.get("x-frame-options")) == (None, "DENY")
    assert answer.body == b"ok"


async def test_r11_an_early_hint_comes_while_the_body_is_sent_on(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(EARLY)
        await conversation.answer(await conversation.reader.readexactly(2 << 20))

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (2 << 20))
    peer.write(b"x" * (1 << 20))
    assert (await peer.answer()).status == 103
    peer.write(b"x" * (1 << 20))
    assert (await peer.answer()).body == b"x" * (2 << 20)


async def test_r11_a_websocket_may_begin_behind_an_early_hint(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(
            EARLY + b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        while data := await conversation.reader.read(100):
            conversation.write(data)

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE)
    answer = await peer.final()
    assert (answer.status, [each.status for each in answer.interim]) == (101, [103])
    peer.write(b"hello")
    assert await peer.reader.readexactly(5) == b"hello"


async def test_r11_an_early_hint_that_stalls_its_client_leaves_no_connection_paused(rig, stub):
    """The answer behind it comes with it, so that nobody goes on with what it held up."""
    early = b"HTTP/1.1 103 Early\r\nX-Long: %b\r\n\r\n" % (b"x" * 20_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            if head.startswith(b"GET /early"):
                conversation.write(early + answer)
            else:
                await conversation.answer(bytes(10_000))

    gateway, instance = await rig(buffer=20_000), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.writer.transport.pause_reading()
    await until(lambda: bool(gateway.plane.clients))
    (client,) = gateway.plane.clients
    asked = 0
    while not client.transport.get_write_buffer_size():
        asked += 1
        peer.write(GET)
        await until(lambda: gateway.count() == asked)
    assert not client.stalled
    peer.write(b"GET /early HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: gateway.count() == asked + 1)
    assert client.stalled
    peer.writer.transport.resume_reading()
    answers = [await peer.final() for _ in range(asked + 1)]
    assert [len(each.interim) for each in answers] == [0] * asked + [1]
    peer.write(GET)
    assert (await peer.answer()).status == 200
    assert instance.connections == 1


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_who_is_told_to_upgrade_is_told_to_what_if_that_is_proxied(rig, stub, protocol):
    """A 426 has to say it (RFC 9110, 15.5.22), though an Upgrade is for one connection alone."""
    wire = b"HTTP/1.1 426 X\r\nUpgrade: %b\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n"
    gateway = await rig()
    gateway.one(await stub(says(wire % protocol, close=False)))
    answer = await gateway.ask(GET)
    told = "websocket" if protocol == b"websocket" else None
    assert (answer.status, answer.get("upgrade")) == (426, told)
    assert (answer.get("connection") == "Upgrade") is (told is not None)


@pytest.mark.parametrize("framing", [b"Content-Length: 42", b"Transfer-Encoding: chunked"])
async def test_r14_the_late_body_of_a_204_is_nobodys_answer(rig, stub, framing):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if conversation.number == 1:
            conversation.write(b"HTTP/1.1 204 None\r\n" + framing + b"\r\n\r\n")
            await conversation.reader.read(1)  # the next request, or the end
            conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        await conversation.answer(b"second")

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(GET)
    assert (await peer.answer()).status == 204
    peer.write(GET)
    assert (await peer.answer()).body == b"second"
    assert gateway.seen == []


async def test_r11_the_answer_to_head_keeps_its_length(rig, stub):
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    gateway, instance = await rig(), await stub(says(wire, close=False))
    gateway.one(instance)
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(b"HEAD /x HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await peer.answer(b"HEAD")).get("content-length") == "10"


@pytest.mark.parametrize("target", [b"/x", b"gw.test:80", b"http://gw.test/x"])
async def test_r08_nobody_gets_a_tunnel_by_connect(rig, stub, target):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    answer = await gateway.ask(b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (answer.status, answer.error) == (400, "bad_request")
    assert instance.connections == 0, "a 2xx of it would open one, for whoever is in front of us"


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
async def test_r10_a_head_of_the_greatest_size_passes_however_it_is_cut(rig, stub, more, status):
    gateway = await rig()
    gateway.one(await stub())
    head = b"GET /x HTTP/1.1\r\n" + HOST + b"A: "
    head += b"a" * (gateway.plane.options.max_head + more - len(head))
    for parts in ([head + b"\r\n\r\n"], [head, b"\r", b"\n", b"\r", b"\n"]):
        peer = await gateway.connect()
        for part in parts:
            peer.write(part)
            await asyncio.sleep(0.02)
        assert (await peer.answer()).status == status


async def test_r12_an_answers_head_of_the_greatest_size_passes_however_it_is_cut(rig, stub):
    gateway = await rig()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: "
    head += b"a" * (gateway.plane.options.max_head - len(head))

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        for part in (head, b"\r", b"\n", b"\r", b"\n"):
            conversation.write(part)
            await asyncio.sleep(0.02)

    gateway.one(await stub(script))
    assert (await gateway.ask(GET)).status == 200


@pytest.mark.parametrize("first", [b"zz\r\n", b"1\r\na\r\n"], ids=["the first", "a later one"])
async def test_who_sends_a_malformed_chunk_and_goes_on_reads_why_it_is_refused(rig, stub, first):
    gateway = await rig()
    gateway.one(await stub())
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + first)
    await until(lambda: bool(gateway.plane.clients))
    peer.write(b"zz\r\n" + bytes(8 << 20))
    await peer.writer.drain()
    answer = await peer.answer()
    assert (answer.status, answer.error, answer.whole) == (400, "bad_request", True)


@pytest.mark.parametrize("asked", [GET, b"GET /x HTTP/1.0\r\n\r\n"], ids=["1.1", "1.0"])
@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
    ids=["length", "chunks"],
)
async def test_r13_a_truncated_answer_looks_truncated(rig, stub, wire, asked):
    gateway, instance = await rig(), await stub(says(wire))
    gateway.one(instance)
    answer = await gateway.ask(asked)
    assert answer.status == 200
    assert not answer.whole
    assert answer.body in (b"short", b"")
    assert gateway.count("upstream_broke") == 1


async def test_an_answer_until_close_is_passed_on_in_chunks(rig, stub):
    gateway, instance = await rig(), await stub(says(b"HTTP/1.1 200 OK\r\n\r\nall of it"))
    gateway.one(instance)
    answer = await gateway.ask(GET)
    assert (answer.body, answer.whole) == (b"all of it", True)


@pytest.mark.parametrize(
    "wire",
    [b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", b"SSH-2.0-OpenSSH_9\r\n", b"\x15\x03\x01", b"ht"],
)
async def test_r12_who_speaks_no_http_and_waits_is_not_waited_for(rig, stub, wire):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(wire)
        await conversation.reader.read()

    gateway = await rig()
    gateway.one(await stub(script))
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (502, "upstream_broke")
    assert gateway.seen == ["broken_head"]


async def test_r12_a_head_may_come_byte_by_byte(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        for byte in b"HTTP/1.1 200 OK\r\nX: \r\nContent-Length: 2\r\n\r\n":
            conversation.write(bytes([byte]))
            await asyncio.sleep(0.001)
        conversation.write(b"ok")

    gateway = await rig()
    gateway.one(await stub(script))
    assert (await gateway.ask(GET)).body == b"ok"


async def test_r11_who_says_that_it_still_computes_may_say_so_often(rig, stub):
    still = b"HTTP/1.1 102 Processing\r\n\r\n"
    gateway = await rig()
    gateway.one(await stub(says(still * 200 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
    assert (await gateway.final(GET)).body == b"ok"


async def test_r12_interim_answers_without_end_are_a_broken_answer(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        while True:
            conversation.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await conversation.writer.drain()

    gateway = await rig()
    gateway.one(await stub(script))
    assert (await gateway.final(GET)).error == "upstream_broke"


async def test_r14_a_second_answer_reaches_nobody(rig, stub):
    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            path = head.split(b" ")[1]
            await conversation.answer(path)
            await conversation.answer(b"late and wrong")

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    for number in range(50):
        peer.write(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n")
        assert (await peer.answer()).body == b"/%d" % number


async def test_r15_pipelined_requests_are_answered_in_order(rig, stub):
    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            await conversation.answer(head.split(b" ")[1])

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"".join(b"GET /%d HTTP/1.1\r\n%b\r\n" % (n, HOST) for n in range(50)))
    assert [(await peer.answer()).body for _ in range(50)] == [b"/%d" % n for n in range(50)]


async def test_r15_a_hanging_request_bounds_what_is_pipelined_behind_it(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await asyncio.Event().wait()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(GET * 200_000)
    await until(lambda: any(client.is_paused for client in gateway.plane.clients))
    (client,) = gateway.plane.clients
    assert client.buffered < 1 << 20


async def test_pipelined_refusals_do_not_nest(rig):
    gateway = await rig()
    gateway.table({"backends": {}, "routes": {}})
    peer = await gateway.connect()
    peer.write(GET * 3000)
    for _ in range(3000):
        assert (await peer.answer()).status == 404


async def test_a_loop_is_detected(rig, stub):
    gateway = await rig(node="gate-7")
    gateway.one(await stub())
    answer = await gateway.ask(b"GET /x HTTP/1.1\r\n" + HOST + b"Via: 1.1 a, 1.1 gate-7\r\n\r\n")
    assert (answer.status, answer.error) == (508, "loop_detected")


async def test_r61_a_loop_of_gateways_is_told_to_the_client_as_one(rig):
    first, second = await rig(node="a"), await rig(node="b")
    first.one(SimpleNamespace(url=f"http://127.0.0.1:{second.port}"))
    second.one(SimpleNamespace(url=f"http://127.0.0.1:{first.port}"))
    answer = await first.ask(GET)
    assert (answer.status, answer.error) == (508, "loop_detected")


async def test_what_an_instance_says_of_a_gateways_errors_is_not_passed_on(rig, stub):
    wire = b"HTTP/1.1 %d X\r\nX-Headgate-Error: %b\r\nContent-Length: 0\r\n\r\n"
    for status, code in ((508, b"no_route"), (404, b"loop_detected")):
        gateway = await rig()
        gateway.one(await stub(says(wire % (status, code))))
        answer = await gateway.ask(GET)
        assert (answer.status, answer.error) == (status, None)


async def test_a_body_above_the_limit_is_refused_by_count(rig, stub):
    gateway = await rig()
    gateway.one(await stub(), route={"max_body": "100KiB"})
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    peer.write(b"19000\r\n" + b"x" * 0x19000 + b"\r\n" + b"1\r\nx\r\n")
    answer = await peer.answer()
    assert (answer.status, answer.error) == (413, "body_too_large")
    assert b"100KiB (max_body)" in answer.body, "the setting is named where one meets it"


async def test_an_http_1_0_client_gets_an_answer_until_close(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.02)
        conversation.write(b"3\r\nabc\r\n0\r\n\r\n")

    gateway = await rig()
    gateway.one(await stub(script))
    answer = await gateway.ask(b"GET /x HTTP/1.0\r\n\r\n")
    assert answer.get("transfer-encoding") is None
    assert (answer.body, answer.get("connection")) == (b"abc", "close")
