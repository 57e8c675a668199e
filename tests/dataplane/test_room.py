"""As many clients as there may be: who goes for one who comes."""

from typing import Any

from gateway.dataplane.connection import WAIT
from gateway.dataplane.room import LOOK_S, REST_S
from tests.dataplane.clocks import StoppedClock
from tests.dataplane.rig import Conversation, Peer, until

GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"


async def asked(peer: Peer) -> int | None:
    peer.write(GET)
    return (await peer.answer()).status


async def full(rig: Any, stub: Any, count: int = 2) -> tuple[Any, list[Peer]]:
    """A gateway with as many clients as it may have, each of which has asked once."""
    gateway = await rig(StoppedClock())
    gateway.one(await stub())
    gateway.plane.room.most = count
    peers = [await gateway.connect() for _ in range(count)]
    for peer in peers:
        assert await asked(peer) == 200
        gateway.later(0.1)
    return gateway, peers


async def is_let_in(gateway: Any) -> bool:
    return await asked(await gateway.connect()) == 200


async def test_who_has_rested_longest_makes_room(rig, stub) -> None:
    gateway, (first, second) = await full(rig, stub)
    gateway.later(REST_S)
    assert await is_let_in(gateway)
    assert await first.reader.read() == b""
    assert await asked(second) == 200
    assert len(gateway.plane.clients) == 2


async def test_who_opens_connections_and_says_nothing_keeps_nobody_out(rig, stub) -> None:
    gateway, _ = await full(rig, stub)
    for _ in range(20):
        await gateway.connect()
        gateway.later(REST_S)
    assert await is_let_in(gateway)


async def test_who_asked_a_moment_ago_keeps_its_place(rig, stub) -> None:
    gateway, peers = await full(rig, stub)
    assert not await is_let_in(gateway)
    for peer in peers:
        assert await asked(peer) == 200


async def test_who_has_asked_since_the_last_look_keeps_its_place(rig, stub) -> None:
    gateway, (first, second, third) = await full(rig, stub, 3)
    gateway.later(REST_S)
    assert await is_let_in(gateway)
    assert await first.reader.read() == b""
    assert await asked(second) == 200
    assert await is_let_in(gateway)
    assert await third.reader.read() == b""
    assert await asked(second) == 200


async def test_who_waits_for_an_answer_keeps_its_place(rig, stub) -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.request()

    gateway = await rig(StoppedClock())
    gateway.one(await stub(silent))
    gateway.plane.room.most = 1
    waiting = await gateway.connect()
    waiting.write(GET)
    await until(lambda: any(each.state == WAIT for each in gateway.plane.clients))
    gateway.later(REST_S + LOOK_S)
    assert not await is_let_in(gateway)
    assert len(gateway.plane.clients) == 1


async def test_who_sends_a_head_bit_by_bit_keeps_nobody_out(rig, stub) -> None:
    gateway, (first, second) = await full(rig, stub)
    for size, peer in enumerate((first, second), 1):
        peer.write(GET[:size])
    await until(lambda: all(each.buffered for each in gateway.plane.clients))
    assert not await is_let_in(gateway)
    gateway.later(REST_S)
    assert await is_let_in(gateway)
    assert await is_let_in(gateway)
    assert await first.reader.read() == await second.reader.read() == b""
