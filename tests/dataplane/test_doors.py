"""A fault of ours behind any door of the loop: a 500 with a log line, and nobody waits for ever."""

import asyncio
import logging
from typing import Any, cast

import pytest

from gateway.core.lines import REQUEST_LINES
from gateway.dataplane.connection import BODY
from gateway.dataplane.exchange import Exchange
from tests.dataplane.rig import Conversation, StubInstance, until

GET = b"GET %b HTTP/1.1\r\nHost: gw.test\r\n\r\n"
BAD = b"/bad"


class Faulty(Exchange):
    """Fails in the step of the class's name, where the path is `/bad`."""

    fails = ""

    def _fail(self, step: str) -> None:
        if self.fails == step and self.head.target == BAD:
            raise ValueError("a fault of ours")

    def begin(self, *args: Any) -> None:
        self._fail("begin")
        super().begin(*args)

    def message(self, *args: Any) -> bytes:
        self._fail("message")
        return super().message(*args)

    def answered(self, *args: Any) -> None:
        self._fail("answered")
        super().answered(*args)

    def attempt_failed(self, *args: Any, **more: Any) -> None:
        self._fail("attempt_failed")
        super().attempt_failed(*args, **more)

    def move_on(self) -> None:
        self._fail("move_on")
        super().move_on()

    def expired(self, now: float) -> None:
        self._fail("expired")
        super().expired(now)

    def gathered(self) -> None:
        self._fail("gathered")
        super().gathered()


def failing(step: str) -> type[Faulty]:
    return type("Failing", (Faulty,), {"fails": step, "__slots__": ()})


async def script(conversation: Conversation) -> None:
    """Answers when asked, and drops who asks for `/bad` at an instance that is told to."""
    while True:
        await conversation.request()
        await conversation.answer(b"ok")


async def drop(conversation: Conversation) -> None:
    await conversation.request()
    conversation.reset()


async def ask(gateway: Any, path: bytes, **more: Any) -> Any:
    async with asyncio.timeout(30):
        return await gateway.ask(GET % path, **more)


def is_told(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.getMessage() == "fault in the gateway" for record in caplog.records)


@pytest.mark.parametrize("is_new", [True, False], ids=["new connection", "pooled"])
@pytest.mark.parametrize("step", ["begin", "message", "answered"])
async def test_a_fault_on_the_way_to_an_instance_and_back_is_a_500(
    rig, stub, caplog: pytest.LogCaptureFixture, step: str, is_new: bool
) -> None:
    gateway = await rig()
    gateway.one(await stub(script))
    gateway.exchange_of = failing(step)
    if not is_new:
        assert (await ask(gateway, b"/good")).status == 200
    answer = await ask(gateway, BAD)
    assert (answer.status, answer.error) == (500, "internal")
    assert (await ask(gateway, b"/good")).status == 200
    assert is_told(caplog)
    assert gateway.plane.live.backends["b"].in_flight == 0
    assert gateway.count("internal") == 1


@pytest.mark.parametrize("way", [drop, None], ids=["breaks", "refuses"])
async def test_a_fault_after_an_instance_failed_is_a_500(rig, stub, way: Any) -> None:
    gateway = await rig()
    instance = await stub(way or script)
    gateway.one(instance)
    if way is None:
        await instance.stop()
    gateway.exchange_of = failing("attempt_failed")
    assert (await ask(gateway, BAD)).status == 500
    assert gateway.plane.live.backends["b"].in_flight == 0


async def test_a_fault_while_a_deadline_passes_is_a_500(rig, stub) -> None:
    gateway = await rig()

    async def hang(conversation: Conversation) -> None:
        await conversation.reader.read()

    gateway.one(await stub(hang), route={"deadline": "50ms"})
    gateway.exchange_of = failing("expired")
    answers = await asyncio.gather(ask(gateway, b"/good"), ask(gateway, BAD), ask(gateway, b"/x"))
    assert [answer.status for answer in answers] == [504, 500, 504]


