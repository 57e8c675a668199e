"""R14: no answer ever reaches a request that is not its own."""

import asyncio
import random

import pytest

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import Exchange, Responder, described, echo, one_origin, origins

STRAY = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"id":"stray"}'
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def unruly(seed: int) -> Responder:
    """Answers late, twice, or says 408 on a connection that it was done with."""
    chance = random.Random(seed)

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        kind = chance.random()
        if kind < 0.1:
            await exchange.sleep(1.1)
            await echo(exchange)
        elif kind < 0.25:
            body = described(exchange)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            exchange.write(head + body + STRAY)
        elif kind < 0.3:
            await echo(exchange)
            await exchange.sleep(chance.random() * 0.02)
            exchange.write(TIMED_OUT)
            exchange.close()
        else:
            await exchange.sleep(chance.random() * 0.01)
            await echo(exchange)

    return respond


async def test_r14_an_answer_to_nothing_spoils_only_its_own_connection() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        for number in range(20):
            reply = await gateway.client.get(
                f"{gateway.url}/x", headers=[("X-Test-Id", str(number))]
            )
            assert reply.json()["id"] == str(number)
            origin.exchanges[-1].write(STRAY if number % 2 else TIMED_OUT)
            await asyncio.sleep(0.05)


async def _unruly(rate: float, seconds: float) -> None:
    chance = random.Random(14)

    def make(number: int) -> Ask:
        leave = chance.random() * 0.02 if chance.random() < 0.3 else None
        name = f"q{number}"
        return Ask(headers=[("X-Test-Id", name)], id=name, leave_after_s=leave)

    async with origins(3, unruly(14)) as stubs:
        document = one_backend(*stubs, timeouts={"response": "1s"}, eject={"failures": 1000000})
        async with running_gateway(document, workers=2) as gateway:
            replies = await open_loop(gateway.url, rate, seconds, make)
    answered = [reply for reply in replies if reply.status == 200 and not reply.error]
    wrong = [(reply.id, reply.body) for reply in answered if reply.json()["id"] != reply.id]
    assert wrong == []
    # Enough to see it: where the machine is slow more clients have left, and more is too late.
    assert len(answered) > 50
    kinds = {reply.status for reply in replies}
    assert kinds <= {0, 200, 502, 503, 504}, kinds


async def test_r14_late_double_and_unasked_answers_reach_nobody() -> None:
    await _unruly(rate=120, seconds=6)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_r14_a_hundred_thousand_requests_get_their_own_answers() -> None:
    await _unruly(rate=250, seconds=400)
