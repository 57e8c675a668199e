"""Streams: events at once, bounded memory both ways, slow readers, WebSocket, mirror."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import psutil
import pytest

from gateway.dataplane.connection import LINGER, LINGER_S, Connection
from tests.dataplane.clocks import Standstill, StoppedClock
from tests.dataplane.rig import Conversation, Rig, until

HOST = b"Host: gw.test\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
MIB = 1 << 20


async def test_r23_events_are_passed_on_one_by_one_at_once(rig, stub):
    go = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(5):
            event = b"data: %d\n\n" % number
            conversation.write(b"%x\r\n%b\r\n" % (len(event), event))
            await go.wait()
            go.clear()
        conversation.write(b"0\r\n\r\n")

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.write(GET)
    await peer.reader.readuntil(b"\r\n\r\n")
    for number in range(5):
        async with asyncio.timeout(30):
            assert await peer.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
        go.set()
    assert await peer.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_silent_stream_ends_at_its_idle_limit(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await conversation.reader.read()

    gateway = await rig()
    gateway.one(await stub(script), backend={"timeouts": {"idle": "100ms"}})
    answer = await gateway.ask(GET)
    assert (answer.status, answer.whole) == (200, False)
    assert gateway.count("response_timeout") == 1, "cut by a limit, not by the instance"


async def test_an_answer_that_begins_during_its_upload_may_rest_for_its_idle_limit(rig, stub):
    go = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await conversation.reader.readuntil(b"end")
        await go.wait()
        conversation.write(b"1\r\nb\r\n0\r\n\r\n")

    gateway = await rig(StoppedClock(), gather=1)
    gateway.one(await stub(script), backend={"timeouts": {"response": "1s", "idle": "60s"}})
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nbegins")
    begun = await peer.reader.readuntil(b"1\r\na\r\n")
    assert begun.startswith(b"HTTP/1.1 200 ")
    peer.write(b"end")
    backend = gateway.plane.live.backends["b"]
    (live,) = backend.instances.values()
    (upstream,) = live.pool.connections
    await until(lambda: upstream.request_done)
    gateway.later(30.0)
    # Whoever is late by then is told before who comes now is answered.
    assert (await gateway.ask(b"GET /-/health HTTP/1.1\r\n" + HOST + b"\r\n")).status == 200
    go.set()
    assert await peer.reader.readuntil(b"0\r\n\r\n") == b"1\r\nb\r\n0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_pass_within_little_memory(rig, stub, chunked):
    total = 64 * MIB
    piece = b"x" * MIB

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        if chunked:
            conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // MIB):
            conversation.write(b"%x\r\n%b\r\n" % (MIB, piece) if chunked else piece)
            await conversation.writer.drain()
        if chunked:
            conversation.write(b"0\r\n\r\n")
        await conversation.reader.read()

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.write(GET)
    await peer.reader.readuntil(b"\r\n\r\n")
    before = psutil.Process().memory_info().rss
    received, most = 0, 0
    while received < total:
        data = await peer.reader.read(MIB)
        assert data
        received += len(data)
        most = max(most, psutil.Process().memory_info().rss)
    assert most - before < 32 * MIB


async def test_a_large_upload_passes_within_little_memory(rig, stub):
    total = 64 * MIB

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        left = total
        while left:
            left -= len(await conversation.reader.read(MIB))
            await asyncio.sleep(0.0005)
        await conversation.answer(b"done")

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % total)
    before = psutil.Process().memory_info().rss
    most = 0
    for _ in range(total // MIB):
        peer.write(b"y" * MIB)
        await peer.writer.drain()
        most = max(most, psutil.Process().memory_info().rss)
    assert (await peer.answer()).body == b"done"
    assert most - before < 32 * MIB


@pytest.mark.parametrize("is_seen", [True, False], ids=["before a write", "by a write that fails"])
async def test_an_answer_of_who_reads_no_further_and_leaves_reaches_the_client(rig, is_seen):
    loop, gateway = asyncio.get_running_loop(), await rig(gather=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        gateway.one(SimpleNamespace(url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        peer = await gateway.connect()
        peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\nx" % (8 * MIB))
        instance, _ = await loop.sock_accept(listener)
        await loop.sock_recv(instance, 4)
    # What it has not read makes its end a reset, and the next piece comes before that is heard of.
    instance.send(b"HTTP/1.1 413 X\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
    instance.close()
    (client,) = gateway.plane.clients
    if not is_seen:
        client.exchange.attempt.upstream.transport.write(b"x")
    client.exchange.feed(bytes(MIB), False)
    async with asyncio.timeout(30):
        answer = await peer.answer()
    assert (answer.status, answer.body) == (413, b"big")
    assert gateway.seen == []


async def large(conversation: Conversation) -> None:
    """Answers 200 KB at once, before it has read a body."""
    await conversation.head()
    await conversation.answer(bytes(200_000))
    await conversation.reader.read()


async def narrowed(gateway: Rig, peer: socket.socket) -> Connection:
    """The gateway's end of the only client, `peer`, with hardly any room in the kernel between."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await until(lambda: bool(gateway.plane.clients))
    (client,) = gateway.plane.clients
    below = client.transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(below)) as its:
        its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client