async def test_a_fault_in_a_body_that_is_gathered_is_a_500(rig, stub) -> None:
    gateway = await rig()
    gateway.one(await stub(script))
    gateway.exchange_of = failing("gathered")
    peer = await gateway.connect()
    peer.write(b"POST /bad HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 2\r\n\r\n")
    await until(lambda: any(client.state == BODY for client in gateway.plane.clients))
    peer.write(b"hi")
    async with asyncio.timeout(30):
        assert (await peer.answer()).status == 500
    peer.close()


class FullBook:
    """Has room for another series from the second time on."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.asked = 0

    def series(self, metric: str, labels: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise ValueError("a fault of ours")
        return self.book.series(metric, labels)


async def test_a_fault_when_an_answer_is_booked_ends_the_connection(rig, stub) -> None:
    gateway = await rig()
    gateway.one(await stub(script))
    gateway.plane.counters.book = FullBook(gateway.plane.counters.book)
    peer = await gateway.connect()
    peer.write(GET % BAD)
    await peer.at_end()
    assert (await ask(gateway, b"/good")).status == 200


class OneAtATime:
    """An instance that answers when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await self.go.wait()
            await conversation.answer(b"ok")


async def queued(gateway: Any, instance: StubInstance, *paths: bytes) -> list[asyncio.Task[Any]]:
    """The requests, of which the first is under way and the others wait in this order."""
    gateway.one(instance, backend={"max_in_flight": 1})
    asked = []
    for number, path in enumerate(paths):
        asked.append(asyncio.create_task(ask(gateway, path)))
        backend = gateway.plane.live.backends["b"]
        await until(lambda: len(backend.waiting) + backend.in_flight == number + 1)
    return asked


async def test_a_fault_of_one_that_waited_is_its_own_500(rig, stub) -> None:
    gateway = await rig()
    one = OneAtATime()
    gateway.exchange_of = failing("message")
    asked = await queued(gateway, await stub(one), b"/1", BAD, b"/3", BAD, b"/5")
    one.go.set()
    answers = await asyncio.gather(*asked)
    assert [answer.status for answer in answers] == [200, 500, 200, 500, 200]


async def test_a_fault_of_one_that_moves_on_is_its_own_500(rig, stub) -> None:
    gateway = await rig()
    one = OneAtATime()
    gateway.exchange_of = failing("move_on")
    asked = await queued(gateway, await stub(one), b"/1", BAD, b"/3")
    words = {"b": dict.fromkeys(gateway.plane.live.backends["b"].instances, "down")}
    gateway.hear(words)
    answers = await asyncio.gather(*asked[1:])
    assert [answer.status for answer in answers] == [500, 503]
    one.go.set()
    await asked[0]


async def test_a_fault_in_the_choice_of_an_instance_leaves_nobody_waiting(
    rig, stub, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await rig()
    one = OneAtATime()
    asked = await queued(gateway, await stub(one), b"/1", b"/2", b"/3")
    backend = gateway.plane.live.backends["b"]
    backend.config = None
    with caplog.at_level(logging.ERROR):
        one.go.set()
        answers = await asyncio.gather(*asked)
    assert [answer.status for answer in answers[1:]] == [500, 500]
    assert is_told(caplog)


async def test_a_fault_while_a_head_is_read_is_a_500_and_the_end(
    rig, stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await rig()
    gateway.one(await stub(script))
    # What is kept of a header line is no line of ours.
    monkeypatch.setitem(REQUEST_LINES.kept.young, b"X-Odd: 1", cast("Any", object()))
    peer = await gateway.connect()
    peer.write(b"GET /x HTTP/1.1\r\nHost: t\r\nX-Odd: 1\r\n\r\n" + GET % b"/y")
    async with asyncio.timeout(30):
        assert (await peer.answer()).status == 500
    assert await peer.at_end() == b""
