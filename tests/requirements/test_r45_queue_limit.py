"""R45: the gateway's queue has an end; who finds it full is told at once, and admin never waits."""

import asyncio
import os
import signal

import psutil

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Ask, open_loop, percentile
from tests.harness.origins import Exchange, hang, one_origin
from tests.harness.stretch import Stretch


async def test_r45_beyond_the_queue_the_answer_is_a_quick_503() -> None:
    async with one_origin(hang) as origin:
        document = one_backend(origin, max_in_flight=2, queue={"size": 5, "timeout": "20s"})
        async with running_gateway(document) as gateway, Stretch() as work:
            load = asyncio.create_task(
                open_loop(gateway.url, 100, 1.5, lambda n: Ask(path="/x"), timeout=3)
            )

            async def full() -> bool:
                return (await gateway.metrics()).total("headgate_queue_depth") == 5

            await eventually(full, what="the queue is full")
            assert (await gateway.client.get(f"{gateway.url}/-/health")).status == 200
            assert (await gateway.status())["workers"]
            assert len(origin.exchanges) == 2
            replies = await load
    refused = [r for r in replies if r.status == 503]
    assert len(refused) == len(replies) - 7, len(refused)
    assert {r.header("x-headgate-error") for r in refused} == {"queue_full"}
    assert all(r.header("retry-after") for r in refused)
    # A pause is the machine's, and so is it where all takes so many times as long.
    stretch = work.between(replies[0].intended, replies[-1].intended)
    assert percentile([r.took_s for r in refused], 90) <= 0.05 * stretch


async def test_r45_the_limits_are_for_all_workers_together() -> None:
    async with one_origin(hang) as origin:
        document = one_backend(origin, max_in_flight=8, queue={"size": 8, "timeout": "20s"})
        async with running_gateway(document, workers=4) as gateway:
            # Each on a connection of its own, or the refused ones would all meet one worker.
            make = lambda n: Ask(path="/x", headers=[("Connection", "close")])  # noqa: E731
            load = asyncio.create_task(open_loop(gateway.url, 100, 1.5, make, timeout=3))

            async def full() -> bool:
                return (await gateway.metrics()).total("headgate_queue_depth") == 8

            await eventually(full, what="every worker's part of the queue is full")
            assert len(origin.exchanges) == 8
            replies = await load
    refused = [r for r in replies if r.status == 503]
    assert len(refused) == len(replies) - 16


async def test_r45_a_worker_that_is_stopped_keeps_its_permits_from_nobody_for_long() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        if exchange.target == b"/held":
            await exchange.gone.wait()
        exchange.reply(200, b"ok")

    async with one_origin(respond) as origin:
        document = one_backend(origin, max_in_flight=1, queue={"timeout": "8s"})
        async with running_gateway(document, workers=2, drain="1s") as gateway:
            ask = gateway.client.get
            held = asyncio.create_task(ask(f"{gateway.url}/held", timeout=20, fresh=True))
            await eventually(lambda: origin.exchanges, what="the only permit is taken")
            stopped = next(
                pid
                for pid in await gateway.worker_pids()
                if any(
                    each.raddr and each.raddr.port == origin.port and each.status == "ESTABLISHED"
                    for each in psutil.Process(pid).net_connections("tcp")
                )
            )
            os.kill(stopped, signal.SIGSTOP)
            try:
                replies = await asyncio.gather(
                    *(ask(f"{gateway.url}/{n}", timeout=6, fresh=True) for n in range(16))
                )
            finally:
                os.kill(stopped, signal.SIGCONT)
            held.cancel()
    # About half of the connections came to the other worker.
    assert sum(reply.ok for reply in replies) >= 2
