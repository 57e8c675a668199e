"""R22: an instance that closes idle connections never costs an idempotent request."""

import asyncio
import os
import random
import select
import signal
import time

import pytest

from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Client, Reply
from tests.harness.origins import Connection, Exchange, echo, one_origin

IDLE_S = 1.0


async def closing(exchange: Exchange) -> None:
    """Answers, then closes the connection once it has been idle for IDLE_S."""
    await echo(exchange)
    connection = exchange.connection
    asyncio.get_running_loop().call_later(IDLE_S, _close_if_idle, connection, len(connection.open))


def _close_if_idle(connection: Connection, requests: int) -> None:
    """A request that is there and was not read yet is this process's lateness, and not the edge."""
    assert connection.transport is not None
    here = connection.transport.get_extra_info("socket")
    if len(connection.open) == requests and not select.select([here], [], [], 0)[0]:
        connection.close()


async def lane(gateway: Gateway, number: int, end: float, chance: random.Random) -> list[Reply]:
    """One request every IDLE_S ± 50 ms on the same path, GET and POST by turns."""
    client, replies = Client(), []
    while time.monotonic() < end:
        method = "POST" if number % 2 else "GET"
        name = f"{number}-{len(replies)}"
        reply = await client.request(
            method, f"{gateway.url}/x", headers=[("X-Test-Id", name)],
            body=b"{}" if number % 2 else None,
        )  # fmt: skip
        reply.id = f"{method} {name}"
        replies.append(reply)
        await asyncio.sleep(IDLE_S + chance.uniform(-0.05, 0.05))
    await client.close()
    return replies


async def _edges(lanes: int, seconds: float) -> None:
    chance, end = random.Random(22), time.monotonic() + seconds
    async with one_origin(closing) as origin:
        async with running_gateway(one_backend(origin)) as gateway:
            done = await asyncio.gather(*(lane(gateway, n, end, chance) for n in range(lanes)))
        runs = origin.executions()
    replies = [reply for one in done for reply in one]
    posts = [reply for reply in replies if reply.id.startswith("POST")]
    failed = [reply for reply in replies if not reply.ok]
    assert [r.id for r in failed if r.id.startswith("GET")] == []
    assert all(r.status == 502 for r in failed)
    assert len(failed) <= max(1, len(posts) // 1000), f"{len(failed)} of {len(posts)}"
    assert max(runs[r.id.split()[1]] for r in posts) <= 1


async def test_r22_an_instance_that_closes_idle_connections_costs_no_idempotent_request() -> None:
    await _edges(lanes=80, seconds=14)  # more than 1,000 requests


async def test_r22_what_was_closed_while_a_worker_could_not_run_costs_no_request() -> None:
    """It cannot have heard of it, and the kernel knows."""
    async with one_origin(closing) as origin:
        async with running_gateway(one_backend(origin)) as gateway:
            (worker,) = await gateway.worker_pids()
            clients = [Client() for _ in range(60)]

            async def all_ask(method: str) -> list[Reply]:
                return await asyncio.gather(
                    *(each.request(method, f"{gateway.url}/x", body=b"{}") for each in clients)
                )

            for method in ("GET", "POST"):
                assert {reply.status for reply in await all_ask(method)} == {200}
                os.kill(worker, signal.SIGSTOP)
                asking = asyncio.create_task(all_ask(method))
                await eventually(lambda: all(each.closed for each in origin.traffic))
                os.kill(worker, signal.SIGCONT)
                assert {reply.status for reply in await asking} == {200}, method
            for each in clients:
                await each.close()


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_r22_the_same_for_three_thousand_posts() -> None:
    await _edges(lanes=80, seconds=80)
