"""A limit of a key over several gateways with one table: each that is live admits its part."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.harness.etcd import etcd_cluster
from tests.harness.exchange import Exchange
from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Client, Reply
from tests.harness.origins import Responder, echo, one_origin

from .test_several_gateways import LEASE, send, settings

KEY = f"hg_{'k' * 43}"
HASH = f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
RATE, BURST = 100, 400  # who asks may stand still for some seconds: the burst keeps them
LOADED_S = 20.0


async def ask(gateway: Gateway, client: Client) -> Reply:
    return await client.get(f"{gateway.url}/x", headers=[("X-API-Key", KEY)], timeout=60)


async def are_divided(gateways: list[Gateway], by: int) -> None:
    """Returns when each of them knows by how many limits are divided."""

    async def known() -> bool:
        return all([(await g.status())["limits"] == {"divided_by": by} for g in gateways])

    await eventually(known, what=f"limits are divided by {by}")


@asynccontextmanager
async def two(
    limits: dict[str, Any], respond: Responder = echo, workers: int = 1, lease: str = LEASE
) -> AsyncIterator[list[Gateway]]:
    """Two gateways of so many workers, and a key with these limits."""
    with etcd_cluster() as etcd:
        async with one_origin(respond) as origin, AsyncExitStack() as stack:
            keys = {"acme": {"hashes": [HASH], "limits": limits}}
            document = {**one_backend(origin), "keys": keys}
            starting = []
            for node in ("gw-a", "gw-b"):
                more = settings(etcd, node)
                more["etcd"]["lease"] = lease
                starting.append(
                    stack.enter_async_context(
                        running_gateway(document, check_end=False, workers=workers, **more)
                    )
                )
            gateways = list(await asyncio.gather(*starting))
            await are_divided(gateways, 2)
            yield gateways


async def test_each_admits_its_part_in_flight_and_the_last_one_all_of_it() -> None:
    go, arrived, holds = asyncio.Event(), asyncio.Semaphore(0), False

    async def held(exchange: Exchange) -> None:
        await exchange.read()
        if holds:
            arrived.release()
            await go.wait()
        await echo(exchange)

    limits = {"in_flight": 4, "requests": "1000/s", "burst": 1000}
    # Long enough that no gateway loses its lease because the machine stands still for a moment.
    async with two(limits, held, lease="12s") as (one, other):
        waiting: list[asyncio.Task[Reply]] = []

        async def fill(places: int) -> None:
            """All that are admitted come to the instance, and one more is refused."""
            while len(waiting) < places:
                waiting.append(asyncio.create_task(ask(one, Client())))
                await asyncio.wait_for(arrived.acquire(), 60)
            assert (await ask(one, Client())).status == 429

        async def quota(count: int) -> None:
            """Returns when the worker goes by it, as any answer says, also a refusal."""

            async def is_told() -> bool:
                policy = (await ask(one, Client())).header("RateLimit-Policy")
                return f"q={count};" in policy

            await eventually(is_told, what=f"a quota of {count}")

        await quota(500)
        holds = True
        await fill(2)
        send(other, signal.SIGKILL)
        await are_divided([one], 1)
        holds = False
        await quota(1000)
        holds = True
        await fill(4)
        go.set()
        assert [(await each).status for each in waiting] == [200] * 4


def most_beyond(admitted: list[tuple[float, float]]) -> float:
    """By how many more than burst + rate × t were admitted, in the worst of all intervals; an
    admission lies somewhere between the sending of a request and its answer."""
    best, worst = float("-inf"), float("-inf")
    for number, (sent, answered) in enumerate(sorted(admitted)):
        best = max(best, RATE * sent - number)
        worst = max(worst, number + 1 - RATE * answered + best - BURST)
    return worst


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_rate_is_exact_over_both_and_whole_at_the_one_that_is_left() -> None:
    async with two({"requests": f"{RATE}/s", "burst": BURST}, workers=2) as gateways:
        admitted: list[list[tuple[float, float]]] = [[], []]
        refused: list[float] = [0.0, 0.0]
        stop = asyncio.Event()

        async def flood(number: int) -> None:
            client = Client()
            while not stop.is_set():
                began = time.monotonic()
                reply = await ask(gateways[number], client)
                if reply.ok:
                    admitted[number].append((began, reply.done))
                elif reply.status == 429:
                    refused[number] = began
                await asyncio.sleep(0.01)
            await client.close()

        async def drained(*numbers: int) -> float:
            """The moment when all of these have refused somebody: nothing is left to admit."""
            since = time.monotonic()
            await eventually(lambda: all(refused[number] > since for number in numbers))
            return time.monotonic()

        began = time.monotonic()
        asking = [asyncio.create_task(flood(number)) for number in (0, 1) for _ in range(4)]
        try:
            await asyncio.sleep(LOADED_S)
            took_s = await drained(0, 1) - began
            both = [*admitted[0], *admitted[1]]
            assert len(both) >= 0.99 * (BURST + RATE * took_s)
            assert most_beyond(both) <= 0

            send(gateways[1], signal.SIGKILL)
            await are_divided(gateways[:1], 1)
            since = await drained(0)
            before = len(admitted[0])
            await asyncio.sleep(LOADED_S)
            took_s = await drained(0) - since
            assert len(admitted[0]) - before >= 0.99 * RATE * took_s
            assert most_beyond(admitted[0]) <= 0
        finally:
            stop.set()
            await asyncio.gather(*asking)