@pytest.mark.parametrize("buffer", [256 << 10, 64 << 10], ids=["in time", "behind"])
async def test_an_early_answer_reaches_who_reads_it_slowly(rig, stub, buffer):
    gateway = await rig(StoppedClock(), gather=1, buffer=buffer)
    gateway.one(await stub(large))
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        client = await narrowed(gateway, peer)
        peer.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nxx")
        await until(lambda: client.state == LINGER)
        assert client.transport.get_write_buffer_size() > 0
        for _ in range(3):
            gateway.later(LINGER_S)
            await asyncio.sleep(0.05)
        peer.setblocking(False)
        loop, got = asyncio.get_running_loop(), 0
        while data := await loop.sock_recv(peer, 65536):
            got += len(data)
    assert got > 200_000


@pytest.mark.parametrize(
    "asked", [b"GET /x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n", b"GET /x HTTP/1.0\r\n"]
)
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "late"])
async def test_who_sends_on_behind_its_last_request_reads_the_whole_answer(
    rig, stub, asked, is_late
):
    size, more, asked_for = 200_000, GET * 5000, asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await asked_for.wait()
        await conversation.answer(bytes(size))

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.writer.transport.pause_reading()
    peer.write(asked + b"\r\n" + (b"" if is_late else more))
    await until(lambda: bool(gateway.plane.clients))
    (client,) = gateway.plane.clients
    if not is_late:
        await until(lambda: client.is_paused)
    asked_for.set()
    await until(lambda: gateway.count() == 1)
    if is_late:
        peer.write(more)
    peer.writer.transport.resume_reading()
    async with asyncio.timeout(30):
        answer = await peer.answer()
    assert (answer.whole, len(answer.body)) == (True, size)
    assert await peer.at_end() == b"", "and no other is answered"


async def test_r20_who_does_not_read_its_last_answer_is_ended_at_the_idle_limit(rig, stub):
    gateway = await rig(StoppedClock(), stream_idle_s=1.5 * LINGER_S)
    gateway.one(await stub(large))
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        client = await narrowed(gateway, peer)
        peer.send(GET[:-2] + b"Connection: close\r\n\r\n")
        await until(lambda: client.state == LINGER)
        gateway.later(LINGER_S)
        await asyncio.sleep(0.05)
        assert client in gateway.plane.clients
        gateway.later(0.5 * LINGER_S)
        await until(lambda: not gateway.plane.clients)


async def test_r20_a_client_that_does_not_read_pauses_the_instance_and_is_ended(rig, stub):
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.head()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 * MIB))
        for _ in range(800):
            conversation.write(b"x" * (64 << 10))
            await conversation.writer.drain()
            sent += 64 << 10

    gateway, instance = await rig(stream_idle_s=0.5), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.writer.transport.pause_reading()
    peer.write(GET)
    await until(lambda: instance.connections == 1)
    await until(lambda: not gateway.plane.clients)
    await until(lambda: instance.open == 0)
    assert sent < 20 * MIB
    assert gateway.count("client_left") == 1


UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def amid_a_frame(rig, stub, rest: Callable[[Conversation], Awaitable[object]]):
    """A gateway, its instance and a client of a WebSocket of which half of a frame has come; the
    instance goes on with `rest`, and reads until the end."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(SWITCH + b"\x81\x05he")
        await rest(conversation)
        await conversation.reader.read()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE)
    assert (await peer.answer()).status == 101
    assert await peer.reader.readexactly(4) == b"\x81\x05he"
    return gateway, instance, peer


async def test_r68_a_websocket_is_closed_with_1001_between_two_frames(rig, stub):
    go = asyncio.Event()

    async def rest(conversation: Conversation) -> None:
        await go.wait()
        conversation.write(b"llo")

    gateway, instance, peer = await amid_a_frame(rig, stub, rest)
    (client,) = gateway.plane.clients
    client.shut()
    go.set()
    assert await peer.at_end() == b"llo\x88\x02\x03\xe9"
    await until(lambda: instance.open == 0)
    assert gateway.counted() == {("GET", "101", "draining"): 1}


async def test_r68_a_websocket_that_is_cut_amid_a_frame_is_not_counted_as_its_clients_end(
    rig, stub
):
    gateway, instance, peer = await amid_a_frame(rig, stub, lambda _: asyncio.sleep(0))
    (client,) = gateway.plane.clients
    client.shut()
    client.cut()
    assert await peer.at_end() == b""
    await until(lambda: instance.open == 0)
    assert gateway.counted() == {("GET", "101", "draining"): 1}


@pytest.mark.parametrize(
    ("last", "reason"),
    [(b"\x81\x02hi", "upstream_broke"), (b"\x88\x02\x03\xe8", "")],
    ids=["amid", "after its Close"],
)
async def test_a_websocket_that_its_instance_resets_broke_unless_it_was_closed(
    rig, stub, last, reason
):
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(SWITCH + last)
        await conversation.reader.read(1)
        conversation.reset()

    gateway = await rig()
    gateway.one(await stub(script))
    peer = await gateway.connect()
    peer.write(UPGRADE)
    assert (await peer.answer()).status == 101
    assert await peer.reader.readexactly(len(last)) == last
    peer.write(b"x")
    assert await peer.at_end() == b""
    await until(lambda: gateway.count() == 1)
    assert gateway.counted() == {("GET", "101", reason): 1}


async def test_what_an_instance_said_before_it_reset_a_websocket_reaches_a_slow_client(rig):
    """While the client does not read, nothing is read from the instance either."""
    loop, gateway = asyncio.get_running_loop(), await rig()
    last = b"\x81\x02hi\x88\x02\x03\xe8"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        gateway.one(SimpleNamespace(url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        peer = await gateway.connect()
        peer.write(UPGRADE)
        instance, _ = await loop.sock_accept(listener)
        await loop.sock_recv(instance, 4)
    instance.send(SWITCH)
    assert (await peer.answer()).status == 101
    (client,) = gateway.plane.clients
    client.pause_writing()
    (live,) = gateway.plane.live.backends["b"].instances.values()
    (upstream,) = live.pool.connections
    assert upstream.paused
    instance.send(last)
    instance.close()  # with the rest of its request unread, that is a reset
    peer.write(b"x")
    assert await peer.at_end() == last
    await until(lambda: gateway.counted() == {("GET", "101", ""): 1})


@pytest.mark.paced
async def test_a_silent_websocket_ends_at_its_idle_limit(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(SWITCH)
        await conversation.reader.read()

    gateway, instance = await rig(stream_idle_s=0.2), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(UPGRADE)
    assert (await peer.answer()).status == 101
    async with Standstill() as still:
        began = time.monotonic()
        await peer.at_end()
        assert 0.15 - still.seconds < time.monotonic() - began < 1.0 + still.seconds
    await until(lambda: instance.open == 0)
    assert gateway.plane.live.backends["b"].in_flight == 0


async def test_a_mirror_gets_a_copy_and_the_client_only_its_answer(rig, stub):
    copies: list[tuple[bytes, bytes]] = []

    async def mirror(conversation: Conversation) -> None:
        while True:
            copies.append(await conversation.request())
            await conversation.answer(b"mirrored")

    gateway, main, shadow = await rig(), await stub(), await stub(mirror)
    gateway.table(
        {
            "backends": {"a": {"instances": [main.url]}, "m": {"instances": [shadow.url]}},
            "routes": {"r": {"match": "/", "split": {"a": 1}, "mirror": {"backend": "m"}}},
        }
    )
    answer = await gateway.ask(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi")
    assert answer.body == b"hi"
    await until(lambda: len(copies) == 1)
    head, body = copies[0]
    assert body == b"hi"
    assert b"X-Headgate-Mirror: 1\r\n" in head
    await until(lambda: gateway.copies == 0)
    assert gateway.count() == 1


async def test_a_dead_mirror_delays_nobody(rig, stub):
    async def hang(conversation: Conversation) -> None:
        await conversation.reader.read(1 << 20)
        await asyncio.Event().wait()

    gateway, main, shadow = await rig(mirror_in_flight=2), await stub(), await stub(hang)
    gateway.table(
        {
            "backends": {"a": {"instances": [main.url]}, "m": {"instances": [shadow.url]}},
            "routes": {"r": {"match": "/", "split": {"a": 1}, "mirror": {"backend": "m"}}},
        }
    )
    for _ in range(10):
        assert (await gateway.ask(GET)).status == 200
    assert gateway.copies <= 2


async def test_a_mirror_that_hangs_takes_no_place_from_another_one(rig, stub):
    copied = 0

    async def hang(conversation: Conversation) -> None:
        await conversation.reader.read(1 << 20)
        await asyncio.Event().wait()

    async def answer(conversation: Conversation) -> None:
        nonlocal copied
        while True:
            await conversation.request()
            copied += 1
            await conversation.answer()

    gateway, main = await rig(mirror_in_flight=2), await stub()
    hung, well = await stub(hang), await stub(answer)
    names = {"a": main, "hung": hung, "well": well}
    gateway.table(
        {
            "backends": {name: {"instances": [each.url]} for name, each in names.items()},
            "routes": {
                "r": {"match": "/x", "split": {"a": 1}, "mirror": {"backend": "hung"}},
                "s": {"match": "/y", "split": {"a": 1}, "mirror": {"backend": "well"}},
            },
        }
    )
    for _ in range(5):
        assert (await gateway.ask(GET)).status == 200
    await until(lambda: hung.connections == 2)
    for count in range(1, 6):
        assert (await gateway.ask(GET.replace(b"/x", b"/y"))).status == 200
        await until(lambda count=count: copied == count and gateway.copies == 2)
    assert hung.connections == 2


async def test_an_endless_stream_to_a_mirror_gives_its_place_back(rig, stub):
    asked = 0

    async def endless(conversation: Conversation) -> None:
        nonlocal asked
        await conversation.request()
        asked += 1
        conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await conversation.reader.read()

    gateway = await rig(StoppedClock(), mirror_in_flight=1)
    main, shadow = await stub(), await stub(endless)
    mirrored = {"instances": [shadow.url], "timeouts": {"response": "1s"}}
    gateway.table(
        {
            "backends": {"a": {"instances": [main.url]}, "m": mirrored},
            "routes": {"r": {"match": "/", "split": {"a": 1}, "mirror": {"backend": "m"}}},
        }
    )
    for count in (1, 2):
        assert (await gateway.ask(GET)).status == 200
        await until(lambda count=count: asked == count)
        assert gateway.copies == 1
        gateway.later(1.1)
        await until(lambda: gateway.copies == 0)
    await until(lambda: shadow.open == 0)


async def test_a_copy_gives_its_place_to_a_clients_own_request(rig, stub):
    left = asyncio.Event()

    async def one_at_a_time(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            if b"X-Headgate-Mirror" in head:
                await conversation.reader.read()
                left.set()
                return
            await conversation.answer(b"own")

    gateway, main, shadow = await rig(), await stub(), await stub(one_at_a_time)
    gateway.table(
        {
            "backends": {
                "a": {"instances": [main.url]},
                "m": {"instances": [shadow.url], "max_in_flight": 1},
            },
            "routes": {
                "r": {"match": "/x", "split": {"a": 1}, "mirror": {"backend": "m"}},
                "own": {"match": "/own", "split": {"m": 1}},
            },
        }
    )
    assert (await gateway.ask(GET)).status == 200
    await until(lambda: shadow.open == 1)
    assert (await gateway.ask(GET.replace(b"/x", b"/own"))).body == b"own"
    await asyncio.wait_for(left.wait(), 30)
    assert gateway.copies == 0
    # While clients hold the place there are no copies at all.
    backend = gateway.plane.live.backends["m"]
    backend.instances[shadow.address].load.in_flight += 1
    assert (await gateway.ask(GET)).status == 200
    assert gateway.copies == 0


async def test_what_is_too_large_to_keep_is_not_copied(rig, stub):
    gateway, main, shadow = await rig(replay=1000), await stub(), await stub()
    gateway.table(
        {
            "backends": {"a": {"instances": [main.url]}, "m": {"instances": [shadow.url]}},
            "routes": {"r": {"match": "/", "split": {"a": 1}, "mirror": {"backend": "m"}}},
        }
    )
    for size in (1001, 1000):
        head = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
        assert (await gateway.ask(head + b"x" * size)).status == 200
    await until(lambda: shadow.connections == 1 and gateway.copies == 0)
