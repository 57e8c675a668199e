"""R26: a reset before the head is tried elsewhere if that is safe, and is a 502 if it is not."""

import asyncio
import random

import pytest

from tests.harness.accounting import assert_counted
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import Exchange, Responder, echo, origins

RETRIES = {"attempts": 3, "on": ["connect_failure", "reset"]}


def flaky(every: int) -> Responder:
    """Resets one in `every` requests before any byte of an answer, and no second attempt at one:
    by chance some request would meet a reset as often as it may be tried."""
    chance = random.Random(26)
    tried: set[str] = set()

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        is_first = exchange.id not in tried
        tried.add(exchange.id)
        if is_first and chance.randrange(every) == 0:
            exchange.reset()
        else:
            await echo(exchange)

    return respond


def ask(method: str, number: int) -> Ask:
    name = f"{method}-{number}"
    return Ask(method, "/x", [("X-Test-Id", name)], None if method == "GET" else b"{}", id=name)


async def _resets(seconds: float) -> None:
    # Seldom enough that the budget for retries has some left, however they come in bursts.
    async with origins(3, flaky(24)) as stubs:
        document = one_backend(*stubs, eject={"failures": 1000000}, route={"retries": RETRIES})
        async with running_gateway(document) as gateway:
            got, posted = await asyncio.gather(
                open_loop(gateway.url, 100, seconds, lambda n: ask("GET", n), timeout=60),
                open_loop(gateway.url, 100, seconds, lambda n: ask("POST", n), timeout=60),
            )
            assert failures(got) == []
            assert set(failures(posted)) == {"502"}
            assert len(failures(posted)) <= len(posted) / 8
            await assert_counted(gateway, got + posted)
            retried = (await gateway.metrics()).total("headgate_retries_total", reason="reset")
            assert retried >= 5
        assert sum(len(stub.exchanges) for stub in stubs) == len(got) + len(posted) + retried


async def test_r26_a_reset_before_the_head_is_retried_for_get_and_502_for_post() -> None:
    await _resets(4)


@pytest.mark.soak
async def test_r26_of_a_thousand_each_a_get_is_retried_and_a_post_is_502() -> None:
    await _resets(10)


async def test_r26_a_retry_safe_route_retries_a_post_too() -> None:
    # Seldom enough that the budget for retries has some left, however they come in bursts.
    async with origins(3, flaky(40)) as stubs:
        route = {"retries": {**RETRIES, "retry_safe": True}}
        document = one_backend(*stubs, eject={"failures": 1000000}, route=route)
        async with running_gateway(document) as gateway:
            posted = await open_loop(gateway.url, 100, 3, lambda n: ask("POST", n), timeout=60)
    assert failures(posted) == []
