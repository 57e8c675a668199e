"""R44: a route whose instances all hang keeps to its own limits; its neighbours do not notice."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.harness.gateway import backend, eventually, one_backend, running_gateway
from tests.harness.load import Ask, Client, Reply, delayed, failures, open_loop
from tests.harness.origin_process import OriginProcess, one_process
from tests.harness.origins import (
    Exchange,
    Origin,
    Responder,
    after,
    echo,
    events,
    hang,
    one_origin,
    origins,
)
from tests.harness.trickle import Trickle


def neighbours(stuck: Origin, fine: OriginProcess) -> dict[str, Any]:
    return {
        "backends": {
            "stuck": backend(stuck, max_in_flight=8, queue={"size": 8, "timeout": "1s"}),
            "fine": backend(fine),
        },
        "routes": {
            "stuck": {"match": "/stuck", "split": {"stuck": 1}},
            "fine": {"match": "/fine", "split": {"fine": 1}},
        },
    }


async def test_r44_a_hung_route_takes_its_own_limit_and_nothing_else() -> None:
    # A tenth of a second, so that a fifth of it is more than what a process waits for its turn.
    async with origins(2, hang) as (stuck, other), one_process(service_s=0.1) as fine:
        other.respond = echo
        async with (
            running_gateway(neighbours(stuck, fine)) as gateway,
            running_gateway(neighbours(other, fine)) as twin,
            Trickle((gateway.data_port, twin.data_port), ["/fine"]) as beside,
        ):
            make = lambda n: Ask(path="/stuck")  # noqa: E731
            hung, _ = await asyncio.gather(
                open_loop(gateway.url, 40, 4, make, timeout=2),
                open_loop(twin.url, 40, 4, make, timeout=2),
            )
            assert stuck.running <= 8
            asked, twins = await beside.end()
    assert {each.status for each in asked + twins} == {200}
    assert {r.status for r in hung} <= {0, 503}
    assert [r for r in hung if r.header("x-headgate-error") == "queue_full"]
    share = delayed(asked, twins, 1.2)
    assert share <= 0.01, share


class Crowd:
    """A responder that notes how many requests it ever had at once."""

    def __init__(self, respond: Responder) -> None:
        self.respond, self.most = respond, 0

    async def __call__(self, exchange: Exchange) -> None:
        self.most = max(self.most, exchange.origin.running)
        await self.respond(exchange)


async def _ask_on_and_on(url: str, end: float) -> list[Reply]:
    client, replies = Client(), []
    while time.monotonic() < end:
        replies.append(await client.post(url, b"{}"))
    await client.close()
    return replies


@pytest.mark.paced
async def test_r44_a_limit_smaller_than_the_number_of_workers_holds_for_all_together() -> None:
    """And none of them keeps the one turn there is to itself. Six clients that each wait for
    their answer are too few to be taken for overload, however they come to be connected."""
    crowd = Crowd(after(0.005))
    async with one_origin(crowd) as origin:
        document = one_backend(origin, max_in_flight=1)
        async with running_gateway(document, workers=3) as gateway:
            end = time.monotonic() + 3
            asking = (_ask_on_and_on(gateway.url, end) for _ in range(6))
            by_client = await asyncio.gather(*asking)
    refused = [r.header("x-headgate-error") for each in by_client for r in each if not r.ok]
    assert refused == []
    assert crowd.most == 1
    counts = sorted(len(replies) for replies in by_client)
    assert counts[0] >= sum(counts) / 6 / 5, counts


@pytest.mark.paced
async def test_r44_a_limit_holds_while_a_worker_is_replaced() -> None:
    async def by_path(exchange: Exchange) -> None:
        await (events(30, 0.1) if exchange.target == b"/stream" else after(0.01))(exchange)

    crowd = Crowd(by_path)
    async with one_origin(crowd) as origin:
        document = one_backend(origin, max_in_flight=1, queue={"timeout": "60s"})
        async with running_gateway(document, drain="60s") as gateway:
            stream = asyncio.create_task(Client().get(f"{gateway.url}/stream", timeout=60))
            await eventually(lambda: origin.running == 1, what="the stream has the only turn")
            (old,) = await gateway.worker_pids()
            os.kill(old, signal.SIGTERM)

            async def replaced() -> bool:
                (worker,) = (await gateway.status())["workers"]
                return worker["connected"] and worker["pid"] != old

            await eventually(replaced, what="a new worker while the old one finishes")
            asked = (Client().get(f"{gateway.url}/x", timeout=60) for _ in range(5))
            replies = await asyncio.gather(*asked)
            streamed = await stream
    assert failures([*replies, streamed]) == []
    assert crowd.most == 1
