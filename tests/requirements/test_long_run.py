"""All at once and for long: every count is equal, no answer is another one's, none is refused.

Two workers, requests of mixed lengths, uploads, streams and WebSockets, an edit a second, and an
instance that is killed or stopped now and then, of which the others have the room.
"""

import asyncio
import hashlib
import random
import signal
import time

import pytest

from tests.harness.accounting import assert_counted
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Ask, Reply, open_loop
from tests.harness.origin_process import OriginProcess
from tests.harness.wire import wire

RATE = 40.0
UPLOADS = [bytes([number]) * (64 << 10) * number for number in range(1, 5)]
REFUSED = ("queue_full", "queue_timeout", "no_backend", "overloaded")


def ask(number: int) -> Ask:
    """What the request of this number is: its id is its number."""
    chance = random.Random(number).random()
    headers = [("X-Test-Id", str(number))]
    if chance < 0.1:
        body = UPLOADS[number % len(UPLOADS)]
        return Ask("POST", f"/short/{number}", headers, body, id=str(number))
    kind = "stream" if chance < 0.2 else "long" if chance < 0.45 else "short"
    return Ask("GET", f"/{kind}/{number}", headers, id=str(number))


async def socket(gateway: Gateway, number: int) -> Reply:
    """A WebSocket that is open for a while. Its instance ends it: where the client did, one that is
    killed in that moment could have been first, and who it was is counted."""
    reply = Reply(intended=time.monotonic(), id=f"socket-{number}")
    async with wire(gateway.data_port) as client:
        await client.send(
            b"GET /socket/%d HTTP/1.1\r\nHost: gw.test\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % number
        )
        head = await client.read_until(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        reply.status = int(status.split()[1])
        reply.headers = [(name, value) for name, value in (one.split(": ", 1) for one in fields)]
        if reply.status == 101:
            await client.ends_within(60)
        else:
            await client.read_answer()
    return reply


async def edits(gateway: Gateway) -> None:
    weight = 0
    while True:
        await asyncio.sleep(1.0)
        weight = weight % 9 + 1
        await gateway.set_weights("all", {"a": weight, "b": 10 - weight})


async def trouble(instances: list[OriginProcess], every_s: float) -> None:
    """Kills one and starts it again, or stops one for a while, by turns."""
    number = 0
    while True:
        await asyncio.sleep(every_s / 2)
        one = instances[number % len(instances)]
        if number % 2:
            one.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(every_s / 4)
            finally:
                one.send(signal.SIGCONT)
            await asyncio.sleep(every_s / 4)
        else:
            one.kill()
            await asyncio.sleep(every_s / 4)
            await asyncio.to_thread(one.start)
            await asyncio.sleep(every_s / 4)
        number += 1


def swapped(reply: Reply, number: int) -> str:
    """What of an answer belongs to another request."""
    if not reply.ok:
        return ""
    what, said = ask(number), reply.json()
    sent = what.body or b""
    wanted = (str(number), what.path, len(sent), hashlib.sha256(sent).hexdigest())
    found = tuple(said[name] for name in ("id", "target", "length", "sha256"))
    return "" if found == wanted else f"{number}: {found} instead of {wanted}"


async def _run(seconds: float, every_s: float) -> None:
    instances = [OriginProcess(name=f"p{n}", is_mixed=True) for n in range(4)]
    background: list[asyncio.Task[None]] = []
    try:
        for one in instances:
            one.start()
        document = {
            "backends": {"a": backend(*instances[:2]), "b": backend(*instances[2:])},
            "routes": {"all": {"match": "/", "split": {"a": 5, "b": 5}}},
        }
        async with running_gateway(document, workers=2, drain="30s") as gateway:
            background.append(asyncio.create_task(edits(gateway)))
            background.append(asyncio.create_task(trouble(instances, every_s)))
            sockets = []
            load = asyncio.create_task(
                open_loop(gateway.url, RATE, seconds, ask, poisson=True, timeout=60)
            )
            while not load.done():
                sockets.append(asyncio.create_task(socket(gateway, len(sockets))))
                await asyncio.wait([load], timeout=0.5)
            replies = await load
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            held = await asyncio.gather(*sockets)
            await assert_counted(gateway, [*replies, *held])

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, what="nothing is in flight")
    finally:
        for task in background:
            task.cancel()
        for one in instances:
            one.kill()
    refused = [r for r in [*replies, *held] if r.header("x-headgate-error") in REFUSED]
    assert not refused, (len(refused), len(replies), refused[0])
    wrong = [why for number, reply in enumerate(replies) if (why := swapped(reply, number))]
    assert not wrong, wrong[:3]
    good = sum(reply.ok for reply in replies) + sum(reply.status == 101 for reply in held)
    assert good >= 0.95 * (len(replies) + len(held))


@pytest.mark.paced
async def test_much_at_once_with_trouble_every_few_seconds() -> None:
    await _run(16.0, every_s=4.0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_much_at_once_for_a_quarter_of_an_hour() -> None:
    await _run(900.0, every_s=20.0)
