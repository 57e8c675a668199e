"""R45: the gateway's queue has an end; who finds it full is told at once, and admin never waits."""

import asyncio
import os
import signal

import psutil

from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Ask, open_loop, percentile
from tests.harness.origins import Exchange, one_origin
from tests.harness.stretch import Stretch


class Held:
    """A responder that answers nobody before all are released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.or_gone(self.release.wait())
        exchange.reply(200, b"ok")


async def all_refused_but(gateway: Gateway, count: int, taken: int) -> None:
    """Returns once all of `count` requests were refused but those that were `taken`."""

    async def so_many() -> bool:
        metrics = await gateway.metrics()
        return metrics.total("headgate_requests_total", code="503") >= count - taken

    await eventually(so_many, what="all others are refused")


async def test_r45_beyond_the_queue_the_answer_is_a_quick_503() -> None:
    held = Held()
    async with one_origin(held) as origin:
        document = one_backend(origin, max_in_flight=2, queue={"size": 5, "timeout": "60s"})
        async with running_gateway(document) as gateway, Stretch() as work:
            load = asyncio.create_task(
                open_loop(gateway.url, 100, 1.5, lambda n: Ask(path="/x"), timeout=60)
            )

            async def full() -> bool:
                return (await gateway.metrics()).total("headgate_queue_depth") == 5

            await eventually(full, what="the queue is full")
            assert (await gateway.client.get(f"{gateway.url}/-/health")).status == 200
            assert (await gateway.status())["workers"]
            await all_refused_but(gateway, 150, 7)
            assert len(origin.exchanges) == 2
            held.release.set()
            replies = await load
    refused = [r for r in replies if r.status == 503]
    assert (len(refused), len(replies)) == (143, 150)
    assert {r.header("x-headgate-error") for r in refused} == {"queue_full"}
    assert all(r.header("retry-after") for r in refused)
    # A pause is the machine's, and so is it where all takes so many times as long.
    stretch = work.between(replies[0].intended, replies[-1].intended)
    assert percentile([r.took_s for r in refused], 90) <= 0.05 * stretch, stretch


async def test_r45_the_limits_are_for_all_workers_together() -> None:
    held = Held()
    async with one_origin(held) as origin:
        document = one_backend(origin, max_in_flight=8, queue={"size": 8, "timeout": "60s"})
        async with running_gateway(document, workers=4) as gateway:
            # Each on a connection of its own, or the refused ones would all meet one worker.
            make = lambda n: Ask(path="/x", headers=[("Connection", "close")])  # noqa: E731
            load = asyncio.create_task(open_loop(gateway.url, 100, 1.5, make, timeout=60))

            async def depth() -> float:
                return (await gateway.metrics()).total("headgate_queue_depth")

            async def full() -> bool:
                return await depth() >= 8

            await eventually(full, what="the queue of all workers is full")
            await all_refused_but(gateway, 150, 16)
            assert await depth() == 8
            assert len(origin.exchanges) == 8
            held.release.set()
            replies = await load
    refused = [r for r in replies if r.status == 503]
    assert (len(refused), len(replies)) == (134, 150)


async def test_r45_a_worker_that_is_stopped_keeps_its_permits_from_nobody_for_long() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        if exchange.target == b"/held":
            await exchange.gone.wait()
        exchange.reply(200, b"ok")

    async with one_origin(respond) as origin:
        document = one_backend(origin, max_in_flight=1, queue={"timeout": "60s"})
        async with running_gateway(document, workers=2, drain="1s") as gateway:
            ask = gateway.client.get
            held = asyncio.create_task(ask(f"{gateway.url}/held", timeout=60, fresh=True))
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
            # About half of the connections come to the other worker.
            asked = [
                asyncio.create_task(ask(f"{gateway.url}/{n}", timeout=60, fresh=True))
                for n in range(40)
            ]
            try:
                await eventually(
                    lambda: sum(each.done() and each.result().ok for each in asked) >= 2,
                    what="two are answered",
                )
                assert stopped in await gateway.worker_pids(), "it was replaced, and not passed by"
            finally:
                os.kill(stopped, signal.SIGCONT)
                for each in (held, *asked):
                    each.cancel()
