"""An instance that does not report its load is never refused what it has room for.

Real gateways with one worker and with several, whose workers learn one limit together.
"""

import asyncio
import random
import time

import pytest

from tests.harness.exchange import Exchange
from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Ask, Reply, ask, open_loop
from tests.harness.origin_process import one_process
from tests.harness.origins import one_origin
from tests.harness.stretch import Stretch

WORKERS = pytest.mark.parametrize("workers", [1, 4])


def get(number: int) -> Ask:
    return Ask("GET", f"/{number}")


def refused(replies: list[Reply]) -> list[int]:
    return [reply.status for reply in replies if not reply.ok]


@pytest.mark.paced
@WORKERS
async def test_a_mix_of_short_and_long_requests_is_taken_whole(workers: int) -> None:
    chance = random.Random(1)

    async def mixed(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.sleep(2.0 if chance.random() < 0.3 else 0.05)
        exchange.reply(200, b"ok")

    async with (
        one_origin(mixed) as origin,
        running_gateway(one_backend(origin), workers=workers) as gateway,
    ):
        replies = await open_loop(gateway.url, 40, 12, get, poisson=True, timeout=60)
    assert refused(replies) == []


@pytest.mark.paced
@WORKERS
async def test_open_streams_and_a_slow_moment_shut_nobody_out(workers: int) -> None:
    slow_until = 0.0

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        if exchange.target == b"/stream":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            exchange.write(head + b"5\r\nfirst\r\n")
            await exchange.sleep(60)
            return
        await exchange.sleep(2.0 if time.monotonic() < slow_until else 0.01)
        exchange.reply(200, b"ok")

    async with (
        one_origin(respond) as origin,
        running_gateway(one_backend(origin), workers=workers) as gateway,
    ):
        now = time.monotonic()
        streams = [
            asyncio.create_task(ask(gateway.client, gateway.url, Ask("GET", "/stream"), now, 60))
            for _ in range(8)
        ]
        await eventually(lambda: origin.running == 8, what="the streams are open")
        slow_until = time.monotonic() + 2.0
        during = await open_loop(gateway.url, 60, 4, get, poisson=True, timeout=60)
        after = await open_loop(gateway.url, 60, 4, get, poisson=True, timeout=60)
        for stream in streams:
            stream.cancel()
    assert refused(during) == []
    assert refused(after) == []
    assert (most := max(reply.took_s for reply in after[60:])) < 1.0, most


async def limits(gateway: Gateway) -> list[int]:
    status = await gateway.status()
    instances = status["backends"]["main"]["instances"].values()
    return [one["learned_limit"] for one in instances if one["learned_limit"]]


async def is_alerted(gateway: Gateway) -> bool:
    alerts = (await gateway.status())["alerts"]
    return any("more were seen to wait there" in alert["text"] for alert in alerts)


async def limit_metric(gateway: Gateway) -> float:
    return (await gateway.metrics()).total("headgate_concurrency_limit")


@pytest.mark.alone
@WORKERS
async def test_an_instance_that_is_full_is_found_to_be_and_that_is_shown(workers: int) -> None:
    """Four slots of 50 ms and three times what they can do."""
    async with (
        one_process(4, 0.05, reports=False) as origin,
        running_gateway(one_backend(origin), workers=workers) as gateway,
        Stretch() as work,
    ):
        enough = asyncio.Event()
        load = asyncio.create_task(
            open_loop(gateway.url, 240, 200, get, poisson=True, enough=enough)
        )
        found = await eventually(lambda: limits(gateway), what="a limit is learned and shown")
        await eventually(lambda: is_alerted(gateway), what="an alert says so")
        shown = await eventually(lambda: limit_metric(gateway), what="a metric does")
        # It is found after seconds in which all were late, and those wait that came meanwhile.
        await asyncio.sleep(11)
        enough.set()
        replies = await load
        said = gateway.log.read_text()
    # Where the machine is somebody else's too, all takes so many times as long.
    stretch = work.between(replies[-9 * 240].intended, replies[-1].intended)
    assert all(4 <= limit < 40 * stretch for limit in found)
    assert shown
    assert "concurrency limit" in said
    # Where it gives nobody a processor for a quarter of a second, nothing is limited for three
    # (DOUBT_S), and who came then is late: of the last three times three seconds one counts.
    windows = [replies[-end * 240 :][: 3 * 240] for end in (9, 6, 3)]
    assert any(is_served_in_time(window, stretch) for window in windows)


def is_served_in_time(replies: list[Reply], stretch: float) -> bool:
    """Whether four slots were at work for half of three seconds, and half of the answers came
    within one."""
    answered = [reply for reply in replies if reply.ok]
    good = [reply for reply in answered if reply.took_s < 1.0 * stretch]
    held_s = sum(float(reply.header("x-held-s")) for reply in answered)
    return held_s >= 0.5 * 4 * 3 / stretch and len(good) >= 0.5 * len(answered)
