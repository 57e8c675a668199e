"""R32: with no instance left the answer is a quick 503; sick probes alone stop nothing."""

import asyncio
import contextlib
import time

from tests.harness.black_hole import BlackHole
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import failures, get_each, open_loop, percentile
from tests.harness.origins import origins
from tests.harness.stretch import Stretch
from tests.requirements.test_r24_killed_instance import DEFAULTS


async def test_r32_all_down_is_a_quick_503_and_ends_soon_after_one_is_back() -> None:
    async with origins(2) as stubs:
        async with running_gateway(one_backend(*stubs, health=DEFAULTS)) as gateway:
            for stub in stubs:
                await stub.stop()

            async def known() -> bool:
                return set((await gateway.health()).values()) == {"down"}

            async def refused() -> bool:
                return (await gateway.client.get(f"{gateway.url}/x")).status == 503

            await eventually(known, what="both instances are known to be down")
            await eventually(refused, what="the worker has heard of it")
            async with Stretch() as work:
                replies = await open_loop(gateway.url, 60, 2, get_each)
            depth = (await gateway.metrics()).total("headgate_queue_depth")
            assert {r.status for r in replies} == {503}
            assert {r.header("x-headgate-error") for r in replies} == {"no_backend"}
            assert all(int(r.header("retry-after")) >= 1 for r in replies)
            # Where the machine is somebody else's too, all takes so many times as long.
            stretch = work.between(replies[0].intended, replies[-1].intended)
            assert percentile([r.took_s for r in replies], 95) <= 0.05 * stretch, stretch
            assert depth == 0
            await stubs[0].start()
            back = time.monotonic()

            async def served() -> bool:
                return (await gateway.client.get(f"{gateway.url}/x")).status == 200

            await eventually(served, what="success after one instance is back")
            assert (took := time.monotonic() - back) <= 2, took


async def test_r32_failing_probes_of_all_do_not_stop_traffic() -> None:
    async with origins(2) as stubs:
        async with running_gateway(one_backend(*stubs)) as gateway:
            for stub in stubs:
                stub.ready = False

            async def known() -> bool:
                return set((await gateway.health()).values()) == {"failing"}

            await eventually(known, what="both instances fail their probes")
            replies = await open_loop(gateway.url, 50, 1, get_each)
    assert failures(replies) == []


async def test_r32_the_only_instance_stays_in_use_while_it_accepts_no_connection() -> None:
    """Its queue of connections overflows, as an overloaded server's does: what is connected is
    answered, probes and new connections are not. It is neither starting nor down."""
    health = {"interval": "200ms", "timeout": "300ms", "rise": 1, "fall": 2}
    async with origins(1) as (stub,):
        document = one_backend(stub, timeouts={"connect": "500ms"})
        document["backends"]["main"]["health"] = health
        async with running_gateway(document) as gateway:
            await gateway.client.get(f"{gateway.url}/warm")
            words, replies = set(), []
            with contextlib.closing(BlackHole(listener=stub.stop_accepting())):
                while len(replies) < 60 or "failing" not in words:
                    replies.append(await gateway.client.get(f"{gateway.url}/{len(replies)}"))
                    words.update((await gateway.health()).values())
                    await asyncio.sleep(0.04)
            assert failures(replies) == []
            assert words == {"up", "failing"}
            await stub.start()

            async def well() -> bool:
                return set((await gateway.health()).values()) == {"up"}

            # Between two listeners nobody was there: down; a worker hears of up a moment later.
            await eventually(well, what="the instance is up")

            async def served() -> bool:
                return (await gateway.client.get(f"{gateway.url}/after")).ok

            await eventually(served, what="the worker has heard of it")
